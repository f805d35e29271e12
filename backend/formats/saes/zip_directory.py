"""Zip files of strangers: their directory, checked before any member is read.

Refused are names that lead elsewhere or occur twice, encrypted members, and what unpacks to far more than it takes.
"""

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from backend import errors

MAX_MEMBERS = 4096
MAX_RATIO = 50
"""Unpacked to packed bytes of a compressed member; weights do not compress well."""
MAX_DIRECTORY_BYTES = 1 << 21
"""Read as a whole, and ten times as large in memory."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    EOFError,
    OverflowError,
    ValueError,
    RuntimeError,
    OSError,
)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]]:
    """The archive and its members; every way a zip can be broken is an `InvalidInputError`."""
    try:
        with archive_of(path) as archive:
            members = archive.infolist()
            _check(path, members)
            yield archive, members
    except _BROKEN as error:
        raise errors.InvalidInputError(f"{path.name} is a broken zip file.", hint="Save or copy it again.") from error


@contextlib.contextmanager
def archive_of(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive, its directory read but not checked; raises as `zipfile`, and `ValueError` where that is too large."""
    with path.open("rb") as file:
        bounded: Any = _Bounded(file)
        with zipfile.ZipFile(bounded) as archive:
            bounded.most = None
            yield archive


class _Bounded:
    """A file that gives little at a time while a directory is read, whose size the file itself says."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.most: int | None = MAX_DIRECTORY_BYTES
        """None: no bound."""
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, n: int = -1) -> bytes:
        if self.most is None:
            return self._file.read(n)
        if n > self.most:
            raise ValueError("its directory is too large")
        data = self._file.read(n if n >= 0 else self.most + 1)
        if len(data) > self.most:
            raise ValueError("its directory is too large")
        return data


def _check(path: Path, members: list[zipfile.ZipInfo]) -> None:
    names = [member.filename for member in members]
    if len(names) > MAX_MEMBERS or len(set(names)) < len(names):
        raise errors.InvalidInputError(f"{path.name} holds a name twice, or more than {MAX_MEMBERS} members.")
    for member in members:
        parts = PurePosixPath(member.filename.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in member.filename:
            raise errors.InvalidInputError(f"{path.name} holds '{member.filename[:80]}', which leads out of it.")
        if member.flag_bits & 1 or member.compress_type not in _METHODS:
            raise errors.InvalidInputError(f"{path.name} has members that are encrypted or packed in an unknown way.")
        if member.file_size > max(member.compress_size, 1024) * MAX_RATIO:
            raise errors.InvalidInputError(f"{path.name}: '{member.filename[:80]}' unpacks to far more than it takes.")
    if sum(member.compress_size for member in members) > path.stat().st_size:
        raise errors.InvalidInputError(f"{path.name} has members that overlap.", hint="Save it again.")
