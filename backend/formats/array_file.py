"""A file of named arrays: written once and atomically, checked by CRC-32, read by memory map.

Layout: 8 bytes magic, 8 bytes header length, a JSON header (names, dtypes, shapes, offsets, checksums and a free
`meta` object), then each array's bytes at a multiple of 64. Used for shards' postings and for finished blocks, which
are read in slices: .npz cannot be mapped, and a pickle has no place here.
"""

import json
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC = b"EYEARR01"
_ALIGN = 64


@dataclass(frozen=True, slots=True)
class ArrayFile:
    """An opened file; arrays are read-only views of the map."""

    arrays: dict[str, NDArray[Any]]
    meta: dict[str, Any]


def write(path: Path, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> None:
    """Write beside, fsync, then rename over: readers see the whole file or none."""
    entries: dict[str, dict[str, Any]] = {}
    at = 0
    for name, array in arrays.items():
        at = -(-at // _ALIGN) * _ALIGN
        data = np.ascontiguousarray(array)
        entries[name] = {
            "dtype": data.dtype.str,
            "shape": data.shape,
            "at": at,
            "crc32": zlib.crc32(_bytes(data)),
        }
        at += data.nbytes
    header = json.dumps({"arrays": entries, "meta": meta}).encode()
    start = -(-(16 + len(header)) // _ALIGN) * _ALIGN
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(MAGIC + struct.pack("<Q", len(header)) + header)
            for name, array in arrays.items():
                file.seek(start + entries[name]["at"])
                file.write(_bytes(array))
            file.truncate(start + at)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read(path: Path, *, is_checked: bool = True) -> ArrayFile:
    """Map a file; raises `ValueError` if it is not one, is cut short, or (when checked) fails its checksums."""
    with path.open("rb") as file:
        head = file.read(16)
        if len(head) < 16 or head[:8] != MAGIC:
            raise ValueError(f"{path.name} is not an array file")
        n = struct.unpack("<Q", head[8:])[0]
        header = json.loads(file.read(n))
    start = -(-(16 + n) // _ALIGN) * _ALIGN
    size = path.stat().st_size
    arrays = {}
    for name, entry in header["arrays"].items():
        dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
        if start + entry["at"] + dtype.itemsize * int(np.prod(shape)) > size:
            raise ValueError(f"{path.name} is cut short")
        is_empty = int(np.prod(shape)) == 0
        # plain arrays: indexing a memmap costs several times as much
        array = (
            np.empty(shape, dtype)
            if is_empty
            else np.memmap(path, dtype, "r", start + entry["at"], shape).view(np.ndarray)
        )
        if is_checked and zlib.crc32(_bytes(array)) != entry["crc32"]:
            raise ValueError(f"{path.name} fails its checksum at '{name}'")
        arrays[name] = array
    return ArrayFile(arrays, header["meta"])


def _bytes(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
