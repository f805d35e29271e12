"""Everything hosted as one file, and back: rows and blobs, for another host or the day a disk is lost.

The file is a zip archive: `tables/*` in Postgres's binary COPY format, `blobs/*` as they are, and `manifest.json` last,
with the schema's revision and the sha256 of every member. So any zip program looks into it, and one cut short has no
manifest. All tables are read in one snapshot while the site runs; blobs never change, so those a row names are copied
after it. Left out: leases and workers, sign-ins, postings of jobs, and the key that tokens are sealed with. A job under
way is restored as failed and can be retried, an unfinished upload is not restored. SAEs and models in folders of the host
are named, not copied.
"""

import contextlib
import hashlib
import json
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Table, column, delete, exists, func, inspect, select, table, text, update
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Base, Job, Lease, Shard, SignIn, Upload, WorkerReport
from backend.services.shards import ACTIVE
from backend.storage import Store

FORMAT = 1
MANIFEST = "manifest.json"
LEFT_OUT = frozenset({Lease.__tablename__, WorkerReport.__tablename__, SignIn.__tablename__})
"""Rows that mean something only while a process runs, or to a browser that knows this host."""
FOLDERS = ("corpora", "corpora-raw", "graphs", "indexes", "saes")
"""Keys of blobs that belong to what is hosted."""
INTERRUPTED = "the job was under way when the backup was taken. Retry it."
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup says of itself."""

    format: int
    created_at: str
    """ISO 8601, UTC."""
    schema: str
    """Revision of the migrations that its rows fit."""
    columns: dict[str, list[str]]
    """By table, in the order of its rows' fields."""
    n_rows: dict[str, int]
    """By table."""
    n_bytes: int
    """Of rows and blobs, before compression."""
    sha256: dict[str, str]
    """By member of the archive."""

    @property
    def blobs(self) -> list[str]:
        """Members that are blobs."""
        return [name for name in self.sha256 if name.startswith(_BLOBS)]


Progress = Callable[[int], None]
"""Hears of bytes as they are done."""


def _in_silence(n_bytes: int) -> None:
    """Nobody listens."""


def write(session: Session, store: Store, path: Path, *, on_progress: Progress = _in_silence) -> Manifest:
    """Write the archive at `path`, which appears when it is complete. The session's transaction must not have begun.

    Raises:
        ConflictError: There is such a file already, or a blob was deleted meanwhile.
    """
    if path.exists():
        raise errors.ConflictError(f"'{path}' exists already.", hint="Choose another name, or delete it first.")
    session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
    partial = path.with_name(f".{path.name}.partial")
    try:
        with zipfile.ZipFile(partial, "w") as archive:
            writer = _Writer(archive, on_progress)
            n_rows = {each.name: writer.add_rows(session, each) for each in tables()}
            for key in (key for folder in FOLDERS for key in store.keys(folder)):
                writer.add_blob(store, key)
            manifest = Manifest(
                FORMAT, datetime.now(UTC).isoformat(timespec="seconds"), _schema(session),
                {each.name: _columns(each) for each in tables()}, n_rows, writer.n_bytes, writer.sha256,
            )  # fmt: skip
            archive.writestr(MANIFEST, json.dumps(asdict(manifest), indent=1))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return manifest


