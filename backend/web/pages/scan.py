"""The injection scan of a feature: a form, and what comes of it. The URL says all of it.

A form that nobody filled in yet holds a suggestion. Where no live worker runs, or the question cannot be answered, the
page says so above the form, with the error's status where something was asked.
"""

from dataclasses import dataclass
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse

from backend import errors
from backend.formats.messages import Push, ScanReply
from backend.names import FeatureRef
from backend.services import features, inference
from backend.services.features import FeatureView
from backend.web import links, rendering, scan_results
from backend.web.api import scan as api
from backend.web.dependencies import transaction
from backend.web.pages import failures
from backend.web.scan_results import Result
from backend.web.scan_schemas import ScanQuery

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

MAX_SUGGESTED_TOKENS = 40


@dataclass(frozen=True, slots=True)
class ScanContext:
    """What `pages/scan.html` shows."""

    feature: FeatureView
    asked: ScanQuery
    """As the form is filled in."""
    is_suggested: bool
    """Nobody filled it in yet."""
    problem: errors.SiteError | None
    """Why there is no result, or could be none."""
    result: Result | None
    token_urls: tuple[str, ...]
    """The same scan read at each token of the answer."""
    csv_url: str


@router.get("/{model}/{source}/{index:int}/scan")
async def show(
    request: Request, model: str, source: str, index: int, asked: Annotated[ScanQuery, Query()]
) -> HTMLResponse:
    """The form, and the scan where a text and a token are given."""
    asked = _as_typed(asked)
    feature, found = await to_thread.run_sync(_find, request, FeatureRef(model, source, index))
    reply = problem = None
    try:
        await to_thread.run_sync(_check_worker, request)
        if asked.text and asked.token:
            reply = await api.ask(request, found, Push(source=source, index=index), asked)
    except errors.SiteError as error:
        problem = error
    page = context(feature, asked, reply, problem)
    if problem is None or page.is_suggested:
        return rendering.respond(request, "pages/scan.html", page)
    response = rendering.respond(request, "pages/scan.html", page, status=problem.status)
    response.headers.update(failures.headers(problem))
    return response


@router.get("/{model}/{source}/{index:int}/scan.csv")
async def download(
    request: Request, model: str, source: str, index: int, asked: Annotated[ScanQuery, Query()]
) -> Response:
    """The same scan as a file: one row for each component and coefficient."""
    _, found = await to_thread.run_sync(_find, request, FeatureRef(model, source, index))
    await to_thread.run_sync(_check_worker, request)
    return api.csv_response(await api.ask(request, found, Push(source=source, index=index), _as_typed(asked)))


def context(
    feature: FeatureView, asked: ScanQuery, reply: ScanReply | None, problem: errors.SiteError | None = None
) -> ScanContext:
    """The form as it was filled in, or might be; charts and tables of the answer."""
    source, is_new, given = feature.source, not asked.text and not asked.token, parameters(asked)
    n_tokens = 0 if reply is None else len(reply.tokens)
    return ScanContext(
        feature=feature,
        asked=_suggested(feature, asked) if is_new else asked,
        is_suggested=is_new,
        problem=problem,
        result=None if reply is None else scan_results.result(reply),
        token_urls=tuple(
            links.scan_url(source.model, source.name, feature.index, given | {"position": position})
            for position in range(n_tokens)
        ),
        csv_url=links.scan_csv_url(source.model, source.name, feature.index, given),
    )


def parameters(asked: ScanQuery) -> dict[str, str | float]:
    """As a URL has them; defaults are left out, so that equal scans have equal URLs."""
    given = asked.model_dump(exclude_defaults=True)
    return {key: int(value) if isinstance(value, bool) else value for key, value in given.items()}


def _as_typed(asked: ScanQuery) -> ScanQuery:
    """Browsers send a line's end as two characters, which are other tokens."""
    return asked.model_copy(update={"text": asked.text.replace("\r\n", "\n")})


def _find(request: Request, ref: FeatureRef) -> tuple[FeatureView, inference.Places]:
    with transaction(request) as session:
        return features.get(session, ref), inference.places(session, ref.model, [ref.source])


def _check_worker(request: Request) -> None:
    with transaction(request) as session:
        request.app.state.live.check_worker(session)


def _suggested(feature: FeatureView, asked: ScanQuery) -> ScanQuery:
    """The strongest example up to where it fires, and the token that the feature promotes most."""
    example = next((group.examples[0] for group in feature.groups if group.is_top and group.examples), None)
    tokens = () if example is None else example.tokens[: example.max_position + 1][-MAX_SUGGESTED_TOKENS:]
    lens = feature.logit_lens
    token = lens.top[0][0] if lens is not None and lens.top else ""
    return asked.model_copy(update={"text": "".join(tokens), "token": token})
