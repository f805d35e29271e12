"""Arithmetic over the firings of one feature or two, as the kept index gives them: in order of token, values as steps."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from backend import errors
from backend.formats.activation_index import Firings, value_of
from backend.services.features import HistogramView

N_BINS = 40
_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")

Mask = NDArray[np.bool_]
Numbers = NDArray[np.int64]


class Scale:
    """The values of a feature's firings in order, and how many firings have each."""

    def __init__(self, firings: Firings) -> None:
        self.counts = np.bincount(firings.step)
        """By step above the smallest value; empty for a dead feature."""
        self.value = value_of(np.arange(self.counts.size, dtype=np.uint32) + np.uint32(firings.lowest))

    def steps_between(self, low: float | None, high: float | None) -> tuple[int, int]:
        """First step from `low` on, first one above `high`."""
        if (low is not None and np.isnan(low)) or (high is not None and np.isnan(high)):
            raise errors.InvalidInputError("The ends of a range of activations are numbers.")
        first = 0 if low is None else int(np.searchsorted(self.value.astype(np.float64), low, side="left"))
        stop = len(self.value)
        if high is not None:
            stop = int(np.searchsorted(self.value.astype(np.float64), high, side="right"))
        return first, max(first, stop)

    def histogram(self) -> tuple[HistogramView, tuple[tuple[float, float], ...]]:
        """At most `N_BINS` bins of equally many steps, which makes them nearly equal in the logarithm."""
        if not self.counts.size:
            return HistogramView((), ()), ()
        width = -(-self.counts.size // N_BINS)
        starts = np.arange(0, self.counts.size, width)
        counts = np.add.reduceat(self.counts, starts)
        lasts = np.append(starts[1:], self.counts.size) - 1
        low, high = self.value[starts].tolist(), self.value[lasts].tolist()
        return HistogramView((*low, high[-1]), tuple(counts.tolist())), tuple(zip(low, high, strict=True))

    def quantiles(self, shares: Sequence[float]) -> tuple[tuple[float, float], ...]:
        """(share, value); Hyndman and Fan's first definition."""
        if not self.counts.size:
            return ()
        upto = np.cumsum(self.counts)
        at = np.searchsorted(upto, np.maximum(np.ceil(np.array(shares) * upto[-1] - 1e-9), 1))
        return tuple(zip(map(float, shares), self.value[at].tolist(), strict=True))


def strongest(step: NDArray[np.uint32], counts: NDArray[np.int64], bounds: tuple[int, int], rows: slice) -> Numbers:
    """Numbers of the firings of these rows among those with a step in `bounds`, largest first, ties in order."""
    first, stop = bounds
    n_above = np.cumsum(counts[first:stop][::-1])  # firings with one of the k + 1 largest steps
    if not n_above.size or rows.start >= n_above[-1]:
        return np.zeros(0, np.int64)
    # only firings with the steps these rows fall on are sorted
    skipped, last = np.searchsorted(n_above, [rows.start, min(rows.stop, int(n_above[-1])) - 1], side="right").tolist()
    highest, lowest = stop - 1 - skipped, stop - 1 - last
    found = np.flatnonzero((step >= lowest) & (step <= highest))
    found = found[np.argsort(-step[found].astype(np.int64), kind="stable")]
    start = rows.start - (int(n_above[skipped - 1]) if skipped else 0)
    return found[start : start + rows.stop - rows.start]


def best_of_contexts(firings: Firings, context: Numbers, chosen: Numbers) -> Numbers:
    """Of the chosen firings the strongest of each context, strongest first; ties to the earlier."""
    if not chosen.size:
        return chosen
    starts = np.flatnonzero(np.diff(context[chosen], prepend=-1))
    # one number that orders by step, then by place, the earlier first
    key = (firings.step[chosen].astype(np.int64) << 40) - chosen
    best = np.sort(np.maximum.reduceat(key, starts))[::-1]
    return -best & ((1 << 40) - 1)


def in_context(
    firings: Firings, context: int, size: int, n_hidden: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Positions, the hidden ones not counted, and values of a feature in one context."""
    low, high = np.searchsorted(firings.token, [context * size, (context + 1) * size])
    step = firings.step[low:high] + np.uint32(firings.lowest)
    return firings.token[low:high] - context * size - n_hidden, value_of(step).astype(np.float64)


def is_in(one: Numbers, other: Numbers) -> Mask:
    """Which of ascending numbers are among other ascending ones."""
    if one.size <= other.size:
        if not one.size:
            return np.zeros(0, np.bool_)
        found: Mask = other[np.minimum(np.searchsorted(other, one), other.size - 1)] == one
        return found
    # the fewer are looked for among the more: each covers a run of equal ones
    start, stop = (np.bincount(np.searchsorted(one, other, side), minlength=one.size + 1) for side in _SIDES)
    return np.cumsum(start - stop)[: one.size] > 0


def phi(both: Any, one: Any, other: Any) -> Any:
    """Pearson's correlation of two indicators from the shares of tokens; NaN where one of them is constant."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (both - one * other) / np.sqrt(one * (1 - one) * other * (1 - other))


def pearson(a: Firings, b: Firings, is_both: Mask, n_tokens: int) -> float | None:
    """Of two features' activations over `n_tokens`, zero where they do not fire; fp64."""
    one, other = a.value.astype(np.float64), b.value.astype(np.float64)
    beside = other[np.searchsorted(b.token, a.token[is_both])]
    means = one.sum() / n_tokens, other.sum() / n_tokens
    # sums, not dot products: those wake BLAS's threads, which costs more than the sums
    covariance = float((one[is_both] * beside).sum()) / n_tokens - means[0] * means[1]
    squares = (one * one).sum() / n_tokens, (other * other).sum() / n_tokens
    variance = (squares[0] - means[0] ** 2) * (squares[1] - means[1] ** 2)
    return float(covariance / np.sqrt(variance)) if variance > 0 else None


def n_distinct(ascending: Numbers) -> int:
    """How many different numbers there are."""
    return int(np.count_nonzero(np.diff(ascending, prepend=-1)))


def defined(value: float) -> float | None:
    """None for NaN and infinity."""
    return value if np.isfinite(value) else None