def read_manifest(path: Path) -> Manifest:
    """What the archive says of itself; raises `InvalidInputError` for a file that is no complete backup."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = Manifest(**json.loads(archive.read(MANIFEST)))
    except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise errors.InvalidInputError(
            f"'{path}' is no complete backup: {error}.", hint="Give a file that `eyepiece backup` wrote to its end."
        ) from error
    if found.format != FORMAT:
        raise errors.UnsupportedError(
            f"'{path}' has format {found.format}; this Eyepiece reads {FORMAT}.", hint="Use the Eyepiece that wrote it."
        )
    return found


def restore(session: Session, store: Store, path: Path, *, on_progress: Progress = _in_silence) -> Manifest:
    """Put blobs and rows where nothing is hosted yet, in a database of the archive's own schema.

    Every member is checked before anything is written. Rows appear with the caller's commit, all or none; blobs are
    there before, so a restore that was killed can be run again.

    Raises:
        InvalidInputError: The file is no backup, or is damaged.
        ConflictError: Something is hosted here already, or the schema is another.
    """
    manifest = read_manifest(path)
    if _schema(session) != manifest.schema:
        raise errors.ConflictError(
            f"the backup's tables have revision {manifest.schema}, this database's {_schema(session)}.",
            hint="Restore into a new data folder.",
        )
    check_empty(session)
    with zipfile.ZipFile(path) as archive:
        _check_members(archive, manifest, on_progress)
        for name in manifest.blobs:
            _put(store, name.removeprefix(_BLOBS), archive, name)
        with _foreign_keys_added_after(session):
            for name, columns in manifest.columns.items():
                with archive.open(_TABLES + name) as member:
                    _copy(session, f"{_rows_of(name, columns)} FROM STDIN", member)
            _go_on_counting(session)
    _interrupt_jobs(session)
    if Upload.__tablename__ in manifest.columns:
        session.execute(delete(Upload).where(Upload.state != "complete"))  # what had arrived of it stayed behind
    return manifest


def check_empty(session: Session) -> None:
    """Raises `ConflictError` if some table has rows; one with no tables yet is empty."""
    names = [name for name in inspect(session.connection()).get_table_names() if name != "alembic_version"]
    full = [name for name in names if session.scalar(select(exists().select_from(table(name))))]
    if full:
        raise errors.ConflictError(
            f"something is hosted here already: there are rows in '{full[0]}'.", hint="Restore into a new data folder."
        )


def tables() -> list[Table]:
    """The tables a backup holds."""
    return [each for each in Base.metadata.sorted_tables if each.name not in LEFT_OUT]


_BLOBS, _TABLES = "blobs/", "tables/"


class _Writer:
    """Adds members and notes what the manifest says of them."""

    def __init__(self, archive: zipfile.ZipFile, on_progress: Progress) -> None:
        self._archive, self._on_progress = archive, on_progress
        self.sha256: dict[str, str] = {}
        self.n_bytes = 0

    def add_rows(self, session: Session, of: Table) -> int:
        """All rows of a table, and how many they are."""
        with self._member(_TABLES + of.name, zipfile.ZIP_DEFLATED) as member:
            return _copy(session, f"{_rows_of(of.name, _columns(of))} TO STDOUT", member)

    def add_blob(self, store: Store, key: str) -> None:
        """A blob's bytes."""
        try:
            with store.local(key) as path, path.open("rb") as source, self._member(_BLOBS + key) as member:
                shutil.copyfileobj(source, member, _CHUNK_BYTES)
        except FileNotFoundError as error:
            raise errors.ConflictError(
                f"the file '{key}' was deleted while it was backed up.", hint="Run the backup again."
            ) from error

    @contextlib.contextmanager
    def _member(self, name: str, compression: int = zipfile.ZIP_STORED) -> Iterator["_Hashed"]:
        info = zipfile.ZipInfo(name)  # dated 1980: equal content makes equal members
        info.compress_type = compression
        with self._archive.open(info, "w", force_zip64=True) as file:
            member = _Hashed(file, self._on_progress)
            yield member
        self.sha256[name] = member.digest.hexdigest()
        self.n_bytes += member.n_bytes


class _Hashed:
    """A file being written, hashed as it goes."""

    def __init__(self, file: IO[bytes], on_progress: Progress) -> None:
        self._file, self._on_progress = file, on_progress
        self.digest = hashlib.sha256()
        self.n_bytes = 0

    def write(self, data: bytes) -> int:
        """All of it."""
        self.digest.update(data)
        self.n_bytes += len(data)
        self._on_progress(len(data))
        return self._file.write(data)


