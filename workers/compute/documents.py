"""Documents of a corpus: read one at a time from text, JSON lines and Parquet, each with the name it is shown under.

A file's kind is told by its suffix. Text (`.txt`, `.md`, anything not known): a literal `<|endoftext|>` separates
documents. JSON lines (`.jsonl`, `.ndjson`, `.json`) and Parquet: one document a line or row, its text in one field.
Text and JSON lines may be compressed (`.gz`, `.zst`). A document is named by its `id`, `url`, `title` or `name`, by the
same of its `meta` or `metadata`, else by its file and number.

Files may be anybody's: a line, a row group and what a compressed file unpacks to are bounded, and what is wrong is said
with file and line.
"""

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from backend import errors

SEPARATOR = "<|endoftext|>"
SUFFIXES = (".txt", ".jsonl", ".ndjson", ".json", ".parquet")
"""Of the files that are taken from a folder, those of `COMPRESSED` after them too (Parquet brings its own)."""
COMPRESSED = (".gz", ".zst")
MAX_LINE_BYTES = 1 << 26
MAX_ROW_GROUP_BYTES = 1 << 31
MAX_TIMES_UNPACKED = 100
"""A compressed file may unpack to so many times its size: far more than text does, far less than a bomb."""
UNPACKED_FREE_BYTES = 1 << 26
"""Whatever its size, a file may unpack to these."""
MAX_NAME = 200
"""Characters of a document's name that are kept."""
_PIECE_CHARACTERS = 1 << 20
_BATCH_ROWS = 64
_NAMED_BY = ("id", "url", "title", "name")
_META = ("meta", "metadata")


@dataclass(frozen=True, slots=True)
class File:
    """One file of a corpus."""

    name: str
    """As users know it: below the corpus's folder or repository."""
    path: Path


@dataclass(frozen=True, slots=True)
class Document:
    """A text and where it is from."""

    text: str
    name: str


def files_of(path: Path) -> tuple[File, ...]:
    """A file, or the corpus files of a folder and its folders in order of name; raises `InvalidInputError`."""
    if path.is_file():
        return (File(path.name, path),)
    found = sorted(each for each in path.rglob("*") if each.is_file() and is_corpus_file(each.name))
    if not found:
        raise errors.InvalidInputError(
            f"'{path}' is not a corpus.",
            hint=f"Give a file, or a folder with files that end in {', '.join(SUFFIXES)}.",
        )
    return tuple(File(each.relative_to(path).as_posix(), each) for each in found)


def is_corpus_file(name: str) -> bool:
    """Whether a file of a folder is part of its corpus; hidden ones are not."""
    stem = _unpacked_name(name)
    return not name.rpartition("/")[2].startswith(".") and stem.endswith(SUFFIXES)


def fingerprint(files: Sequence[File]) -> str:
    """sha256 over names and bytes of the files, in order: the same documents, named the same."""
    digest = hashlib.sha256()
    for file in files:
        with file.path.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
        digest.update(json.dumps([file.name, content]).encode())
    return digest.hexdigest()


def read(files: Iterable[File], field: str = "") -> Iterator[Document]:
    """Non-empty documents in order; `field` holds the text of a line or row, `text` if it is not said.

    Raises:
        InvalidInputError: A file is not what its suffix says, or is bounded; names the file, and the line or row.
    """
    for file in files:
        stem = _unpacked_name(file.name)
        if stem.endswith(".parquet"):
            found = _rows(file, field or "text")
        elif stem.endswith((".jsonl", ".ndjson", ".json")):
            found = _lines(file, field or "text")
        else:
            found = _split(file)
        yield from (document for document in found if document.text.strip())


def _unpacked_name(name: str) -> str:
    name = name.lower()
    return next((name.removesuffix(suffix) for suffix in COMPRESSED if name.endswith(suffix)), name)


def _split(file: File) -> Iterator[Document]:
    """Documents of one text, read piece by piece: a limit on tokens is also one on what is read."""
    rest, n = "", 0

    def document(text: str) -> Document:
        return Document(text, file.name if n == 1 else f"{file.name} #{n}")

    with _opened(file) as stream, io.TextIOWrapper(stream, encoding="utf-8", newline="") as text:
        try:
            while piece := text.read(_PIECE_CHARACTERS):
                *whole, rest = (rest + piece).split(SEPARATOR)
                for each in whole:
                    n += 1
                    yield document(each)
        except UnicodeDecodeError as error:
            raise errors.InvalidInputError(f"{file.name} is not UTF-8 text: {error.reason}.") from error
    n += 1
    yield document(rest)


