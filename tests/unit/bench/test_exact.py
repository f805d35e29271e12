"""Activations in float64 and the bound of fp32 sums, on an SAE's own files."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.bench import exact


@pytest.fixture
def truth(tmp_path):
    rng = np.random.default_rng(0)
    weights = {
        "W_enc": rng.normal(size=(16, 5)), "W_dec": rng.normal(size=(5, 16)), "b_dec": rng.normal(size=16),
        "b_enc": rng.normal(size=5), "threshold": np.full(5, 0.3),
    }  # fmt: skip
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    save_file(weights, tmp_path / "sae_weights.safetensors")
    ours = rng.normal(size=(3, 4, 16)).astype(np.float32)
    theirs = ours + np.float32(1e-4)
    return weights, ours, theirs, exact.Exact(tmp_path, ours, theirs)


def test_each_side_has_its_residuals_and_the_decoder_s_norm(truth) -> None:
    weights, ours, theirs, of = truth
    token = of.token(2, 1, 3)
    norm = float(np.linalg.norm(weights["W_dec"][2]))
    for residuals, found in ((ours, token.ours), (theirs, token.theirs)):
        pre = (residuals[1, 3] - weights["b_dec"]) @ weights["W_enc"][:, 2] + weights["b_enc"][2]
        assert found == pytest.approx(float(pre) * norm, rel=1e-5, abs=1e-5)
    assert token.cut == pytest.approx(0.3 * norm, rel=1e-6)
    assert token.ours != token.theirs


def test_fp32_sums_in_any_order_stay_within_the_bound(truth) -> None:
    weights, ours, _, of = truth
    rng = np.random.default_rng(1)
    token = of.token(2, 1, 3)
    norm = np.linalg.norm(weights["W_dec"][2])
    products = (ours[1, 3] - weights["b_dec"]) * weights["W_enc"][:, 2]
    for _ in range(50):
        total = np.float32(0)
        for term in rng.permutation(products):
            total += term
        assert abs(float((total + weights["b_enc"][2]) * norm) - token.ours) <= token.bound
    assert token.bound < 1e-3
