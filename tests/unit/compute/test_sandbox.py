"""Pickles of strangers: what they may hold, and what becomes of those that want more."""

import os
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch

from backend import errors
from workers.compute import sandbox
from workers.compute.sandbox import Limits

STATE = OrderedDict(
    {
        "encoder.weight": torch.arange(12.0).view(3, 4).T,
        "bias": torch.ones(3, dtype=torch.bfloat16),
        "k": torch.tensor(8),
    }
)


class Command:
    """A pickle that touches a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def save(folder, value):
    torch.save(value, folder / "ae.pt")
    return folder / "ae.pt"


def refusal(path, **given):
    with pytest.raises(errors.InvalidInputError) as caught:
        sandbox.read(path, **given)
    assert str(caught.value).startswith("ae.pt ")
    assert "safetensors" in caught.value.hint
    return str(caught.value)


def test_tensors_and_values_come_out_as_they_went_in(tmp_path):
    tensors, values = sandbox.read(
        save(tmp_path, {**STATE, "activation": "TopK", "state": {"k": 32, "x": torch.ones(2)}})
    )
    assert values == {"activation": "TopK", "state.k": 32}
    assert set(tensors) == {*STATE, "state.x"}
    for name, tensor in STATE.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def test_a_name_that_safetensors_keeps_for_itself_is_refused(tmp_path):
    assert "'__metadata__'" in refusal(save(tmp_path, {**STATE, "__metadata__": torch.ones(2)}))


def test_the_same_bytes_are_unpickled_once_and_others_anew(tmp_path):
    path, cache = save(tmp_path, STATE), tmp_path / "cache"
    first = sandbox.as_safetensors(path, cache=cache)
    made = first.stat().st_mtime_ns
    assert sandbox.as_safetensors(path, cache=cache) == first
    assert first.stat().st_mtime_ns == made
    other = sandbox.as_safetensors(save(tmp_path, {**STATE, "bias": torch.zeros(3)}), cache=cache)
    assert sorted(cache.iterdir()) == sorted([first, other])


def test_a_pickle_that_would_run_code_runs_none(tmp_path):
    said = refusal(save(tmp_path, {"W_dec": torch.ones(2), "x": Command(tmp_path / "proof")}))
    assert "would run code when opened (posix.mkdir)" in said
    assert not (tmp_path / "proof").exists()


def test_a_plain_pickle_runs_none_either(tmp_path):
    (tmp_path / "ae.pt").write_bytes(pickle.dumps(Command(tmp_path / "proof")))
    refusal(tmp_path / "ae.pt")
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("content", [b"", b"no pickle at all", b"PK\x03\x04" + bytes(200)])
def test_what_is_no_pickle_is_refused_in_words(tmp_path, content):
    (tmp_path / "ae.pt").write_bytes(content)
    assert "not" in refusal(tmp_path / "ae.pt") or "broken" in refusal(tmp_path / "ae.pt")


def test_what_is_no_dict_of_tensors_is_refused(tmp_path):
    assert "holds a list" in refusal(save(tmp_path, [torch.ones(2)]))
    assert "holds no tensor" in refusal(save(tmp_path, {"k": 3}))
    assert "holds a list at 'a.b'" in refusal(save(tmp_path, {"a": {"b": [1]}}))
    assert "torch.complex64" in refusal(save(tmp_path, {"W_dec": torch.ones(2, dtype=torch.complex64)}))


def test_a_tensor_that_repeats_a_little_memory_is_refused(tmp_path):
    said = refusal(save(tmp_path, {"W_dec": torch.ones(1).expand(10**6, 10**6)}))
    assert "more than it holds" in said


def test_a_file_that_needs_more_memory_than_it_may_is_refused(tmp_path):
    path = save(tmp_path, {"W_dec": torch.zeros(1 << 24)})
    assert "needs more than 0.0 GB of memory" in refusal(path, limits=Limits(memory_bytes=1 << 25))


def test_a_zip_bomb_is_refused(tmp_path):
    """A gigabyte of zeros in a megabyte: the limit follows the size of the file."""
    path = save(tmp_path, {"W_dec": torch.zeros(1 << 28)})
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as small:
        for name in whole.namelist():
            small.writestr(name, whole.read(name))
    (tmp_path / "small.pt").replace(path)
    assert path.stat().st_size < 1 << 22
    refusal(path)


def test_a_file_that_takes_too_long_is_refused(tmp_path):
    """The import of torch alone takes longer than this."""
    path = save(tmp_path, STATE)
    with pytest.raises(errors.InvalidInputError, match=r"took longer than 0\.01 seconds"):
        sandbox.read(path, limits=Limits(memory_bytes=1 << 30, wall_s=0.01))


def test_the_child_knows_none_of_our_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("EYEPIECE_DATABASE_URL", "postgresql://secret")
    assert not [name for name in sandbox._environment(tmp_path) if name.startswith("EYEPIECE")]


def test_nothing_is_left_of_what_was_refused(tmp_path):
    cache = tmp_path / "cache"
    refusal(save(tmp_path, {"k": 3}), cache=cache)
    assert list(cache.iterdir()) == []