def _lines(file: File, field: str) -> Iterator[Document]:
    with _opened(file) as stream:
        number = 0
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            where = f"{file.name}, line {number}"
            if len(line) > MAX_LINE_BYTES:
                raise errors.InvalidInputError(f"{where}, is longer than {MAX_LINE_BYTES:,} bytes.")
            if line.strip():
                yield _document(_object(line, where), field, where, f"{file.name} #{number}")


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise errors.InvalidInputError(f"{where}, is not UTF-8 text: {error.reason}.") from error
    except (ValueError, RecursionError) as error:
        raise errors.InvalidInputError(f"{where}, is not JSON: {error}.", hint="Expected one object a line.") from error
    if not isinstance(found, dict):
        raise errors.InvalidInputError(f"{where}, is JSON but no object.", hint="Expected one object a line.")
    return found


def _rows(file: File, field: str) -> Iterator[Document]:
    try:
        with pq.ParquetFile(file.path) as parquet:
            columns = parquet.schema_arrow.names
            if field not in columns:
                raise _no_field(file.name, field, columns)
            sizes = (parquet.metadata.row_group(i).total_byte_size for i in range(parquet.num_row_groups))
            if max(sizes, default=0) > MAX_ROW_GROUP_BYTES:
                raise errors.InvalidInputError(
                    f"{file.name} has a row group of more than {MAX_ROW_GROUP_BYTES:,} bytes.",
                    hint="Write it in smaller row groups.",
                )
            wanted = [name for name in columns if name in (field, *_NAMED_BY, *_META)]
            number = 0
            for batch in parquet.iter_batches(_BATCH_ROWS, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield _document(row, field, f"{file.name}, row {number}", f"{file.name} #{number}")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise errors.InvalidInputError(f"{file.name} is not Parquet that can be read: {error}.") from error


def _document(row: dict[str, Any], field: str, where: str, otherwise: str) -> Document:
    text = row.get(field)
    if field not in row:
        raise _no_field(where, field, list(row))
    if text is not None and not isinstance(text, str):
        raise errors.InvalidInputError(f"{where}: '{field}' is {type(text).__name__}, not text.")
    return Document(text or "", _name(row) or otherwise)


def _no_field(where: str, field: str, known: list[str]) -> errors.InvalidInputError:
    has = ", ".join(repr(name[:40]) for name in known[:20]) or "none"
    return errors.InvalidInputError(
        f"{where}: there is no '{field}'; its fields are {has}.", hint="Name the one with the text (--corpus-field)."
    )


def _name(row: dict[str, Any]) -> str:
    inner: dict[str, Any] = next((row[key] for key in _META if isinstance(row.get(key), dict)), {})
    for owner in (row, inner):
        for key in _NAMED_BY:
            value = owner.get(key)
            if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
                printable = "".join(c for c in str(value) if c.isprintable() and not "\ud800" <= c <= "\udfff")
                return printable.strip()[:MAX_NAME]
    return ""


def _opened(file: File) -> io.BufferedReader:
    """The bytes of a file as they were before it was compressed; raises `InvalidInputError` where they cannot be had."""
    lower = file.name.lower()
    try:
        if lower.endswith(".gz"):
            packed: Any = gzip.GzipFile(file.path, "rb")
        elif lower.endswith(".zst"):
            packed = pa.input_stream(str(file.path), compression="zstd")
        else:
            return file.path.open("rb")
        return io.BufferedReader(_Unpacked(file, packed), 1 << 20)
    except OSError as error:
        raise errors.InvalidInputError(f"{file.name} cannot be read: {error}.") from error


class _Unpacked(io.RawIOBase):
    """What a compressed file unpacks to, until it is too much."""

    def __init__(self, file: File, packed: Any) -> None:
        self._file = file
        self._packed = packed  # gzip's or Arrow's, which share no type
        self._left = file.path.stat().st_size * MAX_TIMES_UNPACKED + UNPACKED_FREE_BYTES

    def readable(self) -> bool:
        """True."""
        return True

    def close(self) -> None:
        """Close the file below too."""
        if not self.closed:
            self._packed.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        """The next bytes."""
        try:
            piece = self._packed.read(len(buffer))
        except (OSError, EOFError, zlib.error) as error:
            raise errors.InvalidInputError(f"{self._file.name} cannot be unpacked: {error}.") from error
        self._left -= len(piece)
        if self._left < 0:
            raise errors.InvalidInputError(
                f"{self._file.name} unpacks to more than {MAX_TIMES_UNPACKED} times its size.", hint="Unpack it first."
            )
        buffer[: len(piece)] = piece
        return len(piece)
