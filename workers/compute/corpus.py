"""Text to token rows: documents, tokens, contexts of fixed length, and which positions count.

1. Documents (`documents`) are tokenised without special tokens and packed as SAELens packs
   (sae_lens/tokenization_and_batching.py): every context opens with BOS where the SAE was trained so, documents inside
   one are joined by BOS, and a document runs on into the next context. Kept apart instead, each document is cut by
   itself and what fills no context at its end is left out: no context has two, and none is padded.
2. Exact duplicate contexts are dropped, the first kept, with its documents.
Rows given as an array are used as they are; where they are from is not known.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from backend import errors
from backend.formats import array_file
from workers.compute.documents import Document

_BATCH_DOCUMENTS = 64
_Tokens = NDArray[np.integer]
_Key = TypeVar("_Key")
_Cut = tuple[_Tokens, list[tuple[int, _Key]]]
"""A context, and (position, document) wherever one begins or goes on in it."""


@dataclass(frozen=True, slots=True)
class DocumentStarts:
    """Which documents the tokens of each context are from, as arrays: an array file beside the rows."""

    offset: NDArray[np.int64]
    """(n_contexts + 1,): context i's starts are offset[i]:offset[i + 1]."""
    position: NDArray[np.int32]
    """Where in its context a document begins or goes on; ascending in each."""
    document: NDArray[np.int32]
    """Which: index into the names."""
    name_offset: NDArray[np.int64]
    """(n_documents + 1,) into `names`."""
    names: NDArray[np.uint8]
    """UTF-8."""

    def of(self, context: int) -> list[tuple[int, str]]:
        """(position, name) of each document of a context."""
        starts = slice(int(self.offset[context]), int(self.offset[context + 1]))
        pairs = zip(self.position[starts].tolist(), self.document[starts].tolist(), strict=True)
        return [(position, self.name(document)) for position, document in pairs]

    def name(self, document: int) -> str:
        """A document's name."""
        return self.names[self.name_offset[document] : self.name_offset[document + 1]].tobytes().decode()

    def write(self, path: Path) -> None:
        """As an array file."""
        array_file.write(path, {name: getattr(self, name) for name in self.__slots__}, {})


def read_starts(path: Path) -> DocumentStarts:
    """Map what `DocumentStarts.write` wrote; raises `ValueError` if it is damaged."""
    return DocumentStarts(**array_file.read(path).arrays)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Contexts of a model's tokens."""

    rows: NDArray[np.integer]
    """(n_contexts, context_size), uint16 or uint32."""
    special_tokens: tuple[int, ...]
    """Masked wherever they stand."""
    is_first_masked: bool
    """Position 0 is masked too: an attention sink of huge norm."""
    starts: DocumentStarts | None = None
    """None where it is not known which documents the rows are from."""

    @property
    def n_contexts(self) -> int:
        """Number of rows."""
        return len(self.rows)

    @property
    def n_tokens(self) -> int:
        """Tokens that count."""
        return sum(int(self.mask(start, start + 4096).sum()) for start in range(0, self.n_contexts, 4096))

    def mask(self, start: int, stop: int) -> NDArray[np.bool_]:
        """True where a token counts, for rows start:stop."""
        rows = self.rows[start:stop]
        counts = ~np.isin(rows, self.special_tokens)
        if self.is_first_masked:
            counts[:, 0] = False
        return counts

    def fingerprint(self) -> str:
        """sha256 over the rows and the mask rule."""
        digest = hashlib.sha256(
            repr((self.rows.shape, self.rows.dtype.str, self.special_tokens, self.is_first_masked)).encode()
        )
        digest.update(np.ascontiguousarray(self.rows).data)
        return digest.hexdigest()


def from_documents(
    documents: Iterable[Document | str],
    tokenizer: Any,
    *,
    special_tokens: tuple[int, ...],
    n_vocabulary: int,
    context_size: int,
    prepend_bos: bool,
    is_apart: bool = False,
    max_tokens: int | None = None,
    on_progress: Callable[[int], None] = lambda n_tokens: None,
    on_document: Callable[[NDArray[np.integer]], None] = lambda tokens: None,
) -> Corpus:
    """Tokenise, pack and drop duplicates; at most `max_tokens` tokens (whole contexts) are kept.

    A plain text is a document without a name. `is_apart` keeps documents apart; `on_document` hears the tokens of each
    document used.

    Raises:
        InvalidInputError: The text fills no context, or `max_tokens` is less than one context.
    """
    n_rows = None if max_tokens is None else max_tokens // context_size
    if n_rows == 0:
        raise errors.InvalidInputError(f"a limit of {max_tokens} tokens is less than one context of {context_size}.")
    seen: set[bytes] = set()
    rows: list[NDArray[np.integer]] = []
    named = _Named()
    tokens = _heard(_tokenise(documents, tokenizer), on_document)
    bos = tokenizer.bos_token_id
    for row, starts in _cut(tokens, context_size, begin=bos if prepend_bos else None, separator=bos, is_apart=is_apart):
        row = row.astype(dtype_for(n_vocabulary))
        key = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
        if key not in seen:
            seen.add(key)
            rows.append(row)
            named.keep(starts)
            if len(rows) % 256 == 0:
                on_progress(len(rows) * context_size)
        if len(rows) == n_rows:
            break
    if not rows:
        raise errors.InvalidInputError(
            f"{'no document fills' if is_apart else 'the text is shorter than'} one context of {context_size} tokens.",
            hint="Give more text, or --context-size.",
        )
    on_progress(len(rows) * context_size)
    return Corpus(np.stack(rows), special_tokens, is_first_masked=True, starts=named.starts())


