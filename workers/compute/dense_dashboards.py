"""Dashboards of dense sources: from each context's extremes, and the values of the contexts that are shown.

1. Moments, signs and the histogram are those of all tokens that count, put together from the shards (`extremes`).
2. The contexts to show are chosen by their extremes, each sign by itself (`signed`).
3. The model runs once more over the batches those contexts are in, for as many features together as memory allows; the
   values of each context shown are kept, zeros left out.
Batches have the place they had when the extremes were taken, so the values are the same bits on the same machine.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from backend.formats import dashboards as packed
from backend.formats.dashboards import Dashboard, Moments
from workers.compute import activation_index, dashboards, extremes, power_grid, signed
from workers.compute import corpus as corpora
from workers.compute.activation_index import Postings
from workers.compute.dashboards import FinishInputs
from workers.compute.examples import N_EXAMPLES
from workers.compute.extremes import Extremes
from workers.compute.neighbours import Neighbours

ValuesOf = Callable[[int, int, int, int], NDArray[np.float32]]
"""(start, stop, first, last) → (stop - start, context_size, last - first): features first:last on contexts start:stop."""
VALUE_BYTES = 16
"""Memory a value of a context shown takes."""


def finish(
    inputs: FinishInputs,
    parts: Sequence[Extremes],
    corpus: corpora.Corpus,
    values_of: ValuesOf,
    *,
    batch_contexts: int,
    max_values: int,
    first: int = 0,
    stop: int | None = None,
) -> Iterator[list[Dashboard]]:
    """Yield the dashboards of features first:stop (all, if not given), tile by tile.

    `parts` are those of consecutive shards, in order. About `max_values` values of contexts shown are held at once, or
    those of one tile.
    """
    stop = len(inputs.directions) if stop is None else stop
    directions = Neighbours(inputs.directions)
    together = dashboards.TILE * max(1, max_values // (dashboards.TILE * 2 * N_EXAMPLES * corpus.rows.shape[1]))
    for low in range(first // dashboards.TILE * dashboards.TILE, stop, together):
        start, end = max(first, low), min(stop, low + together)
        joined = extremes.join([part.of(start, end) for part in parts])
        sides = _sides(joined, corpus, start, inputs.seed)
        shown = [signed.shown(*sides, i) for i in range(end - start)]
        examples = _examples(shown, corpus, values_of, batch_contexts, (start, end))
        made = _dashboards(joined, sides, examples)
        for tile in range(low, end, dashboards.TILE):
            weights = dashboards.from_weights(inputs, directions, tile)
            within = range(max(start, tile), min(end, tile + dashboards.TILE))
            yield [made(i - start, weights[i - tile]) for i in within]


def _sides(of: Extremes, corpus: corpora.Corpus, first: int, seed: int) -> tuple[signed.Side, signed.Side]:
    above = _entries(of, of.high > 0, of.high, of.high_at)
    below = _entries(of, of.low < 0, -of.low, of.low_at)
    positive, negative = (signed.look(side, corpus.rows, first_feature=first, seed=seed) for side in (above, below))
    return positive, negative


def _entries(of: Extremes, is_in: NDArray[np.bool_], values: NDArray[np.float32], at: NDArray[np.uint16]) -> Postings:
    """One entry for each context that `is_in`, as if it were a firing."""
    offset = np.concatenate([[0], np.cumsum(is_in.sum(axis=1))])
    context = np.nonzero(is_in)[1] + of.first[0]
    return Postings(offset, context.astype(np.uint32), at[is_in], values[is_in])


def _examples(
    shown: list[signed.Shown],
    corpus: corpora.Corpus,
    values_of: ValuesOf,
    batch_contexts: int,
    features: tuple[int, int],
) -> list[packed.Examples]:
    """The values that are not zero, at tokens that count, of the contexts shown of each feature."""
    starts = np.concatenate([[0], np.cumsum([len(each.context) for each in shown])])
    context = np.concatenate([each.context for each in shown])
    feature = np.repeat(np.arange(len(shown)), np.diff(starts))
    values = np.zeros((len(context), corpus.rows.shape[1]), np.float32)
    for start, stop in activation_index.batches(0, corpus.n_contexts, batch_contexts):
        wanted = np.flatnonzero((context >= start) & (context < stop))
        if len(wanted):
            found = values_of(start, stop, *features)
            found = np.where(corpus.mask(start, stop)[:, :, None], found, 0)
            values[wanted] = found[context[wanted] - start, :, feature[wanted]]
    return [_packed(each, values[a:b]) for each, a, b in zip(shown, starts, starts[1:], strict=False)]


def _packed(of: signed.Shown, values: NDArray[np.float32]) -> packed.Examples:
    example, position = np.nonzero(values)
    offset = np.searchsorted(example, np.arange(len(values) + 1))
    return packed.Examples(of.group, of.context, offset, position.astype(np.uint16), values[example, position])


def _dashboards(
    of: Extremes, sides: tuple[signed.Side, signed.Side], examples: list[packed.Examples]
) -> Callable[[int, dashboards.FromWeights], Dashboard]:
    """What makes the dashboard of the i-th feature."""
    positive, negative = sides
    moments = extremes.moments(of)
    n_contexts = ((of.high != 0) | (of.low != 0)).sum(axis=1)
    grid = power_grid.of_ends(of.ends)

    def make(i: int, weights: dashboards.FromWeights) -> Dashboard:
        low, high = of.ends[i].tolist()
        n_positive, n_negative = of.signs[i].tolist()
        return Dashboard(
            index=weights.index, n_firings=n_positive + n_negative, n_contexts=int(n_contexts[i]), max=high, min=low,
            moments=Moments(*moments[i].tolist()), decoder_norm=weights.decoder_norm,
            linear_histogram=power_grid.trimmed(of.counts[i]), log_histogram=np.zeros(0, np.int64),
            interval_firings=positive.intervals[i], top_tokens=positive.tokens[i], examples=examples[i],
            logit_lens=weights.lens, neighbours=weights.neighbours, cosines=weights.cosines,
            signed=packed.Signed(
                is_dense=True, n_positive=n_positive, n_negative=n_negative, bin_exponent=int(grid.exponent[i]),
                first_bin=int(grid.first[i]), negative_intervals=negative.intervals[i], bottom_tokens=negative.tokens[i],
            ),
        )  # fmt: skip

    return make
