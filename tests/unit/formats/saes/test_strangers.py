"""Files of strangers: whatever is in them, `describe` says in words what is wrong, runs nothing and raises nothing else."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from backend import errors
from backend.formats import sae_files
from backend.formats.saes import json_file, npz_header, safetensors_header, torch_header, zip_directory
from tests import tiny

HOOK = sae_files.Declared(hook_point="blocks.1.hook_resid_post", hook_point_out="blocks.1.hook_resid_post")
N_MUTATIONS = 350
"""Of each format's files."""


def write_saelens(folder: Path) -> None:
    tiny.save_sae(folder)


def write_npz(folder: Path) -> None:
    folder.mkdir()
    np.savez(folder / "params.npz", **arrays())


def write_packed_npz(folder: Path) -> None:
    folder.mkdir()
    np.savez_compressed(folder / "params.npz", **arrays())


def write_pt(folder: Path) -> None:
    folder.mkdir()
    weights = {"encoder.weight": torch.ones(6, 4), "decoder.weight": torch.ones(4, 6), "encoder.bias": torch.zeros(6)}
    torch.save(weights | {"bias": torch.zeros(4)}, folder / "ae.pt")
    trainer = {"dict_class": "AutoEncoder", "activation_dim": 4, "dict_size": 6, "layer": 1}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 32}}))


def write_openai(folder: Path) -> None:
    folder.mkdir()
    weights = {"encoder.weight": torch.ones(6, 4), "decoder.weight": torch.ones(4, 6), "latent_bias": torch.zeros(6)}
    torch.save(weights | {"pre_bias": torch.zeros(4), "activation": "ReLU"}, folder / "0.pt")


def write_sparsify(folder: Path) -> None:
    folder.mkdir()
    from safetensors.torch import save_file

    tensors = {"encoder.weight": torch.ones(6, 4), "W_dec": torch.ones(6, 4), "encoder.bias": torch.zeros(6)}
    save_file(tensors | {"b_dec": torch.zeros(4)}, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"d_in": 4, "num_latents": 6, "k": 2, "activation": "topk"}))


def arrays() -> dict[str, np.ndarray]:
    sizes = {"W_enc": (4, 6), "W_dec": (6, 4), "b_enc": (6,), "b_dec": (4,), "threshold": (6,)}
    return {name: np.ones(size, np.float32) for name, size in sizes.items()}


WRITERS = [write_saelens, write_npz, write_packed_npz, write_pt, write_openai, write_sparsify]


@pytest.mark.parametrize("write", WRITERS)
def test_mutated_files_raise_site_errors_only(tmp_path: Path, write: Callable[[Path], None]) -> None:
    folder = tmp_path / "sae"
    write(folder)
    sae_files.describe(folder, HOOK)
    whole = {path: path.read_bytes() for path in sorted(folder.iterdir())}
    rng = np.random.default_rng(0)
    n_refused = 0
    for _ in range(N_MUTATIONS):
        path = list(whole)[rng.integers(len(whole))]
        path.write_bytes(mutated(whole[path], rng))
        n_refused += bool(problems_of(folder))
        path.write_bytes(whole[path])
    assert n_refused > N_MUTATIONS / 10


def problems_of(folder: Path) -> tuple[str, ...]:
    """What is wrong with it; any other error than problems in words gets out."""
    try:
        sae_files.describe(folder, HOOK)
    except errors.ProblemsError as error:
        return error.problems
    return ()


def mutated(raw: bytes, rng: np.random.Generator) -> bytes:
    """Bytes changed, cut, doubled or inserted; mostly where headers are, at either end."""
    found = bytearray(raw)
    n_head = min(len(raw), 1200)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(n_head)) if rng.random() < 0.5 else len(found) - 1 - int(rng.integers(n_head))
        at = max(0, min(at, len(found) - 1))
        match rng.integers(5):
            case 0:
                found[at] = rng.integers(256)
            case 1:
                found[at] ^= 1 << rng.integers(8)
            case 2:
                del found[at : at + int(rng.integers(1, 40))]
            case 3:
                found[at:at] = found[at : at + int(rng.integers(1, 40))]
            case 4:
                token = [b"NaN", b"1e999", b"-1", b"[]", b"{}", b"null", b'"x"', b"99999999999999999999", b"\xff\xff"]
                found[at : at + 3] = token[rng.integers(len(token))]
        if not found:
            break
    return bytes(found)


