"""Pages over a kept activation index: all firings of a feature, the features that fire with it, and two features.

What each shows is in its URL; all of them work as links and forms alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from typing import Annotated, get_args

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from markupsafe import Markup

from backend import errors
from backend.names import FeatureRef
from backend.services import activation_index, catalog
from backend.services.activation_index import (
    ActivationPage,
    ActivationQuery,
    CofiringKey,
    CofiringPage,
    CofiringQuery,
    PairPage,
    PairQuery,
    Scope,
    Where,
)
from backend.services.kept_index import FeatureFacts, FiringView
from backend.web import charts, concordance, links, rendering, schemas
from backend.web.dependencies import DbSession, Files

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

_SORTS: tuple[tuple[CofiringKey, str], ...] = (("count", "together"), ("lift", "lift"), ("correlation", "correlation"))
"""Sort key, definition."""


@dataclass(frozen=True, slots=True)
class Pager:
    """Where a page stands among the others; counted from 1."""

    n_total: int
    first: int
    last: int
    previous_url: str
    next_url: str


@dataclass(frozen=True, slots=True)
class ActivationsContext:
    """What `pages/activations.html` shows."""

    found: ActivationPage
    feature: FeatureFacts
    source: catalog.SourceView
    lines: tuple[concordance.Line, ...]
    legend: Markup
    histogram: Markup
    """Empty where there is nothing to spread out."""
    is_filtered: bool
    pager: Pager
    json_url: str


@dataclass(frozen=True, slots=True)
class SortLink:
    """A column the table can be sorted by."""

    term: str
    url: str
    is_sorted: bool


@dataclass(frozen=True, slots=True)
class CofiringContext:
    """What `pages/cofiring.html` shows."""

    found: CofiringPage
    feature: FeatureFacts
    source: catalog.SourceView
    columns: tuple[SortLink, ...]
    pager: Pager
    json_url: str


@dataclass(frozen=True, slots=True)
class PairContext:
    """What `pages/pair.html` shows."""

    found: PairPage
    feature: FeatureFacts
    source: catalog.SourceView
    lines: tuple[concordance.Line, ...]
    legend: Markup
    urls: dict[str, str]
    """The four choices, by "where scope"."""
    swapped_url: str
    pager: Pager
    json_url: str


@router.get("/{model}/{source}/index")
def find(session: DbSession, model: str, source: str, feature: str = "", other: str = "") -> RedirectResponse:
    """Leads to the firings of one feature, or to the contexts of two."""
    activation_index.kept(session, model, source)
    first, second = _index_of("feature", feature), _index_of("other", other) if other.strip() else None
    if second is None:
        return RedirectResponse(links.activations_url(model, source, first), 303)
    return RedirectResponse(links.pair_url(model, source, first, second), 303)


@router.get("/{model}/{source}/{index:int}/activations")
def show_activations(
    request: Request,
    session: DbSession,
    files: Files,
    model: str,
    source: str,
    index: int,
    asked: Annotated[schemas.ActivationRange, Query()],
) -> HTMLResponse:
    """All firings of a feature in a range of activations."""
    query = ActivationQuery(**asked.model_dump())
    found = activation_index.activations(session, files, FeatureRef(model, source, index), query)
    return rendering.respond(request, "pages/activations.html", activations_context(found))


@router.get("/{model}/{source}/{index:int}/cofiring")
def show_cofiring(
    request: Request,
    session: DbSession,
    files: Files,
    model: str,
    source: str,
    index: int,
    asked: Annotated[schemas.CofiringRange, Query()],
) -> HTMLResponse:
    """The features that fire with one."""
    query = CofiringQuery(**asked.model_dump())
    found = activation_index.cofiring(session, files, FeatureRef(model, source, index), query)
    return rendering.respond(request, "pages/cofiring.html", cofiring_context(found))


@router.get("/{model}/{source}/{index:int}/pair/{other:int}")
def show_pair(
    request: Request,
    session: DbSession,
    files: Files,
    model: str,
    source: str,
    index: int,
    other: int,
    asked: Annotated[schemas.PairRange, Query()],
) -> HTMLResponse:
    """Contexts in which one feature fires with or without another."""
    query = PairQuery(**asked.model_dump())
    found = activation_index.pair(session, files, FeatureRef(model, source, index), other, query)
    return rendering.respond(request, "pages/pair.html", pair_context(found))


def activations_context(found: ActivationPage) -> ActivationsContext:
    """Lines, charts and links of a feature's firings."""
    source, feature, query = found.source, found.feature, found.query

    def url(asked: ActivationQuery) -> str:
        return links.activations_url(source.model, source.name, feature.index, asked)

    low = float("-inf") if query.low is None else query.low
    high = float("inf") if query.high is None else query.high
    return ActivationsContext(
        found=found,
        feature=feature,
        source=source,
        lines=tuple(_line(row, feature.max_value) for row in found.rows),
        legend=charts.legend(feature.max_value),
        histogram=charts.firings(
            found.histogram,
            feature.max_value,
            [low <= start and end <= high for start, end in found.bin_ends],
            [url(ActivationQuery(start, end)) for start, end in found.bin_ends],
        )
        if len(found.bin_ends) > 1
        else Markup(""),
        is_filtered=(query.low, query.high) != (None, None),
        pager=_pager(found.n_total, len(found.rows), query, lambda page: url(replace(query, page=page))),
        json_url=links.index_api_url(url(query)),
    )


