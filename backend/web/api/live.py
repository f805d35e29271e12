"""Live inference over REST: one feature or a whole source on custom text, a text's tokens, and directions of features.

Bodies are Neuronpedia's. A handler checks what is asked about in a short transaction of a thread, gives its connection
back, and awaits the live worker: however many wait, pages and the rest of the API keep their threads and connections.
"""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, TypeVar, cast

import orjson
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session

from backend import errors
from backend.formats import messages
from backend.formats.neuronpedia import Row
from backend.names import FeatureRef
from backend.services import inference
from backend.web import live_schemas, schemas
from backend.web.dependencies import transaction

REFUSALS: dict[int | str, dict[str, Any]] = {
    503: {"model": schemas.Error, "description": "No live worker runs, or the queue is down."},
    504: {"model": schemas.Error, "description": "The live worker did not answer in time."},
}
router = APIRouter(tags=["live"], responses=REFUSALS)
N_THREADS = 1
"""That live requests take for the database and for putting answers together: the work is the processor's, more gain nothing."""
T = TypeVar("T")


@router.post("/activation/new", response_model=live_schemas.NewActivations)
async def activate(request: Request, asked: live_schemas.NewActivationRequest) -> Response:
    """A feature's activations on a text, or on each of a list of texts; the BOS put before a text is not shown."""
    ref = FeatureRef(asked.feature.modelId, asked.feature.source, asked.feature.index)
    live: inference.Client = request.app.state.live
    found = await places(request, ref.model, ref.source)
    check_index(found.sources[ref.source], ref)
    question = messages.ActivationsRequest(
        **live.header(found), source=ref.source, index=ref.index, is_leading_special_dropped=asked.ignoreBos,
        texts=texts_of(asked.customText),
    )  # fmt: skip
    answer = cast(messages.ActivationsReply, await live.ask(question, has_left=request.is_disconnected))
    rows = [_row(ref, text) for text in answer.texts]
    return as_json(rows[0] if isinstance(asked.customText, str) else rows)


@router.post("/activation/source", response_model=live_schemas.SourceActivations)
async def activate_all(request: Request, asked: live_schemas.SourceActivationsRequest) -> Response:
    """Every feature of a source that fires on a text, or on each of a list of texts, and where."""
    live: inference.Client = request.app.state.live
    found = await places(request, asked.modelId, asked.source)
    question = messages.FiringsRequest(
        **live.header(found), source=asked.source, texts=texts_of(asked.customText)
    )  # fmt: skip
    answer = cast(messages.FiringsReply, await live.ask(question, has_left=request.is_disconnected))
    # In a thread: a hundred long texts have a million firings.
    return await to_thread.run_sync(lambda: as_json({"results": [_firings(text) for text in answer.texts]}))


@router.post("/tokenize")
async def tokenize(request: Request, asked: live_schemas.TokenizeRequest) -> live_schemas.Tokens:
    """The tokens of a text in a model's vocabulary."""
    live: inference.Client = request.app.state.live
    found = await places(request, asked.modelId)
    question = messages.TokensRequest(**live.header(found), text=asked.prompt, is_bos_prepended=asked.prependBos)
    answer = cast(messages.TokensReply, await live.ask(question, has_left=request.is_disconnected))
    return live_schemas.Tokens(tokens=list(answer.ids), tokenStrings=list(answer.texts), prependBos=asked.prependBos)


@router.post("/cossim")
async def compare(request: Request, asked: live_schemas.CosineRequest) -> live_schemas.Cosines:
    """The features of a source whose decoder directions are nearest to a feature's, of the same source or another."""
    ref = FeatureRef(asked.modelId, asked.source, asked.index)
    target = asked.targetSourceId or ref.source
    if asked.targetModelId not in ("", ref.model):
        raise errors.InvalidInputError(
            f"'{ref}' and '{asked.targetModelId}' are of two models, whose directions have nothing in common.",
            hint="Name a source of the feature's model.",
        )
    live: inference.Client = request.app.state.live
    found = await places(request, ref.model, *dict.fromkeys((ref.source, target)))
    check_index(found.sources[ref.source], ref)
    question = messages.CosineRequest(
        **live.header(found), source=ref.source, index=ref.index, target=target, n_results=asked.numResults
    )
    answer = cast(messages.CosineReply, await live.ask(question, has_left=request.is_disconnected))
    near = zip(answer.features, answer.cosines, strict=True)
    return live_schemas.Cosines(
        feature=_name(ref),
        topkDecoderCossimFeatures=[
            live_schemas.NearFeature(feature=_name(FeatureRef(ref.model, target, index)), cosineSimilarity=cosine)
            for index, cosine in near
        ],
    )


async def places(request: Request, model: str, *sources: str) -> inference.Places:
    """What is asked about, as who asks may see it; raises `NotFoundError`, or `UnavailableError` without a live worker."""
    return await look_up(request, lambda session: inference.places(session, model, sources))


async def aside(request: Request, work: Callable[[], T]) -> T:
    """Run in a thread, one at a time: many callers of the live worker must not take the processor from who reads pages."""
    state = request.app.state
    if not hasattr(state, "live_threads"):
        state.live_threads = CapacityLimiter(N_THREADS)
    limiter: CapacityLimiter = state.live_threads
    return await to_thread.run_sync(work, limiter=limiter)


async def look_up(request: Request, find: Callable[[Session], inference.Places]) -> inference.Places:
    """What `find` does, in a transaction of its own; raises `UnavailableError` without a live worker."""

    def look() -> inference.Places:
        with transaction(request) as session:
            found = find(session)
            request.app.state.live.check_worker(session)
            return found

    return await aside(request, look)


def check_index(place: inference.Place, ref: FeatureRef) -> None:
    """Raises `NotFoundError` for a feature the source does not have."""
    if ref.index >= place.d_sae:
        raise errors.NotFoundError(
            f"'{ref.model}/{ref.source}' has no feature {ref.index}.", hint=f"It has 0 to {place.d_sae - 1}."
        )


def texts_of(given: str | list[str]) -> tuple[str, ...]:
    """The texts of a request that takes one or many."""
    return (given,) if isinstance(given, str) else tuple(given)


def as_json(body: object) -> Response:
    """The body as it is; FastAPI would check every number of it against the schema first."""
    return Response(orjson.dumps(body), media_type="application/json")


def _row(ref: FeatureRef, text: messages.TextActivations) -> Row:
    values = text.values
    greatest = max(values, default=0.0)
    return {
        "tokens": text.tokens,
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


def _firings(text: messages.TextFirings) -> Row:
    triples = zip(text.features, text.positions, text.values, strict=True)
    by_feature = itertools.groupby(triples, key=itemgetter(0))
    return {
        "tokens": text.tokens,
        "activeFeatures": {str(feature): [triple[1:] for triple in triples] for feature, triples in by_feature},
    }


def _name(ref: FeatureRef) -> live_schemas.FeatureName:
    return live_schemas.FeatureName(model=ref.model, source=ref.source, index=ref.index)
