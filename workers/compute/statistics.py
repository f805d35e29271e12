"""Exact summaries of columns of fp32 numbers: extremes, moments, histograms, and the largest of each row.

A *column* is `values[offset[i]:offset[i + 1]]`; every function takes many at once, one after the other in memory, and
answers with one row for each. Nothing here samples or approximates. Sums are float64 and run in 16 lanes, element k of
a column in lane k mod 16, lanes then added in order: one order everywhere, so equal inputs give equal bits.

A bin is found by a guess from arithmetic and then moved until the edges agree, so the edges alone decide: those of
`np.linspace` and `np.geomspace`.
"""

import numpy as np
from numpy.typing import NDArray

from workers.compute.jit import compiled

LANES = 16
_GUESSES = 256
_SMALLEST = 2.0**-149
"""The smallest positive fp32 number."""


def extremes(offset: NDArray[np.int64], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 2): smallest and largest of each column; 0 and 0 of an empty one. -0 counts as below 0."""
    found = np.zeros((len(offset) - 1, 2), np.float32)
    _extremes(offset, values.view(np.int32), found.view(np.int32))
    return found


def moments(offset: NDArray[np.int64], values: NDArray[np.float32], ends: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n, 4): mean, population standard deviation, skewness m3/m2^1.5, kurtosis m4/m2² (3 for a normal distribution).

    Central moments in two passes. Empty: all NaN. All equal: that value, deviation 0, the other two NaN. `ends` are
    the columns' `extremes`.
    """
    sums = np.full((len(offset) - 1, 4), np.nan)
    _central_sums(offset, values, sums)
    n = np.diff(offset)
    found = np.full_like(sums, np.nan)
    is_spread = ends[:, 0] < ends[:, 1]
    mean, m2, m3, m4 = (sums[is_spread] / n[is_spread, None]).T
    std = np.sqrt(m2)
    found[is_spread] = np.stack([mean, std, m3 / (m2 * std), m4 / (m2 * m2)], axis=1)
    is_flat = (n > 0) & ~is_spread
    found[is_flat, 0], found[is_flat, 1] = ends[is_flat, 0], 0.0
    return found


def linear_histogram(
    offset: NDArray[np.int64], values: NDArray[np.float32], ends: NDArray[np.float32], n_bins: int
) -> NDArray[np.int64]:
    """(n, n_bins): counts in equal bins over a column's `ends`; bins closed below, the last closed above too.

    A column of one distinct value counts in bin 0.
    """
    wide = ends.astype(np.float64)
    counts = np.zeros((len(offset) - 1, n_bins), np.int64)
    low, high = _with_width(wide)
    _count_linear(offset, values, wide, _rows(np.linspace(low, high, n_bins + 1)), counts)
    return counts


def log_histogram(
    offset: NDArray[np.int64], values: NDArray[np.float32], ends: NDArray[np.float32], n_bins: int
) -> NDArray[np.int64]:
    """As `linear_histogram`, in bins equal in the logarithm. Values that fp32 rounded to 0 count in bin 0."""
    wide = np.maximum(ends.astype(np.float64), _SMALLEST)
    counts = np.zeros((len(offset) - 1, n_bins), np.int64)
    low, high = _with_width(wide)
    _count_log(offset, values, wide, _rows(np.geomspace(low, high, n_bins + 1)), counts)
    return counts


def interval_edges(maxima: NDArray[np.float32], n_intervals: int) -> NDArray[np.float64]:
    """(n, n_intervals - 1): where the equal intervals of (0, maximum] meet. An edge belongs to the interval below it."""
    return maxima.astype(np.float64)[:, None] * np.arange(1, n_intervals) / n_intervals


def interval_counts(
    offset: NDArray[np.int64], values: NDArray[np.float32], edges: NDArray[np.float64]
) -> NDArray[np.int64]:
    """(n, n_intervals): values of each column in each of its intervals (`interval_edges`)."""
    above = np.zeros((len(edges), edges.shape[1] + 2), np.int64)
    above[:, 0] = np.diff(offset)
    _count_above(offset, values, edges, above)
    return -np.diff(above, axis=1)


