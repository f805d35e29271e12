"""Texts of the reader's own, as one feature sees them: lines like its examples, from the live worker.

The feature's page never waits for the worker: it shows the texts its address names, and its script asks here for each.
What is answered is a page of its own, so that it works without scripts; the script takes the lines out of it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, cast

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup

from backend import errors
from backend.formats import messages
from backend.formats.messages import TextActivations
from backend.names import FeatureRef
from backend.services import catalog, inference, summaries
from backend.services.features import ExampleView
from backend.services.summaries import SummaryView
from backend.web import charts, concordance, numerals, rendering, text_query, token_text
from backend.web.api import live
from backend.web.dependencies import transaction

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

MOST_TEXTS = 50
Texts = Annotated[tuple[str, ...], Query()]
"""`text=`, as often as there are texts."""
Answer = TextActivations | errors.SiteError


@dataclass(frozen=True, slots=True)
class Tried:
    """A text as the feature sees it, or why that is not known."""

    text: str
    line: concordance.Line | None
    """None: there is no answer, and `said` says why."""
    said: str
    """In words: how strongly it fires, and where."""


@dataclass(frozen=True, slots=True)
class TriedContext:
    """What `pages/tried.html` shows."""

    feature: SummaryView
    legend: Markup
    """Empty for a feature that never fired: each text is shaded by its own largest activation."""
    tried: tuple[Tried, ...]


@router.get("/{model}/{source}/{index:int}/try")
async def show(request: Request, model: str, source: str, index: int, text: Texts = ()) -> HTMLResponse:
    """The feature on the texts; its status is an error's only where every text got one."""
    ref = FeatureRef(model, source, index)
    feature = await to_thread.run_sync(_summary, request, ref)
    texts = read(text)
    answers = await _ask(request, ref, texts)
    failures = [each for each in answers if isinstance(each, errors.SiteError)]
    status = failures[0].status if failures and len(failures) == len(answers) else 200
    page = await to_thread.run_sync(context, feature, texts, answers)
    return rendering.respond(request, "pages/tried.html", page, status=status)


def read(texts: Sequence[str]) -> tuple[str, ...]:
    """The texts of an address, each once; raises `InvalidInputError` for too many."""
    found = tuple(dict.fromkeys(text_query.normal(text) for text in texts if text))
    if len(found) > MOST_TEXTS:
        raise errors.InvalidInputError(f"{len(found)} texts are asked about.", hint=f"Ask about {MOST_TEXTS} at most.")
    return found


def context(feature: SummaryView, texts: Sequence[str], answers: Sequence[Answer]) -> TriedContext:
    """Lines and shades of what the worker answered."""
    ends = concordance.Range(feature.max_value, feature.min_value)
    signed = feature.source.is_signed
    legend = charts.signed_legend(ends) if signed else charts.legend(ends.maximum)
    return TriedContext(
        feature=feature,
        legend=legend if feature.n_firings else Markup(""),
        tried=tuple(
            Tried(text, None, str(answer)) if isinstance(answer, errors.SiteError) else tried(text, answer, feature)
            for text, answer in zip(texts, answers, strict=True)
        ),
    )


def tried(text: str, answer: TextActivations, feature: SummaryView) -> Tried:
    """The text as an example is shown, its strongest firing in the middle.

    A text that fires nowhere stands by its own middle. What a dead feature does is shaded by its largest here.
    """
    values = answer.values
    ends = concordance.Range(feature.max_value, feature.min_value)
    if not feature.n_firings:
        ends = concordance.Range(max(values, default=0.0), min(0.0, *values))
    positions = tuple(at for at, value in enumerate(values) if value)
    hit = max(positions, key=lambda at: _share(values[at], ends), default=len(values) // 2)
    view = ExampleView(
        context=0, tokens=answer.tokens, positions=positions, values=tuple(values[at] for at in positions),
        max_value=max(values, default=0.0), max_position=hit,
    )  # fmt: skip
    line = concordance.line(view, ends.maximum, minimum=ends.minimum, at=hit)
    return Tried(text, line, _in_words(answer, ends, is_signed=feature.source.is_signed))


def _share(value: float, ends: concordance.Range) -> float:
    """Of the end on its side; larger is stronger."""
    end = ends.minimum if value < 0 else ends.maximum
    return value / end if end else abs(value)


def _in_words(answer: TextActivations, ends: concordance.Range, *, is_signed: bool) -> str:
    n_firings, n = sum(map(bool, answer.values)), len(answer.values)
    of = f"{numerals.count(n)} token{'' if n == 1 else 's'}"
    if not n_firings:
        return f"It fires on none of the {of}."
    at = range(n)
    largest, least = max(at, key=answer.values.__getitem__), min(at, key=answer.values.__getitem__)

    def named(position: int) -> str:
        value = numerals.fixed(answer.values[position], numerals.decimals_for(ends.size))
        return f"{value} on “{token_text.plain(answer.tokens[position])}”"

    if is_signed:
        return f"From {named(least)} to {named(largest)}, {of}."
    return f"{named(largest)} at most; it fires on {numerals.count(n_firings)} of {of}."


def _summary(request: Request, ref: FeatureRef) -> SummaryView:
    with transaction(request) as session:
        source = catalog.readable_source(session, ref.model, ref.source).view
        found = summaries.of(session, [(source, ref.index)]) if ref.index < source.d_sae else {}
    if not found:
        raise errors.NotFoundError(f"'{ref.model}/{ref.source}' has no feature {ref.index} that can be read.")
    return found[ref.source, ref.index]


async def _ask(request: Request, ref: FeatureRef, texts: Sequence[str]) -> list[Answer]:
    """An answer for each text; each is a question of its own, so that it is answered from memory next time."""
    if not texts:
        return []
    client: inference.Client = request.app.state.live
    try:
        found = await live.places(request, ref.model, ref.source)
    except errors.SiteError as error:
        return [error] * len(texts)

    async def ask(text: str) -> Answer:
        question = messages.ActivationsRequest(
            **client.header(found), source=ref.source, index=ref.index, texts=(text,)
        )
        try:
            reply = await client.ask(question, has_left=request.is_disconnected)
        except errors.SiteError as error:
            return error
        return cast(messages.ActivationsReply, reply).texts[0]

    return list(await asyncio.gather(*map(ask, texts)))
