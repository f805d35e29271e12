"""Histograms of signed values that merge exactly: equal bins, a power of two wide, zero always an edge.

The width follows from the smallest and the largest value alone: the smallest power of two for which at most `N_BINS` bins
hold them. Bin k is [k·w, (k + 1)·w), and bin k of width w lies in bin ⌊k/2⌋ of width 2w, so counts made before the range
was known are added up into wider bins without loss: any order and any cut of the values gives the same counts.
Widths are never below 2⁻¹⁴⁹, nor so small that a bin's number exceeds 2²⁴, which is as fine as fp32 numbers are.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.compute.jit import compiled

N_BINS = 64
_LEAST_EXPONENT = -149
_BITS = 24


class Grid(NamedTuple):
    """Where the bins of each of n columns begin, and how wide they are."""

    exponent: NDArray[np.int64]
    """Of the width: 2^exponent."""
    first: NDArray[np.int64]
    """Number of the bin that the smallest value lies in."""


def of_ends(ends: NDArray[np.float32]) -> Grid:
    """The grid for values between each row's two `ends` (n, 2), smallest and largest; finite."""
    low, high = ends.astype(np.float64).T
    size = _exponent(np.maximum(np.abs(low), np.abs(high)))
    exponent = np.maximum(np.maximum(size - _BITS, _exponent(high - low) - 6), _LEAST_EXPONENT)
    exponent += _number(high, exponent) - _number(low, exponent) >= N_BINS
    return Grid(exponent, _number(low, exponent))


def count(offset: NDArray[np.int64], values: NDArray[np.float32], grid: Grid) -> NDArray[np.int64]:
    """(n, N_BINS): counts of each column `values[offset[i]:offset[i + 1]]` on its grid."""
    counts = np.zeros((len(offset) - 1, N_BINS), np.int64)
    _count(offset, values, _scale(grid), grid.first, counts)
    return counts


def pour(counts: NDArray[np.int64], grid: Grid, into: NDArray[np.int64], wider: Grid) -> None:
    """Add counts on one grid to those on another whose ends enclose its ends."""
    _pour(counts, grid.exponent, grid.first, into, wider.exponent, wider.first)


def _exponent(x: NDArray[np.float64]) -> NDArray[np.int64]:
    """The least power of two above x ≥ 0; of zero, which has none, one below all others, so that it grows with x."""
    _, found = np.frexp(x)
    exponents: NDArray[np.int64] = np.where(x == 0, _LEAST_EXPONENT, found.astype(np.int64))
    return exponents


def _number(x: NDArray[np.float64], exponent: NDArray[np.int64]) -> NDArray[np.int64]:
    numbers: NDArray[np.int64] = np.floor(np.ldexp(x, -exponent)).astype(np.int64)
    return numbers


def _scale(grid: Grid) -> NDArray[np.float64]:
    """1 over the widths: powers of two, so that products with them are exact."""
    scale: NDArray[np.float64] = np.ldexp(1.0, -grid.exponent)
    return scale


@compiled
def _count(
    offset: NDArray[np.int64],
    values: NDArray[np.float32],
    scale: NDArray[np.float64],
    first: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    for column in range(len(offset) - 1):
        for value in values[offset[column] : offset[column + 1]]:
            counts[column, np.int64(np.floor(np.float64(value) * scale[column])) - first[column]] += 1


@compiled
def count_rows(
    values: NDArray[np.float32],
    counted: NDArray[np.int64],
    scale: NDArray[np.float64],
    first: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    """As `count` for the columns of a matrix, in its rows `counted`."""
    for row in counted:
        x = values[row]
        for column in range(len(x)):
            counts[column, np.int64(np.floor(np.float64(x[column]) * scale[column])) - first[column]] += 1


@compiled
def _pour(
    counts: NDArray[np.int64],
    exponent: NDArray[np.int64],
    first: NDArray[np.int64],
    into: NDArray[np.int64],
    to_exponent: NDArray[np.int64],
    to_first: NDArray[np.int64],
) -> None:
    for column in range(len(counts)):
        shift = min(to_exponent[column] - exponent[column], 62)  # beyond that all bits are gone but the sign
        for k in range(counts.shape[1]):
            if counts[column, k]:
                into[column, ((first[column] + k) >> shift) - to_first[column]] += counts[column, k]


def count_matrix(values: NDArray[np.float32], counted: NDArray[np.int64], grid: Grid) -> NDArray[np.int64]:
    """(d, N_BINS): counts of each column of a matrix (n, d), rows `counted` only."""
    counts = np.zeros((values.shape[1], N_BINS), np.int64)
    count_rows(values, counted, _scale(grid), grid.first, counts)
    return counts


def trimmed(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """One column's counts up to the last bin that holds any."""
    last = np.flatnonzero(counts)
    return counts[: int(last[-1]) + 1] if len(last) else counts[:0]
