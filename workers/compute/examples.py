"""Which contexts show a feature, for a block of features.

One walk over each feature's firings, context by context:
1. keep the contexts of the largest maximum, sorted; contexts come in ascending order, so ties stay with the earlier;
2. what does not get in, or is pushed out, is offered to the interval of (0, max] its maximum lies in, which keeps
   those lowest in a fixed pseudo-random order of contexts.
So nothing is sorted whole and no context is ever in both.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.formats.dashboards import N_INTERVAL_CONTEXTS, N_INTERVALS, N_TOP_CONTEXTS, N_TOP_TOKENS, TOP_GROUP
from workers.compute.activation_index import Postings
from workers.compute.jit import compiled

N_EXAMPLES = N_TOP_CONTEXTS + N_INTERVALS * N_INTERVAL_CONTEXTS
START, STOP, PEAK = range(3)
LARGEST_HASH = np.uint64(0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The examples of a block of features: row f holds `count[f]`, in order of group, then of maximum."""

    count: NDArray[np.int64]
    n_top: NDArray[np.int64]
    """How many of them are top contexts; they come first."""
    n_contexts: NDArray[np.int64]
    """Contexts in which a feature fires at all."""
    group: NDArray[np.uint8]
    """(n_features, N_EXAMPLES)."""
    run: NDArray[np.int64]
    """(n_features, N_EXAMPLES, 3): an example's firings are start:stop in the block's postings; the largest is at peak,
    the first of several. 0 beyond `count`."""


def choose(block: Postings, edges: NDArray[np.float64], *, first_feature: int, seed: int) -> Chosen:
    """Choose the examples of a block whose first feature is `first_feature`; `edges` as `statistics.interval_edges`."""
    n = block.n_features
    count, n_top, n_contexts = np.zeros((3, n), np.int64)
    group, run = np.full((n, N_EXAMPLES), TOP_GROUP, np.uint8), np.zeros((n, N_EXAMPLES, 3), np.int64)
    _choose(
        block.offset, block.context, block.value, edges,
        np.uint64(first_feature), np.uint64(seed & 0xFFFFFFFFFFFFFFFF),
        count, n_top, n_contexts, group, run,
    )  # fmt: skip
    return Chosen(count, n_top, n_contexts, group, run)


def firings(block: Postings, chosen: Chosen) -> tuple[NDArray[np.int64], NDArray[np.uint16], NDArray[np.float32]]:
    """Offsets (n_features, N_EXAMPLES + 1), and the firings of all examples of the block: positions and values.

    `offset[f, i]:offset[f, i + 1]` are those of feature f's example i.
    """
    offset = np.zeros((block.n_features, N_EXAMPLES + 1), np.int64)
    np.cumsum(chosen.run[:, :, STOP] - chosen.run[:, :, START], axis=1, out=offset[:, 1:])
    offset[1:] += np.cumsum(offset[:-1, -1])[:, None]
    n = int(offset[-1, -1])
    position, value = np.empty(n, np.uint16), np.empty(n, np.float32)
    _copy(chosen.count, chosen.run, offset, block.position, block.value, position, value)
    return offset, position, value


def top_tokens(block: Postings, chosen: Chosen, rows: NDArray[np.integer]) -> list[NDArray[np.int32]]:
    """The tokens at the maxima of each feature's top contexts, by the sum of those maxima; ties by id.

    `rows` (n_contexts, context_size) are the corpus.
    """
    is_top = np.arange(N_TOP_CONTEXTS) < chosen.n_top[:, None]
    peak = chosen.run[:, :N_TOP_CONTEXTS, PEAK][is_top]
    tokens, sums = np.zeros(is_top.shape, np.int32), np.zeros(is_top.shape)
    tokens[is_top], sums[is_top] = rows[block.context[peak], block.position[peak]], block.value[peak]
    n_distinct = np.zeros(len(tokens), np.int64)
    _rank_tokens(chosen.n_top, tokens, sums, n_distinct)
    kept = np.minimum(n_distinct, N_TOP_TOKENS).tolist()
    return [row[:n] for row, n in zip(tokens, kept, strict=True)]


