"""A model's page: its facts, and its sources by source set and layer."""

from dataclasses import dataclass
from itertools import groupby

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from backend.services import catalog, jobs
from backend.services.catalog import ModelView, SourceView
from backend.services.progress import JobView
from backend.web import links, rendering, text_query
from backend.web.dependencies import DbSession
from backend.web.pages import home

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


@dataclass(frozen=True, slots=True)
class ModelContext:
    """What `pages/model.html` shows."""

    model: ModelView
    sets: tuple[tuple[str, tuple[SourceView, ...]], ...]
    """Source sets by name, each with its sources by layer."""
    jobs: home.JobsBySource
    """Work under way."""


@router.get("/{model}")
def show(request: Request, session: DbSession, model: str) -> Response:
    """The model; where the address is one of Neuronpedia's searches by text, leads to that search."""
    if "q" in request.query_params:
        query = text_query.of_neuronpedia(request.query_params)
        return RedirectResponse(links.text_search_url(model, query), 303)
    page = context(catalog.model(session, model), jobs.latest(session))
    return rendering.respond(request, "pages/model.html", page)


def context(model: ModelView, latest: tuple[JobView, ...]) -> ModelContext:
    """Sources by set; within a set they keep their order, which is by layer."""
    by_set = sorted(model.sources, key=lambda source: source.set_name)
    sets = groupby(by_set, key=lambda source: source.set_name)
    return ModelContext(model, tuple((name, tuple(sources)) for name, sources in sets), home.under_way(latest))