def cofiring_context(found: CofiringPage) -> CofiringContext:
    """Links around the features that fire with one."""
    source, feature, query = found.source, found.feature, found.query

    def url(asked: CofiringQuery) -> str:
        return links.cofiring_url(source.model, source.name, feature.index, asked)

    columns = (SortLink(term, url(replace(query, sort=key, page=1)), query.sort == key) for key, term in _SORTS)
    return CofiringContext(
        found=found,
        feature=feature,
        source=source,
        columns=tuple(columns),
        pager=_pager(found.n_total, len(found.rows), query, lambda page: url(replace(query, page=page))),
        json_url=links.index_api_url(url(query)),
    )


def pair_context(found: PairPage) -> PairContext:
    """Lines and links of two features."""
    source, feature, other, query = found.source, found.feature, found.other, found.query

    def url(asked: PairQuery) -> str:
        return links.pair_url(source.model, source.name, feature.index, other.index, asked)

    choices = [PairQuery(where, scope) for where in get_args(Where) for scope in get_args(Scope)]
    swapped = links.pair_url(source.model, source.name, other.index, feature.index, replace(query, page=1))
    return PairContext(
        found=found,
        feature=feature,
        source=source,
        lines=tuple(_line(row, feature.max_value) for row in found.rows),
        legend=charts.legend(feature.max_value),
        urls={f"{choice.where} {choice.scope}": url(choice) for choice in choices},
        swapped_url=swapped,
        pager=_pager(found.n_total, len(found.rows), query, lambda page: url(replace(query, page=page))),
        json_url=links.index_api_url(url(query)),
    )


def _line(row: FiringView, maximum: float) -> concordance.Line:
    other = dict(zip(row.other_positions, row.other_values, strict=True))
    return concordance.line(row.example, maximum, at=row.position, other=other)


def _pager(n_total: int, n_rows: int, query: links.Query, url: Callable[[int], str]) -> Pager:
    first, n_pages = (query.page - 1) * query.per_page, ceil(n_total / query.per_page)
    return Pager(
        n_total=n_total,
        first=first + 1,
        last=first + n_rows,
        previous_url=url(max(1, min(query.page - 1, n_pages))) if query.page > 1 else "",
        next_url=url(query.page + 1) if query.page < n_pages else "",
    )


def _index_of(name: str, text: str) -> int:
    digits = text.strip().rpartition("/")[2]
    if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
        raise errors.InvalidInputError(f"'{text}' is not the index of a feature.", hint=f"Fill in '{name}'.")
    return int(digits)
