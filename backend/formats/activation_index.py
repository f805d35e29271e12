"""Files of a kept activation index: every firing of every feature, compressed, and read a feature or a token at a time.

An index is two kinds of file, each written once and never changed:
- features file: for a run of features, where each fires and how strongly. Per feature, byte-aligned: its tokens
  (context x context size + position) as ascending numbers, then its values; a directory at the end.
- tokens file: for a run of contexts, which features fire on each token, as ascending numbers.
Values are bfloat16: fp32 rounded to the nearest with 8 significant bits, so off by at most 1/256 of themselves (below
1.2e-38, by at most 4.6e-41). A feature's values are stored as steps above its smallest one, in as few bits as its
largest needs. Packing is in `workers/compute/index_packing.py`; bits are in `bit_packing`.
"""

import itertools
import json
import os
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.formats import array_file, bit_packing
from backend.formats.bit_packing import Bytes

MAGIC = b"EYEFEA01"
MAX_VALUE_ERROR = 2.0**-8
"""Largest relative error of a stored value."""
OFFSETS_EVERY = 64
"""Tokens that share one absolute offset in a tokens file."""
_FOOTER = struct.Struct("<IQI8s")
"""Bytes of the header, bytes of directory and header, their CRC-32, magic."""
_DIRECTORY: dict[str, np.dtype[Any]] = {
    "size": np.dtype("<u8"),
    "n": np.dtype("<u8"),
    "crc32": np.dtype("<u4"),
    "lowest": np.dtype("<u2"),
    "low_width": np.dtype("u1"),
    "value_width": np.dtype("u1"),
}


@dataclass(frozen=True, slots=True)
class PackedFeatures:
    """A run of features as a features file holds them."""

    payload: Bytes
    size: NDArray[np.uint64]
    """Bytes of each feature; they lie one after the other."""
    n: NDArray[np.uint64]
    """Firings of each."""
    lowest: NDArray[np.uint16]
    """Smallest value of each as the upper half of its fp32; 0 for a dead feature."""
    low_width: NDArray[np.uint8]
    value_width: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Firings:
    """All firings of a feature, in order of token."""

    token: NDArray[np.int64]
    """context x context size + position."""
    step: NDArray[np.uint32]
    """Values as steps above the smallest, in the same order as the values."""
    lowest: int

    @property
    def value(self) -> NDArray[np.float32]:
        """Activations, fp32 that are exactly bfloat16."""
        return value_of(self.step + np.uint32(self.lowest))


def value_of(upper_half: NDArray[np.uint32]) -> NDArray[np.float32]:
    """fp32 of which only the upper half is given."""
    return (upper_half << np.uint32(16)).view(np.float32)


