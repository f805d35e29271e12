"""Files that are made piece by piece, and written as they are: into a folder, or as one zip that is sent as it grows.

A zip, not a tar: its members need not know their sizes before they are sent, so nothing is made twice or kept; and its
list stands at the end, so what broke off half-way opens nowhere and is never taken for the whole. Members are stored as
they come: they are compressed already.
"""

import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

File = tuple[str, Iterable[bytes]]
"""Name below the folder, with `/` between its parts, and what is in it. Read each before the next is asked for."""
MIN_PIECE_BYTES = 1 << 16
"""Smaller pieces of a zip are sent together."""


def write_folder(folder: Path, files: Iterable[File]) -> int:
    """Write the files and return their bytes. They lie beside until all are there, so `folder` is whole or as it was."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    n_bytes = 0
    try:
        for name, pieces in files:
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                n_bytes += sum(map(file.write, pieces))
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return n_bytes


def write_zip(path: Path, files: Iterable[File]) -> int:
    """Write the files as one zip and return its bytes; `path` is whole or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            n_bytes = sum(map(file.write, zipped(files)))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return n_bytes


def zipped(files: Iterable[File]) -> Iterator[bytes]:
    """The files as a zip, in pieces; the same bytes for the same files. No more is held than is sent at a time."""
    sink = Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, pieces in files:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o644 << 16
            with archive.open(entry, "w", force_zip64=True) as member:
                for piece in pieces:
                    member.write(piece)
                    if sink.n_bytes >= MIN_PIECE_BYTES:
                        yield sink.taken()
    yield sink.taken()


class Sink:
    """A file that can only be written on, and gives away what was written."""

    closed = False
    """Of what asks files that."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.n_bytes = 0
        """That wait to be taken."""

    def write(self, data: Any) -> int:
        """Keep a copy of the bytes until they are taken."""
        self._pieces.append(bytes(data))
        self.n_bytes += len(self._pieces[-1])
        return len(self._pieces[-1])

    def flush(self) -> None:
        """Nothing waits to be written."""

    def close(self) -> None:
        """What waits can still be taken."""

    def taken(self) -> bytes:
        """What was written since it was last asked for."""
        data = b"".join(self._pieces)
        self._pieces, self.n_bytes = [], 0
        return data
