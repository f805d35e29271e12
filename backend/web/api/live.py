"""Live inference over REST: one feature on custom text, and a text's tokens. Bodies are Neuronpedia's.

A handler checks what is asked about in a short transaction of a thread, gives its connection back, and awaits the live
worker: however many wait, pages and the rest of the API keep their threads and connections.
"""

from datetime import UTC, datetime
from typing import cast

import orjson
from anyio import to_thread
from fastapi import APIRouter, Request, Response

from backend import errors
from backend.formats import messages
from backend.formats.neuronpedia import Row
from backend.names import FeatureRef
from backend.services import inference
from backend.web import schemas
from backend.web.dependencies import transaction

router = APIRouter(
    tags=["live"],
    responses={
        503: {"model": schemas.Error, "description": "No live worker runs, or the queue is down."},
        504: {"model": schemas.Error, "description": "The live worker did not answer in time."},
    },
)


@router.post("/activation/new", response_model=schemas.NewActivations)
async def activate(request: Request, asked: schemas.NewActivationRequest) -> Response:
    """A feature's activations on a text, or on each of a list of texts; the BOS put before a text is not shown."""
    ref = FeatureRef(asked.feature.modelId, asked.feature.source, asked.feature.index)
    live: inference.Client = request.app.state.live
    found = await places(request, ref.model, ref.source)
    check_index(found.sources[ref.source], ref)
    question = messages.ActivationsRequest(
        **live.header(found), source=ref.source, index=ref.index, is_leading_special_dropped=asked.ignoreBos,
        texts=(asked.customText,) if isinstance(asked.customText, str) else tuple(asked.customText),
    )  # fmt: skip
    answer = cast(messages.ActivationsReply, await live.ask(question, has_left=request.is_disconnected))
    rows = [_row(ref, text) for text in answer.texts]
    return Response(orjson.dumps(rows[0] if isinstance(asked.customText, str) else rows), media_type="application/json")


@router.post("/tokenize")
async def tokenize(request: Request, asked: schemas.TokenizeRequest) -> schemas.Tokens:
    """The tokens of a text in a model's vocabulary."""
    live: inference.Client = request.app.state.live
    found = await places(request, asked.modelId)
    question = messages.TokensRequest(
        **live.header(found), text=asked.prompt, is_bos_prepended=asked.prependBos
    )  # fmt: skip
    answer = cast(messages.TokensReply, await live.ask(question, has_left=request.is_disconnected))
    return schemas.Tokens(tokens=list(answer.ids), tokenStrings=list(answer.texts), prependBos=asked.prependBos)


async def places(request: Request, model: str, *sources: str) -> inference.Places:
    """What is asked about, as who asks may see it; raises `NotFoundError`, or `UnavailableError` without a live worker."""

    def find() -> inference.Places:
        with transaction(request) as session:
            found = inference.places(session, model, sources)
            request.app.state.live.check_worker(session)
            return found

    return await to_thread.run_sync(find)


def check_index(place: inference.Place, ref: FeatureRef) -> None:
    """Raises `NotFoundError` for a feature the source does not have."""
    if ref.index >= place.d_sae:
        raise errors.NotFoundError(
            f"'{ref.model}/{ref.source}' has no feature {ref.index}.", hint=f"It has 0 to {place.d_sae - 1}."
        )


def _row(ref: FeatureRef, text: messages.TextActivations) -> Row:
    values = text.values
    greatest = max(values, default=0.0)
    return {
        "tokens": list(text.tokens),
        "values": list(values),
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
