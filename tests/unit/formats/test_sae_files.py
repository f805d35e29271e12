"""What an SAELens folder says of itself, and everything that is refused with what to do."""

import json
from pathlib import Path

import pytest

from backend import errors, names
from backend.formats import sae_files
from tests import tiny


def test_a_folder_describes_itself(tmp_path: Path) -> None:
    found = sae_files.describe(tiny.save_sae(tmp_path / "s", architecture="topk"))
    assert (found.architecture, found.k, found.d_in, found.d_sae) == ("topk", 5, 16, 40)
    assert found.hook_point == names.HookPoint(1, "hook_resid_post")
    assert found.prepend_bos
    assert found.context_size == tiny.N_CONTEXT


def test_flat_configurations_from_before_saelens_6_are_read(tmp_path: Path) -> None:
    folder = tiny.save_sae(tmp_path / "s", architecture="standard")
    config = json.loads((folder / "cfg.json").read_text())
    metadata = config.pop("metadata")
    config.pop("architecture")
    (folder / "cfg.json").write_text(
        json.dumps(config | metadata | {"activation_fn_str": "relu", "prepend_bos": False})
    )
    found = sae_files.describe(folder)
    assert found.architecture == "standard"
    assert not found.prepend_bos


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"architecture": "transcoder"}, "do not say where it writes"),
        ({"architecture": "temporal"}, "earlier positions"),
        ({"architecture": "matching_pursuit"}, "greedy search"),
        ({"architecture": "crosscoder"}, "several layers"),
        ({"architecture": "nonsense"}, "unknown"),
        ({"normalize_activations": "expected_average_only_in"}, "fold_activation_norm_scaling_factor"),
        ({"normalize_activations": "covariance_whitening"}, "fold_activation_whitening"),
        ({"d_sae": 41}, r"shape \(16, 40\); cfg.json says \(16, 41\)"),
        ({"metadata": {"hook_name": "somewhere"}}, "not a hook point"),
        ({"metadata": {"hook_name": "blocks.1.hook_mlp_out", "model_class_name": "Mamba"}}, "model_class_name"),
        (
            {"metadata": {"hook_name": "blocks.1.hook_mlp_out", "model_from_pretrained_kwargs": {"x": 1}}},
            "'x' would change",
        ),
        ({"metadata": {"hook_name": "blocks.1.hook_mlp_out", "seqpos_slice": [3]}}, "seqpos_slice"),
        ({"activation_fn_str": "tanh-relu"}, "tanh-relu"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_reason(tmp_path: Path, change: dict[str, object], says: str) -> None:
    folder = tiny.save_sae(tmp_path / "s")
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | change))
    with pytest.raises(errors.ProblemsError, match=says):
        sae_files.describe(folder)


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    folder = tiny.save_sae(tmp_path / "s")
    config = json.loads((folder / "cfg.json").read_text())
    bad = {"d_sae": 7, "normalize_activations": "odd", "metadata": {"hook_name": "x"}}
    (folder / "cfg.json").write_text(json.dumps(config | bad))
    with pytest.raises(errors.ProblemsError) as caught:
        sae_files.describe(folder)
    for said in ("W_enc", "'odd'", "'x' is not a hook point"):
        assert said in str(caught.value)


def test_files_that_are_not_an_sae_are_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.ProblemsError, match="holds no SAE"):
        sae_files.describe(tmp_path)
    folder = tiny.save_sae(tmp_path / "s")
    weights = folder / "sae_weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(errors.ProblemsError, match="Copy it again"):
        sae_files.describe(folder)
    weights.write_bytes(b"not tensors at all")
    with pytest.raises(errors.ProblemsError, match="not a safetensors file"):
        sae_files.describe(folder)
    weights.write_bytes(whole)
    (folder / "cfg.json").write_text("{")
    with pytest.raises(errors.ProblemsError, match="not JSON"):
        sae_files.describe(folder)


def test_what_is_declared_wins_over_the_files(tmp_path: Path) -> None:
    folder = tiny.save_sae(tmp_path / "s")
    said = '{"activation": "topk", "k": 3, "prepend_bos": false, "context_size": 7, "apply_b_dec_to_input": false}'
    found = sae_files.describe(folder, sae_files.declared_of(said, hook_point="blocks.0.hook_mlp_out"))
    assert (found.architecture, found.k, found.context_size) == ("topk", 3, 7)
    assert (found.prepend_bos, found.is_b_dec_subtracted) == (False, False)
    assert found.hook_point == names.HookPoint(0, "hook_mlp_out")


@pytest.mark.parametrize("text", ["[]", "{", '{"k": "many"}', '{"format": "odd"}'])
def test_what_cannot_be_declared_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidInputError):
        sae_files.declared_of(text)


def test_a_folder_of_several_formats_is_a_source_set(tmp_path: Path) -> None:
    first = tiny.save_sae(tmp_path / "set" / "a")
    second = tmp_path / "set" / "b"
    second.mkdir()
    (second / "x.safetensors").write_bytes((first / "sae_weights.safetensors").read_bytes())
    assert sae_files.folders_of(tmp_path / "set") == [first, second]
    declared = sae_files.Declared(hook_point="blocks.1.hook_resid_post")
    assert sae_files.describe(second, declared).architecture == "jumprelu"
    with pytest.raises(errors.ProblemsError, match="Declare hook_point"):
        sae_files.describe(second)
