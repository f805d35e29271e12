"""What lies in a folder that somebody brings: Neuronpedia's exports and SAEDashboard's output, found and named.

Layouts: `features/ activations/ explanations/` of `*.jsonl[.gz]` beside `release|model|sourceset|source.jsonl`
(hijohnnylin/neuronpedia at ebb8426f, `export-data.py`), and `batch-N.json` (SAEDashboard's runner). Either may lie some
folders deep, several beside each other. Owns finding and opening; rows are `neuronpedia_rows`' business.
"""

import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO, Any, Literal, Protocol

import orjson

from backend import errors

What = Literal["features", "activations", "explanations", "batch"]
Row = dict[str, Any]
HEADS = ("release", "model", "sourceset", "source")
_DATA = re.compile(r"(features|activations|explanations)(?:-[\w.-]+)?")
_LINES = (".jsonl", ".jsonl.gz")
_BATCH = re.compile(r"batch-(\d+)\.json(\.gz)?")
_NUMBER = re.compile(r"(\d+)")
PIECE_BYTES = 1 << 20
_MAX_HEAD_BYTES = 1 << 22
_BEFORE_FEATURES = re.compile(rb'"features"\s*:\s*\[')


class Place(Protocol):
    """Where files lie."""

    def sizes(self) -> dict[str, int]:
        """Bytes of every file, by its name below the place."""
        ...

    def open(self, name: str) -> IO[bytes]:
        """A file's bytes, as they lie there."""
        ...


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file with rows."""

    name: str
    size: int
    what: What


@dataclass(frozen=True, slots=True)
class Layout:
    """What one source's files are, and what they say of it."""

    base: str
    """Folder they lie in, below the place; empty: itself."""
    files: tuple[DataFile, ...]
    """In the order they are read."""
    heads: dict[str, Row]
    """By name of `HEADS`, those there are."""
    model: str
    source: str
    skipped: tuple[int, ...] = ()
    """Features that were left out when it was computed: dead ones."""
    ignored: tuple[str, ...] = ()
    """Files that nothing is read from."""

    @property
    def has_features(self) -> bool:
        """There is something besides explanations."""
        return any(file.what != "explanations" for file in self.files)


def layouts(place: Place) -> list[Layout]:
    """Every source there is, by folder.

    Raises:
        InvalidInputError: There is none, or what names one cannot be read.
    """
    sizes = place.sizes()
    by_base: dict[str, list[DataFile]] = {}
    ignored: list[str] = []
    for name, size in sizes.items():
        found = _data_file(name, size)
        if found is None:
            ignored.append(name)
        else:
            by_base.setdefault(found[0], []).append(found[1])
    if not by_base:
        raise errors.InvalidInputError(
            f"none of the {len(sizes)} files there is of an export.",
            hint="Give a folder with features/, activations/ or explanations/ of .jsonl or .jsonl.gz, or SAEDashboard's "
            "batch-N.json.",
        )
    return [_layout(place, base, by_base[base], ignored) for base in sorted(by_base, key=_natural)]


def _data_file(name: str, size: int) -> tuple[str, DataFile] | None:
    path = PurePosixPath(name)
    folder = path.parent.name
    if _BATCH.fullmatch(path.name):
        return _folder(path.parent), DataFile(name, size, "batch")
    kind = _DATA.fullmatch(folder)
    if kind is None or not name.endswith(_LINES):
        return None
    what: Any = kind[1]
    return _folder(path.parent.parent), DataFile(name, size, what)


def _folder(path: PurePosixPath) -> str:
    return "" if str(path) == "." else str(path)


def _layout(place: Place, base: str, files: list[DataFile], ignored: list[str]) -> Layout:
    order = ("features", "batch", "activations", "explanations")
    files.sort(key=lambda file: (order.index(file.what), _natural(file.name)))
    below = f"{base}/" if base else ""
    heads = {}
    used = set()
    for name in HEADS:
        for suffix in (".jsonl", ".json"):
            at = f"{below}{name}{suffix}"
            if at in ignored and name not in heads:
                heads[name] = _head(place, at)
                used.add(at)
    skipped: tuple[int, ...] = ()
    at = f"{below}skipped_indexes.json"
    if at in ignored:
        used.add(at)
        skipped = _skipped(place, at)
    left = tuple(name for name in ignored if name.startswith(below) and name not in used)
    model, source = _named(place, files, heads)
    return Layout(base, tuple(files), heads, model, source, skipped, left)


def _named(place: Place, files: Sequence[DataFile], heads: dict[str, Row]) -> tuple[str, str]:
    """Ids of model and source, from the heads or the first row; empty where nothing tells them."""
    of = heads.get("source", {})
    model, source = str(of.get("modelId") or ""), str(of.get("id") or "")
    if model and source:
        return model, source
    first = files[0]
    if first.what == "batch":
        with opened(place, first.name) as file:
            head = batch_head(file.read(_MAX_HEAD_BYTES), first.name)
        return str(head.get("model_id") or ""), source_of(head)
    try:
        with opened(place, first.name) as file:
            row = json.loads(file.readline(_MAX_HEAD_BYTES))
    except ValueError as error:
        raise errors.InvalidInputError(f"{first.name}: {error}.", hint="Export or download the file again.") from error
    if not isinstance(row, dict):
        raise errors.InvalidInputError(f"{first.name} does not hold an object a line.", hint="Export it again.")
    return str(row.get("modelId") or ""), str(row.get("layer") or row.get("source") or "")


