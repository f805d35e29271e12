"""Histograms of signed values: against fractions, and however the values are cut."""

from fractions import Fraction

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests import reference
from tests.unit.compute import columns
from workers.compute import power_grid, statistics

_signed = st.lists(
    st.one_of(
        st.floats(-100, 100, width=32),
        st.sampled_from([0.0, -0.0, 1.0, -1.0, columns.DENORMAL, -columns.DENORMAL, columns.LARGEST, -columns.LARGEST]),
    ),
    min_size=1,
    max_size=60,
)


def grid_of(values: list[float]) -> tuple[power_grid.Grid, np.ndarray]:
    offset, column = columns.joined([values])
    grid = power_grid.of_ends(statistics.extremes(offset, column))
    return grid, power_grid.count(offset, column, grid)


@settings(max_examples=300, deadline=None)
@given(_signed)
def test_counts_are_those_of_fractions(values: list[float]) -> None:
    values = [float(np.float32(v)) for v in values]
    grid, counts = grid_of(values)
    exponent, first = int(grid.exponent[0]), int(grid.first[0])
    found = {first + k: int(n) for k, n in enumerate(counts[0]) if n}
    assert found == reference.signed_histogram(values, exponent)
    width = Fraction(2) ** exponent
    assert max(abs(Fraction(v)) for v in values) / width <= 2**24


@settings(max_examples=300, deadline=None)
@given(_signed, st.integers(1, 5))
@example([0.0, 0.25], 2)  # a part without a range, or of zeros alone, must not have wider bins than the whole
def test_parts_put_together_are_the_whole(values: list[float], n_parts: int) -> None:
    wider, counts = grid_of(values)
    total = np.zeros((1, power_grid.N_BINS), np.int64)
    for part in np.array_split(np.array(values, np.float32), n_parts):
        if len(part):
            grid, some = grid_of(part.tolist())
            power_grid.pour(some, grid, into=total, wider=wider)
    assert np.array_equal(total, counts)


def test_bins_are_as_narrow_as_their_number_allows() -> None:
    grid, counts = grid_of([-1.0, 3.0])
    assert int(grid.exponent[0]) == -3  # 33 bins of 1/8; of 1/16 there would be 65
    assert int(grid.first[0]) == -8
    assert power_grid.trimmed(counts[0]).tolist() == [1, *[0] * 31, 1]


def test_a_row_of_a_matrix_is_a_value_of_each_column() -> None:
    values = np.random.default_rng(0).standard_normal((50, 7)).astype(np.float32)
    counted = np.arange(0, 50, 3)
    columns_ = [values[counted, i].tolist() for i in range(7)]
    offset, joined = columns.joined(columns_)
    grid = power_grid.of_ends(statistics.extremes(offset, joined))
    assert np.array_equal(power_grid.count_matrix(values, counted, grid), power_grid.count(offset, joined, grid))
