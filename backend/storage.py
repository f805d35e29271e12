"""Blobs by key: weights, corpora, postings. A local folder by default, anything fsspec knows in production.

A key is a relative path such as `corpora/ab12.npy`. Putting is atomic on a local folder (written beside, then renamed)
and on object stores (an object appears when its upload completes). `local` gives a path to map into memory.
"""

import contextlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator
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

    def delete_folder(self, key: str) -> None:
        """Delete every blob below a key; nothing there is no error."""
        if self.files.exists(self._full(key)):
            self.files.rm(self._full(key), recursive=True)

    def _full(self, key: str) -> str:
        return f"{self.root}/{key}"


def store(settings: Settings) -> Store:
    """The store the settings name."""
    url = settings.blob_url or str(settings.data.resolve() / "blobs")
    files, root = fsspec.core.url_to_fs(url)
    return Store(files, root.rstrip("/"))
