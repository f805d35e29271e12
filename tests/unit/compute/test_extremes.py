"""Summaries of dense values: against plain loops, and to the bit however they are cut."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference
from workers.compute import extremes, parts

BATCH = 3


def values_of(kind: str, shape: tuple[int, int, int]) -> np.ndarray:
    rng = np.random.default_rng(3)
    values = rng.standard_normal(shape)
    match kind:
        case "ties":
            values = np.round(values)
        case "zeros":
            values = np.maximum(values, 0) * (rng.random(shape) < 0.2)
        case "negative":
            values = -np.abs(values) - 0.1
        case "constant":
            values = np.full(shape, 0.1)
        case "denormal":
            values *= 1e-41
        case "far from zero":
            values += 1000
    return values.astype(np.float32)


def batches(values: np.ndarray, counts: np.ndarray) -> list[extremes.Extremes]:
    return [
        extremes.of_values(values[i : i + BATCH].reshape(-1, values.shape[2]), counts[i : i + BATCH], i)
        for i in range(0, len(values), BATCH)
    ]


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["normal", "ties", "zeros", "negative", "constant", "denormal", "far from zero"]),
    masked=st.sampled_from([0.0, 0.3, 0.9]),
)
def test_summaries_are_those_of_plain_loops(kind: str, masked: float) -> None:
    values = values_of(kind, (7, 11, 4))
    counts = np.random.default_rng(5).random(values.shape[:2]) >= masked
    counts[0] = False  # a context of which no token counts
    counts[6, 3] = True
    found = extremes.join(batches(values, counts))
    moments = extremes.moments(found)
    for f in range(values.shape[2]):
        column = values[:, :, f]
        for context in range(len(values)):
            at = np.flatnonzero(counts[context])
            expected = (0, 0) if len(at) == 0 else (column[context, at].max(), column[context, at].min())
            assert (found.high[f, context], found.low[f, context]) == expected
            if len(at):
                assert found.high_at[f, context] == at[column[context, at].argmax()]
                assert found.low_at[f, context] == at[column[context, at].argmin()]
        flat = [float(v) for v in column[counts]]
        assert found.ends[f].tolist() == [min(flat), max(flat)]
        assert found.signs[f].tolist() == [sum(v > 0 for v in flat), sum(v < 0 for v in flat)]
        assert found.counts[f].sum() == found.n_tokens.sum() == len(flat)
        mean, std, *shape = reference.moments(flat)
        largest = max(map(abs, flat))
        np.testing.assert_allclose(moments[f, :2], [mean, std], rtol=1e-6, atol=1e-12 * largest)
        np.testing.assert_allclose(moments[f, 2:], shape, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_any_cut_gives_the_same_bits(cut: int, tmp_path: Path) -> None:
    values = values_of("normal", (13, 9, 5))
    counts = np.random.default_rng(5).random(values.shape[:2]) < 0.8
    counts[3:6] = False
    made = batches(values, counts)
    whole = extremes.join(made)
    halves = [extremes.join(some) for some in (made[:cut], made[cut:])]
    for i, half in enumerate(halves):
        half.write(tmp_path / str(i), {})
    read = [parts.read(tmp_path / str(i)) for i in range(2)]
    assert all(isinstance(part, extremes.Extremes) for part in read)
    again = extremes.join([part.of(1, 4) for part in read if isinstance(part, extremes.Extremes)])
    for name in extremes.Extremes.__slots__:
        mine = getattr(whole.of(1, 4), name)
        assert np.asarray(mine).tobytes() == np.asarray(getattr(again, name)).tobytes(), name
    assert extremes.moments(again).tobytes() == extremes.moments(whole.of(1, 4)).tobytes()


def test_nothing_that_counts_has_no_moments() -> None:
    found = extremes.join(batches(values_of("normal", (4, 3, 2)), np.zeros((4, 3), np.bool_)))
    assert np.isnan(extremes.moments(found)).all()
    assert not found.counts.any()
