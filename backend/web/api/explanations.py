"""Explanations over REST: Neuronpedia's routes, its export that is no more, and adding and editing by hand.

Searches are by words: `explanation_search` says how. The export is sent as it is read, a thousand rows at a time, each in a
transaction of its own.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session

from backend.formats import neuronpedia_explanations
from backend.formats.neuronpedia import Row
from backend.names import FeatureRef
from backend.services import catalog, explanation_files, explanation_search, explanations
from backend.services.explanation_search import Scope
from backend.web import explanation_rows
from backend.web import explanation_schemas as bodies
from backend.web.dependencies import DbSession, transaction

router = APIRouter(prefix="/explanation", tags=["explanations"])

MEDIA_TYPES = {"json": "application/json", "jsonl": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}
FlatRow = dict[str, str | None]
_COLUMNS = tuple(bodies.ExportedExplanation.model_fields)


@router.post("/new", response_model=bodies.ExplanationAnswer)
def add(session: DbSession, asked: bodies.NewExplanation) -> Row:
    """Explain a feature; whoever sees the source may. Neuronpedia's own route answers that it is not active."""
    given = explanations.NewExplanation(
        description=asked.description, type_name=asked.typeName, model_name=asked.explanationModelName
    )
    ref = FeatureRef(asked.modelId, asked.source, asked.index)
    return {"explanation": neuronpedia_explanations.row(explanations.add(session, ref, given))}


@router.post("/search", response_model=bodies.FoundExplanations)
def search(session: DbSession, asked: bodies.SearchSources) -> Response:
    """Search the explanations of some sources of a model for words."""
    return _search(session, asked, Scope(asked.modelId, tuple(dict.fromkeys(asked.layers))))


@router.post("/search-model", response_model=bodies.FoundExplanations)
def search_model(session: DbSession, asked: bodies.SearchModel) -> Response:
    """Search all explanations of a model for words."""
    return _search(session, asked, Scope(asked.modelId))


@router.post("/search-release", response_model=bodies.FoundExplanations)
def search_release(session: DbSession, asked: bodies.SearchRelease) -> Response:
    """Search the explanations of a release for words."""
    return _search(session, asked, Scope(release=asked.releaseName))


@router.post("/search-all", response_model=bodies.FoundExplanations)
def search_all(session: DbSession, asked: bodies.SearchEverywhere) -> Response:
    """Search all explanations for words."""
    return _search(session, asked, Scope())


@router.get("/export", response_model=list[bodies.ExportedExplanation])
def export(request: Request, session: DbSession, asked: Annotated[bodies.ExportQuery, Query()]) -> StreamingResponse:
    """All explanations of a source as one flat list, by feature: JSON, or as `format` says JSON lines or CSV."""
    source = catalog.source(session, asked.modelId, asked.saeId)
    batches = _batches(request, source.model, source.name)
    written = {"json": _as_json, "jsonl": _as_lines, "csv": _as_csv}[asked.format](batches)
    name = f"{source.model}-{source.name}-explanations.{asked.format}"
    headers = {} if asked.format == "json" else {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(written, media_type=MEDIA_TYPES[asked.format], headers=headers)


@router.get("/{explanation_id}", response_model=bodies.ExplanationRow)
def show(session: DbSession, explanation_id: str) -> Row:
    """One explanation with its author, scores and votes."""
    return neuronpedia_explanations.row(explanations.get(session, explanation_id))


@router.patch("/{explanation_id}", response_model=bodies.ExplanationAnswer)
def edit(session: DbSession, explanation_id: str, asked: bodies.EditedExplanation) -> Row:
    """Replace the words of an explanation of yours; its scores and embedding, which are of the old ones, go."""
    return {"explanation": neuronpedia_explanations.row(explanations.edit(session, explanation_id, asked.description))}


@router.delete("/{explanation_id}")
def delete(session: DbSession, explanation_id: str) -> bodies.ExplanationDeleted:
    """Delete an explanation of yours; admins delete any."""
    explanations.delete(session, explanation_id)
    return bodies.ExplanationDeleted(message="Success")


@router.post("/{explanation_id}/delete")
def delete_by_post(session: DbSession, explanation_id: str) -> bodies.ExplanationDeleted:
    """Delete an explanation of yours, as Neuronpedia's clients ask for it."""
    return delete(session, explanation_id)


@router.post("/{explanation_id}/vote")
def vote(session: DbSession, explanation_id: str) -> bodies.ExplanationVotes:
    """Say that you find an explanation good; once or more often is the same."""
    return bodies.ExplanationVotes(message="Success", votes=explanations.vote(session, explanation_id).n_votes)


@router.post("/{explanation_id}/unvote")
def unvote(session: DbSession, explanation_id: str) -> bodies.ExplanationVotes:
    """Take your vote back."""
    return bodies.ExplanationVotes(message="Success", votes=explanations.unvote(session, explanation_id).n_votes)


def _search(session: Session, asked: bodies.SearchEverywhere, scope: Scope) -> Response:
    page = explanation_search.search(session, asked.query, scope, offset=asked.offset)
    body = explanation_rows.found(session, page, asked.model_dump())
    return Response(orjson.dumps(body), media_type="application/json")


def _batches(request: Request, model: str, source: str) -> Iterator[list[FlatRow]]:
    after: explanation_files.Place | None = None
    while True:
        with transaction(request) as session:
            n = explanation_files.N_PER_READ
            some = explanation_files.read(session, model, source, after=after, n=n, with_embeddings=False)
        if not some:
            return
        yield [neuronpedia_explanations.exported(each.view) for each in some]
        after = some[-1].place


def _as_json(batches: Iterable[list[FlatRow]]) -> Iterator[bytes]:
    before = b"["
    for rows in batches:
        yield before + b",\n".join(map(orjson.dumps, rows))
        before = b",\n"
    yield b"[]" if before == b"[" else b"]"


def _as_lines(batches: Iterable[list[FlatRow]]) -> Iterator[bytes]:
    for rows in batches:
        yield b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def _as_csv(batches: Iterable[list[FlatRow]]) -> Iterator[bytes]:
    yield _csv_text([dict(zip(_COLUMNS, _COLUMNS, strict=True))])
    for rows in batches:
        yield _csv_text(rows)


def _csv_text(rows: Iterable[Mapping[str, str | None]]) -> bytes:
    text = io.StringIO()
    csv.DictWriter(text, _COLUMNS).writerows(rows)
    return text.getvalue().encode()
