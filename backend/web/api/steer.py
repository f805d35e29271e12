"""Steering over REST: text with and without features, as JSON or as a stream, saved runs, and presets.

A handler checks what is asked in a short transaction of a thread, awaits the live worker without a connection, and
saves the run in another. Who asks the same again is answered from the saved run, whether or not a live worker runs.
"""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Any, cast

import orjson
from anyio import to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.exc import OperationalError

from backend import errors
from backend.formats import messages
from backend.formats.neuronpedia import Row
from backend.services import access, inference, steer_presets, steering
from backend.settings import Settings
from backend.web import callers, schemas, steer_rows, steer_schemas
from backend.web.dependencies import DbSession, transaction
from backend.web.pages import failures

router = APIRouter(
    tags=["steering"],
    responses={
        503: {"model": schemas.Error, "description": "No live worker runs, or the queue is down."},
        504: {"model": schemas.Error, "description": "The live worker did not answer in time."},
    },
)
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {}},
        "description": "With `stream` one event for each state of the same body.",
    }
}
EVENT_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Proxies pass events on as they come."""
EVENTS_A_STATE = 256
"""A text of up to so many tokens, both counted, is sent at each; a longer one as often as it has grown by a 256th: all
bytes of a stream are in proportion to the text, though each event has the whole of it."""


@router.post("/steer", response_model=steer_schemas.SteeredCompletion, responses=STREAMED)
async def steer(request: Request, asked: steer_schemas.SteerRequest) -> Response:
    """Go on with a text, with the features and without, on the same seed."""
    return await _answer(request, _asked(asked, kind="completion", prompt=asked.prompt), is_streamed=asked.stream)


@router.post("/steer-chat", response_model=steer_schemas.SteeredChat, responses=STREAMED)
async def steer_chat(request: Request, asked: steer_schemas.SteerChatRequest) -> Response:
    """Answer a chat in the model's own template, with the features and without, on the same seed."""
    default, steered = _turns(asked.defaultChatMessages), _turns(asked.steeredChatMessages)
    chats = {"default_chat": default or steered, "steered_chat": steered or default}
    return await _answer(request, _asked(asked, kind="chat", **chats), is_streamed=asked.stream)


@router.post("/steer-load", response_model=steer_schemas.SavedSteer)
def load(request: Request, session: DbSession, asked: steer_schemas.SteerLoadRequest) -> Response:
    """A saved run, for who may see its model and every source in it."""
    run = steering.load(session, asked.steerOutputId)
    can_delete = access.may_change(access.viewer_of(session), run.owner_id)
    return _json(steer_rows.saved(run, replace(_sent(request), run_id=run.id), can_delete=can_delete))


@router.delete("/steer/{run_id}")
def delete(session: DbSession, run_id: str) -> steer_schemas.SteerDeleted:
    """Delete a saved run of yours: its address leads nowhere any more."""
    steering.delete(session, run_id)
    return steer_schemas.SteerDeleted(id=run_id)


@router.post("/steer/presets", response_model=steer_schemas.SteerPresets)
def presets(session: DbSession, asked: steer_schemas.ModelRequest) -> Row:
    """Prompts and features of a model to begin with, and vectors of yours."""
    return steer_rows.presets(steer_presets.of_model(session, asked.modelId))


# --- below ---------------------------------------------------------------------------------------------------------


def _asked(given: steer_schemas.SteerRequest | steer_schemas.SteerChatRequest, **rest: Any) -> steering.Asked:
    """The request as the services know it; `rest` is what the two kinds differ in."""
    sampling = messages.Sampling(
        n_tokens=given.n_tokens, temperature=given.temperature, top_p=given.top_p, frequency_penalty=given.freq_penalty,
        seed=given.seed, n_alternatives=given.n_logprobs,
    )  # fmt: skip
    return steering.Asked(
        model=given.modelId, features=tuple(_feature(given, each) for each in given.features), method=given.steer_method,
        strength_multiplier=given.strength_multiplier, are_special_tokens_pushed=given.steer_special_tokens,
        sampling=sampling, **rest,
    )  # fmt: skip


