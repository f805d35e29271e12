"""How a job is cut into shards: by seconds of work, since nobody knows what else runs where a shard will.

Encode shards are runs of whole batches, finish shards runs of whole blocks of features, so no number depends on the
cuts. A shard is long enough that starting it is nothing, and short enough that losing it is little.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from workers.compute import activation_index, dashboards
from workers.compute.extremes import Extremes
from workers.compute.parts import Part

SHARD_S = 30.0
"""Aimed at while encoding."""
MIN_BATCHES = 4
FEATURES_PER_S = 1_000.0
"""Summarised, packed and written by an ordinary processor core, as the figures below."""
FIRINGS_PER_S = 10e6
FLOPS = 3e10
"""Of the products for logit lens and neighbours."""
MAX_FEATURES = 8_192
"""Dashboards that are in memory at once."""
TILE = dashboards.TILE


def encode_shards(
    n_contexts: int, context_size: int, *, batch_contexts: int, tokens_per_s: float, shard_tokens: int
) -> list[tuple[int, int]]:
    """(first context, number) of each encode shard: half a minute at `tokens_per_s`, or `shard_tokens` if not 0."""
    smallest = MIN_BATCHES * batch_contexts * context_size
    wanted = shard_tokens or max(smallest, SHARD_S * tokens_per_s)
    n_shards = max(1, round(n_contexts * context_size / wanted))
    return activation_index.shards(n_contexts, n_shards=n_shards, size=batch_contexts)


def count_tiles(part: Part) -> NDArray[np.int64]:
    """Firings of every tile of features, or the contexts of a dense source's: what finishing them will cost."""
    ends = np.append(np.arange(0, part.n_features, TILE), part.n_features)
    if isinstance(part, Extremes):
        contexts: NDArray[np.int64] = np.diff(ends) * part.high.shape[1]
        return contexts
    counts: NDArray[np.int64] = np.diff(part.offset[ends])
    return counts


def finish_shards(
    n_firings: Sequence[int] | NDArray[np.int64], *, d_in: int, d_sae: int, n_vocabulary: int, seconds: float
) -> list[tuple[int, int]]:
    """(first feature, number) of each finish shard of a source, from the firings of each of its tiles: about `seconds` each."""
    sizes = np.diff(np.append(np.arange(0, d_sae, TILE), d_sae))
    a_feature = 1 / FEATURES_PER_S + 2 * d_in * (d_sae + n_vocabulary) / FLOPS
    cost = sizes * a_feature + np.asarray(n_firings) / FIRINGS_PER_S
    cuts, sum_s, n = [0], 0.0, 0
    for tile, (tile_s, size) in enumerate(zip(cost.tolist(), sizes.tolist(), strict=True)):
        if n and (sum_s + tile_s > seconds or n + size > MAX_FEATURES):
            cuts.append(tile * TILE)
            sum_s, n = 0.0, 0
        sum_s, n = sum_s + tile_s, n + size
    ends = [*cuts[1:], d_sae]
    return [(a, b - a) for a, b in zip(cuts, ends, strict=True)]
