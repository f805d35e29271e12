"""Files that strangers hand over: what they may be called, and how an archive of them is taken apart.

A name is one file, or a folder and a file. An archive is zip, tar or tar.gz and holds files only: what is a link, a
device, encrypted, an archive again, or many times larger than it came is refused, and nothing is written outside the
folder given. Does not own what the files mean.
"""

import gzip
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from backend import errors
from backend.formats.saes import zip_directory

MAX_NAME = 200
MAX_FILES = 1000
MAX_EXPANSION = 100
"""Times an archive may grow. Weights hardly shrink at all; zeros shrink a thousandfold."""
_FREE_BYTES = 1_000_000
"""An archive may always grow by so much."""
_CHUNK_BYTES = 1 << 16
_MAX_READ_BYTES = _CHUNK_BYTES
"""Of a tar at once: its headers, names and comments, are read as a whole."""
_MAX_COMMON = 100
"""Values that a tar's header may set for all entries after it; each is given a copy."""
_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._+=@, -]*[A-Za-z0-9_+=@-])?")
_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))})
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
ROWS = (".jsonl.gz", ".json.gz")
_NESTED = (*ARCHIVES, ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_UNREADABLE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, struct.error,
    LookupError, OverflowError,
)  # fmt: skip
"""What the standard library raises for archives that are broken, encrypted or of a kind it does not know."""


def name_problem(name: str) -> str | None:
    """What is wrong with the name of a file, as a sentence; None if nothing is."""
    parts = name.split("/")
    shown = repr(name[:60])
    if len(name) > MAX_NAME:
        return f"The name {shown}… has {len(name)} characters; {MAX_NAME} are allowed. Rename the file."
    if len(parts) > 2:
        return f"{shown} lies more than one folder deep. Upload the folder it is in."
    if not all(map(_is_plain, parts)):
        return (
            f"A file cannot be called {shown}. Use letters, digits, '.', '_', '-', '+', '=', '@', ',' and spaces, "
            "beginning with a letter or digit; one folder may come before it."
        )
    return None


def names_problems(names: Sequence[str]) -> list[str]:
    """What is wrong with the names of an upload's files, by themselves and together."""
    problems = [problem for name in names if (problem := name_problem(name))]
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            problems.append(f"{name[:60]!r} is there twice. Upload each file once.")
        seen.add(name.lower())
    folders = {name.split("/")[0].lower() for name in names if "/" in name}
    problems += [
        f"{name[:60]!r} is a file and a folder. Rename one of them." for name in names if name.lower() in folders
    ]
    if not 1 <= len(names) <= MAX_FILES:
        problems.append(f"There are {len(names)} files; an upload has 1 to {MAX_FILES}.")
    return problems


def is_archive(name: str) -> bool:
    """True for what `unpack` takes apart."""
    return name.lower().endswith(ARCHIVES)


