"""What sources take on disk, by kind: rows as they are stored, compressed, and blobs.

A corpus is shared by a model's sources, so it is no source's; the disk as a whole is `overview.disk`'s.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend import weights
from backend.db.tables import Corpus, Dashboard, Feature, Revision, Source
from backend.services.visibility import addressed
from backend.storage import Store

BYTES_PER_FEATURE = 400
"""Of a row of the narrow table with its share of the indexes, about: counting exactly would read them all."""


@dataclass(frozen=True, slots=True)
class DiskUse:
    """Bytes of one source."""

    model: str
    name: str
    dashboards: int
    """Of all its revisions, those being written or replaced included."""
    features: int
    """The table that pages sort by; an estimate."""
    index: int
    """The kept activation index."""
    weights: int
    """Uploaded ones; 0 where they are a folder of the host."""

    @property
    def total(self) -> int:
        """Of all that deleting the source frees."""
        return self.dashboards + self.features + self.index + self.weights


@dataclass(frozen=True, slots=True)
class CorpusUse:
    """Bytes of one corpus's rows."""

    model: str
    name: str
    n_bytes: int


def by_source(session: Session, blobs: Store) -> tuple[DiskUse, ...]:
    """Every source that the viewer sees in lists, the largest first."""
    found = session.execute(_SOURCES.where(Source.model_id.is_not(None))).all()
    sizes = _rows(session, [row.id for row in found])
    uses = (DiskUse(r.model_id, r.name, *sizes[r.id], _weights(blobs, r.weights)) for r in found)
    return tuple(sorted(uses, key=lambda use: (-use.total, use.model, use.name)))


def of_source(session: Session, model: str, name: str, blobs: Store) -> DiskUse:
    """One source, which the caller has found."""
    row = session.execute(addressed(_SOURCES.where(Source.model_id == model, Source.name == name))).one()
    return DiskUse(model, name, *_rows(session, [row.id])[row.id], _weights(blobs, row.weights))


def corpora(session: Session, blobs: Store) -> tuple[CorpusUse, ...]:
    """Every corpus, the largest first."""
    rows = session.execute(select(Corpus.model_id, Corpus.name, Corpus.blob_key))
    found = (CorpusUse(r.model_id, r.name, blobs.size(r.blob_key) if blobs.exists(r.blob_key) else 0) for r in rows)
    return tuple(sorted(found, key=lambda use: (-use.n_bytes, use.model, use.name)))


_SOURCES = select(Source.id, Source.model_id, Source.name, Source.weights)


def _rows(session: Session, ids: Sequence[int]) -> dict[int, tuple[int, int, int]]:
    """Bytes of dashboards, features and index, by the source's id."""
    of = Revision.source_id.in_(ids)
    packed = select(Revision.source_id, func.sum(func.pg_column_size(Dashboard.packed)))
    packed = packed.join(Dashboard, Dashboard.revision_id == Revision.id).where(of).group_by(Revision.source_id)
    narrow = select(Revision.source_id, func.count(Feature.index))
    narrow = narrow.join(Feature, Feature.revision_id == Revision.id).where(of).group_by(Revision.source_id)
    index = select(Revision.source_id, func.sum(Revision.index_bytes)).where(of).group_by(Revision.source_id)
    dashboards, features, indexes = (
        {source_id: int(n or 0) for source_id, n in session.execute(query)} for query in (packed, narrow, index)
    )
    return {
        each: (dashboards.get(each, 0), BYTES_PER_FEATURE * features.get(each, 0), indexes.get(each, 0)) for each in ids
    }


def _weights(blobs: Store, of: str | None) -> int:
    key = weights.key_of(of or "")
    return 0 if key is None else sum(blobs.size(each) for each in blobs.keys(key))
