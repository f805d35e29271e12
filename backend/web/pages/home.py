"""The page of all that is hosted, and the page of what the words and numbers mean."""

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from backend.services import catalog, jobs, shards
from backend.services.catalog import ModelView
from backend.services.progress import JobView
from backend.web import definitions, numerals, rendering
from backend.web.dependencies import DbSession
from backend.web.pages import commands

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

JobsBySource = dict[tuple[str, str], JobView]


@dataclass(frozen=True, slots=True)
class HomeContext:
    """What `pages/home.html` shows."""

    models: tuple[ModelView, ...]
    facts: dict[str, str]
    """One line about each model, by id."""
    jobs: JobsBySource
    """Work under way."""
    is_live: bool
    """True while this page may still change: some work is not done, or nothing is here yet."""
    command: str


@dataclass(frozen=True, slots=True)
class DefinitionsContext:
    """What `pages/definitions.html` shows."""

    numbers: tuple[definitions.Definition, ...]
    things: tuple[definitions.Definition, ...]


@router.get("/")
def show(request: Request, session: DbSession) -> HTMLResponse:
    """Everything hosted."""
    page = context(catalog.models(session), jobs.latest(session))
    return rendering.respond(request, "pages/home.html", page)


@router.get("/definitions")
def define(request: Request) -> HTMLResponse:
    """What each word and number means."""
    page = DefinitionsContext(definitions.NUMBERS, definitions.THINGS)
    return rendering.respond(request, "pages/definitions.html", page)


def context(models: tuple[ModelView, ...], latest: tuple[JobView, ...]) -> HomeContext:
    """Models and the work under way."""
    work = under_way(latest)
    is_live = not models or any(job.state in shards.ACTIVE for job in work.values())
    return HomeContext(models, {m.id: model_facts(m) for m in models}, work, is_live, commands.add())


def under_way(latest: tuple[JobView, ...]) -> JobsBySource:
    """Each source's newest job, unless it is done with the source or was cancelled."""
    newest = {(job.model, source.name): (job, source) for job in reversed(latest) for source in job.sources}
    return {
        key: job
        for key, (job, source) in newest.items()
        if job.state in ("queued", "running", "failed") and not source.is_published
    }


def model_facts(model: ModelView) -> str:
    """`GPT2LMHeadModel, 12 blocks, d_model 768, 3 sources`; what is not known is left out."""
    n = len(model.sources)
    known = [model.architecture or ""]
    known += [f"{model.n_layers} blocks"] if model.n_layers is not None else []
    known += [f"d_model {numerals.count(model.d_model)}"] if model.d_model is not None else []
    return ", ".join([*filter(None, known), f"{n} source{'' if n == 1 else 's'}"])
