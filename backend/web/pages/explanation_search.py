"""Search by the words of explanations: everywhere, in a model, in some of its sources or in a release.

The address is Neuronpedia's: `?q=&modelId=&sources=&releaseName=`, with `offset=` for further pages. `sources` are given
several times, by commas, or as a JSON list. Each feature found is a card with its strongest contexts.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse
from sqlalchemy.orm import Session

from backend import errors, names
from backend.services import catalog, explanation_search, features
from backend.services.catalog import ModelView, SourceView
from backend.services.explanation_search import Found, FoundPage, Scope
from backend.services.features import FeatureView
from backend.web import concordance, rendering
from backend.web.dependencies import DbSession

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

N_EXAMPLES = 3
"""Contexts on a card."""
MOST_OFFSET = 10**6


@dataclass(frozen=True, slots=True)
class ExplanationQuery:
    """What is searched for and where; every field is part of the page's address."""

    words: str = ""
    model: str = ""
    sources: tuple[str, ...] = ()
    release: str = ""
    offset: int = 0

    @property
    def url(self) -> str:
        """The page that shows it."""
        return names.explanations_url(
            self.words, model=self.model, sources=self.sources, release=self.release, offset=self.offset
        )


@dataclass(frozen=True, slots=True)
class Card:
    """A feature that was found by an explanation."""

    found: Found
    feature: FeatureView | None
    """None for one without a dashboard."""
    lines: tuple[concordance.Line, ...]
    ends: concordance.Range


@dataclass(frozen=True, slots=True)
class SourceChoice:
    """A source that may be searched by itself."""

    source: SourceView
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class SearchContext:
    """What `pages/explanation_search.html` shows."""

    query: ExplanationQuery
    places: tuple[tuple[str, str, bool], ...]
    """Address, words and whether it is this one, of each tab: everywhere, models, and what is narrower."""
    choices: tuple[SourceChoice, ...]
    """Sources of the chosen model; none where no model is chosen."""
    cards: tuple[Card, ...] | None
    """None before anything was asked, and where there is no answer."""
    previous_url: str = ""
    next_url: str = ""
    problem: str = ""
    """Why there is no answer."""

    @property
    def is_signed(self) -> bool:
        """Activations on some card may be negative."""
        return any(card.feature is not None and card.feature.signed is not None for card in self.cards or ())

    @property
    def first(self) -> int:
        """Of the cards, counted from 1 over all pages."""
        return self.query.offset + 1

    @property
    def last(self) -> int:
        """As `first`."""
        return self.query.offset + len(self.cards or ())


def read(
    q: str = "",
    modelId: str = "",
    sources: Annotated[tuple[str, ...], Query()] = (),
    releaseName: str = "",
    offset: str = "",
) -> ExplanationQuery:
    """The query an address holds; raises `InvalidInputError` for an offset that is none."""
    if offset and not (offset.isascii() and offset.isdigit() and int(offset) <= MOST_OFFSET):
        raise errors.InvalidInputError(
            f"'{offset[:40]}' is no offset.", hint=f"It is a number from 0 to {MOST_OFFSET}."
        )
    named = tuple(dict.fromkeys(name for given in sources for name in _listed(given)))
    return ExplanationQuery(q.strip(), modelId.strip(), named, releaseName.strip(), int(offset or 0))


@router.get("/search-explanations")
def show(request: Request, session: DbSession, query: Annotated[ExplanationQuery, Depends(read)]) -> HTMLResponse:
    """The form, and what was found."""
    models = catalog.models(session)
    sources = _sources(session, models, query)
    if not query.words:
        return rendering.respond(request, "pages/explanation_search.html", context(query, models, sources))
    try:
        scope = Scope(query.model, query.sources, query.release)
        found = explanation_search.search(session, query.words, scope, offset=query.offset)
    except errors.SiteError as error:
        page = replace(context(query, models, sources), problem=str(error))
        return rendering.respond(request, "pages/explanation_search.html", page, status=error.status)
    views = features.several(session, [each.explanation.ref for each in found.results], n_examples=N_EXAMPLES)
    page = context(query, models, sources, found, views)
    return rendering.respond(request, "pages/explanation_search.html", page)


def context(
    query: ExplanationQuery,
    models: Sequence[ModelView],
    sources: Sequence[SourceView],
    found: FoundPage | None = None,
    views: Sequence[FeatureView | None] = (),
) -> SearchContext:
    """Tabs, choices and cards; `views` are the features of the results."""
    cards = None if found is None else tuple(map(_card, found.results, views))
    back = max(0, query.offset - explanation_search.N_PER_PAGE)
    return SearchContext(
        query=query,
        places=_places(query, models),
        choices=tuple(SourceChoice(source, source.name in query.sources) for source in sources),
        cards=cards,
        previous_url=replace(query, offset=back).url if found is not None and query.offset else "",
        next_url=replace(query, offset=found.next_offset).url if found is not None and found.has_more else "",
    )


def _places(query: ExplanationQuery, models: Sequence[ModelView]) -> tuple[tuple[str, str, bool], ...]:
    everywhere = ExplanationQuery(query.words)
    tabs = [(everywhere, "everywhere"), *((replace(everywhere, model=model.id), model.id) for model in models)]
    here = replace(query, offset=0)
    if query.release:
        tabs.append((here, f"release {query.release}"))
    elif query.sources:
        tabs.append((here, ", ".join(query.sources)))
    return tuple((tab.url, words, tab == here) for tab, words in tabs)


def _sources(session: Session, models: Sequence[ModelView], query: ExplanationQuery) -> tuple[SourceView, ...]:
    """Those of the chosen model that the viewer sees in lists, and those named, which may be unlisted; by layer."""
    listed = next((model.sources for model in models if model.id == query.model), ())
    known = {source.name for source in listed}
    others = catalog.sources_named(session, query.model, [name for name in query.sources if name not in known])
    return tuple(sorted((*listed, *others), key=lambda source: (source.layer, source.name)))


def _card(found: Found, feature: FeatureView | None) -> Card:
    if feature is None:
        return Card(found, None, (), concordance.Range(0.0))
    ends = concordance.Range(feature.max_value, min(0.0, feature.min_value))
    examples = [example for group in feature.groups[:1] for example in group.examples]
    lines = tuple(concordance.line(example, ends.maximum, minimum=ends.minimum) for example in examples)
    return Card(found, feature, lines, ends)


def _listed(given: str) -> list[str]:
    """Names by commas, or as a JSON list."""
    try:
        parsed = json.loads(given) if given.startswith("[") else given.split(",")
    except ValueError:
        parsed = given.strip("[]").split(",")
    return [str(name).strip() for name in parsed if str(name).strip()]