@compiled
def _choose(
    offset: NDArray[np.int64],
    context: NDArray[np.uint32],
    value: NDArray[np.float32],
    edges: NDArray[np.float64],
    first_feature: np.uint64,
    seed: np.uint64,
    count: NDArray[np.int64],
    n_top: NDArray[np.int64],
    n_contexts: NDArray[np.int64],
    group: NDArray[np.uint8],
    runs: NDArray[np.int64],
) -> None:
    sampled = np.empty((N_INTERVALS, N_INTERVAL_CONTEXTS, 3), np.int64)
    hashes = np.empty((N_INTERVALS, N_INTERVAL_CONTEXTS), np.uint64)
    n_sampled = np.empty(N_INTERVALS, np.int64)
    last_top, last_sampled = N_TOP_CONTEXTS - 1, N_INTERVAL_CONTEXTS - 1
    for feature in range(len(offset) - 1):
        best, n, n_runs = runs[feature], 0, 0
        n_sampled[:] = 0
        hashes[:] = LARGEST_HASH
        start, end = offset[feature], offset[feature + 1]
        while start < end:
            here, peak, stop = context[start], start, start + 1
            while stop < end and context[stop] == here:
                if value[stop] > value[peak]:
                    peak = stop
                stop += 1
            n_runs += 1
            after = stop
            if n < N_TOP_CONTEXTS:
                _insert(best, n, start, stop, peak, value)
                n += 1
                start = after
                continue
            if value[peak] > value[best[last_top, PEAK]]:
                pushed = (best[last_top, START], best[last_top, STOP], best[last_top, PEAK])
                _insert(best, last_top, start, stop, peak, value)
                start, stop, peak = pushed
            interval = 0
            for k in range(N_INTERVALS - 1):
                interval += value[peak] > edges[feature, k]
            order = _hash(seed, first_feature + np.uint64(feature), context[start])
            if order <= hashes[interval, last_sampled]:
                place = min(n_sampled[interval], last_sampled)
                n_sampled[interval] = place + 1
                while place > 0 and order < hashes[interval, place - 1]:
                    hashes[interval, place] = hashes[interval, place - 1]
                    sampled[interval, place] = sampled[interval, place - 1]
                    place -= 1
                hashes[interval, place] = order
                sampled[interval, place, START] = start
                sampled[interval, place, STOP] = stop
                sampled[interval, place, PEAK] = peak
            start = after
        n_top[feature], n_contexts[feature] = n, n_runs
        for interval in range(N_INTERVALS):
            for k in range(n_sampled[interval]):
                start, stop, peak = sampled[interval, k]
                _insert(best[n:], k, start, stop, peak, value)
                group[feature, n + k] = interval + 1
            n += n_sampled[interval]
        count[feature] = n


@compiled
def _insert(runs: NDArray[np.int64], n: int, start: int, stop: int, peak: int, value: NDArray[np.float32]) -> None:
    """Put a run among `runs[:n]`, which are sorted by value, largest first; behind its equals."""
    while n > 0 and value[peak] > value[runs[n - 1, PEAK]]:
        runs[n] = runs[n - 1]
        n -= 1
    runs[n, START], runs[n, STOP], runs[n, PEAK] = start, stop, peak


@compiled
def _hash(seed: np.uint64, feature: np.uint64, context: np.uint32) -> np.uint64:
    """A fixed pseudo-random order of contexts for each feature: splitmix64 (Steele, Lea & Flood 2014, figure 16)."""
    z = np.uint64(context) + (feature << np.uint64(32))
    z = z * np.uint64(0x9E3779B97F4A7C15) + seed
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@compiled
def _copy(
    count: NDArray[np.int64],
    runs: NDArray[np.int64],
    offset: NDArray[np.int64],
    position: NDArray[np.uint16],
    value: NDArray[np.float32],
    to_position: NDArray[np.uint16],
    to_value: NDArray[np.float32],
) -> None:
    for feature in range(len(count)):
        for i in range(count[feature]):
            at, start = offset[feature, i], runs[feature, i, START]
            for k in range(runs[feature, i, STOP] - start):
                to_position[at + k], to_value[at + k] = position[start + k], value[start + k]


@compiled
def _rank_tokens(
    n_top: NDArray[np.int64], tokens: NDArray[np.int32], sums: NDArray[np.float64], n_distinct: NDArray[np.int64]
) -> None:
    """In each row, in place: equal tokens as one with the sum of their values, by that sum, then by id."""
    for row in range(len(tokens)):
        token, total, n = tokens[row], sums[row], 0
        for i in range(n_top[row]):  # gather, in order of rank: never more than i are distinct
            same = 0
            while same < n and token[same] != token[i]:
                same += 1
            if same < n:
                total[same] += total[i]
            else:
                token[n], total[n] = token[i], total[i]
                n += 1
        for i in range(1, n):  # insertion sort
            id_, sum_, place = token[i], total[i], i
            while place > 0 and (sum_ > total[place - 1] or (sum_ == total[place - 1] and id_ < token[place - 1])):
                token[place], total[place] = token[place - 1], total[place - 1]
                place -= 1
            token[place], total[place] = id_, sum_
        n_distinct[row] = n
