"""The data folder: one place for everything an Eyepiece keeps, used by one Eyepiece at a time.

`opened` creates it, locks it, checks that this Eyepiece can read its format and that the disk has room.
Layout: `VERSION` (format), `lock` (who uses it now), `postgres/`, `queue/`, `blobs/`, `logs/`, and `run/`
(what is true only while Eyepiece runs). It never changes the mode of a folder above it.
The lock is an flock: the kernel drops it with the process, so a killed Eyepiece leaves nothing to clean up.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backend.errors import ConflictError, InvalidInputError, UnavailableError

FORMAT_VERSION = 1
MIN_FREE_BYTES = 500_000_000
SUBFOLDERS = ("postgres", "queue", "blobs", "logs", "run")
CHOOSE_ANOTHER = "Choose another folder with --data or EYEPIECE_DATA."


@dataclass(frozen=True, slots=True)
class DataFolder:
    """Paths inside an opened data folder."""

    path: Path
    """Absolute, without symbolic links."""

    @property
    def postgres(self) -> Path:
        """The database cluster."""
        return self.path / "postgres"

    @property
    def queue(self) -> Path:
        """The queue's append-only file."""
        return self.path / "queue"

    @property
    def blobs(self) -> Path:
        """Weights, corpora, shard files."""
        return self.path / "blobs"

    @property
    def logs(self) -> Path:
        """One log file per process."""
        return self.path / "logs"

    @property
    def run(self) -> Path:
        """Facts about the running Eyepiece."""
        return self.path / "run"


@contextmanager
def opened(path: Path, *, address: str = "") -> Iterator[DataFolder]:
    """The folder, created and checked, held by this process alone until the `with` ends.

    Args:
        path: Need not exist yet.
        address: Where this Eyepiece can be reached; told to whoever finds the folder in use.

    Raises:
        ConflictError: Another process holds it, or another version of Eyepiece made it.
        InvalidInputError: It cannot be created, or holds somebody else's files.
        UnavailableError: The disk is nearly full.
    """
    path = path.expanduser().resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
        _refuse_foreign_files(path)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InvalidInputError(
            f"The data folder {path} cannot be used: {error.strerror}.", hint=CHOOSE_ANOTHER
        ) from error
    try:
        _take(lock, path, address)
        _refuse_full_disk(path)
        _check_version(path)
        for name in SUBFOLDERS:
            (path / name).mkdir(exist_ok=True)
        yield DataFolder(path)
        os.ftruncate(lock, 0)
    finally:
        os.close(lock)


def address_of(path: Path) -> str:
    """Where the Eyepiece that holds the folder can be reached; empty if none does, or it said nothing."""
    try:
        return str(json.loads((path / "lock").read_text())["address"])
    except (OSError, ValueError, KeyError):
        return ""


def _refuse_foreign_files(path: Path) -> None:
    """A typing error in `--data` must not scatter our folders over somebody's home."""
    if (path / "VERSION").exists():
        return
    foreign = sorted(
        entry.name
        for entry in path.iterdir()
        if entry.name not in (*SUBFOLDERS, "lock", "VERSION.new", "lost+found") and not entry.name.startswith(".")
    )
    if foreign:
        raise InvalidInputError(
            f"The folder {path} holds other files ({', '.join(foreign[:3])}{' …' if len(foreign) > 3 else ''})"
            " and was not made by Eyepiece.",
            hint=CHOOSE_ANOTHER,
        )


def _take(lock: int, path: Path, address: str) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConflictError(
            f"Another Eyepiece{_holder(lock)} already runs on {path}.",
            hint="Stop it first, or choose another folder with --data.",
        ) from error
    except OSError as error:
        raise InvalidInputError(
            f"The data folder {path} cannot be locked: {error.strerror}.", hint=CHOOSE_ANOTHER
        ) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps({"pid": os.getpid(), "address": address}).encode(), 0)


def _holder(lock: int) -> str:
    """` (process 12, http://…)`, or nothing while the other one has just begun."""
    try:
        holder = json.loads(os.pread(lock, 4096, 0))
    except ValueError:
        return ""
    return f" (process {holder['pid']}{', ' if holder['address'] else ''}{holder['address']})"


def _refuse_full_disk(path: Path) -> None:
    free_bytes = shutil.disk_usage(path).free
    if free_bytes < MIN_FREE_BYTES:
        raise UnavailableError(
            f"The disk of {path} has only {free_bytes // 1_000_000} MB free;"
            f" Eyepiece needs {MIN_FREE_BYTES // 1_000_000} MB to start.",
            hint="Free some, or choose another folder with --data.",
        )


def _check_version(path: Path) -> None:
    file = path / "VERSION"
    if not file.exists():
        fresh = path / "VERSION.new"
        fresh.write_text(f"{FORMAT_VERSION}\n")
        fresh.replace(file)
        return
    found = file.read_text(errors="replace").strip()
    if found != str(FORMAT_VERSION):
        raise ConflictError(
            f"The data folder {path} has format version {found[:40]!r}; this Eyepiece reads version {FORMAT_VERSION}.",
            hint="Use the Eyepiece that made it, or choose another folder with --data.",
        )
