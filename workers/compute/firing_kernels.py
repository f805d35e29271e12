"""The compiled loops of `encoder`: from one tile's product to the firings of its tokens."""

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.compute import exact
from workers.compute.jit import compiled
from workers.compute.screens import SLACK

_FIRST_ROOM = 1 << 16
_TRIGGER = 128
"""Candidates of a token that are gathered before the floor is raised for the first time."""
_APART = 176
"""Entries between the candidates of two tokens: at a power of two, all of them would share a few sets of the cache."""


class Buffer:
    """Columns of firings that grow."""

    def __init__(self) -> None:
        self.n = 0
        self.n_undecided = 0
        self.row = np.empty(_FIRST_ROOM, np.uint32)
        self.feature = np.empty(_FIRST_ROOM, np.uint32)
        self.value = np.empty(_FIRST_ROOM, np.float32)

    def reserve(self, room: int) -> None:
        """Make room for so many more; untouched pages cost no memory."""
        if self.n + room > len(self.row):
            size = max(2 * len(self.row), self.n + room)
            self.row, self.feature, self.value = (
                np.concatenate([column[: self.n], np.empty(size - self.n, column.dtype)])
                for column in (self.row, self.feature, self.value)
            )

    def columns(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.float32]]:
        """Row, feature and value, at their size."""
        return self.row[: self.n].copy(), self.feature[: self.n].copy(), self.value[: self.n].copy()


@compiled
def fire(
    product: NDArray[np.generic],
    counts: NDArray[np.bool_],
    gain: NDArray[np.float32],
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    spread: NDArray[np.float32],
    cut: NDArray[np.float32],
    order: NDArray[np.uint32],
    x: NDArray[np.float32],
    error: NDArray[np.float64],
    weights: NDArray[np.float32],
    bias: NDArray[np.float32],
    weight_norm: NDArray[np.float64],
    magnitude: NDArray[np.float32],
    magnitude_bias: NDArray[np.float32],
    magnitude_norm: NDArray[np.float64],
    threshold: NDArray[np.float32],
    scale: NDArray[np.float32],
    is_gated: bool,
    first_row: int,
    out_row: NDArray[np.uint32],
    out_feature: NDArray[np.uint32],
    out_value: NDArray[np.float32],
    n: int,
) -> tuple[int, int]:
    """Append one tile's firings to the columns from `n` on; return the new `n` and how many are still NaN (undecided).

    The first line of arguments belongs to the tile; `weights` and what follows it are of all features.
    """
    n_columns = product.shape[1]
    mask = np.zeros((n_columns + 7) // 8 * 8, np.uint8)
    words = mask.view(np.uint64)
    found = np.empty(n_columns + 8, np.int64)
    n_undecided = 0
    for r in range(product.shape[0]):
        if not counts[r]:
            continue
        n_found = _survivors(product[r], gain[r], a[r], b[r], spread, cut, mask, words, found)
        for i in range(n_found):
            f = order[found[i]]
            low, high = exact.bounds(exact.dot(x[r], weights[f]), bias[f], error[r] * weight_norm[f])
            if high <= threshold[f]:
                continue
            is_decided = low > threshold[f]
            if is_gated:
                low, high = exact.bounds(exact.dot(x[r], magnitude[f]), magnitude_bias[f], error[r] * magnitude_norm[f])
                if high <= 0:
                    continue
            is_decided &= low == high
            n_undecided += not is_decided
            out_row[n] = first_row + r
            out_feature[n] = f
            out_value[n] = np.float32(low) * scale[f] if is_decided else np.float32(np.nan)
            n += 1
    return n, n_undecided


@compiled
def _survivors(
    product: NDArray[np.generic],
    gain: float,
    a: float,
    b: float,
    spread: NDArray[np.float32],
    cut: NDArray[np.float32],
    mask: NDArray[np.uint8],
    words: NDArray[np.uint64],
    found: NDArray[np.int64],
) -> int:
    """Columns of one row that the bound does not exclude, into `found`; how many. NaN survives."""
    for c in range(product.shape[0]):
        mask[c] = not (np.float32(product[c]) * gain + (a + b * spread[c]) <= cut[c])
    return _set_bytes(mask, words, found)


@compiled
def _set_bytes(mask: NDArray[np.uint8], words: NDArray[np.uint64], found: NDArray[np.int64]) -> int:
    """Indexes of the ones in a mask of zeros and ones, eight at a look."""
    n = 0
    for word in range(words.shape[0]):
        if words[word] != 0:
            for c in range(8 * word, 8 * word + 8):
                found[n] = c
                n += int(mask[c])
    return n


class Candidates:
    """Features that may be among the k largest of each of `n_rows` tokens, with bounds on their values."""

    def __init__(self, n_rows: int, n_features: int) -> None:
        self.floor = np.empty(n_rows, np.float32)
        """What does not reach it is not among the k largest."""
        self.n = np.empty(n_rows, np.int64)
        self.trigger = np.empty(n_rows, np.int64)
        shape = (n_rows, n_features + _APART)  # room for ties of all of them
        self.feature = _touched_only(shape, np.uint32)
        self.low, self.high = _touched_only(shape, np.float32), _touched_only(shape, np.float32)

    def clear(self, k: int, floor: NDArray[np.float32]) -> None:
        """Begin other tokens, with a floor under each."""
        self.floor[: len(floor)] = floor
        self.n[:] = 0
        self.trigger[:] = max(_TRIGGER, 4 * k)


def _touched_only(shape: tuple[int, int], dtype: type[np.generic]) -> NDArray[Any]:
    """An array that costs the small pages that are written to; numpy asks for huge ones, 2 MB for a row's first entry."""
    size = max(1, shape[0] * shape[1] * np.dtype(dtype).itemsize)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, dtype, shape[0] * shape[1]).reshape(shape)


