"""A source's page: what it is, how far its computation is, and its features as a table that can be sorted and filtered.

The table's whole state is in the URL. Densities may be typed as fractions or as percent (`0.001`, `0.1%`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from markupsafe import Markup

from backend import errors, names
from backend.formats.quality import Quality
from backend.services import access, catalog, events, explanations, features, filling, imports, jobs, sharing
from backend.services.access import Viewer
from backend.services.events import EventView
from backend.services.features import FeaturePage, FeatureQuery, SortKey
from backend.services.filling import SoFar
from backend.services.progress import JobView
from backend.settings import Access
from backend.web import charts, links, rendering
from backend.web.dependencies import DbSession, Viewing
from backend.web.pages import commands, look, quality
from backend.web.pages.look import LookPanel
from backend.web.pages.quality import QualityPanel

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

TRUE = frozenset({"1", "true", "on"})
MAX_PAGE = 10**6
MAX_TOKEN_CHARACTERS = 200

Direction = Literal["ascending", "descending", ""]
_COLUMNS: tuple[tuple[SortKey, str, str], ...] = (
    ("index", "feature", "feature"),
    ("density", "density", "density"),
    ("max_activation", "max", "max-activation"),
    ("logit_kurtosis", "logit kurtosis", "logit-kurtosis"),
)
"""Sort key, title, definition."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column the table can be sorted by."""

    title: str
    term: str
    url: str
    """Sorts by it, or turns the order round."""
    direction: Direction
    """Empty if the table is sorted by another."""


