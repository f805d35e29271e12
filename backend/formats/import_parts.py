"""What was read of one file of an import, sorted by feature: the step between strangers' files and rows.

A part has the token lists it met as the bytes they came as, each once; merging the parts of an import reads them, once for
the whole, and numbers texts and tokens. Its file is one of named arrays (`array_file.py`), checked by checksum.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from backend.formats import array_file, neuronpedia_rows
from backend.formats.neuronpedia_rows import Counts, Row, Text

DIGEST_BYTES = 16
_IDS_AT_ONCE = 1 << 22


def digest(tokens: Sequence[str]) -> bytes:
    """What names a text: equal for equal tokens, however they were written."""
    return _digest(orjson.dumps(tokens))


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=DIGEST_BYTES).digest()


class Builder:
    """Gathers what one file says, until it is written. Tokens are kept as they came: the same text is under many features."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.n_bytes = 0
        """Of what is gathered."""
        self._numbers: dict[bytes, int] = {}
        """Of each span, by its digest."""
        self._spans: list[bytes] = []
        self._n_values: list[int] = []
        self._n_uses: list[int] = []
        self._texts: dict[int, list[bytes]] = {}
        self._neurons: dict[int, bytes] = {}

    def add_text(self, text: Text) -> None:
        """One example; raises `ValueError` where another with the same tokens has more or fewer values."""
        key = _digest(text.span)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._spans)
            self._spans.append(text.span)
            self._n_values.append(text.n_values)
            self._n_uses.append(0)
            self.n_bytes += len(text.span)
        elif self._n_values[number] != text.n_values:
            raise ValueError(f"{text.n_values} values, where the same tokens have {self._n_values[number]}")
        self._n_uses[number] += 1
        packed = orjson.dumps((number, text.positions, text.values, text.row))
        self._texts.setdefault(text.feature, []).append(packed)
        self.n_bytes += len(packed)

    def add_neuron(self, index: int, row: Row) -> None:
        """What is said of a feature; what is said later wins."""
        self._neurons[index] = packed = orjson.dumps(row)
        self.n_bytes += len(packed)

    def write(self, path: Path) -> None:
        """Write what was gathered."""
        texts = {index: b"[" + b",".join(rows) + b"]" for index, rows in self._texts.items()}
        arrays: dict[str, NDArray[Any]] = {
            "digests": np.frombuffer(b"".join(self._numbers), np.uint8).reshape(-1, DIGEST_BYTES),
            "n_values": np.array(self._n_values, np.int64),
            "n_uses": np.array(self._n_uses, np.int64),
            "spans_offset": _offsets([len(span) for span in self._spans]),
            "spans_bytes": np.frombuffer(b"".join(self._spans), np.uint8),
            **table("texts", texts),
            **table("neurons", self._neurons),
        }
        array_file.write(path, arrays, {})


@dataclass(frozen=True, slots=True)
class Part:
    """A part's file, mapped."""

    _arrays: Mapping[str, NDArray[Any]]

    @property
    def digests(self) -> NDArray[np.uint8]:
        """[spans, 16]: what names each span of tokens."""
        return self._arrays["digests"]

    @property
    def n_uses(self) -> NDArray[np.int64]:
        """How many examples show each span."""
        return self._arrays["n_uses"]

    def tokens(self, number: int, counts: Counts) -> list[str]:
        """The texts of a span; raises `ValueError` where they are none, or not as many as their values."""
        first, stop = self._arrays["spans_offset"][number : number + 2].tolist()
        found = neuronpedia_rows.tokens(self._arrays["spans_bytes"][first:stop].tobytes(), counts)
        if len(found) != (n := int(self._arrays["n_values"][number])):
            raise ValueError(f"{n} values of {len(found)} tokens, which begin with {found[:5]}")
        return found

    @property
    def features(self) -> NDArray[np.int64]:
        """Indices of all features the part says something of, ascending."""
        return np.union1d(self._arrays["texts_index"], self._arrays["neurons_index"])

    @property
    def sizes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices of the features with texts, and the bytes of each one's."""
        return self._arrays["texts_index"], np.diff(self._arrays["texts_offset"])

    def texts(self, index: int) -> list[list[Any]]:
        """[context, positions, values, row] of each example of a feature, in order; contexts by the part's own number."""
        return list(self._entry("texts", index) or ())

    def neuron(self, index: int) -> Row | None:
        """What the part says of a feature; None: nothing."""
        found: Row | None = self._entry("neurons", index)
        return found

    def _entry(self, name: str, index: int) -> Any:
        found = entry(self._arrays, name, index)
        return None if found is None else orjson.loads(found)


