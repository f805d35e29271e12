"""One pass over a shard of the corpus: every firing of every feature, in feature order.

1. Residuals of one batch of contexts; batches have one fixed size and one fixed place in the corpus, the last padded,
   so a context meets the same arithmetic however the corpus is cut into shards.
2. Encode; firings at masked positions are dropped.
3. Transpose the shard: a stable counting sort by feature (two 16-bit radix passes where there are more than 65,536),
   which leaves each feature's firings in order of context, then position.
The result is the shard's postings. Shards in order of context, joined feature by feature, are the activation index.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from backend import errors
from backend.formats import array_file
from workers.compute import corpus as corpora
from workers.compute import language_model, sae

BATCH_CONTEXTS = 32
"""Contexts in a forward pass. Part of what a number means to its last bit, so fixed, and recorded with a revision."""


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

    def of(self, first: int, stop: int) -> "Postings":
        """The postings of features first:stop, copied into memory."""
        low, high = int(self.offset[first]), int(self.offset[stop])
        return Postings(
            np.asarray(self.offset[first : stop + 1]) - low,
            np.array(self.context[low:high]), np.array(self.position[low:high]), np.array(self.value[low:high]),
        )  # fmt: skip

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


def batches(first_context: int, n_contexts: int) -> list[tuple[int, int]]:
    """(start, stop) of the batches of a shard; its ends lie on multiples of `BATCH_CONTEXTS` or at the corpus's end."""
    assert first_context % BATCH_CONTEXTS == 0, "shards start on a batch"
    stop = first_context + n_contexts
    return [(start, min(start + BATCH_CONTEXTS, stop)) for start in range(first_context, stop, BATCH_CONTEXTS)]


def shards(n_contexts: int, *, n_shards: int) -> list[tuple[int, int]]:
    """(first_context, n_contexts) of `n_shards` nearly equal shards of whole batches; fewer where batches are fewer."""
    n_batches = -(-n_contexts // BATCH_CONTEXTS)
    cuts = np.unique(np.linspace(0, n_batches, min(n_shards, n_batches) + 1).round().astype(int)) * BATCH_CONTEXTS
    return [(int(a), int(min(b, n_contexts) - a)) for a, b in itertools.pairwise(cuts)]


def index_shard(
    model: language_model.LanguageModel,
    capture: language_model.Capture,
    dictionary: sae.Sae,
    corpus: corpora.Corpus,
    *,
    first_context: int,
    n_contexts: int,
    on_batch: Callable[[int], None] = lambda n_tokens: None,
) -> Postings:
    """Postings of contexts first_context:first_context + n_contexts. `on_batch` hears tokens read; it may raise to stop."""

    def residuals_of(start: int, stop: int) -> torch.Tensor:
        rows = np.zeros((BATCH_CONTEXTS, corpus.rows.shape[1]), np.int64)
        rows[: stop - start] = corpus.rows[start:stop]
        return language_model.residuals(model, capture, torch.from_numpy(rows))

    return index_residuals(
        residuals_of, dictionary, corpus, first_context=first_context, n_contexts=n_contexts, on_batch=on_batch
    )


def index_residuals(
    residuals_of: Callable[[int, int], torch.Tensor],
    dictionary: sae.Sae,
    corpus: corpora.Corpus,
    *,
    first_context: int,
    n_contexts: int,
    on_batch: Callable[[int], None] = lambda n_tokens: None,
) -> Postings:
    """As `index_shard`, from residuals (BATCH_CONTEXTS, context_size, d_in) of contexts start:stop, padded at the end."""
    context_size = corpus.rows.shape[1]
    features, contexts, positions, values = [], [], [], []
    for start, stop in batches(first_context, n_contexts):
        with torch.inference_mode():
            residuals = residuals_of(start, stop)
            if not bool(torch.isfinite(residuals[: stop - start]).all()):
                raise errors.InvalidInputError(
                    f"the model's activations are not finite in contexts {start} to {stop - 1}.",
                    hint="float16 overflows in many models: use --dtype bfloat16 or float32.",
                )
            firings = sae.encode(dictionary, residuals.flatten(0, 1))
        row = firings.row.cpu().numpy()
        counts = np.zeros(BATCH_CONTEXTS * context_size, np.bool_)
        counts[: (stop - start) * context_size] = corpus.mask(start, stop).reshape(-1)
        kept = counts[row]
        row = row[kept]
        features.append(firings.feature.cpu().numpy()[kept].astype(np.uint32))
        contexts.append((row // context_size + start).astype(np.uint32))
        positions.append((row % context_size).astype(np.uint16))
        values.append(firings.value.cpu().numpy()[kept])
        on_batch((stop - start) * context_size)
    return transpose(dictionary.d_sae, features, contexts, positions, values)


def transpose(
    d_sae: int,
    features: list[NDArray[np.uint32]],
    contexts: list[NDArray[np.uint32]],
    positions: list[NDArray[np.uint16]],
    values: list[NDArray[np.float32]],
) -> Postings:
    """Stable counting sort by feature of firings that come in order of context and position for each feature."""
    feature = np.concatenate(features)
    order = np.argsort(feature.astype(np.uint16), kind="stable")
    if d_sae > 65_536:
        order = order[np.argsort((feature[order] >> 16).astype(np.uint16), kind="stable")]
    offset = np.zeros(d_sae + 1, np.int64)
    np.cumsum(np.bincount(feature, minlength=d_sae), out=offset[1:])
    return Postings(
        offset, np.concatenate(contexts)[order], np.concatenate(positions)[order], np.concatenate(values)[order]
    )


def join(parts: list[Postings]) -> Postings:
    """Postings of consecutive runs of contexts as one; `parts` in order of context. Associative."""
    counts = np.stack([np.diff(part.offset) for part in parts])  # (n_parts, n_features)
    offset = np.zeros(counts.shape[1] + 1, np.int64)
    np.cumsum(counts.sum(axis=0), out=offset[1:])
    total = int(offset[-1])
    context, position, value = np.empty(total, np.uint32), np.empty(total, np.uint16), np.empty(total, np.float32)
    start = offset[:-1].copy()
    for part, n in zip(parts, counts, strict=True):
        # where each firing of this part goes: its feature's next free place, then one after the other
        target = np.repeat(start - part.offset[:-1], n) + np.arange(int(n.sum()))
        context[target], position[target], value[target] = part.context, part.position, part.value
        start += n
    return Postings(offset, context, position, value)
