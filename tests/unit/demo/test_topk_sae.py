"""The sparse gradients against dense autograd, and the folder against SAELens."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

from demo import topk_sae

D_IN, D_SAE, K, K_AUX, N = 16, 64, 4, 6, 700


@pytest.fixture
def sae() -> topk_sae.TopKSae:
    """Random in every parameter, double precision, encoder untied from the decoder."""
    generator = torch.Generator().manual_seed(0)
    sae = topk_sae.initialize(D_IN, D_SAE, K, generator)
    for name in topk_sae.Gradients.__slots__:
        noise = torch.randn(getattr(sae, name).shape, generator=generator, dtype=torch.float64)
        setattr(sae, name, getattr(sae, name).double() + 0.3 * noise)
    return sae


@pytest.fixture
def x() -> Tensor:
    """More rows than one encode chunk, and not a multiple of it."""
    return torch.randn(N, D_IN, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5


def dense_loss(sae: topk_sae.TopKSae, x: Tensor, dead: Tensor, coefficient: float) -> Tensor:
    """The objective of `TopKSae.step`, written out with dense products for autograd."""

    def active(pre: Tensor, k: int) -> Tensor:
        top = pre.topk(k, dim=1)
        return torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())

    pre = (x - sae.b_dec) @ sae.W_enc.T + sae.b_enc
    out = active(pre, sae.k) @ sae.W_dec + sae.b_dec
    loss = (out - x).square().mean()
    if len(dead):
        aux = active(pre[:, dead], min(K_AUX, len(dead))) @ sae.W_dec[dead]
        loss = loss + coefficient * (aux - (x - out).detach()).square().mean()
    return loss


@pytest.mark.parametrize("n_dead", [0, 3, 20])
def test_sparse_gradients_equal_dense_autograd(sae: topk_sae.TopKSae, x: Tensor, n_dead: int) -> None:
    """Tolerance: double precision, 1e-12 absolute; `n_dead` covers none, fewer than k_aux and more."""
    dead = torch.arange(0, 2 * n_dead, 2)
    sae.b_enc[dead] -= 1.5  # some of their pre-activations stay below 0, so that relu cuts
    result = sae.step(x, dead, K_AUX, 1 / 32)
    parameters = [getattr(sae, name).requires_grad_() for name in topk_sae.Gradients.__slots__]
    expected = torch.autograd.grad(dense_loss(sae, x, dead, 1 / 32), parameters)
    for name, gradient in zip(topk_sae.Gradients.__slots__, expected, strict=True):
        torch.testing.assert_close(getattr(result.gradients, name), gradient, rtol=1e-9, atol=1e-12)


def test_step_reports_error_and_fired_features(sae: topk_sae.TopKSae, x: Tensor) -> None:
    """The error leaves AuxK out; a feature chosen only with a pre-activation below 0 did not fire."""
    sae.b_enc -= 2.0
    result = sae.step(x, torch.tensor([0]), K_AUX, 1.0)
    values, features = sae.encode(x)
    assert result.squared_error == pytest.approx(float((sae.decode(values, features) - x).square().sum()))
    assert (values == 0).any()
    assert result.fired.nonzero().flatten().tolist() == features[values > 0].unique().tolist()


def test_auxk_moves_dead_features_only(sae: topk_sae.TopKSae, x: Tensor) -> None:
    """Rows that no token chose get a gradient from AuxK alone."""
    dead = torch.tensor([5, 9])
    sae.b_enc[dead] -= 100.0
    assert sae.step(x, dead[:0], K_AUX, 1.0).gradients.W_dec[dead].abs().sum() == 0
    sae.b_enc[dead] += 98.0
    without = sae.step(x, dead[:0], K_AUX, 1.0).gradients.W_dec
    with_aux = sae.step(x, dead, K_AUX, 1.0).gradients.W_dec
    assert (without != with_aux).any(1).nonzero().flatten().tolist() == dead.tolist()


def test_unscaled_sae_gives_the_same_reconstruction_of_raw_residuals(sae: topk_sae.TopKSae, x: Tensor) -> None:
    """Activations shrink by the scale, features stay."""
    mean, scale = torch.full((D_IN,), 3.0, dtype=torch.float64), 0.25
    raw = x / scale + mean
    folded = topk_sae.unscaled(sae, mean, scale)
    values, features = folded.encode(raw)
    scaled_values, scaled_features = sae.encode(x)
    assert torch.equal(features, scaled_features)
    torch.testing.assert_close(values * scale, scaled_values)
    torch.testing.assert_close(
        (folded.decode(values, features) - mean) * scale, sae.decode(scaled_values, scaled_features)
    )


def test_saelens_loads_the_folder_and_encodes_alike(sae: topk_sae.TopKSae, x: Tensor, tmp_path: Path) -> None:
    """Both read the same half-precision file; tolerance is single precision's."""
    topk_sae.save(sae, tmp_path, {"model_name": "stdlib-4l", "hook_name": "blocks.1.hook_resid_post"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # SAELens imports a module TransformerLens has renamed
        from sae_lens import SAE
    ours, theirs = topk_sae.load(tmp_path), SAE.load_from_disk(str(tmp_path))
    assert theirs.cfg.architecture() == "topk"
    assert theirs.cfg.metadata.hook_name == "blocks.1.hook_resid_post"
    values, features = ours.encode(x.float())
    dense = torch.zeros(N, D_SAE).scatter(1, features, values)
    with torch.no_grad():
        activations = theirs.encode(x.float())
        torch.testing.assert_close(activations, dense, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(theirs.decode(activations), ours.decode(values, features), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.W_dec.double(), sae.W_dec, rtol=1e-3, atol=1e-4)
