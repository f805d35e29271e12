"""One pass over a run of contexts: every firing of every feature of several sources, in feature order.

1. Residuals of one batch of contexts at every hook point, the model run once; batches have one fixed size and one fixed
   place in the corpus, the last padded, so a context meets the same arithmetic however the corpus is cut.
2. Encode; firings at masked positions are dropped. Batches run side by side in threads and are taken in order.
3. Transpose: a stable counting sort by feature, which leaves each feature's firings in order of context, then position.
The result is postings; of a dense source (neurons, vectors) it is the extremes of each context (`extremes`). Where a
shard's firings would outgrow memory it gives several parts, one after the other. Parts in order of context, joined feature
by feature (`merge`), are the activation index.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from backend import errors
from backend.formats import array_file
from workers.compute import corpus as corpora
from workers.compute import extremes, language_model
from workers.compute.dense import DenseEncoder
from workers.compute.encoder import Encoder, Firings
from workers.compute.jit import compiled

T = TypeVar("T")
R = TypeVar("R")
BATCH_CONTEXTS = 32
"""Contexts in a forward pass on a CPU. Part of what a number means to its last bit, so fixed for a kind of device, and
recorded with a revision."""
GPU_BATCH_TOKENS = 1 << 15
"""Tokens in a forward pass on a GPU: enough to fill an H200, whatever memory is free."""
FIRING_BYTES = 24
"""Memory a firing takes while it waits and is transposed."""
MAX_FIRINGS = 1 << 26
"""Firings that wait in memory before a part is given out, unless the caller says how many."""


@dataclass(frozen=True, slots=True)
class Postings:
    """Firings of one run of contexts by feature; `offset[f]:offset[f + 1]` are feature f's."""

    offset: NDArray[np.int64]
    context: NDArray[np.uint32]
    """Index in the corpus, ascending for each feature."""
    position: NDArray[np.uint16]
    """Ascending for each feature and context."""
    value: NDArray[np.float32]

    @property
    def n_features(self) -> int:
        """Number of features, dead ones included."""
        return len(self.offset) - 1

    def write(self, path: Path, meta: dict[str, Any]) -> None:
        """Write the shard's file, atomically."""
        arrays: dict[str, NDArray[Any]] = {
            "offset": self.offset,
            "context": self.context,
            "position": self.position,
            "value": self.value,
        }
        array_file.write(path, arrays, meta)


def read(path: Path) -> Postings:
    """Map a shard's file; raises `ValueError` where it is damaged."""
    return Postings(**array_file.read(path).arrays)


