"""Compiled loops against plain ones: ties, denormals, huge values, columns of one value and of none."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference
from tests.unit.compute.columns import DENORMAL, LARGEST, columns, joined
from workers.compute import statistics

exhaustive = settings(deadline=None, max_examples=100)


def as_floats(column: list[float]) -> list[float]:
    return np.array(column, np.float32).astype(float).tolist()


@exhaustive
@given(columns)
def test_extremes_are_those_of_each_column(given_: list[list[float]]) -> None:
    found = statistics.extremes(*joined(given_)).tolist()
    assert found == [[min(as_floats(x), default=0.0), max(as_floats(x), default=0.0)] for x in given_]


def test_extremes_of_numbers_of_both_signs() -> None:
    offset, values = joined([[-3.0, 2.0, -0.5], [-LARGEST, -DENORMAL], [0.0, -0.0]])
    found = statistics.extremes(offset, values)
    assert found.tolist() == [[-3.0, 2.0], [np.float32(-LARGEST), np.float32(-DENORMAL)], [0.0, 0.0]]
    assert np.signbit(found[2]).tolist() == [True, False]


@exhaustive
@given(columns)
def test_moments_equal_sums_rounded_once(given_: list[list[float]]) -> None:
    """Third moments cancel, so skewness is compared on the scale of its summands, which m2^1.5 is at least."""
    offset, values = joined(given_)
    found = statistics.moments(offset, values, statistics.extremes(offset, values))
    for column, row in zip(given_, found, strict=True):
        np.testing.assert_allclose(row, reference.moments(as_floats(column)), rtol=1e-9, atol=1e-12)


def test_moments_of_nothing_and_of_one_value() -> None:
    offset, values = joined([[], [2.5, 2.5], [0.1]])
    found = statistics.moments(offset, values, statistics.extremes(offset, values))
    np.testing.assert_equal(found[:, :2], [[np.nan, np.nan], [2.5, 0.0], [float(np.float32(0.1)), 0.0]])
    assert np.isnan(found[:, 2:]).all()


def test_a_columns_moments_do_not_depend_on_what_stands_before_it() -> None:
    rng = np.random.default_rng(0)
    column = rng.random(1003, np.float32)
    alone = [column, np.array([0, 1003])]
    after = [np.concatenate([rng.random(7, np.float32), column]), np.array([0, 7, 1010])]
    found = [statistics.moments(offset, x, statistics.extremes(offset, x))[-1] for x, offset in (alone, after)]
    assert found[0].tobytes() == found[1].tobytes()


@exhaustive
@given(columns, st.sampled_from([1, 2, 7, 40, 50]))
def test_histograms_follow_numpys_edges_to_the_last_bit(given_: list[list[float]], n_bins: int) -> None:
    offset, values = joined(given_)
    ends = statistics.extremes(offset, values)
    for count, space in ((statistics.linear_histogram, np.linspace), (statistics.log_histogram, np.geomspace)):
        found = count(offset, values, ends, n_bins).tolist()
        for column, (low, high), row in zip(map(as_floats, given_), ends.tolist(), found, strict=True):
            edges = space(low, high, n_bins + 1).tolist() if column else [0.0] * (n_bins + 1)
            assert row == reference.histogram(column, edges)


@pytest.mark.parametrize("n_bins", [40, 50])
def test_values_on_edges_count_in_the_bin_above(n_bins: int) -> None:
    """Every edge as near as fp32 comes to it, and both neighbours of that, over wide and narrow ranges."""
    rng = np.random.default_rng(n_bins)
    for low, high in [(DENORMAL, 1e-40), (1e-30, 1e30), (1.0, 1.0001), *np.sort(rng.random((20, 2)) + 0.001).tolist()]:
        for count, space in ((statistics.linear_histogram, np.linspace), (statistics.log_histogram, np.geomspace)):
            near = space(float(np.float32(low)), float(np.float32(high)), n_bins + 1).astype(np.float32)
            both = [np.nextafter(near, np.float32(way), dtype=np.float32) for way in (0, np.inf)]
            values = np.clip(np.concatenate([near, *both]), np.float32(low), np.float32(high))
            offset = np.array([0, len(values)])
            ends = statistics.extremes(offset, values)
            edges = space(*ends[0].tolist(), n_bins + 1).tolist()
            assert count(offset, values, ends, n_bins)[0].tolist() == reference.histogram(values.tolist(), edges)


def test_what_fp32_rounded_to_nothing_counts_in_the_first_logarithmic_bin() -> None:
    offset, values = joined([[0.0, 1.0, 2.0], [0.0, 0.0]])
    found = statistics.log_histogram(offset, values, statistics.extremes(offset, values), 4)
    assert found.tolist() == [[1, 0, 0, 2], [2, 0, 0, 0]]


@exhaustive
@given(columns, st.integers(1, 6))
def test_intervals_are_open_below(given_: list[list[float]], n_intervals: int) -> None:
    offset, values = joined(given_)
    edges = statistics.interval_edges(statistics.extremes(offset, values)[:, 1], n_intervals)
    found = statistics.interval_counts(offset, values, edges)
    for column, row in zip(map(as_floats, given_), found.tolist(), strict=True):
        bounds = [max(column, default=0.0) * i / n_intervals for i in range(1, n_intervals)]
        assert row == [sum(sum(x > b for b in bounds) == i for x in column) for i in range(n_intervals)]


@exhaustive
@given(st.integers(1, 300), st.integers(0, 25), st.lists(st.integers(1, 299), max_size=4), st.randoms())
def test_a_ranking_equals_a_stable_sort_however_columns_are_cut(
    n_columns: int, n: int, cuts: list[int], random
) -> None:
    rows = np.array([[random.randrange(9) for _ in range(n_columns)] for _ in range(3)], np.float32)
    n = min(n, n_columns)
    ranking = statistics.Ranking(3, n)
    for start, stop in pairwise(sorted({0, n_columns, *(cut for cut in cuts if cut < n_columns)})):
        ranking.offer(rows[:, start:stop], first_column=start)
    expected = np.argsort(-rows, axis=1, kind="stable")[:, :n]
    assert ranking.index.tolist() == expected.tolist()
    assert ranking.value.tolist() == np.take_along_axis(rows, expected, 1).tolist()


def test_a_ranking_leaves_out_minus_infinity() -> None:
    ranking = statistics.Ranking(1, 2)
    ranking.offer(np.array([[-np.inf, 3.0, np.nan]], np.float32))
    assert ranking.index.tolist() == [[1, -1]]
