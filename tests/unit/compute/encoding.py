"""What tests of encoders share: SAEs from arrays, problems an adversary picks, and comparing firings to the bit."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from backend import names
from backend.formats import sae_files
from tests import reference
from workers.compute import encoder, sae

ARCHITECTURES = ("standard", "jumprelu", "gated", "topk", "abstopk")
Problem = tuple[str, np.ndarray, dict[str, np.ndarray], dict[str, Any]]
"""Architecture, rows, weights, and what else `make` takes."""


def make(architecture: str, state: dict[str, np.ndarray], *, k: int | None = None, is_scaled: bool = False) -> sae.Sae:
    """An SAE with these weights."""
    d_in, d_sae = state["W_enc"].shape
    hook_point = names.HookPoint(0, "hook_resid_pre")
    described = sae_files.SaeDescription(
        folder=Path(), format="saelens", kind="sae", architecture=architecture, hook_point=hook_point,
        hook_point_out=hook_point, d_in=d_in, d_sae=d_sae, d_out=d_in, k=k, is_scaled_by_decoder_norm=is_scaled,
        is_b_dec_subtracted=True, normalize_activations="none", is_hook_z=False, prepend_bos=True, context_size=None,
        is_centred=False, config={}, is_signed=architecture == "abstopk",
    )  # fmt: skip
    return sae.from_state(described, {key: torch.from_numpy(np.ascontiguousarray(v)) for key, v in state.items()})


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Rows and weights as an adversary picks them: few distinct values (ties), zeros, and sizes from 1e-30 to 1e15."""
    architecture = draw(st.sampled_from(ARCHITECTURES))
    n, d, d_sae = draw(st.integers(1, 9)), draw(st.sampled_from([1, 3, 8, 12, 24])), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = st.sampled_from(["normal", "ties", "zeros", "denormal", "huge", "one coordinate", "mixed"])

    def numbers(shape: tuple[int, ...]) -> np.ndarray:
        values = rng.standard_normal(shape)
        match draw(kind):
            case "ties":
                values = np.round(values)
            case "zeros":
                values *= rng.random(shape) < 0.3
            case "denormal":
                values *= 1e-41
            case "huge":
                values *= 1e15
            case "one coordinate":
                values[..., 0] *= 1e4
            case "mixed":
                values *= 10.0 ** rng.integers(-8, 8, shape)
        return values.astype(np.float32)

    x = numbers((n, d))
    if draw(st.booleans()):
        x = np.concatenate([x, x])  # the same token twice
    state = {"W_enc": numbers((d, d_sae)), "W_dec": numbers((d_sae, d)), "b_dec": numbers((d,))}
    if draw(st.booleans()) and d_sae > 1:
        state["W_enc"][:, d_sae // 2 :] = state["W_enc"][:, : d_sae - d_sae // 2]  # features that tie everywhere
    bias = numbers((d_sae,)) * draw(st.sampled_from([0.0, 1.0, 30.0]))  # always on, at the largest
    if architecture == "gated":
        state |= {"b_gate": bias, "b_mag": numbers((d_sae,)), "r_mag": rng.standard_normal(d_sae).astype(np.float32)}
    else:
        state["b_enc"] = bias
    if architecture == "jumprelu":
        # thresholds that some pre-activation meets exactly: not above it, so it does not fire
        at = [reference.pre_activation(x[0] - state["b_dec"], state["W_enc"][:, j], bias[j]) for j in range(d_sae)]
        with np.errstate(invalid="ignore"):
            state["threshold"] = np.where(np.isfinite(at), np.abs(np.array(at, np.float32)), 0).astype(np.float32)
    is_top_k = architecture in ("topk", "abstopk")
    config = {"k": draw(st.integers(1, d_sae)), "is_scaled": draw(st.booleans())} if is_top_k else {}
    return architecture, x, state, config


def wide(
    architecture: str, *, n: int = 700, d: int = 192, d_sae: int = 1100
) -> tuple[sae.Sae, torch.Tensor, np.ndarray]:
    """An SAE, rows with a few huge coordinates such as real residuals have, and which rows count."""
    rng = np.random.default_rng(5)
    state = {
        "W_enc": (rng.standard_normal((d, d_sae)) / d**0.5).astype(np.float32),
        "W_dec": rng.standard_normal((d_sae, d)).astype(np.float32),
        "b_dec": rng.standard_normal(d).astype(np.float32),
    }
    bias = rng.standard_normal(d_sae).astype(np.float32)
    state |= {"b_gate": bias - 3, "b_mag": bias, "r_mag": bias / 9} if architecture == "gated" else {"b_enc": bias}
    if architecture == "jumprelu":
        state["threshold"] = np.full(d_sae, 3, np.float32)
        state["threshold"][::7] = 1e6  # out of reach
    x = rng.standard_normal((n, d)).astype(np.float32)
    x[:, 3] += 40
    x[:, 77] -= 25
    config = {"k": 20} if architecture in ("topk", "abstopk") else {}
    return make(architecture, state, **config), torch.from_numpy(x), rng.random(n) < 0.9


def assert_firings(found: encoder.Firings, expected: dict[tuple[int, int], np.float32]) -> None:
    """The same pairs, each once, with the same bits."""
    pairs = list(zip(found.row.tolist(), found.feature.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    assert set(pairs) == expected.keys()
    for pair, value in zip(pairs, found.value, strict=True):
        np.testing.assert_equal(value, expected[pair])


def assert_same(found: encoder.Firings, expected: encoder.Firings) -> None:
    """The same pairs with the same bits, whatever their order; rows ascend for each feature."""
    columns = []
    for firings in (found, expected):
        order = np.argsort(firings.feature, kind="stable")
        assert (np.diff(firings.row[order].astype(np.int64))[np.diff(firings.feature[order]) == 0] > 0).all()
        columns.append((firings.feature[order], firings.row[order], firings.value[order].view(np.uint32)))
    for one, other in zip(*columns, strict=True):
        assert np.array_equal(one, other)