def nearest(value: float) -> int:
    """Upper half of the bfloat16 nearest to a finite value of at least 0; ties to even, never infinity."""
    bits = int(np.float32(value).view(np.uint32))
    return min((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, 0x7F7F)


class FeaturesWriter:
    """Writes a features file block by block: beside, then fsync and rename at the end of the `with`, or not at all.

    Only the block that is added is in memory, and the directory.
    """

    def __init__(self, path: Path, *, first: int, n_tokens: int) -> None:
        """For features from `first` on, of a corpus of so many tokens, masked ones included."""
        self.path, self.first, self.n_tokens = path, first, n_tokens
        self.n_features = self.n_bytes = 0
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._blocks: list[PackedFeatures] = []
        self._crc32: list[int] = []

    def __enter__(self) -> "FeaturesWriter":
        self._file = self._partial.open("wb")
        self._file.write(MAGIC)
        return self

    def add(self, block: PackedFeatures) -> None:
        """The features that follow those added before."""
        self._file.write(block.payload.data)
        ends = itertools.pairwise([0, *np.cumsum(block.size).tolist()])
        self._crc32 += [zlib.crc32(block.payload[a:b].data) for a, b in ends]
        self._blocks.append(replace(block, payload=np.zeros(0, np.uint8)))
        self.n_features += block.n.size

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            with self._file as file:
                if kind is None:
                    self._write_tail()
                    self.n_bytes = file.tell()
                    file.flush()
                    os.fsync(file.fileno())
            if kind is None:
                self._partial.replace(self.path)
        finally:
            self._partial.unlink(missing_ok=True)

    def _write_tail(self) -> None:
        columns = {name: self._column(name) for name in _DIRECTORY if name != "crc32"}
        columns["crc32"] = np.array(self._crc32, np.uint32)
        directory = b"".join(columns[name].astype(dtype).tobytes() for name, dtype in _DIRECTORY.items())
        facts = {"first": self.first, "n_features": self.n_features, "n_tokens": self.n_tokens}
        header = json.dumps(facts).encode()
        tail = directory + header
        self._file.write(tail + _FOOTER.pack(len(header), len(tail), zlib.crc32(tail), MAGIC))

    def _column(self, name: str) -> NDArray[Any]:
        return np.concatenate([np.zeros(0, _DIRECTORY[name]), *(getattr(block, name) for block in self._blocks)])


@dataclass(frozen=True, slots=True)
class FeaturesFile:
    """A features file, mapped into memory."""

    first: int
    n_tokens: int
    n: NDArray[np.uint64]
    """Firings of each feature."""
    _data: Bytes
    _stop: NDArray[np.uint64]
    _crc32: NDArray[np.uint32]
    _lowest: NDArray[np.uint16]
    _low_width: NDArray[np.uint8]
    _value_width: NDArray[np.uint8]

    def firings(self, feature: int) -> Firings:
        """All firings of a feature in the run; raises `ValueError` where its bytes are damaged."""
        at = feature - self.first
        n, width, value_width = int(self.n[at]), int(self._low_width[at]), int(self._value_width[at])
        start = len(MAGIC) + (int(self._stop[at - 1]) if at else 0)
        packed = self._data[start : len(MAGIC) + int(self._stop[at])]
        if zlib.crc32(packed.data) != int(self._crc32[at]):
            raise ValueError(f"the firings of feature {feature} fail their checksum")
        if n == 0:
            return Firings(np.zeros(0, np.int64), np.zeros(0, np.uint32), 0)
        low = bit_packing.n_bytes(bit_packing.upper_bits(n, self.n_tokens, width))
        values = low + bit_packing.n_bytes(n * width)
        token = bit_packing.ascending(packed[:low], packed[low:values], n, width)
        step = bit_packing.fields(packed[values:], n, value_width).astype(np.uint32, copy=False)
        return Firings(token, step, int(self._lowest[at]))


def read_features(path: Path) -> FeaturesFile:
    """Map a features file; raises `ValueError` if it is not one or its directory is damaged."""
    data: Bytes = np.memmap(path, np.uint8, "r").view(np.ndarray) if path.stat().st_size else np.zeros(0, np.uint8)
    end = data.size - _FOOTER.size
    if end < len(MAGIC) or data[: len(MAGIC)].tobytes() != MAGIC:
        raise ValueError(f"{path.name} is not a features file")
    n_header, n_tail, crc32, magic = _FOOTER.unpack(data[end:].tobytes())
    if magic != MAGIC or n_tail > end:
        raise ValueError(f"{path.name} is cut short")
    start = end - n_tail
    if zlib.crc32(data[start:end].data) != crc32:
        raise ValueError(f"the directory of {path.name} fails its checksum")
    header = json.loads(data[end - n_header : end].tobytes())
    n = header["n_features"]
    columns: dict[str, NDArray[Any]] = {}
    for name, dtype in _DIRECTORY.items():
        columns[name] = data[start : start + n * dtype.itemsize].view(dtype)
        start += n * dtype.itemsize
    return FeaturesFile(
        header["first"], header["n_tokens"], columns["n"], data, np.cumsum(columns["size"]), columns["crc32"],
        columns["lowest"], columns["low_width"], columns["value_width"],
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class PackedTokens:
    """Which features fire on each token of a run of contexts, as a tokens file holds it.

    The features of all tokens are one ascending sequence: token x 2^low_width x `steps(n_features, low_width)` + feature.
    """

    upper: Bytes
    lower: Bytes
    """Ends with `bit_packing.PADDING` zero bytes."""
    offset: NDArray[np.int64]
    """Firings before each token, and in all."""
    low_width: int


def steps(n_features: int, low_width: int) -> int:
    """Values the high part of a feature's index can have."""
    return ((n_features - 1) >> low_width) + 1


def write_tokens(path: Path, packed: PackedTokens, *, first_token: int, n_features: int) -> int:
    """Write a run of tokens from `first_token` on, atomically. Bytes written."""
    base = packed.offset[::OFFSETS_EVERY]
    within = packed.offset - np.repeat(base, OFFSETS_EVERY)[: packed.offset.size]
    arrays: dict[str, NDArray[Any]] = {
        "base": base,
        "within": within.astype(np.uint16 if within.max(initial=0) < 2**16 else np.uint32),
        "upper": packed.upper,
        "lower": packed.lower,
    }
    meta = {"first_token": first_token, "n_features": n_features, "low_width": packed.low_width}
    array_file.write(path, arrays, meta)
    return path.stat().st_size


@dataclass(frozen=True, slots=True)
class TokensFile:
    """A tokens file, mapped into memory."""

    first_token: int
    n_features: int
    _low_width: int
    _base: NDArray[np.int64]
    _within: NDArray[np.unsignedinteger]
    _upper: Bytes
    _lower: Bytes

    @property
    def n_tokens(self) -> int:
        """Tokens of the run; tokens of the corpus on which no feature fires may be in no file."""
        return self._within.size - 1

    def features(self, token: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The features that fire on each of these tokens of the run, ascending for each, and how many of each token.

        Raises `ValueError` where the bytes are damaged in a way that shows.
        """
        t = token - self.first_token
        start, stop = self._offset(t), self._offset(t + 1)
        n = stop - start
        first = np.cumsum(n) - n  # of each token in the answer
        high_steps = steps(self.n_features, self._low_width)
        # the bits of `upper` that are each token's, gathered by whole bytes, and its neighbours' bits cleared
        begin = t * high_steps + start
        end = begin + high_steps + n
        first_byte, n_bytes = begin >> 3, ((end + 7) >> 3) - (begin >> 3)
        at = np.cumsum(n_bytes) - n_bytes
        gathered = self._upper[np.repeat(first_byte - at, n_bytes) + np.arange(int(n_bytes.sum()))]
        gathered[at] &= (0xFF << (begin & 7)).astype(np.uint8)
        gathered[at + n_bytes - 1] &= (0xFF >> (-end & 7)).astype(np.uint8)
        bit = bit_packing.set_bits(gathered)
        if bit.size != int(n.sum()):
            raise ValueError("a tokens file is damaged: bits and counts differ")
        rank = np.arange(bit.size)
        high = bit - rank - np.repeat(8 * at + (begin & 7) - first, n)
        low = bit_packing.fields_at(self._lower, np.repeat(start - first, n) + rank, self._low_width)
        feature = (high << self._low_width) | low.astype(np.int64)
        if feature.size and not 0 <= int(feature.min()) <= int(feature.max()) < self.n_features:
            raise ValueError("a tokens file is damaged: it names features there are not")
        return feature, n

    def _offset(self, t: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._base[t // OFFSETS_EVERY] + self._within[t]


def read_tokens(path: Path, *, is_checked: bool = False) -> TokensFile:
    """Map a tokens file; raises `ValueError` if it is not one, is cut short, or (when checked) fails its checksums."""
    file = array_file.read(path, is_checked=is_checked)
    a, meta = file.arrays, file.meta
    return TokensFile(
        meta["first_token"], meta["n_features"], meta["low_width"], a["base"], a["within"], a["upper"], a["lower"]
    )
