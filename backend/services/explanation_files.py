"""Explanations in bulk: into a source from an importer, and out of it in order.

Rows keep the ids they come with, so importing twice changes nothing. Where another source already has an id, as when one
file is imported into two sources, the row gets one that follows from both: always the same.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import orjson
from sqlalchemy import Text, and_, cast, column, func, literal, null, select, tuple_
from sqlalchemy.dialects.postgresql import JSON, insert
from sqlalchemy.orm import Session

from backend.db.tables import Explanation, Source
from backend.formats import neuronpedia_explanations
from backend.formats.neuronpedia_explanations import ImportedExplanation
from backend.services import explanations
from backend.services.catalog import as_key
from backend.services.explanations import ExplanationView
from backend.services.visibility import addressed, unrestricted

N_PER_READ = 1_000
_FIELDS = tuple(field.name for field in fields(ImportedExplanation))
Place = tuple[int, str]
"""Index of a feature and id of an explanation: the order of exports."""


@dataclass(frozen=True, slots=True)
class ExportedExplanation:
    """An explanation with what only files hold."""

    view: ExplanationView
    embedding: tuple[float, ...] | None
    """fp32, as imported."""
    embedding_model: str | None

    @property
    def place(self) -> Place:
        """Where it stands among the source's."""
        return self.view.ref.index, self.view.id


def upsert_many(session: Session, source_id: int, rows: Iterable[Mapping[str, object]]) -> int:
    """Add rows of a Neuronpedia file to a source, or bring up to date those that are there; how many rows they were.

    All are held in memory: give a few thousand at a time. Of several with one id the last counts. Raises
    `InvalidInputError` at the first row that cannot be read, before any is written.
    """
    given = [neuronpedia_explanations.read(row) for row in rows]
    by_id = _with_ids(session, source_id, given)
    if not by_id:
        return 0
    values = [_values(source_id, explanation_id, each) for explanation_id, each in by_id.items()]
    for has_time in (True, False):
        some = [row for row in values if (row["created_at"] is not None) == has_time]
        if some:
            _write(session, some, has_time=has_time)
    return len(given)


def every(session: Session, model: str, source: str) -> Iterator[ExportedExplanation]:
    """All explanations of a source, by feature, then id; none where there is no such source."""
    after: Place | None = None
    while some := read(session, model, source, after=after):
        yield from some
        after = some[-1].place


def read(
    session: Session,
    model: str,
    source: str,
    *,
    after: Place | None = None,
    n: int = N_PER_READ,
    with_embeddings: bool = True,
) -> tuple[ExportedExplanation, ...]:
    """The next `n` explanations of a source; one statement, so that nobody holds a connection while a reader is slow."""
    embedding = Explanation.embedding if with_embeddings else null().label("embedding")
    query = explanations.EXPLANATIONS.add_columns(embedding, Explanation.embedding_model)
    query = query.where(Source.model_id == as_key(model), Source.name == as_key(source))
    if after is not None:
        query = query.where(tuple_(Explanation.index, Explanation.id) > after)
    rows = session.execute(addressed(query.order_by(Explanation.index, Explanation.id).limit(n)))
    return tuple(
        ExportedExplanation(
            explanations.view(row), None if row.embedding is None else tuple(row.embedding), row.embedding_model
        )
        for row in rows
    )


def _with_ids(session: Session, source_id: int, given: list[ImportedExplanation]) -> dict[str, ImportedExplanation]:
    """Under the id each gets here."""
    own = {each.id: neuronpedia_explanations.derived_id(str(source_id), each.id) for each in given}
    of = select(Explanation.id, Explanation.source_id).where(Explanation.id.in_({*own, *own.values()}))
    taken = {row.id: row.source_id for row in session.execute(unrestricted(of))}

    def of_ours(explanation_id: str) -> str:
        derived = own[explanation_id]
        return derived if derived in taken or taken.get(explanation_id, source_id) != source_id else explanation_id

    return {of_ours(each.id): each for each in given}


def _values(source_id: int, explanation_id: str, each: ImportedExplanation) -> dict[str, Any]:
    return {name: getattr(each, name) for name in _FIELDS} | {"id": explanation_id, "source_id": source_id}


def _write(session: Session, rows: list[dict[str, Any]], *, has_time: bool) -> None:
    """One statement; Postgres takes the rows apart, which is some five times faster than as many parameters.

    Where a row does not say when it was made, it is made now, and one that is there keeps its time. A row that says what is
    there already is left as it is.
    """
    names = [name for name in rows[0] if has_time or name != "created_at"]
    given = (
        func.json_to_recordset(cast(literal(orjson.dumps(rows).decode(), Text), JSON))
        .table_valued(*(column(name, Explanation.__table__.c[name].type) for name in names))
        .render_derived(name="given", with_types=True)
    )
    added = insert(Explanation).from_select(names, select(*(given.c[name] for name in names)))
    changed = {name: added.excluded[name] for name in names if name not in ("id", "source_id")}
    differs = tuple_(*(getattr(Explanation, name) for name in changed)).is_distinct_from(tuple_(*changed.values()))
    merged = added.on_conflict_do_update(
        index_elements=[Explanation.id],
        set_=changed | {"updated_at": func.clock_timestamp()},
        where=and_(Explanation.source_id == added.excluded.source_id, differs),
    )
    session.execute(merged)