def without_suffix(name: str) -> str:
    """`my-sae` for `my-sae.tar.gz`; what is left can be a folder's name."""
    stem = PurePosixPath(name).name
    for suffix in sorted(ARCHIVES, key=len, reverse=True):
        if stem.lower().endswith(suffix):
            stem = stem[: -len(suffix)]
            break
    else:
        stem = stem.rsplit(".", 1)[0]
    stem = re.sub(r"[^A-Za-z0-9._+=@-]+", "-", stem).strip("-.")[: MAX_NAME // 2].rstrip("-.")
    return stem if _is_plain(stem) else "upload"


def unpack(archive: Path, name: str, folder: Path, *, max_bytes: int, may_hold_rows: bool = False) -> list[str]:
    """Write the archive's files below `folder`, and return their names, each with at most one folder.

    Args:
        archive: The file as it came.
        name: What its sender calls it: says what kind it is, and stands in messages.
        folder: An empty one.
        max_bytes: Of all files together.
        may_hold_rows: `.jsonl.gz` is allowed in it: exports of dashboards.

    Raises:
        ProblemsError: Something in it is not allowed; all that can be told from its list is told at once.
    """
    limit = min(max_bytes, MAX_EXPANSION * archive.stat().st_size + _FREE_BYTES)
    try:
        with ExitStack() as stack:
            members = _zip(archive, stack) if name.lower().endswith(".zip") else _tar(archive, name, stack, limit)
            return _write(members, name, folder, limit, may_hold_rows=may_hold_rows)
    except _UNREADABLE as error:
        raise errors.ProblemsError(
            name, [f"It cannot be read as an archive: {_words(error)}. Pack it again, or upload its files."]
        ) from error


@dataclass(frozen=True, slots=True)
class _Member:
    """One entry of an archive."""

    name: str
    size: int
    problem: str
    """Why it may not be there at all; empty: it may."""
    source: Any
    """Of `zipfile` or `tarfile`."""

    def open(self) -> IO[bytes]:
        archive, entry = self.source
        opened = archive.open(entry) if isinstance(archive, zipfile.ZipFile) else archive.extractfile(entry)
        assert opened is not None, "a plain file"
        return opened


def _zip(path: Path, stack: ExitStack) -> list[_Member]:
    archive = stack.enter_context(zip_directory.archive_of(path))
    members = []
    for entry in archive.infolist()[: MAX_FILES + 1]:
        mode = stat.S_IFMT(entry.external_attr >> 16)
        problem = ""
        if entry.is_dir():
            continue
        if entry.flag_bits & 0x1:
            problem = "is encrypted. Pack it without a password."
        elif mode not in (0, stat.S_IFREG):
            problem = "is a link or a device. Pack the file itself."
        elif entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            problem = "is compressed in an unusual way. Pack it with 'zip'."
        members.append(_Member(entry.filename, entry.file_size, problem, (archive, entry)))
    return members


def _tar(path: Path, name: str, stack: ExitStack, limit: int) -> list[_Member]:
    file: IO[bytes] = stack.enter_context(path.open("rb"))
    if name.lower().endswith(("gz",)):
        file = stack.enter_context(gzip.GzipFile(fileobj=file))  # type: ignore[arg-type] # is one of bytes
    bounded: Any = _Bounded(file, limit + _FREE_BYTES)
    archive = stack.enter_context(tarfile.TarFile(fileobj=bounded))
    members = []
    for entry in _first(archive):
        if entry.isdir():
            continue
        problem = "" if entry.isreg() and not entry.issparse() else "is a link or a device. Pack the file itself."
        members.append(_Member(entry.name, entry.size, problem, (archive, entry)))
    return members


def _first(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for n, entry in enumerate(archive):
        if n > 2 * MAX_FILES:
            return
        if len(archive.pax_headers) > _MAX_COMMON:
            raise ValueError("its headers are too large")
        entry.pax_headers = {}  # said of it already, and the archive keeps every entry
        yield entry


class _Bounded:
    """A file that gives neither much at a time nor much in all: what it is unpacked from may have no end."""

    def __init__(self, file: IO[bytes], n_most: int) -> None:
        self._file, self._n_most = file, n_most

    def read(self, n: int = -1) -> bytes:
        if not 0 <= n <= _MAX_READ_BYTES:
            raise ValueError("a header is too large")
        self._check(self._file.tell() + n)
        return self._file.read(n)

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 0:
            self._check(offset)
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def _check(self, end: int) -> None:
        if end > self._n_most + _MAX_READ_BYTES:
            raise ValueError("it grows too much when unpacked")


def _write(members: list[_Member], archive_name: str, folder: Path, limit: int, *, may_hold_rows: bool) -> list[str]:
    shown = [member for member in members if not _is_hidden(member.name)]
    names = _shortened([member.name for member in shown], may_hold_rows=may_hold_rows)
    problems = [f"{name[:60]!r} {member.problem}" for name, member in zip(names, shown, strict=True) if member.problem]
    problems += names_problems(names)
    problems += [
        f"{name[:60]!r} is an archive itself. Unpack it first."
        for name in names
        if name.lower().endswith(_NESTED) and not (may_hold_rows and name.lower().endswith(ROWS))
    ]
    total = sum(member.size for member in shown)
    if total > limit:
        problems.append(
            f"Unpacked it would have {total:,} bytes; at most {limit:,} are allowed for an archive of its size."
        )
    if problems:
        raise errors.ProblemsError(archive_name, problems)
    for name, member in zip(names, shown, strict=True):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as source, target.open("xb") as file:
            shutil.copyfileobj(source, file, _CHUNK_BYTES)
        if target.stat().st_size != member.size:
            raise ValueError(f"{name} ends too soon")
    return names


def _shortened(names: Iterable[str], *, may_hold_rows: bool = False) -> list[str]:
    """Without the folders all of them share, but for the last: archives are packed from anywhere.

    The last goes too where some lie deeper, as in an export, whose folders have folders in them.
    """
    found = [name.removeprefix("./") for name in names]
    deep = any if may_hold_rows else all
    while found and deep(name.count("/") > 1 for name in found) and len({name.split("/")[0] for name in found}) == 1:
        if not _is_plain(found[0].split("/")[0]):
            break
        found = [name.split("/", 1)[1] for name in found]
    return found


def _is_hidden(name: str) -> bool:
    """What file managers leave beside files."""
    last = name.rsplit("/", 1)[-1]
    return name.startswith("__MACOSX/") or (last.startswith(".") and last.strip(".") != "")


def _is_plain(part: str) -> bool:
    return _PART.fullmatch(part) is not None and part.split(".")[0].lower() not in _RESERVED


def _words(error: Exception) -> str:
    text = str(error).rstrip(".").replace("\n", " ")[:120]
    return text if text.isprintable() and text else type(error).__name__