def source_of(head: Row) -> str:
    """`{layer}-{set}[__{suffix}]`, as the converter names it."""
    if head.get("layer") is None or not head.get("sae_set"):
        return ""
    suffix = head.get("sae_id_suffix")
    return f"{head['layer']}-{head['sae_set']}" + (f"__{suffix}" if suffix else "")


def batch_head(data: bytes, name: str) -> Row:
    """What a batch of SAEDashboard's says before its features; empty where they come first. Raises `InvalidInputError`."""
    found = _BEFORE_FEATURES.search(data)
    if found is None:
        raise errors.InvalidInputError(
            f"{name} has no list of 'features'.", hint="Give the batch-N.json that SAEDashboard's runner writes."
        )
    try:
        head = json.loads(data[: found.start()] + b'"features":0}')
    except ValueError as error:
        raise errors.InvalidInputError(f"{name} is no JSON: {error}.", hint="Write or download it again.") from error
    head.pop("features", None)
    return dict(head)


def batch_features(text: str, name: str) -> Iterator[Row]:
    """The features of a batch, one after the other: only one is held as objects. Raises `ValueError`."""
    found = re.search(r'"features"\s*:\s*\[', text)
    if found is None:
        raise ValueError("there is no list of 'features'")
    decoder, at, space = json.JSONDecoder(), found.end(), re.compile(r"[\s,]*")
    while True:
        match = space.match(text, at)
        at = match.end() if match else at
        if at >= len(text):
            raise ValueError("it ends within its features")
        if text[at] == "]":
            return
        row, at = decoder.raw_decode(text, at)
        if not isinstance(row, dict):
            raise ValueError("a feature is an object")
        yield row


def _head(place: Place, name: str) -> Row:
    with place.open(name) as file:
        data = file.read(_MAX_HEAD_BYTES)
    try:
        lines = data.splitlines() if name.endswith(".jsonl") else [data]
        row = orjson.loads(next(line for line in lines if line.strip()))
    except (StopIteration, orjson.JSONDecodeError) as error:
        raise errors.InvalidInputError(
            f"{name} holds no JSON object.", hint="Export it again, or remove it."
        ) from error
    if not isinstance(row, dict):
        raise errors.InvalidInputError(f"{name} holds no JSON object.", hint="Export it again, or remove it.")
    return row


def _skipped(place: Place, name: str) -> tuple[int, ...]:
    row = _head(place, name)
    given = row.get("skipped_indexes") or []
    if not isinstance(given, list):
        raise errors.InvalidInputError(f"{name}: 'skipped_indexes' is a list of numbers.")
    return tuple(int(index) for index in given if isinstance(index, int | str) and str(index).isdigit())


def _natural(name: str) -> list[Any]:
    """Sorts batch-10 after batch-9."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in _NUMBER.split(name) if part]


@dataclass(slots=True)
class Opened:
    """A data file as it is read: unpacked, and summed up as it lies."""

    _raw: IO[bytes]
    _is_packed: bool
    on_bytes: Callable[[int], None]
    """Told of bytes as they lie, as they are read."""
    hasher: Any = None
    n_bytes: int = 0
    _rest: Any = field(default=None)

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def read(self, n: int) -> bytes:
        """Up to `n` unpacked bytes; empty at the end."""
        if self._rest is None:
            tee: Any = _Tee(self)
            self._rest = gzip.GzipFile(fileobj=tee) if self._is_packed else tee
        try:
            data: bytes = self._rest.read(n)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"it cannot be unpacked ({error})") from error
        return data

    def readline(self, n: int) -> bytes:
        """The first line, of at most `n` bytes."""
        data = b""
        while len(data) < n and b"\n" not in data:
            piece = self.read(1 << 16)
            if not piece:
                break
            data += piece
        return data.split(b"\n", 1)[0]

    def pieces(self) -> Iterator[bytes]:
        """All of it, unpacked."""
        while data := self.read(PIECE_BYTES):
            yield data

    def take(self, data: bytes) -> bytes:
        """Count and sum up bytes as they lie."""
        self.n_bytes += len(data)
        if self.hasher is not None:
            self.hasher.update(data)
        self.on_bytes(len(data))
        return data


class _Tee(io.RawIOBase):
    """The file as it lies, each piece counted."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened

    def readable(self) -> bool:
        return True

    def read(self, n: int = -1) -> bytes:
        return self._opened.take(self._opened._raw.read(n))


def opened(place: Place, name: str, *, on_bytes: Callable[[int], None] = lambda n: None, hasher: Any = None) -> Opened:
    """Open a data file, packed by gzip or not."""
    return Opened(place.open(name), name.endswith(".gz"), on_bytes, hasher)
