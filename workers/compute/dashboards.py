"""Dashboards from postings: the exact summaries of each feature, and the contexts that show it.

For one feature, from its firings in canonical order (context, position):
1. count, extremes, moments, both histograms, share of firings in each fifth of (0, max] (`statistics`);
2. contexts ranked by their largest firing; ties go to the earlier context;
3. the first 20 are the top group; from each interval of (0, max] five more whose maximum lies in it, chosen by a hash
   of (seed, feature, context), none of them in the top (`examples`);
4. every firing of each chosen context, in fp32.
Features are worked on in blocks, each step one compiled loop over a block's firings. The same firings give the same
bytes, whatever shards they came from and however the features are cut into ranges and blocks.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from backend.formats import dashboards as packed
from backend.formats.dashboards import Dashboard, Examples, LogitLens, Moments
from workers.compute import corpus as corpora
from workers.compute import examples, logit_lens, merge, power_grid, signed, statistics
from workers.compute.activation_index import Postings
from workers.compute.neighbours import Neighbours

TILE = 256
"""Features whose logit lens is one matrix product. Part of its last bits, so tiles are counted from feature 0 whatever
range is asked for; work is saved where ranges begin and end on tiles."""
MAX_FIRINGS = 2**22
FIRING_BYTES = 40
"""Memory a firing takes while its block is finished: its columns, and what its feature's summaries make of them."""


@dataclass(frozen=True, slots=True)
class FinishInputs:
    """What the weights give to every block: computed once per job."""

    directions: Float[Tensor, "d_sae d_in"]
    """Decoder rows at unit norm."""
    decoder_norm: Float[Tensor, " d_sae"]
    """What their norms were."""
    W_U: Float[Tensor, "d_in d_vocab"] | None
    """The unembedding as seen from the hook point; None where there is no path."""
    seed: int
    is_signed: bool = False
    """Activations may be negative: each sign has examples of its own (`signed`)."""


