"""Blobs by key: weights, corpora, postings. A local folder by default, anything fsspec knows in production.

A key is a relative path such as `corpora/ab12.npy`. Putting is atomic on a local folder (written beside, then renamed)
and on object stores (an object appears when its upload completes). `local` gives a path to map into memory; a `Mirror`
keeps such paths from one request to the next.
"""

import contextlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from backend.settings import Settings


@dataclass(frozen=True, slots=True)
class Store:
    """One place of blobs."""

    files: Any
    """fsspec's file system."""
    root: str

    @property
    def is_local(self) -> bool:
        """Blobs are files of this machine."""
        return "file" in self.files.protocol

    def put(self, key: str, path: Path) -> None:
        """Store a finished file; the local file is moved where it can be, and gone afterwards either way."""
        if self.is_local:
            target = Path(self._full(key))
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
            shutil.move(path, partial)
            partial.replace(target)
        else:
            self.files.put_file(str(path), self._full(key))
            path.unlink()

    @contextlib.contextmanager
    def local(self, key: str) -> Iterator[Path]:
        """A local path with the blob's bytes for the time of the `with`; raises `FileNotFoundError`."""
        if self.is_local:
            yield Path(self._full(key))
            return
        with tempfile.TemporaryDirectory(prefix="eyepiece-") as folder:
            path = Path(folder) / Path(key).name
            self.files.get_file(self._full(key), str(path))
            yield path

    def exists(self, key: str) -> bool:
        """Whether there is such a blob."""
        return bool(self.files.exists(self._full(key)))

    def size(self, key: str) -> int:
        """Bytes of a blob; raises `FileNotFoundError`."""
        return int(self.files.size(self._full(key)))

    def keys(self, folder: str) -> list[str]:
        """Keys of every blob below a key, sorted."""
        root = self.root.lstrip("/") + "/"
        return sorted(path.lstrip("/").removeprefix(root) for path in self.files.find(self._full(folder)))

    def delete(self, key: str) -> None:
        """Delete a blob; none there is no error."""
        if self.files.exists(self._full(key)):
            self.files.rm_file(self._full(key))

    def delete_folder(self, key: str) -> None:
        """Delete every blob below a key; nothing there is no error."""
        if self.files.exists(self._full(key)):
            self.files.rm(self._full(key), recursive=True)

    def _full(self, key: str) -> str:
        return f"{self.root}/{key}"


@dataclass(frozen=True, slots=True)
class Mirror:
    """Blobs that never change, as files of this machine: the store's own, or copies of those used last."""

    store: Store
    folder: Path
    """Where copies lie."""
    max_bytes: int
    """Of all copies; the one asked for is kept whatever its size."""

    def path(self, key: str) -> Path:
        """A file with the blob's bytes, to be opened at once; raises `FileNotFoundError`."""
        if self.store.is_local:
            path = Path(self.store.root) / key
            if not path.is_file():
                raise FileNotFoundError(key)
            return path
        self._copy([key])
        return self.folder / key

    def folder_of(self, key: str) -> Path:
        """A folder with every blob below `key`, to be read at once; raises `FileNotFoundError` where there is none."""
        if self.store.is_local:
            folder = Path(self.store.root) / key
            if not folder.is_dir():
                raise FileNotFoundError(key)
            return folder
        keys = self.store.keys(key)
        if not keys:
            raise FileNotFoundError(key)
        self._copy(keys)
        return self.folder / key

    def _copy(self, keys: Sequence[str]) -> None:
        """See that there are copies. The time a copy was written stays, and tells who has loaded it that it is the same."""
        paths = {key: self.folder / key for key in keys}
        missing = [key for key, path in paths.items() if not path.is_file()]
        for path in set(paths.values()) - {paths[key] for key in missing}:
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        for key in missing:
            self._fetch(key, paths[key])
        if missing:
            self._make_room(list(paths.values()))

    def _fetch(self, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
        try:
            with self.store.local(key) as fetched:
                shutil.move(fetched, partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _make_room(self, kept: Sequence[Path]) -> None:
        """Delete the copies used longest ago; who has one mapped goes on reading it."""
        copies = [(file.stat(), file) for file in self.folder.rglob("*") if file.is_file() and file not in kept]
        left = sum(file.stat().st_size for file in kept) + sum(found.st_size for found, _ in copies)
        for found, file in sorted(copies, key=lambda each: each[0].st_atime_ns):
            if left <= self.max_bytes:
                break
            file.unlink(missing_ok=True)
            left -= found.st_size


def mirror(settings: Settings) -> Mirror:
    """The mirror of the store the settings name."""
    return Mirror(store(settings), settings.data / "cache", round(settings.cache_gb * 1e9))


def store(settings: Settings) -> Store:
    """The store the settings name."""
    url = settings.blob_url or str(settings.data.resolve() / "blobs")
    files, root = fsspec.core.url_to_fs(url)
    return Store(files, root.rstrip("/"))