def from_rows(
    path: Path,
    *,
    special_tokens: tuple[int, ...],
    n_vocabulary: int,
    n_ids: int | None = None,
    max_tokens: int | None = None,
) -> Corpus:
    """Token rows from a .npy of shape (n_contexts, context_size), used verbatim; raises `InvalidInputError`.

    `n_ids` is how many ids the model reads, where that is not the vocabulary's size.
    """
    n_ids = n_ids or n_vocabulary
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise errors.InvalidInputError(f"'{path}' is not a .npy array: {error}.") from error
    if not isinstance(rows, np.ndarray):
        raise errors.InvalidInputError(f"'{path}' is an archive.", hint="Expected one array in a .npy.")
    if rows.ndim != 2 or rows.dtype.kind not in "iu" or rows.size == 0:
        raise errors.InvalidInputError(
            f"'{path}' holds {rows.dtype} of shape {rows.shape}.",
            hint="Expected whole numbers (n_contexts, context_size).",
        )
    if int(rows.min()) < 0 or int(rows.max()) >= n_ids:
        raise errors.InvalidInputError(
            f"'{path}' holds ids from {rows.min()} to {rows.max()}; the model has {n_ids} tokens.",
            hint="Tokenise with this model's tokenizer.",
        )
    if max_tokens is not None:
        rows = rows[: max(1, max_tokens // rows.shape[1])]
    return Corpus(rows.astype(dtype_for(n_vocabulary)), special_tokens, is_first_masked=True)


def dtype_for(n_vocabulary: int) -> type[np.uint16 | np.uint32]:
    """The width token ids are stored in: two bytes where the vocabulary has at most 65,536 texts, else four."""
    return np.uint16 if n_vocabulary <= 65_536 else np.uint32


def pack(
    documents: Iterable[NDArray[np.integer]], context_size: int, *, begin: int | None, separator: int | None
) -> Iterator[NDArray[np.integer]]:
    """Yield full contexts; a last partial one is dropped.

    A context opens with `begin`; a document that starts inside one is preceded by `separator`. Neither is doubled
    where the document brings it along.
    """
    numbered = enumerate(documents)
    return (row for row, _ in _cut(numbered, context_size, begin=begin, separator=separator, is_apart=False))


def _cut(
    documents: Iterable[tuple[_Key, _Tokens]],
    context_size: int,
    *,
    begin: int | None,
    separator: int | None,
    is_apart: bool,
) -> Iterator[_Cut[_Key]]:
    """`pack` over documents with keys. A token put before a piece of a document counts as the document's."""
    parts: list[_Tokens] = []
    starts: list[tuple[int, _Key]] = []
    n = 0
    for key, document in documents:
        if is_apart:
            parts, starts, n = [], [], 0
        offset = 0
        while offset < len(document):
            starts.append((n, key))
            lead = begin if n == 0 else separator if offset == 0 else None
            if lead is not None and document[offset] != lead:
                parts.append(np.array([lead], document.dtype))
                n += 1
            piece = document[offset : offset + context_size - n]
            parts.append(piece)
            offset += len(piece)
            n += len(piece)
            if n == context_size:
                yield np.concatenate(parts), starts
                parts, starts, n = [], [], 0


class _Named:
    """The documents that kept contexts are from, in order."""

    def __init__(self) -> None:
        self._index: dict[int, int] = {}
        self._names: list[bytes] = []
        self._offset: list[int] = [0]
        self._position: list[int] = []
        self._document: list[int] = []

    def keep(self, starts: list[tuple[int, tuple[int, str]]]) -> None:
        for position, (number, name) in starts:
            if number not in self._index:
                self._index[number] = len(self._names)
                self._names.append(name.encode())
            self._position.append(position)
            self._document.append(self._index[number])
        self._offset.append(len(self._position))

    def starts(self) -> DocumentStarts:
        lengths = [0, *map(len, self._names)]
        return DocumentStarts(
            np.array(self._offset, np.int64), np.array(self._position, np.int32), np.array(self._document, np.int32),
            np.cumsum(lengths, dtype=np.int64), np.frombuffer(b"".join(self._names), np.uint8),
        )  # fmt: skip


def _heard(
    documents: Iterator[tuple[str, _Tokens]], on_document: Callable[[_Tokens], None]
) -> Iterator[tuple[tuple[int, str], _Tokens]]:
    """Each document's number, name and tokens."""
    for number, (name, tokens) in enumerate(documents):
        on_document(tokens)
        yield (number, name), tokens


def _tokenise(documents: Iterable[Document | str], tokenizer: Any) -> Iterator[tuple[str, _Tokens]]:
    """(name, tokens) of each document that has any."""
    batch: list[Document] = []
    for document in documents:
        batch.append(Document(document, "") if isinstance(document, str) else document)
        if len(batch) == _BATCH_DOCUMENTS:
            yield from _token_ids(batch, tokenizer)
            batch = []
    yield from _token_ids(batch, tokenizer)


def _token_ids(batch: list[Document], tokenizer: Any) -> Iterator[tuple[str, _Tokens]]:
    if batch:
        texts = [document.text for document in batch]
        found = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        for document, ids in zip(batch, found, strict=True):
            if ids:
                yield document.name, np.asarray(ids, dtype=np.int64)