def read(path: Path, *, is_checked: bool = True) -> Part:
    """Map a part; raises `ValueError` for a file that is none or, where that is checked, is damaged."""
    return Part(array_file.read(path, is_checked=is_checked).arrays)


@dataclass(frozen=True, slots=True)
class Merged:
    """The texts of an import, each once."""

    of_parts: list[NDArray[np.int64]]
    """By part and span: the text's number in the corpus; or -1 - its row below, for one that a single example shows."""
    vocabulary: list[str]
    """Token texts: those there were keep their ids; what is new follows, the commonest first, ties by text."""
    first_new: int
    """Number in the corpus of the first text that was not there and that several examples show."""
    _shared: NDArray[np.int64]
    """Rows of those, by number."""
    _ids: NDArray[np.uint32]
    """Token ids of all texts that were not there, row after row."""
    _offset: NDArray[np.int64]

    def write(self, path: Path) -> None:
        """Write what `read_merged` gives to those who store features."""
        arrays: dict[str, NDArray[Any]] = {f"part-{i}": each for i, each in enumerate(self.of_parts)}
        texts = np.frombuffer(orjson.dumps(self.vocabulary), np.uint8)
        arrays |= {"ids": self._ids, "offset": self._offset, "shared": self._shared, "vocabulary": texts}
        array_file.write(path, arrays, {"first_new": self.first_new})

    def new(self) -> Iterator[tuple[int, list[int]]]:
        """(number, token ids) of each text that is to be stored, ascending."""
        for at, row in enumerate(self._shared.tolist()):
            yield self.first_new + at, self._ids[self._offset[row] : self._offset[row + 1]].tolist()


@dataclass(frozen=True, slots=True)
class Numbering:
    """What was merged, as its file has it."""

    _file: array_file.ArrayFile
    vocabulary: list[str]

    def of_part(self, i: int) -> NDArray[np.int64]:
        """As `Merged.of_parts`."""
        return self._file.arrays[f"part-{i}"]

    def ids(self, number: int) -> NDArray[np.uint32] | None:
        """Token ids of a text, by its number in `of_part`; None for one that was there before the import."""
        arrays, row = self._file.arrays, -1 - number
        if number >= 0:
            at = number - int(self._file.meta["first_new"])
            if at < 0:
                return None
            row = int(arrays["shared"][at])
        first, stop = arrays["offset"][row : row + 2].tolist()
        return arrays["ids"][first:stop]

    def token(self, number: int, at: int) -> str | None:
        """The `at`-th token of a text; None as of `ids`."""
        ids = self.ids(number)
        return None if ids is None else self.vocabulary[int(ids[at])]


def read_merged(path: Path) -> Numbering:
    """Map the file that `Merged.write` wrote; raises `ValueError` for one that is none."""
    found = array_file.read(path, is_checked=False)
    return Numbering(found, list(orjson.loads(found.arrays["vocabulary"].tobytes())))


