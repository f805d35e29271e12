"""Prepared corpora as users see and choose them. Does not own making them (`workers/prepared.py`)."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from backend.db.tables import Corpus, Revision, Source
from backend.services import catalog


@dataclass(frozen=True, slots=True)
class CorpusView:
    """A corpus another job of the model may use with nothing read or tokenised."""

    id: int
    model: str
    name: str
    context_size: int
    n_contexts: int
    n_tokens: int
    """Tokens that count."""
    has_documents: bool
    """Examples say which document they are from."""
    used_by: tuple[str, ...]
    """Sources that the viewer sees and that show it now, by name."""
    created_at: datetime


def of_model(session: Session, model_id: str) -> tuple[CorpusView, ...]:
    """The model's corpora that the viewer may see, newest first; raises `NotFoundError` for no such model."""
    catalog.model(session, model_id)
    return _views(session, select(Corpus).where(Corpus.model_id == model_id))


def of_every_model(session: Session) -> tuple[CorpusView, ...]:
    """All corpora that the viewer may see, newest first."""
    return _views(session, select(Corpus))


def _views(session: Session, query: Select[Corpus]) -> tuple[CorpusView, ...]:
    rows = session.scalars(query.order_by(Corpus.id.desc())).all()
    shown = (
        select(Revision.corpus_id, func.array_agg(Source.name.distinct()))
        .join(Source, Source.revision_id == Revision.id)
        .where(Revision.corpus_id.in_([row.id for row in rows]))
        .group_by(Revision.corpus_id)
    )
    used_by = {corpus_id: tuple(sorted(names)) for corpus_id, names in session.execute(shown)}
    return tuple(
        CorpusView(
            row.id, row.model_id, row.name, row.context_size, row.n_contexts, row.n_tokens,
            row.documents_key is not None, used_by.get(row.id, ()), row.created_at,
        )
        for row in rows
    )  # fmt: skip
