"""Encoding against sae-lens on the same residuals: same firings, same values, to the bit."""

import warnings
from pathlib import Path

import pytest
import torch

from backend import errors
from tests import tiny
from workers.compute import sae

CASES = [
    ("standard", {}),
    ("standard", {"apply_b_dec_to_input": False}),
    ("standard", {"normalize_activations": "constant_norm_rescale"}),
    ("jumprelu", {}),
    ("jumprelu", {"normalize_activations": "layer_norm"}),
    ("gated", {}),
    ("topk", {}),
    ("topk", {"rescale_acts_by_decoder_norm": True}),
]


def sae_lens_activations(folder: Path, x: torch.Tensor) -> torch.Tensor:
    """What sae-lens encodes, scaled by the decoder's norms: the activations dashboards show."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sae_lens import SAE

        oracle = SAE.load_from_disk(folder)
        encoded = oracle.encode(x)
    is_scaled = getattr(oracle.cfg, "rescale_acts_by_decoder_norm", False)
    return (encoded if is_scaled else encoded * oracle.W_dec.norm(dim=-1)).detach()


def dense(dictionary: sae.Sae, x: torch.Tensor) -> torch.Tensor:
    firings = sae.encode(dictionary, x)
    out = torch.zeros(len(x), dictionary.d_sae)
    out[firings.row, firings.feature] = firings.value
    return out


@pytest.mark.parametrize(("architecture", "config"), CASES)
def test_encoding_equals_sae_lens_to_the_bit(tmp_path: Path, architecture: str, config: dict[str, object]) -> None:
    folder = tiny.save_sae(tmp_path / "sae", architecture=architecture, **config)
    x = torch.randn(300, 16, generator=torch.Generator().manual_seed(1)) * 2
    expected = sae_lens_activations(folder, x)
    found = dense(sae.load(folder, device=torch.device("cpu")), x)
    assert int((found != 0).sum()) > 300
    assert torch.equal(found, expected)


def test_tiles_do_not_change_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for architecture in ("jumprelu", "topk", "gated"):
        dictionary = sae.load(
            tiny.save_sae(tmp_path / architecture, architecture=architecture), device=torch.device("cpu")
        )
        x = torch.randn(100, 16, generator=torch.Generator().manual_seed(2))
        whole = dense(dictionary, x)
        monkeypatch.setattr(sae, "FEATURE_TILE", 7)
        tiled = dense(dictionary, x)
        monkeypatch.undo()
        assert torch.equal(whole != 0, tiled != 0)
        torch.testing.assert_close(whole, tiled, rtol=1e-5, atol=1e-6)


def test_top_k_ties_go_to_the_lower_index_across_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.tensor([[1.0, 3.0, 2.0, 3.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]])
    _, chosen = sae._stable_top_k(values, 3)
    assert chosen.tolist() == [[1, 2, 3], [0, 1, 5]]


def test_top_k_larger_than_a_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.save_sae(tmp_path / "sae", architecture="topk", k=12)
    x = torch.randn(50, 16, generator=torch.Generator().manual_seed(3))
    expected = sae_lens_activations(folder, x)
    monkeypatch.setattr(sae, "FEATURE_TILE", 8)
    found = dense(sae.load(folder, device=torch.device("cpu")), x)
    assert torch.equal(found != 0, expected != 0)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    folder = tiny.save_sae(tmp_path / "sae")
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "sae_weights.safetensors")
    state["W_enc"][0, 0] = float("nan")
    save_file(state, folder / "sae_weights.safetensors")
    with pytest.raises(errors.InvalidInputError, match=r"W_enc.*NaN"):
        sae.load(folder, device=torch.device("cpu"))