def _feature(
    given: steer_schemas.SteerRequest | steer_schemas.SteerChatRequest, feature: steer_schemas.SteerFeature
) -> steering.SteeredFeature:
    if feature.modelId not in (None, given.modelId):
        raise errors.InvalidInputError(
            f"'{feature.layer}' is said to be of the model '{feature.modelId}', and the request is about '{given.modelId}'.",
            hint="Steer a model with its own features.",
        )
    method = feature.method or given.steer_method
    if feature.index is None and method != "RECONSTRUCT":
        raise errors.InvalidInputError(f"A feature of '{feature.layer}' has no index.", hint=f"{method} needs one.")
    return steering.SteeredFeature(
        source=feature.layer, index=feature.index or 0, strength=feature.strength, method=feature.method
    )


def _turns(chat: list[steer_schemas.ChatMessage]) -> tuple[messages.Turn, ...]:
    return tuple(messages.Turn(role=each.role, content=each.content) for each in chat)


async def _answer(request: Request, asked: steering.Asked, *, is_streamed: bool) -> Response:
    """The saved run, or what the live worker says; what it refuses before its first word is refused with a status."""
    settings: Settings = request.app.state.settings
    live: inference.Client = request.app.state.live
    question, known = await to_thread.run_sync(_prepare, request, asked)
    if known is not None:
        row = steer_rows.steered(asked, known.answer, replace(_sent(request), run_id=known.id))
        return _stream(_once(row)) if is_streamed else _json(row)
    header = live.header(question.found, deadline_s=settings.live_generation_s)
    sent = question.request(header, is_streamed=is_streamed)
    if is_streamed:
        replies = live.stream(sent, has_left=request.is_disconnected)
        return _stream(_events(request, question, await anext(replies), replies))
    answer = cast(messages.SteerReply, await live.ask(sent, has_left=request.is_disconnected))
    return _json(await _saved(request, question, answer))


def _prepare(request: Request, asked: steering.Asked) -> tuple[steering.Question, steering.Run | None]:
    """What to ask, and the run in which it was answered before; else raises `UnavailableError` without a live worker."""
    with transaction(request) as session:
        question = steering.question(session, asked)
        known = steering.find(session, question)
        if known is None:
            request.app.state.live.check_worker(session)
        return question, known


async def _saved(request: Request, question: steering.Question, answer: messages.SteerReply) -> Row:
    """Save the run; the whole answer."""

    def save() -> str | None:
        with transaction(request) as session:
            return steering.save(session, question, answer, n_kept=request.app.state.settings.steer_runs)

    run_id = await to_thread.run_sync(save)
    return steer_rows.steered(question.asked, answer, replace(_sent(request), run_id=run_id))


async def _events(
    request: Request, question: steering.Question, first: messages.Reply, replies: AsyncGenerator[messages.Reply]
) -> AsyncIterator[bytes]:
    """The answer as it grows, then whole and saved; an error ends it. Leaving it takes the request back."""
    async with contextlib.aclosing(replies):
        try:
            so_far = cast(messages.SteerReply, first)
            n_sent, sent = 0, replace(_sent(request), is_done=False)
            while not so_far.is_done:
                n_tokens = len(so_far.steered.tokens) + len(so_far.default.tokens)
                if n_tokens - n_sent > n_tokens // EVENTS_A_STATE:
                    n_sent = n_tokens
                    yield _event(steer_rows.steered(question.asked, so_far, sent))
                so_far = steering.joined(so_far, cast(messages.SteerReply, await anext(replies)))
            yield _event(await _saved(request, question, so_far))
        except (errors.SiteError, OperationalError) as error:
            _, message, hint = failures.describe(error)
            text = f"{message} {hint}".strip()
            yield _event({"error": text, "message": text})


async def _once(row: Row) -> AsyncIterator[bytes]:
    yield _event(row)


def _sent(request: Request) -> steer_rows.Sent:
    n_left: int | None = getattr(request.state, "limit_remaining", None)
    site = callers.site_url(request.headers, request.app.state.settings)
    return steer_rows.Sent(site, None if n_left is None else str(n_left))


def _json(row: Row) -> Response:
    return Response(orjson.dumps(row), media_type="application/json")


def _stream(events: AsyncIterator[bytes]) -> Response:
    return StreamingResponse(events, media_type="text/event-stream", headers=EVENT_HEADERS)


def _event(row: Row) -> bytes:
    return b"data: " + orjson.dumps(row) + b"\n\n"