def merge(
    parts: Sequence[Part], known: Mapping[bytes, int], vocabulary: Sequence[str], scratch: Path, counts: Counts
) -> Merged:
    """One numbering of texts and tokens for all parts.

    Args:
        parts: In the order of their files.
        known: Numbers of the texts there are, 0 to their count, by `digest`.
        vocabulary: Their tokens.
        scratch: A file for token ids, which may be more than memory holds.
        counts: Told of what is put right.

    Raises:
        ValueError: Some span is no list of texts, or has not as many tokens as values.
    """
    spans = np.concatenate([part.digests for part in parts]).reshape(-1, DIGEST_BYTES)
    keys = np.ascontiguousarray(spans).view(f"V{DIGEST_BYTES}").reshape(-1)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    ends = np.cumsum([0, *(len(part.digests) for part in parts)])
    n_uses = np.zeros(len(first), np.int64)
    np.add.at(n_uses, inverse.reshape(-1), np.concatenate([part.n_uses for part in parts]))
    rows: dict[bytes, int] = {}
    ids = {text: number for number, text in enumerate(vocabulary)}
    number_of = np.empty(len(first), np.int64)
    lengths: list[int] = []
    uses: list[int] = []
    with scratch.open("wb") as file:
        for unique in np.argsort(first, kind="stable").tolist():  # in order of first appearance
            at = int(first[unique])
            part = int(np.searchsorted(ends, at, side="right")) - 1
            tokens = parts[part].tokens(at - int(ends[part]), counts)
            key = digest(tokens)
            if key in known:
                number_of[unique] = known[key]
                continue
            row = rows.setdefault(key, len(lengths))
            number_of[unique] = -1 - row
            if row < len(lengths):  # the same tokens, written in another way
                uses[row] += int(n_uses[unique])
                continue
            numbers: list[int | None] = list(map(ids.get, tokens))
            if None in numbers:
                numbers = [ids.setdefault(token, len(ids)) for token in tokens]
            file.write(np.fromiter(numbers, np.uint32, len(numbers)).tobytes())
            lengths.append(len(numbers))
            uses.append(int(n_uses[unique]))
    shared = np.flatnonzero(np.array(uses, np.int64) > 1)
    number_of_row = -1 - np.arange(len(lengths))
    number_of_row[shared] = len(known) + np.arange(len(shared))
    is_new = number_of < 0
    number_of[is_new] = number_of_row[-1 - number_of[is_new]]
    of_all = number_of[inverse.reshape(-1)]
    of_parts = [of_all[start:stop] for start, stop in itertools.pairwise(ends)]
    stored = np.memmap(scratch, np.uint32, "r+") if scratch.stat().st_size else np.zeros(0, np.uint32)
    texts = _commonest_first(list(ids), len(vocabulary), stored)
    return Merged(of_parts, texts, len(known), shared, stored, _offsets(lengths))


def _commonest_first(texts: list[str], n_known: int, ids: NDArray[np.uint32]) -> list[str]:
    """Number the tokens after the first `n_known` anew, in `ids` too."""
    counts = np.zeros(len(texts), np.int64)
    for start in range(0, len(ids), _IDS_AT_ONCE):
        counts += np.bincount(ids[start : start + _IDS_AT_ONCE], minlength=len(texts))
    order = sorted(range(n_known, len(texts)), key=lambda token: (-int(counts[token]), texts[token]))
    anew = np.arange(len(texts), dtype=np.uint32)
    anew[order] = np.arange(n_known, len(texts), dtype=np.uint32)
    for start in range(0, len(ids), _IDS_AT_ONCE):
        ids[start : start + _IDS_AT_ONCE] = anew[ids[start : start + _IDS_AT_ONCE]]
    return [*texts[:n_known], *(texts[token] for token in order)]


def features_of(parts: Sequence[Part], max_features: int, max_bytes: int) -> Iterator[NDArray[np.int64]]:
    """Indices of all features, ascending, in runs of so many features and bytes of texts at most."""
    indices = np.unique(np.concatenate([part.features for part in parts])) if parts else np.zeros(0, np.int64)
    sizes = np.zeros(len(indices), np.int64)
    for part in parts:
        of, n_bytes = part.sizes
        sizes[np.searchsorted(indices, of)] += n_bytes
    ends = np.cumsum(sizes)
    start = 0
    while start < len(indices):
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + max_bytes, side="right"))
        stop = min(max(stop, start + 1), start + max_features)
        yield indices[start:stop]
        start = stop


def entry(arrays: Mapping[str, NDArray[Any]], name: str, number: int) -> bytes | None:
    """What a `table` has of a number; None: nothing."""
    numbers = arrays[f"{name}_index"]
    at = int(np.searchsorted(numbers, number))
    if at == len(numbers) or numbers[at] != number:
        return None
    first, stop = arrays[f"{name}_offset"][at : at + 2].tolist()
    return arrays[f"{name}_bytes"][first:stop].tobytes()


def _offsets(sizes: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)


def table(name: str, entries: Mapping[int, bytes]) -> dict[str, NDArray[Any]]:
    """Bytes by number as arrays, which `entry` looks up."""
    indices = sorted(entries)
    return {
        f"{name}_index": np.array(indices, np.int64),
        f"{name}_offset": _offsets([len(entries[index]) for index in indices]),
        f"{name}_bytes": np.frombuffer(b"".join(entries[index] for index in indices), np.uint8),
    }
