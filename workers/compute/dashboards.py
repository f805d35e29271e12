"""Dashboards from postings: the exact summaries of each feature, and the contexts that show it.

For one feature, from its firings in canonical order (context, position):
1. count, extremes, moments, both histograms, share of firings in each fifth of (0, max];
2. contexts ranked by their largest firing; ties go to the earlier context;
3. the first 20 are the top group; from each interval of (0, max] five more whose maximum lies in it, chosen by a hash
   of (seed, feature, context), none of them in the top;
4. every firing of each chosen context, in fp32.
The same firings give the same bytes, whatever shards they came from.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from backend.formats import dashboards as packed
from backend.formats.dashboards import Dashboard, Examples
from workers.compute import corpus as corpora
from workers.compute import logit_lens, neighbours, sae, statistics
from workers.compute.activation_index import Postings, join

BLOCK_FEATURES = 256


@dataclass(frozen=True, slots=True)
class FinishInputs:
    """What the weights give to every block: computed once per job."""

    dictionary: sae.Sae
    directions: torch.Tensor
    """(d_sae, d_in), unit decoder rows."""
    W_U: torch.Tensor | None
    """(d_in, d_vocab): the unembedding as seen from the hook point; None where there is no path."""
    seed: int


def finish(
    inputs: FinishInputs,
    parts: list[Postings],
    corpus: corpora.Corpus,
    *,
    on_block: Callable[[int], None] = lambda n_features: None,
) -> Iterator[list[Dashboard]]:
    """Yield every feature's dashboard, block by block, from the postings of consecutive shards."""
    d_sae = inputs.dictionary.d_sae
    norms = inputs.dictionary.decoder_norm.cpu().numpy()
    for first in range(0, d_sae, BLOCK_FEATURES):
        stop = min(first + BLOCK_FEATURES, d_sae)
        block = join([part.of(first, stop) for part in parts])
        with torch.inference_mode():
            lenses = logit_lens.of_directions(inputs.directions[first:stop], inputs.W_U)
            near, cosines = neighbours.nearest(inputs.directions, first, stop, n=packed.N_NEIGHBOURS)
        dashboards = []
        for i in range(stop - first):
            low, high = int(block.offset[i]), int(block.offset[i + 1])
            firings = Firings(first + i, block.context[low:high], block.position[low:high], block.value[low:high])
            of_weights = FromWeights(float(norms[first + i]), lenses[i], near[i], cosines[i])
            dashboards.append(summarise(firings, corpus, of_weights, seed=inputs.seed))
        on_block(stop - first)
        yield dashboards


@dataclass(frozen=True, slots=True)
class Firings:
    """All firings of one feature in order of context, then position."""

    index: int
    context: NDArray[np.uint32]
    position: NDArray[np.uint16]
    value: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FromWeights:
    """What one feature's page says that no corpus changes."""

    decoder_norm: float
    lens: packed.LogitLens | None
    neighbours: NDArray[np.int32]
    cosines: NDArray[np.float32]


def summarise(firings: Firings, corpus: corpora.Corpus, of_weights: FromWeights, *, seed: int) -> Dashboard:
    """One feature's dashboard."""
    value = firings.value
    maximum = float(value.max()) if value.size else 0.0
    intervals = statistics.interval_of(value, maximum, packed.N_INTERVALS) if value.size else np.zeros(0, np.int64)
    start = np.flatnonzero(np.diff(firings.context, prepend=firings.context[:1] + 1)) if value.size else intervals
    examples, top_tokens = choose_examples(firings, start, maximum, corpus, seed=seed)
    return Dashboard(
        index=firings.index,
        n_firings=int(value.size),
        n_contexts=len(start),
        max=maximum,
        min=float(value.min()) if value.size else 0.0,
        moments=statistics.moments(value),
        decoder_norm=of_weights.decoder_norm,
        linear_histogram=statistics.linear_histogram(value, packed.N_LINEAR_BINS),
        log_histogram=statistics.log_histogram(value, packed.N_LOG_BINS),
        interval_firings=np.bincount(intervals, minlength=packed.N_INTERVALS).astype(np.int64),
        top_tokens=top_tokens,
        examples=examples,
        logit_lens=of_weights.lens,
        neighbours=of_weights.neighbours,
        cosines=of_weights.cosines,
    )


def choose_examples(
    firings: Firings, start: NDArray[np.int64], maximum: float, corpus: corpora.Corpus, *, seed: int
) -> tuple[Examples, NDArray[np.int32]]:
    """The examples of one feature, and the tokens it fires on. `start` is where each context's run of firings begins."""
    if start.size == 0:
        return _no_examples(), np.zeros(0, np.int32)
    run_max = np.maximum.reduceat(firings.value, start)
    context = firings.context[start].astype(np.int64)
    top = statistics.largest(run_max, packed.N_TOP_CONTEXTS)
    is_free = np.ones(len(start), np.bool_)
    is_free[top] = False
    chosen, groups = [top], [np.full(len(top), packed.TOP_GROUP, np.uint8)]
    interval = statistics.interval_of(run_max, maximum, packed.N_INTERVALS)
    order = context_hash(seed, firings.index, context)
    for i in range(packed.N_INTERVALS):
        candidates = np.flatnonzero(is_free & (interval == i))
        picked = candidates[np.argsort(order[candidates], kind="stable")[: packed.N_INTERVAL_CONTEXTS]]
        chosen.append(picked[statistics.largest(run_max[picked], len(picked))])
        groups.append(np.full(len(picked), i + 1, np.uint8))
    runs = np.concatenate(chosen)
    stops = np.append(start[1:], firings.value.size)
    spans = [np.arange(start[run], stops[run]) for run in runs]
    at = np.concatenate(spans)
    offset = np.cumsum([0, *(len(span) for span in spans)], dtype=np.int64)
    examples = Examples(np.concatenate(groups), context[runs], offset, firings.position[at], firings.value[at])
    return examples, _top_tokens(examples, len(top), corpus)


def context_hash(seed: int, feature: int, context: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A fixed pseudo-random order of contexts for each feature: splitmix64 (Steele, Lea & Flood 2014, figure 16)."""
    with np.errstate(over="ignore"):
        z = context.astype(np.uint64) + np.uint64(feature & 0xFFFFFFFF) * np.uint64(0x100000000)
        z = z * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed & 0xFFFFFFFFFFFFFFFF)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _top_tokens(examples: Examples, n_top: int, corpus: corpora.Corpus) -> NDArray[np.int32]:
    """Tokens at the maxima of the top contexts, by the sum of those maxima; ties by id. At most ten."""
    sums: dict[int, float] = {}
    for i in range(n_top):
        low, high = examples.offset[i], examples.offset[i + 1]
        position = examples.position[low + int(examples.value[low:high].argmax())]
        token = int(corpus.rows[examples.context[i], position])
        sums[token] = sums.get(token, 0.0) + float(examples.value[low:high].max())
    ranked = sorted(sums, key=lambda token: (-sums[token], token))
    return np.array(ranked[:10], np.int32)


def _no_examples() -> Examples:
    return Examples(
        np.zeros(0, np.uint8),
        np.zeros(0, np.int64),
        np.zeros(1, np.int64),
        np.zeros(0, np.uint16),
        np.zeros(0, np.float32),
    )
