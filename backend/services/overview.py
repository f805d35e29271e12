"""What an admin wants to see at once: whose each source is and what it takes, and how full the disk is."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from backend.db.tables import Account, Source
from backend.services import limits
from backend.settings import Settings


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A source, whatever its visibility."""

    model: str
    name: str
    owner: str
    """Empty: the host's own."""
    visibility: str
    n_bytes: int
    """Of its dashboards and index."""


@dataclass(frozen=True, slots=True)
class DiskView:
    """What is stored, in bytes."""

    database_bytes: int
    blob_bytes: int | None
    """Files beside the database; None where they lie in another store."""
    free_bytes: int
    """On the disk of the data folder."""


def sources(session: Session) -> tuple[SourceRow, ...]:
    """Every source that is not deleted, the largest first; three statements."""
    sizes = limits.bytes_by_source(session)
    query = select(Source.id, Source.model_id, Source.name, Source.visibility, Account.name.label("owner"))
    query = query.outerjoin(Account, Account.id == Source.owner_id).where(Source.model_id.is_not(None))
    rows = session.execute(query)
    found = [SourceRow(r.model_id, r.name, r.owner or "", r.visibility, sizes.get(r.id, 0)) for r in rows]
    return tuple(sorted(found, key=lambda source: (-source.n_bytes, source.model, source.name)))


def disk(session: Session, settings: Settings) -> DiskView:
    """How much is stored and how much more could be."""
    database = session.execute(text("SELECT pg_database_size(current_database())")).scalar_one()
    blobs = None if settings.blob_url else _size_of(settings.data / "blobs")
    return DiskView(int(database), blobs, shutil.disk_usage(_existing(settings.data)).free)


def _size_of(folder: Path) -> int:
    """Of its files; one that is deleted meanwhile counts nothing."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def _existing(folder: Path) -> Path:
    return next(each for each in (folder.resolve(), *folder.resolve().parents) if each.exists())