def finish(
    inputs: FinishInputs,
    parts: list[Postings],
    corpus: corpora.Corpus,
    *,
    first: int = 0,
    stop: int | None = None,
    max_firings: int = MAX_FIRINGS,
    on_postings: Callable[[Postings], None] = lambda block: None,
) -> Iterator[list[Dashboard]]:
    """Yield the dashboards of features first:stop (all, if not given), block by block.

    `parts` are the postings of consecutive shards, in order. A block has at most `max_firings` firings, 10 bytes each
    in memory, or one feature that has more. `on_postings` is given each block's, the features one after the other.
    """
    stop = len(inputs.directions) if stop is None else stop
    directions = Neighbours(inputs.directions)
    for tile in range(first // TILE * TILE, stop, TILE):
        start, end = max(first, tile), min(stop, tile + TILE)
        weights = from_weights(inputs, directions, tile)
        for low, high in _blocks(merge.counts(parts, start, end), max_firings):
            block = merge.join(parts, start + low, start + high)
            on_postings(block)
            summarise = _summarise_signed if inputs.is_signed else _summarise
            yield summarise(block, corpus, weights[start + low - tile : start + high - tile], inputs.seed)


@dataclass(frozen=True, slots=True)
class FromWeights:
    """What one feature's page says that no corpus changes."""

    index: int
    decoder_norm: float
    lens: LogitLens | None
    neighbours: NDArray[np.int32]
    cosines: NDArray[np.float32]


def from_weights(inputs: FinishInputs, directions: Neighbours, tile: int) -> list[FromWeights]:
    """Of the features of the tile that begins at `tile`."""
    stop = min(tile + TILE, len(inputs.directions))
    with torch.inference_mode():
        lenses = logit_lens.of_directions(inputs.directions[tile:stop], inputs.W_U)
    near, cosines = directions.nearest(tile, stop, n=packed.N_NEIGHBOURS)
    norms = inputs.decoder_norm[tile:stop].tolist()
    return [FromWeights(*row) for row in zip(range(tile, stop), norms, lenses, near, cosines, strict=True)]


def _blocks(n_firings: NDArray[np.int64], max_firings: int) -> Iterator[tuple[int, int]]:
    """Cut a row of features into runs (start, stop) of at most `max_firings`, or of one feature."""
    start, held = 0, 0
    for i, n in enumerate(n_firings.tolist()):
        if i > start and held + n > max_firings:
            yield start, i
            start, held = i, 0
        held += n
    yield start, len(n_firings)


def _summarise(block: Postings, corpus: corpora.Corpus, weights: list[FromWeights], seed: int) -> list[Dashboard]:
    """The dashboards of consecutive features from all of their firings."""
    column = block.offset, block.value
    ends = statistics.extremes(*column)
    edges = statistics.interval_edges(ends[:, 1], packed.N_INTERVALS)
    chosen = examples.choose(block, edges, first_feature=weights[0].index, seed=seed)
    columns = zip(
        weights,
        np.diff(block.offset).tolist(),
        chosen.n_contexts.tolist(),
        ends.tolist(),
        statistics.moments(*column, ends).tolist(),
        statistics.linear_histogram(*column, ends, packed.N_LINEAR_BINS),
        statistics.log_histogram(*column, ends, packed.N_LOG_BINS),
        statistics.interval_counts(*column, edges),
        examples.top_tokens(block, chosen, corpus.rows),
        _examples(block, chosen),
        strict=True,
    )
    return [
        Dashboard(
            index=of_weights.index, n_firings=n_firings, n_contexts=n_contexts, max=high, min=low,
            moments=Moments(*moments), decoder_norm=of_weights.decoder_norm, linear_histogram=linear,
            log_histogram=log, interval_firings=intervals, top_tokens=tokens, examples=shown, logit_lens=of_weights.lens,
            neighbours=of_weights.neighbours, cosines=of_weights.cosines,
        )
        for of_weights, n_firings, n_contexts, (low, high), moments, linear, log, intervals, tokens, shown in columns
    ]  # fmt: skip


def _summarise_signed(
    block: Postings, corpus: corpora.Corpus, weights: list[FromWeights], seed: int
) -> list[Dashboard]:
    """As `_summarise`, of features that fire with either sign."""
    column = block.offset, block.value
    ends = statistics.extremes(*column)
    grid = power_grid.of_ends(ends)
    positive, negative = (
        signed.look(signed.side(block, is_negative=sign), corpus.rows, first_feature=weights[0].index, seed=seed)
        for sign in (False, True)
    )
    n_contexts = _runs(block)
    moments, signs = statistics.moments(*column, ends), signed.count_signs(block)
    counts = power_grid.count(*column, grid)
    found = []
    for i, of_weights in enumerate(weights):
        (low, high), (n_positive, n_negative) = ends[i].tolist(), signs[i].tolist()
        found.append(
            Dashboard(
                index=of_weights.index, n_firings=int(block.offset[i + 1] - block.offset[i]), n_contexts=n_contexts[i],
                max=high, min=low, moments=Moments(*moments[i].tolist()), decoder_norm=of_weights.decoder_norm,
                linear_histogram=power_grid.trimmed(counts[i]), log_histogram=np.zeros(0, np.int64),
                interval_firings=positive.intervals[i], top_tokens=positive.tokens[i],
                examples=signed.examples_of(block, i, signed.shown(positive, negative, i)),
                logit_lens=of_weights.lens, neighbours=of_weights.neighbours, cosines=of_weights.cosines,
                signed=packed.Signed(
                    is_dense=False, n_positive=n_positive, n_negative=n_negative, bin_exponent=int(grid.exponent[i]),
                    first_bin=int(grid.first[i]), negative_intervals=negative.intervals[i],
                    bottom_tokens=negative.tokens[i],
                ),
            )
        )  # fmt: skip
    return found


def _runs(block: Postings) -> list[int]:
    """Contexts in which each feature fires."""
    begins = np.ones(len(block.context), np.bool_)
    begins[1:] = block.context[1:] != block.context[:-1]
    at = block.offset[:-1][np.diff(block.offset) > 0]
    begins[at] = True
    before = np.concatenate([[0], np.cumsum(begins)])
    counts: list[int] = np.diff(before[block.offset]).tolist()
    return counts


def _examples(block: Postings, chosen: examples.Chosen) -> Iterator[Examples]:
    offset, position, value = examples.firings(block, chosen)
    context = block.context[chosen.run[:, :, examples.START]] if len(block.context) else chosen.run[:, :, 0]
    context = context.astype(np.int64)
    starts = offset[:, 0].tolist()
    for i, n in enumerate(chosen.count.tolist()):
        at = offset[i, : n + 1]
        low, high = starts[i], int(at[-1])
        yield Examples(chosen.group[i, :n], context[i, :n], at - low, position[low:high], value[low:high])
