"""Calibrated SAEs fire as often as asked, and both engines can read them."""

import pytest
import torch

from backend.formats import sae_files
from tests.bench import workload
from tests.bench.workload import Sample, Shape


@pytest.fixture(scope="module")
def sample():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4000, 16, generator=generator) * torch.linspace(0.5, 4, 16) + 3
    mean = x.mean(dim=0)
    variance, axes = torch.linalg.eigh(torch.cov((x - mean).T))
    return Sample(x, mean, axes @ torch.diag(variance**-0.5) @ axes.T)


def pre_activations(sample, weights):
    return (sample.x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]


def test_jumprelu_fires_as_often_as_asked(sample) -> None:
    weights = workload.calibrated(sample, Shape(200, l0=8))["jumprelu"]
    fires = pre_activations(sample, weights) > weights["threshold"]
    assert float(fires.sum()) / len(sample.x) == pytest.approx(8, rel=0.1)
    assert int((~fires.any(dim=0)).sum()) == 4  # 2 % of 200
    assert (weights["threshold"] > 0).all()


def test_activations_start_at_a_tenth_of_their_range(sample) -> None:
    weights = workload.calibrated(sample, Shape(200, l0=8))["jumprelu"]
    pre = pre_activations(sample, weights)
    alive = (pre > weights["threshold"]).any(dim=0)
    share = weights["threshold"][alive] / pre.amax(dim=0)[alive]
    torch.testing.assert_close(share, torch.full_like(share, 0.1 / 1.1), atol=1e-3, rtol=0)


def test_the_same_shape_gives_the_same_weights(sample) -> None:
    first, second = (workload.calibrated(sample, Shape(64, l0=4)) for _ in range(2))
    for architecture, weights in first.items():
        for name, tensor in weights.items():
            assert torch.equal(tensor, second[architecture][name])


@pytest.mark.parametrize("architecture", ["jumprelu", "topk"])
def test_what_is_saved_is_what_was_made(sample, tmp_path, architecture) -> None:
    weights = workload.calibrated(sample, Shape(64, l0=4))[architecture]
    workload.save_sae(tmp_path / "sae", architecture, weights, 4)
    described = sae_files.describe(tmp_path / "sae")
    assert (described.architecture, described.d_sae, described.d_in) == (architecture, 64, 16)
    assert described.k == (4 if architecture == "topk" else None)
    assert described.is_scaled_by_decoder_norm == (architecture == "topk")
    assert str(described.hook_point) == str(workload.HOOK_POINT)
    assert not list(tmp_path.glob("*.partial"))


def test_no_token_of_the_sample_lies_at_a_threshold(sample) -> None:
    """Else rounding would decide one firing of every feature."""
    weights = workload.calibrated(sample, Shape(200, l0=8))["jumprelu"]
    distance = (pre_activations(sample, weights).double() - weights["threshold"]).abs().amin(dim=0)
    assert float((distance < 1e-5).double().mean()) < 0.05
