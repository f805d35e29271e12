"""Search by text: the features of a model's sources that fire on a text, ranked, by layer or by token.

The page is there at once; its script then asks for the same page with its results in it, which waits for the live
worker, and takes them out of that. Without scripts the form leads there. Dense features are asked for beside the others
and folded away, so that they neither crowd the list nor are lost.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, cast

from anyio import to_thread
from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse
from sqlalchemy.orm import Session

from backend import errors
from backend.formats import messages
from backend.formats.messages import Found, TextSearch
from backend.services import catalog, inference, summaries
from backend.services.catalog import SourceView
from backend.web import found_features, links, numerals, rendering, text_query
from backend.web.api import live
from backend.web.dependencies import DbSession, transaction
from backend.web.found_features import FoundFeatures, Known
from backend.web.text_query import By, TextQuery

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

BestOf = Literal["text", "source", "token"]
BEST_OF: Mapping[By, BestOf] = {"feature": "text", "layer": "source", "token": "token"}
Asked = Annotated[TextQuery, Depends(text_query.read)]


@dataclass(frozen=True, slots=True)
class SourceChoice:
    """A source that may be searched."""

    source: SourceView
    short: str
    """What it is called beside the others of its set: its layer, where that tells them apart."""
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class SetChoice:
    """A source set that may be searched."""

    name: str
    sources: tuple[SourceChoice, ...]
    is_chosen: bool
    is_default: bool
    """Searched where the address names none."""


@dataclass(frozen=True, slots=True)
class SearchContext:
    """What `pages/text_search.html` shows."""

    model: str
    query: TextQuery
    sets: tuple[SetChoice, ...]
    """Empty where nothing can be searched yet."""
    found: FoundFeatures | None
    """None before anything was asked, and where there is no answer."""
    problem: str = ""
    """Why there is no answer."""

    @property
    def is_signed(self) -> bool:
        """Activations of the searched sources may be negative."""
        return any(each.source.is_signed for each in self._of_set)

    @property
    def said(self) -> str:
        """The outcome in words; empty before anything was asked."""
        if self.found is None:
            return self.problem
        n, n_chosen = self.found.n_features, self.n_chosen
        if not n:
            return f"Nothing fires on the {'chosen tokens' if n_chosen else 'text'}."
        features = f"{numerals.count(n)} feature{'' if n == 1 else 's'}"
        match self.query.by, n_chosen:
            case "token", _:
                return f"{features}, the strongest of each token"
            case by, 0:
                return f"{features}, {'the strongest of each layer' if by == 'layer' else 'the strongest first'}"
            case by, _:
                order = "activation on the chosen token" if n_chosen == 1 else f"sum on {n_chosen} chosen tokens"
                return f"{features}, by their {order}{', of each layer' if by == 'layer' else ''}"

    @property
    def views(self) -> tuple[tuple[str, By, str], ...]:
        """Address, value and words of each way to list what was found; by layer where there is more than one."""
        words: tuple[tuple[By, str], ...] = (("feature", "ranked"), ("layer", "by layer"), ("token", "by token"))
        return tuple(
            (links.text_results_url(self.model, replace(self.query, by=by)), by, text)
            for by, text in words
            if by != "layer" or len(self._of_set) > 1
        )

    @property
    def n_chosen(self) -> int:
        """Tokens chosen to rank by, of those there are."""
        return sum(token.is_chosen for token in self.found.tokens) if self.found else 0

    @property
    def unsorted_url(self) -> str:
        """The same search with no token chosen."""
        return links.text_results_url(self.model, replace(self.query, sort=()))

    @property
    def parameters(self) -> list[tuple[str, str]]:
        """Of the address, for a form that keeps them all."""
        return text_query.parameters(self.query)

    @property
    def _of_set(self) -> tuple[SourceChoice, ...]:
        return next(each for each in self.sets if each.is_chosen).sources


@router.get("/{model}/search")
def show(request: Request, session: DbSession, model: str, query: Asked) -> HTMLResponse:
    """The form, and room for the results."""
    page = SearchContext(model, query, choices(_sources(session, model, query.sources), query), None)
    return rendering.respond(request, "pages/text_search.html", page)


@router.get("/{model}/search/results")
async def show_results(request: Request, model: str, query: Asked) -> HTMLResponse:
    """The same page with its results in it."""
    sources = await to_thread.run_sync(_visible, request, model, query)
    sets = choices(sources, query)
    found, problem, status = None, "", 200
    if query.text and sets:
        try:
            answers = await _ask(request, model, query, searched(sources, sets))
            found = await to_thread.run_sync(_found, request, query, sources, answers)
        except errors.SiteError as error:
            problem, status = str(error), error.status
    page = SearchContext(model, query, sets, found, problem)
    return await to_thread.run_sync(lambda: rendering.respond(request, "pages/text_search.html", page, status=status))


def choices(sources: Sequence[SourceView], query: TextQuery) -> tuple[SetChoice, ...]:
    """The sets and their sources, those asked for marked; raises `NotFoundError` for a set there is not."""
    names = list(dict.fromkeys(source.set_name for source in sorted(sources, key=lambda source: source.set_name)))
    if query.source_set and query.source_set not in names:
        raise errors.NotFoundError(
            f"No source set '{query.source_set}' can be searched.", hint=f"There is {', '.join(names) or 'none yet'}."
        )
    by_source = {source.name: source.set_name for source in sources}
    default = next((by_source[name] for name in query.sources), names[0] if names else "")
    chosen = query.source_set or default

    def choice(name: str) -> SetChoice:
        mine = [source for source in sources if source.set_name == name]
        are_apart = len({source.layer for source in mine}) == len(mine)
        return SetChoice(
            name,
            tuple(
                SourceChoice(each, str(each.layer) if are_apart else each.name, each.name in query.sources)
                for each in mine
            ),
            name == chosen,
            name == names[0],
        )

    return tuple(map(choice, names))


def searched(sources: Sequence[SourceView], sets: Sequence[SetChoice]) -> tuple[str, ...]:
    """Names of the sources to search, by layer: those chosen of the chosen set, or all of it."""
    of_set = next(each for each in sets if each.is_chosen).sources
    chosen = {each.source.name for each in of_set if each.is_chosen} or {each.source.name for each in of_set}
    return tuple(source.name for source in sources if source.name in chosen)


def _visible(request: Request, model: str, query: TextQuery) -> tuple[SourceView, ...]:
    with transaction(request) as session:
        return _sources(session, model, query.sources)


def _sources(session: Session, model: str, named: Sequence[str]) -> tuple[SourceView, ...]:
    """What can be searched, by layer: sources with weights and dashboards, and those named, which may be unlisted."""
    listed = catalog.sources_of(session, model)
    known = {source.name for source in listed if source.revision_id is not None and source.has_weights}
    others = [catalog.readable_source(session, model, name).view for name in named if name not in known]
    if not listed and not others:
        catalog.model(session, model)  # which says if there is none
    found = [source for source in listed if source.name in known] + others
    return tuple(sorted(found, key=lambda source: (source.layer, source.name)))


async def _ask(request: Request, model: str, query: TextQuery, names: Sequence[str]) -> tuple[TextSearch, ...]:
    """What was found, dense features left out; then, if any are to be folded away, with them."""
    client: inference.Client = request.app.state.live
    found = await live.places(request, model, *names)
    positions = query.sort or (tuple(range(found_features.N_TOKENS_APART)) if query.by == "token" else ())

    async def ask(densest: float | None) -> TextSearch:
        question = messages.SearchRequest(
            **client.header(found), sources=tuple(names), texts=(query.text,), sort_positions=positions,
            is_bos_ignored=not query.is_bos_counted, densest=densest, n_results=found_features.N_RESULTS[query.by],
            best_of=BEST_OF[query.by],
        )  # fmt: skip
        reply = await client.ask(question, has_left=request.is_disconnected)
        return cast(messages.SearchReply, reply).texts[0]

    limits = [None] if query.densest is None else [query.densest, None]
    return tuple(await asyncio.gather(*map(ask, limits)))


def _found(
    request: Request, query: TextQuery, sources: Sequence[SourceView], answers: Sequence[TextSearch]
) -> FoundFeatures:
    by_name = {source.name: source for source in sources}
    wanted = {(each.source, each.index) for answer in answers for each in answer.found}
    with transaction(request) as session:
        known = summaries.explained(session, summaries.of(session, [(by_name[name], index) for name, index in wanted]))
    return found_features.arranged(query, sources, answers[0], dense(query, answers, known), known)


def dense(query: TextQuery, answers: Sequence[TextSearch], known: Known) -> tuple[Found, ...]:
    """The features that the first answer left out for their density."""
    if query.densest is None:
        return ()
    listed = {(each.source, each.index) for each in answers[0].found}
    return tuple(
        each
        for each in answers[-1].found
        if (each.source, each.index) not in listed
        and (feature := known.get((each.source, each.index)))
        and feature.density > query.densest
    )