@compiled
def collect(
    product: NDArray[np.generic],
    counts: NDArray[np.bool_],
    gain: NDArray[np.float32],
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    spread: NDArray[np.float32],
    base: NDArray[np.float32],
    unit: NDArray[np.float32],
    inverse: NDArray[np.float32],
    first: int,
    k: int,
    floor: NDArray[np.float32],
    n: NDArray[np.int64],
    trigger: NDArray[np.int64],
    feature: NDArray[np.uint32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
) -> None:
    """Add one tile's features to the candidates of each token: those whose upper bound reaches the token's floor.

    A value is (product·gain + base)·unit, give or take (a + b·spread)·unit and the roundings of this line; `inverse` is
    1 / unit, or less where that is beyond fp32 and floors are positive.
    """
    n_columns = product.shape[1]
    mask = np.zeros((n_columns + 7) // 8 * 8, np.uint8)
    words = mask.view(np.uint64)
    found = np.empty(n_columns + 8, np.int64)
    slack = np.float32(SLACK)
    highest = (base + slack * np.abs(base)).astype(np.float32)
    for r in range(product.shape[0]):
        if not counts[r]:
            continue
        least = floor[r] - slack * abs(floor[r])
        n_found = _reaching(product[r], gain[r], a[r], b[r], least, spread, highest, inverse, mask, words, found)
        for i in range(n_found):
            c = found[i]
            part = np.float32(product[r, c]) * gain[r]
            margin = a[r] + b[r] * spread[c] + slack * (abs(part) + abs(base[c]))
            at = n[r]
            feature[r, at] = first + c
            lowest = (part + base[c] - margin) * unit[c]
            low[r, at] = lowest if lowest == lowest else -np.float32(np.inf)
            high[r, at] = (part + base[c] + margin) * unit[c]
            n[r] = at + 1
        if n[r] >= trigger[r]:
            floor[r] = _raise_floor(floor[r], k, n, feature, low, high, r)
            trigger[r] = max(trigger[r], 2 * n[r])


@compiled
def _reaching(
    product: NDArray[np.generic],
    gain: float,
    a: float,
    b: float,
    least: float,
    spread: NDArray[np.float32],
    highest: NDArray[np.float32],
    inverse: NDArray[np.float32],
    mask: NDArray[np.uint8],
    words: NDArray[np.uint64],
    found: NDArray[np.int64],
) -> int:
    """Columns of one row whose upper bound reaches `least`, into `found`; how many. NaN does."""
    for c in range(product.shape[0]):
        mask[c] = not (np.float32(product[c]) * gain + (a + b * spread[c]) + highest[c] < least * inverse[c])
    return _set_bytes(mask, words, found)


@compiled
def _raise_floor(
    floor: float,
    k: int,
    n: NDArray[np.int64],
    feature: NDArray[np.uint32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    r: int,
) -> float:
    """The k-th largest of the lower bounds, where it is higher; candidates that cannot reach it are dropped."""
    size = n[r]
    floor = max(floor, _kth_largest(low[r, :size], k))
    kept = 0
    for i in range(size):
        if not high[r, i] < floor:
            feature[r, kept], low[r, kept], high[r, kept] = feature[r, i], low[r, i], high[r, i]
            kept += 1
    n[r] = kept
    return floor


@compiled
def rescore(
    x: NDArray[np.float32],
    error: NDArray[np.float64],
    weights: NDArray[np.float32],
    bias: NDArray[np.float32],
    weight_norm: NDArray[np.float64],
    ranked_by: NDArray[np.float32],
    floor: NDArray[np.float32],
    n: NDArray[np.int64],
    feature: NDArray[np.uint32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    k: int,
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.float32]]:
    """(row, feature, pre-activation) of what may be among the k largest, NaN where undecided; by row, then feature.

    The k most promising are computed first; the others only where they reach the smallest of those.
    """
    total = n.sum()
    rows, features, values = np.empty(total, np.uint32), np.empty(total, np.uint32), np.empty(total, np.float32)
    value, is_computed = np.empty(n.max(), np.float32), np.empty(n.max(), np.bool_)
    at = 0
    for r in range(x.shape[0]):
        size, least, smallest = n[r], floor[r], np.float32(np.inf)
        promising = _kth_largest(low[r, :size], k)
        for i in range(size):
            is_computed[i] = low[r, i] >= promising
            if is_computed[i]:
                f = feature[r, i]
                pre, value[i] = _pre_activation(x[r], weights[f], bias[f], error[r] * weight_norm[f])
                smallest = min(smallest, pre * ranked_by[f])
        if size > k:
            least = max(least, smallest)
        for i in range(size):
            f = feature[r, i]
            if not is_computed[i]:
                if high[r, i] < least:
                    continue
                _, value[i] = _pre_activation(x[r], weights[f], bias[f], error[r] * weight_norm[f])
            rows[at], features[at], values[at] = r, f, value[i]
            at += 1
    return rows[:at], features[:at], values[:at]


@compiled
def _pre_activation(
    x: NDArray[np.float32], weights: NDArray[np.float32], bias: float, error: float
) -> tuple[np.float32, np.float32]:
    """A lower bound on the pre-activation, and the number itself or, where fp64 leaves it open, NaN."""
    low, high = exact.bounds(exact.dot(x, weights), bias, error)
    return np.float32(low), np.float32(low) if low == high else np.float32(np.nan)


@compiled
def _kth_largest(values: NDArray[np.float32], k: int) -> float:
    """The k-th largest; -inf where there are no more than k."""
    size = len(values)
    return float(np.partition(values, size - k)[size - k]) if size > k else -np.inf


@compiled
def largest(row: NDArray[np.uint32], value: NDArray[np.float32], k: int, n_rows: int) -> NDArray[np.int64]:
    """Which of the entries, given by row and then feature, are among their row's k largest and above zero."""
    kept = np.empty(len(row), np.int64)
    n, start = 0, 0
    for r in range(n_rows):
        stop = start
        while stop < len(row) and row[stop] == r:
            stop += 1
        size = stop - start
        least, n_ties = np.float32(0.0), 0
        if size > k:
            least = np.partition(value[start:stop], size - k)[size - k]
            n_ties = k
            for i in range(start, stop):
                n_ties -= value[i] > least
        for i in range(start, stop):
            if value[i] <= 0:
                continue
            if size <= k or value[i] > least:
                kept[n] = i
                n += 1
            elif value[i] == least and n_ties > 0:
                kept[n] = i
                n += 1
                n_ties -= 1
        start = stop
    return kept[:n]
