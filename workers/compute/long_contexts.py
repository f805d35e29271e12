"""Stretches of single documents that are longer than a corpus's contexts: a fair, seeded sample in one pass.

Contexts are packed from many documents, so a position far into a longer context would mostly be the start of another
document. These stretches are each from one document, and say what distance alone does.
Every document is cut into stretches of the size asked for, the rest left out; those with the smallest hash of (seed,
tokens) are kept, which is a uniform sample without repeats, whatever the order and however many there are.
"""

import hashlib
import heapq

import numpy as np
from numpy.typing import NDArray


class LongContexts:
    """Hears documents one by one and keeps a sample of their stretches."""

    def __init__(self, size: int, *, n_kept: int, begin: int | None, seed: int) -> None:
        """Keep at most `n_kept` rows of `size` tokens, opened by `begin` where that is a token."""
        self.size = size
        self._n_kept, self._begin, self._seed = n_kept, begin, (seed & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little")
        self._kept: dict[int, NDArray[np.integer]] = {}
        self._worst: list[int] = []
        """The keys of `_kept`, negated: a heap with the largest on top."""

    def add(self, document: NDArray[np.integer]) -> None:
        """Take a document's tokens, without special tokens around them."""
        lead = [] if self._begin is None else [self._begin]
        step = self.size - len(lead)
        for start in range(0, len(document) - step + 1, step):
            row = np.concatenate([np.array(lead, document.dtype), document[start : start + step]])
            self._offer(row)

    def rows(self) -> NDArray[np.int64]:
        """(n, size), in order of hash."""
        ordered = [self._kept[key] for key in sorted(self._kept)]
        return np.stack(ordered).astype(np.int64) if ordered else np.zeros((0, self.size), np.int64)

    def _offer(self, row: NDArray[np.integer]) -> None:
        digest = hashlib.blake2b(row.astype(np.int64).tobytes(), digest_size=8, key=self._seed).digest()
        key = int.from_bytes(digest, "little")
        if key in self._kept:
            return
        if len(self._kept) < self._n_kept:
            heapq.heappush(self._worst, -key)
        elif self._worst and key < -self._worst[0]:
            del self._kept[-heapq.heapreplace(self._worst, -key)]
        else:
            return
        self._kept[key] = row
