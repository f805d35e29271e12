"""What a dashboard says of a feature whose values may be negative: two sides, each looked at as any other feature is.

The side above zero is the feature's positive values, the side below zero its negative ones times -1. Each has its top
contexts, its five intervals, its samples and its tokens, chosen by the same loops (`examples`); zero belongs to neither.
Of a sparse source a side holds all firings of its sign; of a dense one each context's extreme value, if it has that sign.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.formats import dashboards as packed
from workers.compute import examples, statistics
from workers.compute.activation_index import Postings
from workers.compute.jit import compiled

_GROUPS = (packed.BOTTOM_GROUP, *range(packed.FIRST_NEGATIVE_GROUP, packed.BOTTOM_GROUP))
"""What groups 0, 1, … of the mirrored side are called."""


@dataclass(frozen=True, slots=True)
class Side:
    """The examples and counts of one side of a block of features."""

    chosen: examples.Chosen
    context: NDArray[np.int64]
    """(n_features, N_EXAMPLES): the contexts chosen."""
    intervals: NDArray[np.int64]
    """(n_features, N_INTERVALS): entries in each fifth, nearest to zero first."""
    tokens: list[NDArray[np.int32]]
    """At the extremes of the top contexts."""


@dataclass(frozen=True, slots=True)
class Shown:
    """The contexts chosen for one feature: top, positive intervals, negative intervals, bottom."""

    group: NDArray[np.uint8]
    context: NDArray[np.int64]


def side(block: Postings, *, is_negative: bool) -> Postings:
    """The positive values of a block, or the negative ones times -1."""
    is_in = block.value < 0 if is_negative else block.value > 0
    before = np.concatenate([[0], np.cumsum(is_in)])
    value = -block.value[is_in] if is_negative else block.value[is_in]
    return Postings(before[block.offset], block.context[is_in], block.position[is_in], value)


def look(block: Postings, rows: NDArray[np.integer], *, first_feature: int, seed: int) -> Side:
    """Choose a side's examples. `rows` (n_contexts, context_size) are the corpus."""
    ends = statistics.extremes(block.offset, block.value)
    edges = statistics.interval_edges(ends[:, 1], packed.N_INTERVALS)
    chosen = examples.choose(block, edges, first_feature=first_feature, seed=seed)
    start = chosen.run[:, :, examples.START]
    context = block.context[start].astype(np.int64) if len(block.context) else start
    intervals = statistics.interval_counts(block.offset, block.value, edges)
    return Side(chosen, context, intervals, examples.top_tokens(block, chosen, rows))


def shown(positive: Side, negative: Side, i: int) -> Shown:
    """The examples of the block's feature `i`, by group."""
    n, m = int(positive.chosen.count[i]), int(negative.chosen.count[i])
    mirrored = np.array(_GROUPS, np.uint8)[negative.chosen.group[i, :m]]
    last_first = np.argsort(mirrored, kind="stable")
    return Shown(
        np.concatenate([positive.chosen.group[i, :n], mirrored[last_first]]),
        np.concatenate([positive.context[i, :n], negative.context[i, :m][last_first]]),
    )


def examples_of(block: Postings, feature: int, of: Shown) -> packed.Examples:
    """The firings, of either sign, of the contexts shown of the block's feature `feature`."""
    low, high = int(block.offset[feature]), int(block.offset[feature + 1])
    contexts = block.context[low:high]
    start = low + np.searchsorted(contexts, of.context, side="left")
    stop = low + np.searchsorted(contexts, of.context, side="right")
    offset = np.concatenate([[0], np.cumsum(stop - start)])
    at = np.concatenate([np.arange(a, b) for a, b in zip(start, stop, strict=True)] or [np.zeros(0, np.int64)])
    return packed.Examples(of.group, of.context, offset, block.position[at], block.value[at])


def count_signs(block: Postings) -> NDArray[np.int64]:
    """(n_features, 2): values above and below zero."""
    counts = np.zeros((block.n_features, 2), np.int64)
    _count_signs(block.offset, block.value, counts)
    return counts


@compiled
def _count_signs(offset: NDArray[np.int64], value: NDArray[np.float32], counts: NDArray[np.int64]) -> None:
    for feature in range(len(offset) - 1):
        for x in value[offset[feature] : offset[feature + 1]]:
            counts[feature, 0] += x > 0
            counts[feature, 1] += x < 0
