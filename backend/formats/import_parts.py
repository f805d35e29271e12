"""What was read of one file of an import, sorted by feature: the step between strangers' files and rows.

A part knows its own vocabulary and contexts; merging the parts of an import gives them numbers of the whole. Its file is
one of named arrays (`array_file.py`), checked by checksum.
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


def digest(tokens: Sequence[str]) -> bytes:
    """What names a text: equal for equal tokens, however they were written."""
    return blake2b(orjson.dumps(tokens), digest_size=DIGEST_BYTES).digest()


class Builder:
    """Gathers what one file says, until it is written."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.n_bytes = 0
        """Of what is gathered."""
        self._vocabulary: dict[str, int] = {}
        self._by_span: dict[bytes, tuple[int, int]] = {}
        """Number and length of the context, by digest of its JSON as it came."""
        self._by_digest: dict[bytes, int] = {}
        self._contexts: list[NDArray[np.uint32]] = []
        self._texts: dict[int, list[bytes]] = {}
        self._neurons: dict[int, bytes] = {}

    def add_text(self, text: Text) -> None:
        """One example; raises `ValueError` where tokens and values do not fit together."""
        key = blake2b(text.span, digest_size=DIGEST_BYTES).digest()
        found = self._by_span.get(key)
        if found is None:
            found = self._by_span[key] = self._add_context(neuronpedia_rows.tokens(text.span, self.counts))
        number, n_tokens = found
        if text.n_values != n_tokens:
            raise ValueError(f"{text.n_values} values of {n_tokens} tokens")
        packed = orjson.dumps([number, text.positions, text.values, text.row])
        self._texts.setdefault(text.index, []).append(packed)
        self.n_bytes += len(packed)

    def add_neuron(self, index: int, row: Row) -> None:
        """What is said of a feature; what is said later wins."""
        self._neurons[index] = packed = orjson.dumps(row)
        self.n_bytes += len(packed)

    def write(self, path: Path, meta: dict[str, Any]) -> None:
        """Write what was gathered."""
        contexts = self._contexts
        texts = {index: b"[" + b",".join(rows) + b"]" for index, rows in self._texts.items()}
        ids = np.concatenate(contexts) if contexts else np.zeros(0, np.uint32)
        vocabulary = orjson.dumps(list(self._vocabulary))
        arrays: dict[str, NDArray[Any]] = {
            "vocabulary": np.frombuffer(vocabulary, np.uint8),
            "token_counts": np.bincount(ids, minlength=len(self._vocabulary)).astype(np.int64),
            "digests": np.frombuffer(b"".join(self._by_digest), np.uint8).reshape(-1, DIGEST_BYTES),
            "context_offset": _offsets([len(row) for row in contexts]),
            "context_ids": ids,
            **table("texts", texts),
            **table("neurons", self._neurons),
        }
        array_file.write(path, arrays, meta)

    def _add_context(self, tokens: list[str]) -> tuple[int, int]:
        known = digest(tokens)
        number = self._by_digest.get(known)
        if number is None:
            number = self._by_digest[known] = len(self._contexts)
            ids: list[int | None] = list(map(self._vocabulary.get, tokens))
            if None in ids:
                ids = [self._vocabulary.setdefault(token, len(self._vocabulary)) for token in tokens]
            self._contexts.append(np.fromiter(ids, np.uint32, len(ids)))
            self.n_bytes += 4 * len(ids)
        return number, len(tokens)


@dataclass(frozen=True, slots=True)
class Part:
    """A part's file, mapped."""

    _arrays: Mapping[str, NDArray[Any]]

    @property
    def vocabulary(self) -> list[str]:
        """Token texts by the part's own ids."""
        return list(orjson.loads(self._arrays["vocabulary"].tobytes()))

    @property
    def token_counts(self) -> NDArray[np.int64]:
        """How often each token stands in the part's contexts."""
        return self._arrays["token_counts"]

    @property
    def digests(self) -> NDArray[np.uint8]:
        """[contexts, 16]: what names each context."""
        return self._arrays["digests"]

    def context(self, number: int) -> NDArray[np.uint32]:
        """Token ids of a context, the part's own."""
        first, stop = self._arrays["context_offset"][number : number + 2].tolist()
        return self._arrays["context_ids"][first:stop]

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
class Vocabulary:
    """The token texts of an import, and where each part's own ids lie in it."""

    texts: list[str]
    of_parts: list[NDArray[np.uint32]]


def merge_vocabularies(parts: Sequence[Part], known: Sequence[str]) -> Vocabulary:
    """One vocabulary of all parts: `known` keeps its ids; what is new follows, the commonest first, ties by text."""
    ids = {text: number for number, text in enumerate(known)}
    counts: dict[str, int] = {}
    for part in parts:
        for text, n in zip(part.vocabulary, part.token_counts.tolist(), strict=True):
            if text not in ids:
                counts[text] = counts.get(text, 0) + n
    for text in sorted(counts, key=lambda text: (-counts[text], text)):
        ids[text] = len(ids)
    of_parts = [np.array([ids[text] for text in part.vocabulary], np.uint32) for part in parts]
    return Vocabulary(list(ids), of_parts)


@dataclass(frozen=True, slots=True)
class Contexts:
    """The contexts of an import, each once."""

    of_parts: list[NDArray[np.int64]]
    """By part: the number in the corpus of each of its contexts."""
    new: list[tuple[int, int, int]]
    """(number in the corpus, part, number in the part) of each that was not there, ascending."""


def merge_contexts(parts: Sequence[Part], known: NDArray[np.uint8]) -> Contexts:
    """Number the contexts of all parts; `known`, [contexts, 16], are the digests of those there are, by their number."""
    n_known = len(known)
    all_digests = np.concatenate([known, *(part.digests for part in parts)]).reshape(-1, DIGEST_BYTES)
    keys = np.ascontiguousarray(all_digests).view(f"V{DIGEST_BYTES}").reshape(-1)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int64)
    number[np.argsort(first, kind="stable")] = np.arange(len(first))  # in order of first appearance
    of_all = number[inverse.reshape(-1)]
    ends = np.cumsum([n_known, *(len(part.digests) for part in parts)])
    of_parts = [of_all[start:stop] for start, stop in itertools.pairwise(ends)]
    new = []
    for at in np.sort(first[first >= n_known]).tolist():
        part = int(np.searchsorted(ends, at, side="right")) - 1
        new.append((int(of_all[at]), part, at - int(ends[part])))
    return Contexts(of_parts, new)


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