def _check_members(archive: zipfile.ZipFile, manifest: Manifest, on_progress: Progress) -> None:
    odd = [name for name in manifest.sha256 if not _is_plain(name)]
    odd += [name for name in manifest.columns if _TABLES + name not in manifest.sha256 or not name.isidentifier()]
    if odd:
        raise errors.InvalidInputError(f"the backup names what no backup holds: {', '.join(odd[:3])}.")
    for name, expected in manifest.sha256.items():
        digest = hashlib.sha256()
        try:
            with archive.open(name) as member:
                while chunk := member.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    on_progress(len(chunk))
        except (zipfile.BadZipFile, KeyError, EOFError, zlib.error) as error:
            raise _damaged(name) from error
        if digest.hexdigest() != expected:
            raise _damaged(name)


def _is_plain(name: str) -> bool:
    """A key of the store below the folders that belong in a backup, or a table."""
    folder, *rest = name.removeprefix(_BLOBS).split("/")
    return name.startswith(_TABLES) or (folder in FOLDERS and all(part not in ("", ".", "..") for part in rest))


def _damaged(name: str) -> errors.InvalidInputError:
    return errors.InvalidInputError(
        f"the backup is damaged: '{name}' is not what was written.", hint="Copy the file again, or take another."
    )


def _put(store: Store, key: str, archive: zipfile.ZipFile, name: str) -> None:
    with tempfile.TemporaryDirectory(prefix="eyepiece-") as folder:
        path = Path(folder) / "blob"
        with archive.open(name) as member, path.open("wb") as file:
            shutil.copyfileobj(member, file, _CHUNK_BYTES)
        store.put(key, path)


@contextlib.contextmanager
def _foreign_keys_added_after(session: Session) -> Iterator[None]:
    """Source and revision refer to each other, so no order of tables would do; added again, they are all checked."""
    keys = session.execute(
        text(
            "SELECT conrelid::regclass::text AS of, conname AS name, pg_get_constraintdef(oid) AS definition "
            "FROM pg_constraint WHERE contype = 'f' AND connamespace = current_schema()::regnamespace ORDER BY oid"
        )
    ).all()
    for key in keys:
        session.execute(text(f'ALTER TABLE {key.of} DROP CONSTRAINT "{key.name}"'))
    yield
    for key in keys:
        session.execute(text(f'ALTER TABLE {key.of} ADD CONSTRAINT "{key.name}" {key.definition}'))


def _go_on_counting(session: Session) -> None:
    """New rows get ids after those restored."""
    query = text(
        "SELECT table_name, column_name FROM information_schema.columns "
        "WHERE table_schema = current_schema() AND is_identity = 'YES'"
    )
    for of, name in session.execute(query).all():
        last = select(func.max(column(name))).select_from(table(of)).scalar_subquery()
        sequence = func.pg_get_serial_sequence(of, name)
        session.execute(select(func.setval(sequence, func.coalesce(last, 1), last.is_not(None))))


def _interrupt_jobs(session: Session) -> None:
    """Work under way has no postings here."""
    ended = update(Job).where(Job.state.in_(ACTIVE))
    session.execute(ended.values(state="failed", error=INTERRUPTED, finished_at=func.now()))
    session.execute(update(Job).values(has_blobs=False))
    session.execute(update(Shard).where(Shard.state.in_(ACTIVE)).values(state="failed"))


def _schema(session: Session) -> str:
    return str(session.execute(text("SELECT version_num FROM alembic_version")).scalar_one())


def _columns(of: Table) -> list[str]:
    """Those that are stored as given; Postgres computes the others anew, and refuses to copy them."""
    return [each.name for each in of.columns if each.computed is None]


def _rows_of(name: str, columns: list[str]) -> str:
    quoted = ", ".join(f'"{each}"' for each in columns)
    return f'"{name}" ({quoted})'


def _copy(session: Session, what: str, file: Any) -> int:
    """Rows in or out, in the binary format; how many."""
    cursor = session.connection().connection.cursor()
    cursor.copy_expert(f"COPY {what} (FORMAT binary)", file, _CHUNK_BYTES)
    n: int = cursor.rowcount
    cursor.close()
    return n
