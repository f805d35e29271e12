"""Bytes of uploads while they arrive: a folder for each below `data`/uploads, a file in it for each file.

How much of a file is there is the size of that file, so whoever lost a connection goes on where it ends, at this web
process or another one that has the same folder. A lock on the file (`flock`) lets one request write it at a time, and
is gone with a process that dies. Does not own rows, nor what the files mean.
"""

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from backend import errors
from backend.settings import Settings

READ_BYTES = 1 << 20
_KEPT_FREE_BYTES = 1_000_000_000
"""Of the disk: the database lives on it too."""


@dataclass(frozen=True, slots=True)
class Staging:
    """The folder of all uploads."""

    folder: Path
    max_bytes: int
    """Of one upload."""

    def path(self, upload_id: str, name: str = "") -> Path:
        """Where a file of an upload lies, or all of them; `name` has been checked."""
        return self.folder / upload_id / name

    def check_room(self, n_bytes: int) -> None:
        """Return if so many bytes may come; raises `InvalidInputError` or `UnavailableError`."""
        if n_bytes > self.max_bytes:
            raise errors.InvalidInputError(
                f"{n_bytes:,} bytes are more than the {self.max_bytes:,} this host takes at once.",
                hint="Upload fewer SAEs, or ask its operator to raise EYEPIECE_UPLOAD_GB.",
            )
        if n_bytes > (room := self.room()):
            raise errors.UnavailableError(
                f"{n_bytes:,} bytes do not fit: the host's disk has room for {room:,}.",
                hint="Ask its operator for room.",
            )

    def room(self) -> int:
        """Bytes that may come: no more than the host takes at once, nor than its disk has room for."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return max(0, min(self.max_bytes, shutil.disk_usage(self.folder).free - _KEPT_FREE_BYTES))

    @contextmanager
    def alone(self, upload_id: str) -> Iterator[None]:
        """Nobody else completes or deletes the upload meanwhile; raises `ConflictError` if somebody does."""
        try:
            folder = os.open(self.folder / upload_id, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # nothing has arrived, or all of it is stored
            yield
            return
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise errors.ConflictError(
                "another request completes or deletes this upload.", hint="Wait for it."
            ) from error
        finally:
            os.close(folder)

    def remove(self, upload_id: str) -> None:
        """Delete what has arrived; nothing there is no error."""
        shutil.rmtree(self.folder / upload_id, ignore_errors=True)

    def left_alone(self, *, for_s: float) -> list[str]:
        """Ids whose folder nobody has written into for so long."""
        if not self.folder.is_dir():
            return []
        before = time.time() - for_s
        found = []
        for folder in self.folder.iterdir():
            with suppress(FileNotFoundError):
                newest = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
                if newest < before:
                    found.append(folder.name)
        return found


def of(settings: Settings) -> Staging:
    """The staging folder the settings name."""
    return Staging(settings.data / "uploads", round(settings.upload_gb * 1e9))


def offset(path: Path) -> int:
    """Bytes of a file that are there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


class Chunk:
    """A run of bytes being written at the end of a file, whose lock it holds."""

    def __init__(self, file: int, start: int, end: int) -> None:
        self._file, self._end = file, end
        self.offset = start
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Add bytes; raises `InvalidInputError` past the file's end."""
        if self.offset + len(data) > self._end:
            raise errors.InvalidInputError(
                f"more bytes came than the {self._end:,} the file was said to have.", hint="Send what is missing only."
            )
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        self.sha256.update(data)
        self.offset += len(data)


@contextmanager
def receiving(path: Path, *, start: int, size: int, sha256: str = "") -> Iterator[Chunk]:
    """Write a chunk at `start`, which must be where the file ends; what fails its checksum is taken away again.

    Args:
        path: The file.
        start: Bytes the sender thinks are there.
        size: Bytes the whole file will have.
        sha256: Of the chunk, in hexadecimal; empty: not given. With one, a chunk counts wholly or not at all.

    Raises:
        MisplacedError: The file ends elsewhere, or another request is writing it.
        InvalidInputError: Too many bytes, or not those of the checksum.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        _lock(file, path)
        if (there := os.fstat(file).st_size) != start:
            raise errors.MisplacedError(f"'{path.name}' has {there:,} bytes here, not {start:,}.", offset=there)
        chunk = Chunk(file, start, size)
        try:
            yield chunk
            if sha256 and chunk.sha256.hexdigest() != sha256:
                raise errors.InvalidInputError("the chunk's bytes do not have its checksum.", hint="Send it again.")
        except BaseException:
            if sha256:
                os.ftruncate(file, start)
            raise
    finally:
        os.close(file)


@contextmanager
def quiet(paths: Sequence[Path]) -> Iterator[None]:
    """Nobody writes these files meanwhile; raises `MisplacedError` if somebody does. Missing files are let be."""
    with ExitStack() as stack:
        for path in paths:
            with suppress(FileNotFoundError):
                file = os.open(path, os.O_RDONLY)
                stack.callback(os.close, file)
                _lock(file, path)
        yield


def digest(path: Path) -> str:
    """The file's sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _lock(file: int, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise errors.MisplacedError(
            f"another request is sending '{path.name}'.",
            offset=os.fstat(file).st_size,
            hint="Wait, and ask how far it is.",
        ) from error
