"""Encoding against its definition in fractions, and against sae-lens on the same residuals."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backend import names
from backend.formats import sae_files
from tests import reference, tiny
from workers.compute import encoder, sae, screens

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
SCREENS = ("fp32", "int8")


def sae_lens_activations(folder: Path, x: torch.Tensor) -> torch.Tensor:
    """What sae-lens encodes, scaled by the decoder's norms: the activations dashboards show."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sae_lens import SAE

        oracle = SAE.load_from_disk(folder)
        encoded = oracle.encode(x)
    is_scaled = getattr(oracle.cfg, "rescale_acts_by_decoder_norm", False)
    return (encoded if is_scaled else encoded * oracle.W_dec.norm(dim=-1)).detach()


def exact_sae_lens_activations(folder: Path, x: torch.Tensor) -> torch.Tensor:
    """As above by sae-lens in float64 on the input as we define it (fp32, b_dec subtracted), rounded to fp32 once."""
    dictionary = sae.load(folder, device=torch.device("cpu"))
    x = encoder.normalise(dictionary, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sae_lens import SAE

        oracle = SAE.load_from_disk(folder, dtype="float64")
        oracle.b_dec.data.zero_()
        encoded = oracle.encode(x.double()).float()
        if dictionary.magnitude_gain is not None:  # the gain times the weights is a rounded product by definition
            oracle.W_enc.data = (dictionary.W_enc * dictionary.magnitude_gain).double()
            oracle.r_mag.data.zero_()
            oracle.b_gate.data.fill_(1e30)
            encoded = oracle.encode(x.double()).float() * (encoded != 0)
    return (encoded * dictionary.decoder_norm).detach()


def dense(firings: encoder.Firings, n: int, d_sae: int) -> np.ndarray:
    out = np.zeros((n, d_sae), np.float32)
    out[firings.row, firings.feature] = firings.value
    return out


def make(architecture: str, state: dict[str, np.ndarray], *, k: int | None = None, is_scaled: bool = False) -> sae.Sae:
    """An SAE with these weights."""
    d_in, d_sae = state["W_enc"].shape
    described = sae_files.SaeDescription(
        folder=Path(), architecture=architecture, hook_point=names.HookPoint(0, "hook_resid_pre"), d_in=d_in,
        d_sae=d_sae, k=k, is_scaled_by_decoder_norm=is_scaled, is_b_dec_subtracted=True, normalize_activations="none",
        is_hook_z=False, prepend_bos=True, context_size=None, is_centred=False, config={},
    )  # fmt: skip
    return sae.from_state(described, {key: torch.from_numpy(np.ascontiguousarray(v)) for key, v in state.items()})


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize(("architecture", "config"), CASES)
def test_encoding_equals_sae_lens_but_for_its_roundings(
    tmp_path: Path, architecture: str, config: dict[str, object], screen: encoder.ScreenName
) -> None:
    folder = tiny.save_sae(tmp_path / "sae", architecture=architecture, **config)
    x = torch.randn(300, 16, generator=torch.Generator().manual_seed(1)) * 2
    expected = sae_lens_activations(folder, x).numpy()
    dictionary = sae.load(folder, device=torch.device("cpu"))
    made = encoder.Encoder(dictionary, screen=screen)
    found = dense(made.encode(x), 300, dictionary.d_sae)
    assert made.screen == screen
    assert int((found != 0).sum()) > 300
    assert np.array_equal(found != 0, expected != 0)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


@st.composite
def problems(draw: st.DrawFn) -> tuple[str, np.ndarray, dict[str, np.ndarray], dict[str, Any]]:
    """Rows and weights as an adversary picks them: few distinct values (ties), zeros, and sizes from 1e-30 to 1e15."""
    architecture = draw(st.sampled_from(["standard", "jumprelu", "gated", "topk"]))
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
    is_top_k = architecture == "topk"
    config = {"k": draw(st.integers(1, d_sae)), "is_scaled": draw(st.booleans())} if is_top_k else {}
    return architecture, x, state, config


@settings(max_examples=300, deadline=None)
@given(problem=problems(), tile=st.sampled_from([3, 8, 512]), screen=st.sampled_from(SCREENS))
def test_encoding_is_the_definition_to_the_bit(
    problem: tuple[str, np.ndarray, dict[str, np.ndarray], dict[str, Any]], tile: int, screen: encoder.ScreenName
) -> None:
    architecture, x, state, config = problem
    dictionary = make(architecture, state, **config)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("ROW_TILE", "FEATURE_TILE", "TOP_K_ROW_TILE"):
            patch.setattr(encoder, name, tile)
        firings = encoder.Encoder(dictionary, screen=screen).encode(torch.from_numpy(x))
    expected = reference.encode(dictionary, encoder.normalise(dictionary, torch.from_numpy(x)).numpy())
    found = dict(zip(zip(firings.row.tolist(), firings.feature.tolist(), strict=True), firings.value, strict=True))
    assert len(found) == len(firings.row)
    assert found.keys() == expected.keys()
    for key, value in found.items():
        np.testing.assert_equal(value, expected[key])


@pytest.mark.parametrize("architecture", ["jumprelu", "topk", "gated"])
def test_screens_tiles_and_masks_do_not_change_a_bit(tmp_path: Path, architecture: str) -> None:
    """At a width, and with a few huge coordinates, such as real residuals have."""
    rng = np.random.default_rng(5)
    d, d_sae, n = 192, 1100, 700
    state = {
        "W_enc": rng.standard_normal((d, d_sae)).astype(np.float32) / 14,
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
    counts = rng.random(n) < 0.9
    dictionary = make(architecture, state, **({"k": 20} if architecture == "topk" else {}))
    results = []
    for screen in SCREENS:
        for tile in (128, 512):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(encoder, "ROW_TILE", tile)
                patch.setattr(encoder, "FEATURE_TILE", 2 * tile - 31)
                results.append(encoder.Encoder(dictionary, screen=screen).encode(torch.from_numpy(x), counts))
    first = dense(results[0], n, d_sae)
    assert 3 * n < np.count_nonzero(first) < n * d_sae / 4
    assert not first[~counts].any()
    for other in results[1:]:
        assert np.array_equal(first, dense(other, n, d_sae))
    sampled = reference.encode(dictionary, encoder.normalise(dictionary, torch.from_numpy(x[:3])).numpy())
    for (row, feature), value in sampled.items():
        assert not counts[row] or first[row, feature] == value


def test_rows_ascend_for_each_feature(tmp_path: Path) -> None:
    for architecture in ("jumprelu", "topk"):
        folder = tiny.save_sae(tmp_path / architecture, architecture=architecture)
        dictionary = sae.load(folder, device=torch.device("cpu"))
        x = torch.randn(2000, 16, generator=torch.Generator().manual_seed(2))
        firings = encoder.Encoder(dictionary).encode(x)
        for feature in range(dictionary.d_sae):
            assert (np.diff(firings.row[firings.feature == feature].astype(np.int64)) > 0).all()


def test_top_k_larger_than_a_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.save_sae(tmp_path / "sae", architecture="topk", k=12)
    x = torch.randn(50, 16, generator=torch.Generator().manual_seed(3))
    expected = sae_lens_activations(folder, x).numpy()
    monkeypatch.setattr(encoder, "FEATURE_TILE", 8)
    dictionary = sae.load(folder, device=torch.device("cpu"))
    found = dense(encoder.Encoder(dictionary, screen="int8").encode(x), 50, dictionary.d_sae)
    assert np.array_equal(found != 0, expected != 0)


def test_a_screen_drops_most_of_what_does_not_fire() -> None:
    """A bound that is never wrong is easy; this one is useful too, even with huge coordinates in every row."""
    rng = np.random.default_rng(6)
    x = rng.standard_normal((256, 256)).astype(np.float32)
    x[:, 7] += 300
    weights = rng.standard_normal((512, 256)).astype(np.float32) / 16
    made = screens.Int8Screen(torch.from_numpy(weights), x[:64].mean(axis=0, dtype=np.float64))
    rows = made.rows(x)
    exact = x.astype(np.float64) @ weights.T.astype(np.float64)
    limit = np.quantile(exact, 0.99, axis=0)
    product = torch.empty((256, 512), dtype=torch.int32)
    made.product(rows.left, 0, 512, product)
    bound = product.numpy() * rows.gain[:, None] + (rows.a[:, None] + rows.b[:, None] * made.spread)
    survives = ~(bound <= made.cuts(limit))
    assert survives[exact > limit].all()
    assert survives.mean() < 0.04


def test_an_encoder_without_rows_gives_no_firings(tmp_path: Path) -> None:
    for architecture in ("jumprelu", "topk"):
        folder = tiny.save_sae(tmp_path / architecture, architecture=architecture)
        made = encoder.Encoder(sae.load(folder, device=torch.device("cpu")))
        assert len(made.encode(torch.zeros(0, 16)).row) == 0
        assert len(made.encode(torch.ones(4, 16), np.zeros(4, np.bool_)).row) == 0


def test_architectures_are_those_the_files_know() -> None:
    assert {architecture for architecture, _ in CASES} == set(sae_files.WEIGHT_KEYS)
