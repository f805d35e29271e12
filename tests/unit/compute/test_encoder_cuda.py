"""The GPU's encoder, by its twin in plain torch: the definition, and the CPU's encoder, to the bit."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference, tiny
from tests.unit.compute import encoding
from workers.compute import bf16_screen, encoder, encoder_cuda, encoders, sae, torch_kernels

CPU = torch.device("cpu")


@settings(max_examples=300, deadline=None)
@given(problem=encoding.problems(), memory_bytes=st.sampled_from([1, 20_000, 0]))
def test_encoding_is_the_definition_to_the_bit(problem: encoding.Problem, memory_bytes: int) -> None:
    """With memory for one row at a time, for a few, and for all."""
    architecture, x, state, config = problem
    dictionary = encoding.make(architecture, state, **config)
    firings = encoder_cuda.CudaEncoder(dictionary, memory_bytes=memory_bytes).encode(torch.from_numpy(x))
    expected = reference.encode(dictionary, encoder.normalise(dictionary, torch.from_numpy(x)).numpy())
    encoding.assert_firings(firings, expected)


@pytest.mark.parametrize("architecture", encoding.ARCHITECTURES)
def test_it_gives_the_firings_of_the_cpu_encoder(architecture: str) -> None:
    dictionary, x, counts = encoding.wide(architecture)
    expected = encoder.Encoder(dictionary, screen="fp32").encode(x, counts)
    found = encoder_cuda.CudaEncoder(dictionary).encode(x, counts)
    assert len(found.row) > 3 * len(x)
    encoding.assert_same(found, expected)


def test_where_survivors_have_no_room_rows_are_taken_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features that always fire: every row is full of survivors, and there is room for those of one row."""
    dictionary, x, _ = encoding.wide("standard")
    dictionary.b_enc[:] = 30
    tried = []

    class Watched(encoder_cuda.CudaEncoder):
        def _fire(self, plan: Any, x: torch.Tensor) -> Any:
            tried.append(len(x))
            return super()._fire(plan, x)

    monkeypatch.setattr(encoder_cuda, "MAX_SURVIVORS", 1)
    found = Watched(dictionary).encode(x[:40])
    assert tried[:6] == [40, 20, 10, 5, 2, 1]
    assert len(found.row) > 39 * dictionary.d_sae
    encoding.assert_same(found, encoder.Encoder(dictionary, screen="fp32").encode(x[:40]))


def test_a_screen_drops_most_of_what_does_not_fire() -> None:
    """A bound that is never wrong is easy; this one is useful too, even with huge coordinates in every row."""
    rng = np.random.default_rng(6)
    x = rng.standard_normal((2000, 768)).astype(np.float32)
    x[:, 7] += 300
    weights = torch.from_numpy(rng.standard_normal((512, 768)).astype(np.float32) / 28)
    exact = x.astype(np.float64) @ weights.numpy().T.astype(np.float64)
    limit = torch.from_numpy(np.quantile(exact, 0.99, axis=0).astype(np.float32))
    mean = torch.from_numpy(x[:64].mean(axis=0, dtype=np.float64))
    screen = bf16_screen.Bf16Screen(weights, torch.zeros(512), limit, torch.ones(512), mean)
    found = bf16_screen.room(2000 * 512, CPU)
    floor = torch.full((2000,), -bf16_screen.UNDERFLOW)
    torch_kernels.survivors(screen.rows(torch.from_numpy(x)), screen.columns, floor, found)
    survives = np.zeros(exact.shape, np.bool_)
    survives[found.row[: found.count], found.feature[: found.count]] = True
    assert survives[exact > limit.numpy()].all()
    assert survives.mean() < 0.0135


def test_features_nothing_fires_cost_nothing() -> None:
    """Zero weights and no bias reach the threshold exactly, on every token."""
    state = {"W_enc": np.zeros((8, 500)), "W_dec": np.ones((500, 8)), "b_dec": np.zeros(8), "b_enc": np.zeros(500)}
    dictionary = encoding.make("standard", {key: value.astype(np.float32) for key, value in state.items()})
    made = encoder_cuda.CudaEncoder(dictionary)
    assert len(made.encode(torch.ones(100, 8)).row) == 0
    upper = bf16_screen.Bf16Screen(
        dictionary.W_enc.T.contiguous(),
        dictionary.b_enc,
        dictionary.threshold,
        torch.ones(500),
        torch.zeros(8).double(),
    ).columns.upper
    assert torch.isneginf(upper).all()


def test_no_rows_give_no_firings(tmp_path: Path) -> None:
    for architecture in encoding.ARCHITECTURES:
        folder = tiny.save_sae(tmp_path / architecture, architecture=architecture)
        made = encoder_cuda.CudaEncoder(sae.load(folder, device=CPU))
        assert len(made.encode(torch.zeros(0, 16)).row) == 0
        assert len(made.encode(torch.ones(4, 16), np.zeros(4, np.bool_)).row) == 0


def test_sums_of_twice_the_precision_keep_their_bound() -> None:
    rng = np.random.default_rng(3)
    terms = rng.standard_normal((50, 37)) * 10.0 ** rng.integers(-12, 12, (50, 37))
    terms[:, :18] = -terms[:, 18:36]  # fp64 alone would lose all digits
    high, low = encoder_cuda._double_double(torch.from_numpy(terms))
    for row, h, lo in zip(terms, high.tolist(), low.tolist(), strict=True):
        exact = sum(map(Fraction, row.tolist()), Fraction(0))
        assert abs(Fraction(h) + Fraction(lo) - exact) <= sum(abs(row)) * 2.0**-92


def test_what_fp64_leaves_open_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if fp64 could never decide: sums of twice the precision give the same bits; then integers, for all of them."""
    dictionary, x, _ = encoding.wide("jumprelu", n=30)
    expected = encoder_cuda.CudaEncoder(dictionary).encode(x)
    settle, n_calls = encoder_cuda._summed_twice, []

    def watched(*arguments: Any) -> Any:
        n_calls.append(1)
        return settle(*arguments)

    class Vague(encoder_cuda.CudaEncoder):
        def _pre_activations(self, path: Any, x: Any, error: torch.Tensor, row: Any, feature: Any) -> Any:
            return super()._pre_activations(path, x, error * 1e9, row, feature)

    monkeypatch.setattr(encoder_cuda, "_summed_twice", watched)
    encoding.assert_same(Vague(dictionary).encode(x), expected)
    assert n_calls
    monkeypatch.setattr(encoder_cuda, "_rounded", lambda total, error: torch.full_like(total, torch.nan).float())
    encoding.assert_same(Vague(dictionary).encode(x[:1]), encoder.Encoder(dictionary, screen="fp32").encode(x[:1]))


def test_a_cpu_gets_the_encoder_written_for_it(tmp_path: Path) -> None:
    dictionary = sae.load(tiny.save_sae(tmp_path / "sae"), device=CPU)
    assert isinstance(encoders.of(dictionary, screen="fp32"), encoder.Encoder)
    assert encoder_cuda.kernels_for(CPU) is torch_kernels
