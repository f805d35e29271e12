"""Live inference over REST: one feature on custom text, and a text's tokens. Bodies are Neuronpedia's.

A handler checks with a session, gives the session back, and waits for the live worker in a thread of a limiter of its
own: however many wait, pages and the rest of the API keep their threads and connections.
"""

import functools
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import numpy as np
import orjson
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request, Response
from starlette.datastructures import State

from backend import errors
from backend.formats.messages import TextActivations
from backend.formats.neuronpedia import Row
from backend.names import FeatureRef
from backend.services import inference
from backend.settings import Settings
from backend.web import schemas
from backend.web.dependencies import transaction

router = APIRouter(tags=["live"], responses={503: {"model": schemas.Error, "description": "No live worker answers."}})
_T = TypeVar("_T")


@router.post("/activation/new", response_model=schemas.NewActivations)
async def activate(request: Request, asked: schemas.NewActivationRequest) -> Response:
    """A feature's activations on a text, or on each of a list of texts; the BOS put before a text is not shown."""
    ref = FeatureRef(asked.feature.modelId, asked.feature.source, asked.feature.index)
    is_one = isinstance(asked.customText, str)
    texts = [asked.customText] if isinstance(asked.customText, str) else asked.customText
    found = await _waiting(request, functools.partial(_activate, request, ref, texts, asked.ignoreBos))
    rows = [_row(ref, text) for text in found]
    return Response(orjson.dumps(rows[0] if is_one else rows), media_type="application/json")


@router.post("/tokenize")
async def tokenize(request: Request, asked: schemas.TokenizeRequest) -> schemas.Tokens:
    """The tokens of a text in a model's vocabulary."""
    return await _waiting(request, functools.partial(_tokenize, request, asked))


def _activate(
    request: Request, ref: FeatureRef, texts: Sequence[str], is_leading_special_dropped: bool
) -> Sequence[TextActivations]:
    settings: Settings = request.app.state.settings
    with transaction(request) as session:
        inference.check_feature(session, ref, heartbeat_s=settings.heartbeat_s)
    return inference.activations(
        _queue(request.app.state), ref, texts, _limits(settings), is_leading_special_dropped=is_leading_special_dropped
    )


def _tokenize(request: Request, asked: schemas.TokenizeRequest) -> schemas.Tokens:
    settings: Settings = request.app.state.settings
    with transaction(request) as session:
        inference.check_model(session, asked.modelId, heartbeat_s=settings.heartbeat_s)
    found = inference.tokens(
        _queue(request.app.state), asked.modelId, asked.prompt, _limits(settings), is_bos_prepended=asked.prependBos
    )
    return schemas.Tokens(tokens=list(found.ids), tokenStrings=list(found.texts), prependBos=asked.prependBos)


async def _waiting(request: Request, wait: Callable[[], _T]) -> _T:
    """Run what waits for the worker in a thread; as many threads as requests may wait, and no line for them."""
    state = request.app.state
    if not hasattr(state, "live_limiter"):
        state.live_limiter = CapacityLimiter(state.settings.live_waiting)
    limiter: CapacityLimiter = state.live_limiter
    if limiter.available_tokens < 1:
        raise errors.BusyError(
            f"{state.settings.live_waiting} requests wait for the live worker.",
            hint="Ask again in a moment.", retry_after_s=inference.RETRY_AFTER_S,
        )  # fmt: skip
    return await to_thread.run_sync(wait, limiter=limiter)


def _queue(state: State) -> inference.Queue:
    if not hasattr(state, "live_queue"):
        state.live_queue = inference.connect(state.settings)
    queue: inference.Queue = state.live_queue
    return queue


def _limits(settings: Settings) -> inference.Limits:
    return inference.Limits(settings.live_deadline_s, settings.live_waiting)


def _row(ref: FeatureRef, text: TextActivations) -> Row:
    values = [float(shortest) for shortest in np.array(text.values, np.float32).astype(str).tolist()]
    greatest = max(values, default=0.0)
    return {
        "tokens": list(text.tokens),
        "values": values,
        "maxValue": greatest,
        "minValue": min(values, default=0.0),
        "modelId": ref.model,
        "layer": ref.source,
        "index": str(ref.index),
        "creatorId": "",
        "dataIndex": None,
        "dataSource": "Neuronpedia",  # what its server says of every custom text
        "maxValueTokenIndex": values.index(greatest) if values else 0,
        "createdAt": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