class Ranking:
    """The largest `n` of each row of a matrix that comes in slices of columns; ties go to the lower column."""

    def __init__(self, n_rows: int, n: int) -> None:
        self.index = np.full((n_rows, n), -1, np.int32)
        """Columns, largest value first; -1 where fewer were offered."""
        self.value = np.full((n_rows, n), -np.inf, np.float32)

    def offer(self, rows: NDArray[np.float32], *, first_column: int = 0) -> None:
        """Take the columns from `first_column` on, above all offered before. -inf and NaN are never taken."""
        if self.index.shape[1]:
            _offer(rows, first_column, self.index, self.value)


def _with_width(ends: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends to cut into bins; a column of one value, whose bins are not asked for, gets any."""
    low, high = ends.T
    has_width = low < high
    return np.where(has_width, low, 1.0), np.where(has_width, high, 2.0)


def _rows(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges by column of values, the outer two NaN: no comparison moves a value beyond the first or last bin."""
    rows = np.ascontiguousarray(edges.T)
    rows[:, [0, -1]] = np.nan
    return rows


@compiled
def _extremes(offset: NDArray[np.int64], bits: NDArray[np.int32], found: NDArray[np.int32]) -> None:
    magnitude = np.int32(0x7FFFFFFF)
    for column in range(len(offset) - 1):
        x = bits[offset[column] : offset[column + 1]]  # sliced: indexes from 0 need no wrap-around, and loops vectorise
        if len(x) == 0:
            continue
        # flipping a negative number's magnitude makes the order of integers that of fp32, and integers vectorise
        least, most = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
        for i in range(len(x)):
            key = x[i] ^ ((x[i] >> np.int32(31)) & magnitude)
            least, most = min(least, key), max(most, key)
        found[column, 0] = least ^ ((least >> np.int32(31)) & magnitude)
        found[column, 1] = most ^ ((most >> np.int32(31)) & magnitude)


@compiled
def _central_sums(offset: NDArray[np.int64], values: NDArray[np.float32], sums: NDArray[np.float64]) -> None:
    """Fill (Σx, Σd², Σd³, Σd⁴), d = x - mean, of columns that are not empty."""
    first, second, third, fourth = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
    for column in range(len(offset) - 1):
        x = values[offset[column] : offset[column + 1]]
        if len(x) == 0:
            continue
        first[:], second[:], third[:], fourth[:] = 0.0, 0.0, 0.0, 0.0
        whole = len(x) - len(x) % LANES
        for start in range(0, whole, LANES):
            for k in range(LANES):
                first[k] += x[start + k]
        for i in range(whole, len(x)):
            first[i - whole] += x[i]
        total = 0.0
        for k in range(LANES):
            total += first[k]
        mean = total / len(x)
        for start in range(0, whole, LANES):
            for k in range(LANES):
                d = x[start + k] - mean
                square = d * d
                second[k] += square
                third[k] += square * d
                fourth[k] += square * square
        for i in range(whole, len(x)):
            d = x[i] - mean
            square = d * d
            second[i - whole] += square
            third[i - whole] += square * d
            fourth[i - whole] += square * square
        sums[column, 0] = total
        sums[column, 1:] = 0.0
        for k in range(LANES):
            sums[column, 1] += second[k]
            sums[column, 2] += third[k]
            sums[column, 3] += fourth[k]


@compiled
def _count_linear(
    offset: NDArray[np.int64],
    values: NDArray[np.float32],
    ends: NDArray[np.float64],
    edges: NDArray[np.float64],
    counts: NDArray[np.int64],
) -> None:
    last = np.uint32(counts.shape[1] - 1)
    for column in range(len(offset) - 1):
        low, high = ends[column]
        if not low < high:
            counts[column, 0] = offset[column + 1] - offset[column]
            continue
        scale = counts.shape[1] / (high - low)
        edge, count = edges[column], counts[column]
        for value in values[offset[column] : offset[column + 1]]:
            x = np.float64(value)
            guess = min(np.uint32((x - low) * scale), last)
            count[_settle(x, guess, edge)] += 1


@compiled
def _count_log(
    offset: NDArray[np.int64],
    values: NDArray[np.float32],
    ends: NDArray[np.float64],
    edges: NDArray[np.float64],
    counts: NDArray[np.int64],
) -> None:
    last = np.uint32(counts.shape[1] - 1)
    guesses = np.empty(_GUESSES, np.uint32)  # made apart from the look-up, so that they vectorise
    bits = values.view(np.int32)
    as_bits = ends.astype(np.float32).view(np.int32)
    for column in range(len(offset) - 1):
        low, high = ends[column]
        if not low < high:
            counts[column, 0] = offset[column + 1] - offset[column]
            continue
        least = as_bits[column, 0]  # below it lie only what fp32 rounded to 0
        start = _log2(least)
        scale = np.float32(counts.shape[1] / (_log2(as_bits[column, 1]) - start))
        edge, count = edges[column], counts[column]
        x, x_bits = values[offset[column] : offset[column + 1]], bits[offset[column] : offset[column + 1]]
        for first in range(0, len(x), _GUESSES):
            some, some_bits = x[first : first + _GUESSES], x_bits[first : first + _GUESSES]
            for i in range(len(some)):
                guesses[i] = min(np.uint32((_log2(max(some_bits[i], least)) - start) * scale), last)
            for i in range(len(some)):
                count[_settle(np.float64(some[i]), guesses[i], edge)] += 1


@compiled
def _log2(bits: np.int32) -> np.float32:
    """About log2 of the fp32 number with these bits, plus 127: exponent and fraction are its logarithm but for 0.01."""
    unit = np.float32(2.0**-23)
    fraction = np.float32(bits & np.int32(0x7FFFFF)) * unit
    return np.float32(bits) * unit + np.float32(0.3431) * fraction * (np.float32(1.0) - fraction)


@compiled
def _settle(x: float, guess: np.uint32, edge: NDArray[np.float64]) -> np.uint32:
    """The bin `x` lies in: from the guess up or down until both of its edges agree."""
    one = np.uint32(1)  # unsigned: numba wraps signed indexes around, at a cost
    while x >= edge[guess + one]:
        guess += one
    while x < edge[guess]:
        guess -= one
    return guess


@compiled
def _count_above(
    offset: NDArray[np.int64], values: NDArray[np.float32], edges: NDArray[np.float64], above: NDArray[np.int64]
) -> None:
    """Fill columns 1, 2, … of `above` with the number of values above each edge."""
    for column in range(len(offset) - 1):
        x = values[offset[column] : offset[column + 1]]
        for k in range(edges.shape[1]):
            edge, n = edges[column, k], 0
            for i in range(len(x)):
                n += x[i] > edge
            above[column, k + 1] = n


@compiled
def _offer(rows: NDArray[np.float32], first_column: int, index: NDArray[np.int32], value: NDArray[np.float32]) -> None:
    """Insert what exceeds the last kept; columns come in ascending order, so among equals the first stays."""
    n, n_columns = index.shape[1], rows.shape[1]
    for row in range(len(rows)):
        x, best, column = rows[row], value[row], index[row]
        for start in range(0, n_columns, 64):
            slice_ = x[start : start + 64]
            worst, n_above = best[n - 1], 0
            for i in range(len(slice_)):
                n_above += slice_[i] > worst
            if n_above == 0:
                continue
            for i in range(len(slice_)):
                if slice_[i] > best[n - 1]:
                    place = n - 1
                    while place > 0 and slice_[i] > best[place - 1]:
                        best[place], column[place] = best[place - 1], column[place - 1]
                        place -= 1
                    best[place], column[place] = slice_[i], first_column + start + i