@dataclass(frozen=True, slots=True)
class ExportPanel:
    """How the dashboards are taken along."""

    url: str
    """Of a zip with Neuronpedia's files."""
    parquet_url: str
    curl: str
    command: str
    """Empty for whoever is not the operator."""


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What `pages/source.html` shows."""

    source: catalog.SourceView
    job: JobView | None
    """The latest one, unless it is done."""
    command: str
    """Computes the dashboards."""
    query: FeatureQuery
    features: FeaturePage | None
    """None before the first computation; then the fields below are empty."""
    densities: Markup
    quality: QualityPanel | None
    """None where it was not measured."""
    columns: tuple[Column, ...]
    kept: tuple[tuple[str, str], ...]
    """Hidden fields of the filter form: the order, which filtering leaves as it is."""
    is_filtered: bool
    reset_url: str
    n_pages: int
    first: int
    last: int
    """Rows shown, counted from 1 over all pages."""
    previous_url: str
    next_url: str
    json_url: str
    log: tuple[EventView, ...] = ()
    """Of the job, its newest lines."""
    so_far: SoFar | None = None
    """What the job knows of the source while it computes it for the first time."""
    can_share: bool = False
    """The reader owns it or is an admin, and there are others to show it to."""
    can_change: bool = False
    """The reader owns it, or is an admin."""
    look: LookPanel | None = None
    """None before a job has looked."""
    attach_command: str = ""
    """Gives the source its weights; empty where it has some."""
    exported: ExportPanel | None = None
    """None before its dashboards are whole."""
    files: Mapping[str, str] = field(default_factory=dict)
    """sha256 by name of what its dashboards were imported from."""
    explained: Mapping[int, str] = field(default_factory=dict)
    """The best explanation of each feature on the page that has one, by index."""


def feature_query(
    sort: str = "",
    descending: str = "",
    min_density: str = "",
    max_density: str = "",
    min_activation: str = "",
    min_kurtosis: str = "",
    token: str = "",
    with_dead: str = "",
    page: str = "",
) -> FeatureQuery:
    """The query a URL holds; empty fields, as forms send them, mean nothing is asked. Names every field it cannot read."""
    problems: list[str] = []
    keys = [key for key, _, _ in _COLUMNS]
    if sort and sort not in keys:
        problems.append(f"sort must be one of {', '.join(keys)}, not '{sort}'")
    number = _number("page", page or "1", problems) or 0
    if not (number == int(number) and 1 <= number <= MAX_PAGE):
        problems.append(f"page must be a whole number from 1 to {MAX_PAGE}, not '{page}'")
    if len(token) > MAX_TOKEN_CHARACTERS:
        problems.append(f"token must be at most {MAX_TOKEN_CHARACTERS} characters")
    query = FeatureQuery(
        sort=next((key for key in keys if key == sort), "index"),
        is_descending=descending in TRUE,
        min_density=_number("min_density", min_density, problems),
        max_density=_number("max_density", max_density, problems),
        min_activation=_number("min_activation", min_activation, problems),
        min_kurtosis=_number("min_kurtosis", min_kurtosis, problems),
        token=token,
        with_dead=with_dead in TRUE,
        page=int(number),
    )
    if problems:
        raise errors.InvalidInputError(f"The table's settings cannot be read: {'; '.join(problems)}.")
    return query


@router.get("/{model}/{source}")
def show(
    request: Request,
    session: DbSession,
    viewer: Viewing,
    model: str,
    source: str,
    query: Annotated[FeatureQuery, Depends(feature_query)],
) -> HTMLResponse:
    """The source, with a page of its features if there are any."""
    view = catalog.source(session, model, source)
    job = jobs.of_source(session, model, source)
    page = features.browse(session, model, source, query) if view.revision_id is not None else None
    measured = catalog.quality(session, model, source) if page else None
    shown = context(view, job, query, page, measured)
    can_change = access.may_change(viewer, view.owner_id)
    can_share = can_change and request.app.state.settings.access is Access.ACCOUNTS
    seen = catalog.look(session, model, source)
    panel = look.panel(seen) if seen else None
    listed = [names.FeatureRef(model, source, row.index) for row in page.rows] if page else []
    explained = {ref.index: said for ref, said in explanations.headlines(session, listed).items()}
    shown = replace(shown, can_change=can_change, can_share=can_share, look=panel, explained=explained)
    if page is not None and not view.is_partial:
        shown = replace(shown, exported=export_panel(viewer, view, origin=str(request.base_url).rstrip("/")))
    if view.is_imported and view.revision_id is not None:
        shown = replace(shown, files=imports.files_of_revision(session, view.revision_id))
    if shown.job is not None:
        known = {of.name: of for of in filling.of_job(session, shown.job.id)}
        shown = replace(shown, log=events.newest(session, shown.job.id), so_far=known.get(source))
    return rendering.respond(request, "pages/source.html", shown)


@router.post("/{model}/{source}/visibility")
def set_visibility(
    session: DbSession, model: str, source: str, visibility: Annotated[str, Form()] = ""
) -> RedirectResponse:
    """Says who may see the source."""
    sharing.set_visibility(session, model, source, visibility)
    return RedirectResponse(names.source_url(model, source), 303)


def context(
    source: catalog.SourceView,
    job: JobView | None,
    query: FeatureQuery,
    page: FeaturePage | None,
    measured: Quality | None = None,
) -> SourceContext:
    """Links, charts and counts around a page of features."""
    n_total = page.n_total if page else 0
    n_pages = ceil(n_total / query.per_page)
    first = (query.page - 1) * query.per_page

    def url(number: int) -> str:
        return links.features_url(source.model, source.name, replace(query, page=number))

    order = FeatureQuery(sort=query.sort, is_descending=query.is_descending)
    return SourceContext(
        source=source,
        job=job if job and job.state != "done" and not _is_published(job, source.name) else None,
        command=commands.add(),
        query=query,
        features=page,
        densities=_densities(source, query) if page else Markup(""),
        quality=quality.panel(measured) if measured else None,
        columns=tuple(
            _column(source, query, *column)
            for column in _COLUMNS
            if not (source.is_imported and column[0] == "logit_kurtosis")  # no import says it
        ),
        kept=_kept(query),
        is_filtered=replace(query, page=1) != order,
        reset_url=links.features_url(source.model, source.name, order),
        n_pages=n_pages,
        first=first + 1,
        last=first + (len(page.rows) if page else 0),
        previous_url=url(min(query.page - 1, n_pages)) if query.page > 1 else "",
        next_url=url(query.page + 1) if query.page < n_pages else "",
        json_url=links.features_api_url(source.model, source.name, query),
        attach_command="" if source.has_weights else commands.attach(source.model, source.name),
    )


def export_panel(viewer: Viewer, source: catalog.SourceView, *, origin: str) -> ExportPanel:
    """Links and commands that reach this site at `origin`."""
    url = links.export_api_url(source.model, source.name)
    curl = f"curl -OJf{commands.curl_key(viewer)} {origin}{url}"
    command = commands.export(source.model, source.name) if viewer.is_admin else ""
    return ExportPanel(url, links.export_api_url(source.model, source.name, "parquet"), curl, command)


def _is_published(job: JobView, source: str) -> bool:
    return any(of.name == source and of.is_published for of in job.sources)


def _number(name: str, text: str, problems: list[str]) -> float | None:
    """What `text` says, a percent as a fraction; notes in `problems` what cannot be read."""
    text = text.strip().replace(",", ".")
    if not text:
        return None
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e300:
        problems.append(f"{name} must be a number, not '{text}'")
        return None
    return value / 100 if text.endswith("%") else value


def _kept(query: FeatureQuery) -> tuple[tuple[str, str], ...]:
    kept: list[tuple[str, str]] = [("sort", query.sort)] if query.sort != "index" else []
    return tuple([*kept, ("descending", "1")] if query.is_descending else kept)


def _column(source: catalog.SourceView, query: FeatureQuery, key: SortKey, title: str, term: str) -> Column:
    """Numbers are first sorted from the largest, indexes from the smallest."""
    is_sorted = query.sort == key
    goes_down = not query.is_descending if is_sorted else key != "index"
    url = links.features_url(source.model, source.name, replace(query, sort=key, is_descending=goes_down, page=1))
    direction: Direction = ("descending" if query.is_descending else "ascending") if is_sorted else ""
    return Column(title, term, url, direction)


def _densities(source: catalog.SourceView, query: FeatureQuery) -> Markup:
    def url(low: float, high: float) -> str:
        bounds = replace(query, min_density=float(f"{low:.4g}"), max_density=float(f"{high:.4g}"), page=1)
        return links.features_url(source.model, source.name, bounds)

    chosen = (query.min_density or 0.0, 1.0 if query.max_density is None else query.max_density)
    return charts.densities((source.density_low, source.density_high), source.density_counts, chosen, url)
