"""Text to token rows: documents, tokens, contexts of fixed length, and which positions count.

1. A text file's literal `<|endoftext|>` separates documents.
2. Documents are tokenised without special tokens and packed as SAELens packs (sae_lens/tokenization_and_batching.py):
   every context opens with BOS where the SAE was trained so, documents inside one are joined by BOS, and a document
   runs on into the next context.
3. Exact duplicate contexts are dropped, the first kept.
Rows given as an array are used as they are.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend import errors

SEPARATOR = "<|endoftext|>"
_BATCH_DOCUMENTS = 64
_PIECE_CHARACTERS = 1 << 20


@dataclass(frozen=True, slots=True)
class Corpus:
    """Contexts of a model's tokens."""

    rows: NDArray[np.integer]
    """(n_contexts, context_size), uint16 or uint32."""
    special_tokens: tuple[int, ...]
    """Masked wherever they stand."""
    is_first_masked: bool
    """Position 0 is masked too: an attention sink of huge norm."""

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


def read_documents(path: Path) -> Iterator[str]:
    """Non-empty documents of a text file, or of the .txt files of a folder in order of name."""
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise errors.InvalidInputError(
            f"'{path}' is not a corpus.", hint="Give a text file, or a folder with .txt files."
        )
    for file in files:
        yield from _split(file)


def _split(file: Path) -> Iterator[str]:
    """Documents of one file, read piece by piece: a limit on tokens is also one on what is read."""
    rest = ""
    try:
        with file.open(encoding="utf-8", newline="") as text:
            while piece := text.read(_PIECE_CHARACTERS):
                *whole, rest = (rest + piece).split(SEPARATOR)
                yield from (document for document in whole if document.strip())
    except UnicodeDecodeError as error:
        raise errors.InvalidInputError(f"{file.name} is not UTF-8 text: {error.reason}.") from error
    if rest.strip():
        yield rest


def from_documents(
    documents: Iterable[str],
    tokenizer: Any,
    *,
    special_tokens: tuple[int, ...],
    n_vocabulary: int,
    context_size: int,
    prepend_bos: bool,
    max_tokens: int | None = None,
    on_progress: Callable[[int], None] = lambda n_tokens: None,
    on_document: Callable[[NDArray[np.integer]], None] = lambda tokens: None,
) -> Corpus:
    """Tokenise, pack and drop duplicates; at most `max_tokens` tokens (whole contexts) are kept.

    `on_document` hears the tokens of each document used.

    Raises:
        InvalidInputError: The text fills no context, or `max_tokens` is less than one context.
    """
    n_rows = None if max_tokens is None else max_tokens // context_size
    if n_rows == 0:
        raise errors.InvalidInputError(f"a limit of {max_tokens} tokens is less than one context of {context_size}.")
    seen: set[bytes] = set()
    rows: list[NDArray[np.integer]] = []
    tokens = _heard(_tokenise(documents, tokenizer), on_document)
    bos = tokenizer.bos_token_id
    for row in pack(tokens, context_size, begin=bos if prepend_bos else None, separator=bos):
        row = row.astype(dtype_for(n_vocabulary))
        key = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
        if key not in seen:
            seen.add(key)
            rows.append(row)
            if len(rows) % 256 == 0:
                on_progress(len(rows) * context_size)
        if len(rows) == n_rows:
            break
    if not rows:
        raise errors.InvalidInputError(
            f"the text is shorter than one context of {context_size} tokens.", hint="Give more text, or --context-size."
        )
    on_progress(len(rows) * context_size)
    return Corpus(np.stack(rows), special_tokens, is_first_masked=True)


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
        rows = np.load(path, allow_pickle=False)
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
    parts: list[NDArray[np.integer]] = []
    n = 0
    for document in documents:
        offset = 0
        while offset < len(document):
            lead = begin if n == 0 else separator if offset == 0 else None
            if lead is not None and document[offset] != lead:
                parts.append(np.array([lead], document.dtype))
                n += 1
            piece = document[offset : offset + context_size - n]
            parts.append(piece)
            offset += len(piece)
            n += len(piece)
            if n == context_size:
                yield np.concatenate(parts)
                parts, n = [], 0


def _heard(
    documents: Iterator[NDArray[np.integer]], on_document: Callable[[NDArray[np.integer]], None]
) -> Iterator[NDArray[np.integer]]:
    for document in documents:
        on_document(document)
        yield document


def _tokenise(documents: Iterable[str], tokenizer: Any) -> Iterator[NDArray[np.integer]]:
    batch: list[str] = []
    for document in documents:
        batch.append(document)
        if len(batch) == _BATCH_DOCUMENTS:
            yield from _token_ids(batch, tokenizer)
            batch = []
    yield from _token_ids(batch, tokenizer)


def _token_ids(batch: list[str], tokenizer: Any) -> Iterator[NDArray[np.integer]]:
    if batch:
        for ids in tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]:
            if ids:
                yield np.asarray(ids, dtype=np.int64)