@pytest.mark.parametrize("key", ["architecture", "d_in", "d_sae", "metadata", "normalize_activations", "k", "dtype"])
@pytest.mark.parametrize("value", [None, -1, 0, 1.5, True, "x", [], {}, [[1]], {"a": {"b": []}}, 2**53, "x" * 10_000])
def test_configurations_with_values_of_any_type_raise_site_errors_only(tmp_path: Path, key: str, value: object) -> None:
    folder = tiny.save_sae(tmp_path / "sae", architecture="topk")
    config = json.loads((folder / "cfg.json").read_text()) | {key: value}
    (folder / "cfg.json").write_text(json.dumps(config))
    assert len(" ".join(problems_of(folder))) < 4000


class Runs:
    """A pickle of it calls `open` when loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_a_pickle_that_would_run_code_is_refused_by_name_and_not_run(tmp_path: Path) -> None:
    torch.save({"encoder.weight": torch.ones(2, 2), "evil": Runs(tmp_path / "ran")}, tmp_path / "0.pt")
    with pytest.raises(errors.InvalidInputError, match=r"would run code when opened: (_?io)\.open"):
        torch_header.read(tmp_path / "0.pt")
    assert not (tmp_path / "ran").exists()


def test_whole_modules_and_old_files_are_refused_with_what_to_do(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(errors.InvalidInputError, match=r"torch\.nn\.modules\.linear\.Linear.*state dict"):
        torch_header.read(tmp_path / "module.pt")
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(errors.InvalidInputError, match=r"not a zip file.*save it again"):
        torch_header.read(tmp_path / "old.pt")


def test_headers_of_state_dicts_are_those_torch_reads(tmp_path: Path) -> None:
    shared = torch.arange(12.0).reshape(3, 4)
    module = torch.nn.Linear(3, 2).state_dict()
    content = {
        "a": shared, "b": shared.T, "c": shared[1], "half": torch.ones(2, dtype=torch.bfloat16), "k": torch.tensor(3),
        "nested": {"parameter": torch.nn.Parameter(torch.ones(5))}, "linear": module, "n": 4, "name": "TopK",
    }  # fmt: skip
    torch.save(content, tmp_path / "x.pt")
    found = torch_header.read(tmp_path / "x.pt")
    assert {name: tensor.shape for name, tensor in found.tensors.items()} == {
        "a": (3, 4), "b": (4, 3), "c": (4,), "half": (2,), "k": (), "nested.parameter": (5,), "linear.weight": (2, 3),
        "linear.bias": (2,),
    }  # fmt: skip
    assert found.tensors["half"].dtype == "BF16"
    assert found.values == {"n": 4, "name": "TopK"}


def pt_of(raw: bytes, path: Path, data: bytes = b"\0" * 16) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", raw)
        archive.writestr("x/data/0", data)
    return path


def test_pickles_that_lie_about_their_data_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(4)}, buffer)
    raw = zipfile.ZipFile(buffer).read("archive/data.pkl")
    torch_header.read(pt_of(raw, tmp_path / "good.pt"))
    with pytest.raises(errors.InvalidInputError, match="cut short"):
        torch_header.read(pt_of(raw, tmp_path / "short.pt", b"\0" * 12))
    grown = raw.replace(b"K\x04\x85", b"K\x09\x85")
    assert grown != raw
    with pytest.raises(errors.InvalidInputError, match="beyond its data"):
        torch_header.read(pt_of(grown, tmp_path / "grown.pt"))
    for odd in (b"", b"\x80\x02", b"garbage", pickle.dumps([1]), pickle.dumps({("a",): 1}), b"\x80\x02}q\x00h\x07."):
        with pytest.raises(errors.InvalidInputError):
            torch_header.read(pt_of(odd, tmp_path / "odd.pt"))


def zipped(path: Path, members: list[tuple[str, bytes]], how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zip_files_that_bomb_escape_or_repeat_are_refused(tmp_path: Path) -> None:
    array = npy(np.ones(3, np.float32))
    for members, says in (
        ([("a.npy", array), ("a.npy", array)], "a name twice"),
        ([("../a.npy", array)], "leads out of it"),
        ([("/a.npy", array)], "leads out of it"),
        ([("a.txt", b"")], "no .npy array"),
        ([("a.npy", npy(np.array([{}])))], "Python objects"),
        ([("a.npy", array[:-4])], "more or fewer"),
        ([("a.npy", b"\x93NUMPY\x01\x00")], "broken array"),
    ):
        with pytest.raises(errors.InvalidInputError, match=says):
            npz_header.read(zipped(tmp_path / "x.npz", members))
    bomb = zipped(tmp_path / "bomb.npz", [("a.npy", b"\0" * (1 << 24))], zipfile.ZIP_DEFLATED)
    with pytest.raises(errors.InvalidInputError, match="far more than it takes"):
        npz_header.read(bomb)


def test_a_zip_whose_directory_alone_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    entry = zipped(tmp_path / "one.npz", [("a.npy", b"")]).read_bytes().partition(b"PK\1\2")[2].partition(b"PK\5\6")[0]
    directory = (b"PK\1\2" + entry) * (zip_directory.MAX_DIRECTORY_BYTES // len(entry))
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, len(directory), 0, 0)
    (tmp_path / "many.npz").write_bytes(directory + end)
    with (
        pytest.raises(ValueError, match="directory is too large"),
        zip_directory.archive_of(tmp_path / "many.npz"),
    ):
        pass
    with pytest.raises(errors.InvalidInputError, match="broken zip"):
        npz_header.read(tmp_path / "many.npz")


def test_a_pickle_that_repeats_itself_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    state: dict[str, object] = {"x": 1}
    for _ in range(torch_header.MAX_DEPTH):
        state = {str(n): state for n in range(50)}
    with zipfile.ZipFile(tmp_path / "ae.pt", "w") as archive:
        archive.writestr("ae/data.pkl", pickle.dumps(state, protocol=2))
    with pytest.raises(errors.InvalidInputError, match="more than 10000 values"):
        torch_header.read(tmp_path / "ae.pt")


@pytest.mark.parametrize("value", [float("nan"), "\0", "\ud800"])
def test_a_pickle_s_values_are_such_as_a_database_can_hold(tmp_path: Path, value: object) -> None:
    with zipfile.ZipFile(tmp_path / "0.pt", "w") as archive:
        archive.writestr("0/data.pkl", pickle.dumps({"activation": value}, protocol=2))
    with pytest.raises(errors.InvalidInputError, match="no usual number or text"):
        torch_header.read(tmp_path / "0.pt")


def safetensors_of(path: Path, header: object, data: bytes = b"\0" * 16) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def entry(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, "overlap"),
        ({"a": entry(0, 8, [2]), "b": entry(12, 16, [1])}, "gaps"),
        ({"a": entry(0, 16, [5])}, "need 20"),
        ({"a": entry(0, 64, [16])}, "header says"),
        ({"a": entry(8, 0, [2])}, "broken header"),
        ({"a": entry(0, 16, [-4])}, "impossible shape"),
        ({"a": entry(0, 16, [2**47, 2**47])}, "impossible shape"),
        ({"a": 3}, "broken header"),
        ({"__metadata__": {"a": 1}}, "no object of texts"),
        (b'{"a": 1, "a": 1}', "occurs twice"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b"[" * 100_000, "nested"),
    ],
)
def test_safetensors_that_contradict_themselves_are_refused(tmp_path: Path, header: object, says: str) -> None:
    with pytest.raises(errors.InvalidInputError, match=says):
        safetensors_header.read(safetensors_of(tmp_path / "x.safetensors", header))


def test_json_is_read_strictly(tmp_path: Path) -> None:
    for raw, says in (
        (b'{"a": 1e999}', "out of range"),
        (b'{"a": 123456789012345678901}', "out of range"),
        (b'{"a": 1, "a": 2}', "occurs twice"),
        (b"[1]", "expected an object"),
        (b"\xff\xfe", "not JSON"),
        (b'{"a": ["\\u0000"]}', "NUL"),
        (b'{"a": {"\\ud800": 1}}', "surrogates"),
        (b'{"a": ' + b" " * json_file.MAX_BYTES + b"1}", "at most"),
    ):
        with pytest.raises(errors.InvalidInputError, match=says):
            json_file.parse(raw, "cfg.json")


def test_indexes_of_shards_stay_in_their_folder(tmp_path: Path) -> None:
    index = tmp_path / "x.safetensors.index.json"
    for files, says in (
        ({"a": "../x.safetensors"}, "no shards beside it"),
        ({"a": "missing.safetensors"}, "not there"),
        ({}, "no weight_map"),
    ):
        index.write_text(json.dumps({"weight_map": files}))
        with pytest.raises(errors.InvalidInputError, match=says):
            safetensors_header.read(index)


def test_a_dtype_that_weights_cannot_have_is_a_problem(tmp_path: Path) -> None:
    header = {"W_dec": {"dtype": "F8_E4M3", "shape": [4, 4], "data_offsets": [0, 16]}}
    safetensors_of(tmp_path / "x.safetensors", header)
    with pytest.raises(errors.ProblemsError, match="dtype F8_E4M3; expected one of F64"):
        sae_files.describe(tmp_path, sae_files.Declared(hook_point="blocks.0.hook_mlp_out", activation="relu"))
