"""Encoding against its definition in fractions, and against sae-lens on the same residuals."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.formats.saes import reading
from tests import reference, tiny
from tests.unit.compute import encoding
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
    ("abstopk", {}),
    ("abstopk", {"rescale_acts_by_decoder_norm": True}),
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


@settings(max_examples=300, deadline=None)
@given(problem=encoding.problems(), tile=st.sampled_from([3, 8, 512]), screen=st.sampled_from(SCREENS))
def test_encoding_is_the_definition_to_the_bit(
    problem: encoding.Problem, tile: int, screen: encoder.ScreenName
) -> None:
    architecture, x, state, config = problem
    dictionary = encoding.make(architecture, state, **config)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("ROW_TILE", "FEATURE_TILE"):
            patch.setattr(encoder, name, tile)
        made = encoder.Encoder(dictionary, screen=screen)
        made.encode(torch.from_numpy(x[::-1].copy()))  # what it learns from other tokens changes no answer
        firings = made.encode(torch.from_numpy(x))
    expected = reference.encode(dictionary, encoder.normalise(dictionary, torch.from_numpy(x)).numpy())
    encoding.assert_firings(firings, expected)


@pytest.mark.parametrize("architecture", ["jumprelu", "topk", "gated", "abstopk"])
def test_screens_tiles_and_masks_do_not_change_a_bit(architecture: str) -> None:
    dictionary, x, counts = encoding.wide(architecture)
    n, d_sae = len(x), dictionary.d_sae
    results = []
    for screen in SCREENS:
        for tile in (128, 512):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(encoder, "ROW_TILE", tile)
                patch.setattr(encoder, "FEATURE_TILE", 2 * tile - 31)
                results.append(encoder.Encoder(dictionary, screen=screen).encode(x, counts))
    first = dense(results[0], n, d_sae)
    assert 3 * n < np.count_nonzero(first) < n * d_sae / 4
    assert not first[~counts].any()
    for other in results[1:]:
        assert np.array_equal(first, dense(other, n, d_sae))
    sampled = reference.encode(dictionary, encoder.normalise(dictionary, x[:3]).numpy())
    for (row, feature), value in sampled.items():
        assert not counts[row] or first[row, feature] == value


def test_rows_ascend_for_each_feature(tmp_path: Path) -> None:
    for architecture in ("jumprelu", "topk", "abstopk"):
        folder = tiny.save_sae(tmp_path / architecture, architecture=architecture)
        dictionary = sae.load(folder, device=torch.device("cpu"))
        x = torch.randn(2000, 16, generator=torch.Generator().manual_seed(2))
        firings = encoder.Encoder(dictionary).encode(x)
        for feature in range(dictionary.d_sae):
            assert (np.diff(firings.row[firings.feature == feature].astype(np.int64)) > 0).all()


def test_top_k_after_tokens_that_mislead_it() -> None:
    """Floors learned from tokens that fire strongly are too high for others, which are then done again."""
    rng = np.random.default_rng(8)
    weights = rng.standard_normal((32, 300)).astype(np.float32)
    state = {"W_enc": weights, "W_dec": weights.T.copy(), "b_dec": np.zeros(32, np.float32)}
    state["b_enc"] = np.zeros(300, np.float32)
    dictionary = encoding.make("topk", state, k=12)
    strong = np.repeat(weights[:, :1].T, 200, axis=0) + 0.1 * rng.standard_normal((200, 32)).astype(np.float32)
    mixed = np.concatenate([strong[:50], rng.standard_normal((90, 32)).astype(np.float32) * 3, strong[50:60]])
    mixed[70] = 0
    misled = encoder.Encoder(dictionary, screen="int8")
    misled.encode(torch.from_numpy(strong))
    assert misled._guess > 0
    found = misled.encode(torch.from_numpy(mixed))
    fresh = encoder.Encoder(dictionary, screen="fp32").encode(torch.from_numpy(mixed))
    for name in ("row", "feature", "value"):
        assert np.array_equal(getattr(found, name), getattr(fresh, name))
    assert len(found.row) == 12 * (len(mixed) - 1)


def test_top_k_larger_than_a_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.save_sae(tmp_path / "sae", architecture="topk", k=12)
    x = torch.randn(50, 16, generator=torch.Generator().manual_seed(3))
    expected = sae_lens_activations(folder, x).numpy()
    monkeypatch.setattr(encoder, "FEATURE_TILE", 8)
    dictionary = sae.load(folder, device=torch.device("cpu"))
    found = dense(encoder.Encoder(dictionary, screen="int8").encode(x), 50, dictionary.d_sae)
    assert np.array_equal(found != 0, expected != 0)


def test_abs_top_k_takes_the_lower_feature_of_a_tie_whatever_the_sign() -> None:
    weights = np.array([[-2, 2, 1, -2]], np.float32)
    state = {"W_enc": weights, "W_dec": np.ones((4, 1), np.float32), "b_dec": np.zeros(1, np.float32)}
    dictionary = encoding.make("abstopk", state | {"b_enc": np.zeros(4, np.float32)}, k=2)
    for sign in (1.0, -1.0):
        found = encoder.Encoder(dictionary).encode(torch.tensor([[sign]]))
        assert found.feature.tolist() == [0, 1]
        assert found.value.tolist() == [-2 * sign, 2 * sign]


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
    assert {architecture for architecture, _ in CASES} == set(reading.ARCHITECTURES.values())
