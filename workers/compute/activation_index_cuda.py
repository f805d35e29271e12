"""`activation_index` on a GPU: the same postings from one queue of work instead of threads.

1. A batch's tokens go over from pinned memory; forward and encode are queued one after the other. The host waits only
   to learn how many pairs survived, a few times a batch.
2. Firings stay on the device as (feature and token in one integer, value) until a part is full.
3. A radix sort of those integers is the transpose: feature-major, and for each feature in order of context and position.
4. The columns are copied into pinned memory on a stream of their own, and whoever takes a part (writes it, usually) does
   so while a thread computes the next.
The parts differ from a CPU's only in where they are cut; joined they are equal for equal residuals.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float32, Int16, Int32, Int64
from torch import Tensor

from workers.compute import corpus as corpora
from workers.compute import encoder_cuda, language_model
from workers.compute.activation_index import Postings, batches, check_finite
from workers.compute.encoder_cuda import CudaEncoder, DeviceFirings

T = TypeVar("T")
MAX_FIRINGS = 1 << 28
"""Firings of a part, where memory allows."""
_FIRING_BYTES = 96
"""Of a firing while its part is sorted: key and value, their sorted copies, the order, and what is sent."""


def index_shard(
    model: language_model.LanguageModel,
    places: Sequence[tuple[language_model.Capture, CudaEncoder]],
    corpus: corpora.Corpus,
    *,
    first_context: int,
    n_contexts: int,
    batch_contexts: int,
    max_firings: Callable[[], int] | None = None,
    on_batch: Callable[[int], None] = lambda n_tokens: None,
) -> Iterator[tuple[int, Postings]]:
    """As `activation_index.index_shard`; without `max_firings`, a part takes half of what is free on the device.

    `on_batch` is called from another thread.
    """
    captures = [capture for capture, _ in places]

    def residuals_of(start: int, stop: int) -> list[Tensor]:
        rows = torch.zeros(batch_contexts, corpus.rows.shape[1], dtype=torch.int64, pin_memory=_is_cuda(model.device))
        rows[: stop - start] = torch.from_numpy(np.ascontiguousarray(corpus.rows[start:stop], np.int64))
        return language_model.residuals_at(model, captures, rows.to(model.device, non_blocking=True))

    return index_residuals(
        residuals_of, [encoder for _, encoder in places], corpus, first_context=first_context, n_contexts=n_contexts,
        batch_contexts=batch_contexts, max_firings=max_firings, on_batch=on_batch,
    )  # fmt: skip


def index_residuals(
    residuals_of: Callable[[int, int], Sequence[Tensor]],
    encoders: Sequence[CudaEncoder],
    corpus: corpora.Corpus,
    *,
    first_context: int,
    n_contexts: int,
    batch_contexts: int,
    max_firings: Callable[[], int] | None = None,
    on_batch: Callable[[int], None] = lambda n_tokens: None,
) -> Iterator[tuple[int, Postings]]:
    """As `index_shard`, from residuals (batch_contexts, context_size, d_in) of contexts start:stop, one per encoder."""
    context_size = corpus.rows.shape[1]
    gathered = [_Gathered(encoder, first_context, n_contexts, context_size) for encoder in encoders]

    def parts() -> Iterator[tuple[int, _Copying]]:
        most = 0
        for start, stop in batches(first_context, n_contexts, batch_contexts):
            with torch.inference_mode():
                residuals = residuals_of(start, stop)
                counts = np.zeros((batch_contexts, context_size), np.bool_)
                counts[: stop - start] = corpus.mask(start, stop)
                for gather, encoder, x in zip(gathered, encoders, residuals, strict=True):
                    check_finite(x[: stop - start], start, stop)
                    gather.add(encoder.fire(x.flatten(0, 1), counts.reshape(-1)), start)
            on_batch((stop - start) * context_size)
            most = most or max(1, max_firings() if max_firings else _room(encoders[0].device))
            if stop < first_context + n_contexts and sum(gather.n for gather in gathered) >= most:
                yield from ((i, gather.transposed()) for i, gather in enumerate(gathered))
        yield from ((i, gather.transposed()) for i, gather in enumerate(gathered))

    for number, copying in _one_ahead(parts()):
        yield number, copying.postings()


def transpose(
    key: Int64[Tensor, " n"],
    value: Float32[Tensor, " n"],
    *,
    d_sae: int,
    n_tokens: int,
    context_size: int,
    first_context: int,
) -> "_Copying":
    """Postings, on their way to the host, of firings given as feature·n_tokens + token; no key comes twice."""
    key, order = torch.sort(key)
    value = value[order]
    offset = torch.searchsorted(key, torch.arange(d_sae + 1, device=key.device) * n_tokens)
    token = key % n_tokens
    context = (token // context_size + first_context).int()
    position = (token % context_size).to(torch.int16)  # two bytes, read as unsigned
    return _to_host(offset, context, position, value)


def _room(device: torch.device) -> int:
    return min(MAX_FIRINGS, encoder_cuda.free_bytes(device) // 2 // _FIRING_BYTES)


@dataclass(frozen=True, slots=True)
class _Copying:
    """Columns that are being copied to the host."""

    offset: Int64[Tensor, " n_offsets"]
    context: Int32[Tensor, " n"]
    position: Int16[Tensor, " n"]
    value: Float32[Tensor, " n"]
    event: torch.cuda.Event | None
    """None on a CPU."""

    def postings(self) -> Postings:
        """The postings, once they have arrived."""
        if self.event is not None:
            self.event.synchronize()
        return Postings(
            self.offset.numpy(), self.context.numpy().view(np.uint32), self.position.numpy().view(np.uint16),
            self.value.numpy(),
        )  # fmt: skip


def _to_host(offset: Tensor, context: Tensor, position: Tensor, value: Tensor) -> _Copying:
    device = value.device
    if not _is_cuda(device):
        return _Copying(offset, context, position, value, None)
    stream, event = torch.cuda.Stream(device), torch.cuda.Event()
    stream.wait_stream(torch.cuda.current_stream(device))

    def sent(column: Tensor) -> Tensor:
        there = torch.empty(column.shape, dtype=column.dtype, pin_memory=True)
        there.copy_(column, non_blocking=True)
        column.record_stream(stream)  # its memory is not used anew before it has been read
        return there

    with torch.cuda.stream(stream):
        copying = _Copying(sent(offset), sent(context), sent(position), sent(value), event)
        event.record(stream)
    return copying


class _Gathered:
    """Firings of one source on its device that wait to be transposed."""

    def __init__(self, encoder: CudaEncoder, first_context: int, n_contexts: int, context_size: int) -> None:
        self._encoder = encoder
        self._first_context, self._context_size = first_context, context_size
        self._n_tokens = n_contexts * context_size
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self.n = 0

    def add(self, firings: DeviceFirings, start: int) -> None:
        first_token = (start - self._first_context) * self._context_size
        self._keys.append(firings.feature.long() * self._n_tokens + (firings.row + first_token))
        self._values.append(firings.value)
        self.n += len(firings.row)

    def transposed(self) -> _Copying:
        key, value = torch.cat(self._keys), torch.cat(self._values)
        self._keys, self._values, self.n = [key[:0]], [value[:0]], 0
        with encoder_cuda.on_device(key.device):
            return transpose(
                key, value, d_sae=self._encoder.sae.d_sae, n_tokens=self._n_tokens, context_size=self._context_size,
                first_context=self._first_context,
            )  # fmt: skip


def _one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items; a thread makes the next while its predecessor is used. Its errors are raised here."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, items, None)
        while (item := waiting.result()) is not None:
            waiting = pool.submit(next, items, None)
            yield item


def _is_cuda(device: torch.device) -> bool:
    return device.type == "cuda"