def batch_contexts(device: torch.device, context_size: int) -> int:
    """Contexts in a forward pass on this kind of device."""
    return BATCH_CONTEXTS if device.type == "cpu" else max(1, GPU_BATCH_TOKENS // context_size)


def batches(first_context: int, n_contexts: int, size: int = BATCH_CONTEXTS) -> list[tuple[int, int]]:
    """(start, stop) of the batches of a shard; its ends lie on multiples of `size` or at the corpus's end."""
    assert first_context % size == 0, "shards start on a batch"
    stop = first_context + n_contexts
    return [(start, min(start + size, stop)) for start in range(first_context, stop, size)]


def shards(n_contexts: int, *, n_shards: int, size: int = BATCH_CONTEXTS) -> list[tuple[int, int]]:
    """(first_context, n_contexts) of `n_shards` nearly equal shards of whole batches; fewer where batches are fewer."""
    n_batches = -(-n_contexts // size)
    cuts = np.unique(np.linspace(0, n_batches, min(n_shards, n_batches) + 1).round().astype(int)) * size
    return [(int(a), int(min(b, n_contexts) - a)) for a, b in itertools.pairwise(cuts)]


def index_shard(
    model: language_model.LanguageModel,
    places: Sequence[tuple[language_model.Capture, Encoder | DenseEncoder]],
    corpus: corpora.Corpus,
    *,
    first_context: int,
    n_contexts: int,
    batch_contexts: int = BATCH_CONTEXTS,
    n_threads: int = 1,
    max_firings: Callable[[], int] = lambda: MAX_FIRINGS,
    on_batch: Callable[[int], None] = lambda n_tokens: None,
) -> Iterator[tuple[int, Postings | extremes.Extremes]]:
    """(number of the place, part) of contexts first_context:first_context + n_contexts: postings, or extremes.

    `max_firings` is asked after the first batch, when what a batch takes is taken: so many firings, all places together,
    wait in memory before parts are given out. `on_batch` hears tokens read; it may raise to stop. Each place gives at
    least one part.
    """
    captures = [capture for capture, _ in places]

    def residuals_of(start: int, stop: int) -> list[torch.Tensor]:
        return batch_residuals(model, captures, corpus, start, stop, batch_contexts)

    return index_residuals(
        residuals_of, [encoder for _, encoder in places], corpus, first_context=first_context, n_contexts=n_contexts,
        batch_contexts=batch_contexts, n_threads=n_threads, max_firings=max_firings, on_batch=on_batch,
    )  # fmt: skip


def batch_residuals(
    model: language_model.LanguageModel,
    captures: Sequence[language_model.Capture],
    corpus: corpora.Corpus,
    start: int,
    stop: int,
    batch_contexts: int,
) -> list[torch.Tensor]:
    """(batch_contexts, context_size, d_in) at each hook point, of the batch of contexts start:stop, padded."""
    rows = np.zeros((batch_contexts, corpus.rows.shape[1]), np.int64)
    rows[: stop - start] = corpus.rows[start:stop]
    return language_model.residuals_at(model, captures, torch.from_numpy(rows))


def index_residuals(
    residuals_of: Callable[[int, int], Sequence[torch.Tensor]],
    encoders: Sequence[Encoder | DenseEncoder],
    corpus: corpora.Corpus,
    *,
    first_context: int,
    n_contexts: int,
    batch_contexts: int = BATCH_CONTEXTS,
    n_threads: int = 1,
    max_firings: Callable[[], int] = lambda: MAX_FIRINGS,
    on_batch: Callable[[int], None] = lambda n_tokens: None,
) -> Iterator[tuple[int, Postings | extremes.Extremes]]:
    """As `index_shard`, from residuals (batch_contexts, context_size, d_in) of contexts start:stop, one per encoder."""
    gathered = [_Summaries() if isinstance(e, DenseEncoder) else _Gathered(e.sae.d_sae) for e in encoders]

    def found_in(batch: tuple[int, int]) -> list[Any]:
        start, stop = batch
        with torch.inference_mode():
            residuals = residuals_of(start, stop)
            counts = np.zeros(residuals[0].shape[:2], np.bool_)
            counts[: stop - start] = corpus.mask(start, stop)
            for x in residuals:
                check_finite(x[: stop - start], start, stop)
            return [_found(encoder, x, counts, batch) for encoder, x in zip(encoders, residuals, strict=True)]

    most = 0
    planned = batches(first_context, n_contexts, batch_contexts)
    for (start, stop), columns in zip(planned, _in_order(found_in, planned, n_threads), strict=True):
        for gather, column in zip(gathered, columns, strict=True):
            gather.add(column)
        on_batch((stop - start) * corpus.rows.shape[1])
        most = most or max(1, max_firings())
        if stop < first_context + n_contexts and sum(gather.n for gather in gathered) >= most:
            for i, gather in enumerate(gathered):
                yield i, gather.transposed()
    for i, gather in enumerate(gathered):
        yield i, gather.transposed()


_Column = tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint16], NDArray[np.float32]]
"""Feature, context, position and value of some firings."""


def _found(
    encoder: Encoder | DenseEncoder, x: torch.Tensor, counts: NDArray[np.bool_], batch: tuple[int, int]
) -> _Column | extremes.Extremes:
    start, stop = batch
    if isinstance(encoder, DenseEncoder):
        return extremes.summarise(encoder, x, counts, start, stop - start)
    return _column(encoder.encode(x.flatten(0, 1), counts.reshape(-1)), start, counts.shape[1])


