"""Exact summaries of a column of numbers: moments and histograms. float64 in the order given; counts are int64.

Nothing here samples or approximates; callers give values in canonical order, so equal inputs give equal bits.
"""

import numpy as np
from numpy.typing import NDArray

from backend.formats.dashboards import Moments

UNDEFINED = Moments(float("nan"), float("nan"), float("nan"), float("nan"))


def moments(values: NDArray[np.floating]) -> Moments:
    """Mean, population standard deviation, skewness m3/m2^1.5 and kurtosis m4/m2² (3 for a normal distribution).

    Central moments in two passes, float64. No values: all NaN. All equal: std 0, skewness and kurtosis NaN.
    """
    if values.size == 0:
        return UNDEFINED
    x = values.astype(np.float64)
    mean = float(x.mean())
    if x.min() == x.max():
        return Moments(float(x[0]), 0.0, float("nan"), float("nan"))
    deviation = x - mean
    square = deviation * deviation
    m2 = float(square.mean())
    m3 = float((square * deviation).mean())
    m4 = float((square * square).mean())
    return Moments(mean, m2**0.5, m3 / m2**1.5, m4 / m2**2)


def linear_histogram(values: NDArray[np.floating], n_bins: int) -> NDArray[np.int64]:
    """Counts in equal bins over [min, max]; bins closed below, the last closed above too. One value: all in bin 0."""
    if values.size == 0 or values.min() == values.max():
        return _single_bin(values.size, n_bins)
    edges = np.linspace(float(values.min()), float(values.max()), n_bins + 1)
    return _count(values, edges)


def log_histogram(values: NDArray[np.floating], n_bins: int) -> NDArray[np.int64]:
    """Counts in bins equal in log over [min, max] of positive values; ends as in `linear_histogram`."""
    if values.size == 0 or values.min() == values.max():
        return _single_bin(values.size, n_bins)
    edges = np.geomspace(float(values.min()), float(values.max()), n_bins + 1)
    return _count(values, edges)


def interval_of(values: NDArray[np.floating], maximum: float, n_intervals: int) -> NDArray[np.int64]:
    """Which of `n_intervals` equal intervals of (0, maximum] each positive value lies in, from 0; lower ends open."""
    edges = maximum * np.arange(1, n_intervals) / n_intervals
    return np.searchsorted(edges, values.astype(np.float64), side="left")


def largest(values: NDArray[np.floating], n: int) -> NDArray[np.int64]:
    """Indexes of the `n` largest (all, if fewer), largest first; ties go to the lower index."""
    n = min(n, len(values))
    candidates = np.arange(len(values))
    if len(values) > 4 * n > 0:
        candidates = np.flatnonzero(values >= np.partition(values, len(values) - n)[len(values) - n])
    return candidates[np.argsort(-values[candidates], kind="stable")[:n]]


def _count(values: NDArray[np.floating], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    bins = np.searchsorted(edges[1:-1], values.astype(np.float64), side="right")
    return np.bincount(bins, minlength=len(edges) - 1).astype(np.int64)


def _single_bin(n: int, n_bins: int) -> NDArray[np.int64]:
    counts = np.zeros(n_bins, np.int64)
    counts[0] = n
    return counts