class _Summaries:
    """Extremes of one dense source that wait to be put together; a context's of a feature weigh as much as a firing."""

    def __init__(self) -> None:
        self._parts: list[extremes.Extremes] = []
        self.n = 0

    def add(self, part: extremes.Extremes) -> None:
        self._parts.append(part)
        self.n += part.high.size

    def transposed(self) -> extremes.Extremes:
        parts, self._parts, self.n = self._parts, [], 0
        return extremes.join(parts)


class _Gathered:
    """Firings of one source that wait to be transposed."""

    def __init__(self, d_sae: int) -> None:
        self._d_sae = d_sae
        self._columns: list[_Column] = []
        self.n = 0

    def add(self, column: _Column) -> None:
        self._columns.append(column)
        self.n += len(column[0])

    def transposed(self) -> Postings:
        columns, self._columns, self.n = self._columns, [], 0
        return transpose(
            self._d_sae,
            [feature for feature, _, _, _ in columns],
            [context for _, context, _, _ in columns],
            [position for _, _, position, _ in columns],
            [value for _, _, _, value in columns],
        )


def _column(firings: Firings, first_context: int, context_size: int) -> _Column:
    context = firings.row // np.uint32(context_size)
    position = (firings.row - context * np.uint32(context_size)).astype(np.uint16)
    return firings.feature, context + np.uint32(first_context), position, firings.value


def check_finite(x: torch.Tensor, start: int, stop: int) -> None:
    """Raise `InvalidInputError` where residuals of contexts start:stop hold NaN or infinity."""
    # a finite sum says that all are, in one pass; one that is not may have overflowed
    if not math.isfinite(float(x.sum())) and not bool(torch.isfinite(x).all()):
        raise errors.InvalidInputError(
            f"the model's activations are not finite in contexts {start} to {stop - 1}.",
            hint="float16 overflows in many models: use --dtype bfloat16 or float32.",
        )


def _in_order(work: Callable[[T], R], items: Sequence[T], n_threads: int) -> Iterator[R]:
    """Results in order of `items`, at most `n_threads` at work; each thread computes with one thread of its own."""
    if n_threads == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > n_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def transpose(
    d_sae: int,
    features: list[NDArray[np.uint32]],
    contexts: list[NDArray[np.uint32]],
    positions: list[NDArray[np.uint16]],
    values: list[NDArray[np.float32]],
) -> Postings:
    """Stable counting sort by feature of firings that come in order of context and position for each feature."""
    offset = np.zeros(d_sae + 1, np.int64)
    for feature in features:
        _count(feature, offset)
    np.cumsum(offset, out=offset)
    total = int(offset[-1])
    context, position, value = np.empty(total, np.uint32), np.empty(total, np.uint16), np.empty(total, np.float32)
    cursor = offset[:-1].copy()
    for column in zip(features, contexts, positions, values, strict=True):
        _scatter(*column, cursor, context, position, value)
    return Postings(offset, context, position, value)


@compiled
def _count(feature: NDArray[np.uint32], offset: NDArray[np.int64]) -> None:
    """Count feature f's firings at offset[f + 1]."""
    for i in range(feature.shape[0]):
        offset[feature[i] + np.uint32(1)] += 1


@compiled
def _scatter(
    feature: NDArray[np.uint32],
    context: NDArray[np.uint32],
    position: NDArray[np.uint16],
    value: NDArray[np.float32],
    cursor: NDArray[np.int64],
    context_out: NDArray[np.uint32],
    position_out: NDArray[np.uint16],
    value_out: NDArray[np.float32],
) -> None:
    """Write each firing at its feature's cursor."""
    for i in range(feature.shape[0]):
        at = cursor[feature[i]]
        cursor[feature[i]] = at + 1
        context_out[at], position_out[at], value_out[at] = context[i], position[i], value[i]
