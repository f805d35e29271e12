"""Steering vectors of one's own over REST. Bodies are Neuronpedia's."""

from typing import cast

from anyio import to_thread
from fastapi import APIRouter, Request

from backend import errors, names
from backend.formats import messages, neuronpedia
from backend.formats.neuronpedia import Row
from backend.names import FeatureRef
from backend.services import inference, steering, vectors
from backend.web import callers, schemas, steer_rows, steer_schemas
from backend.web.api import live
from backend.web.dependencies import DbSession, Viewing, transaction

router = APIRouter(prefix="/vector", tags=["steering"])


@router.post("/new", response_model=steer_schemas.VectorAdded)
def add(request: Request, session: DbSession, asked: steer_schemas.NewVector) -> Row:
    """Add a vector at a place of the residual stream; whoever has its address may steer with it."""
    given = vectors.NewVector(
        model=asked.modelId, layer=asked.layerNumber, hook_type=asked.hookType, label=asked.vectorLabel,
        values=tuple(asked.vector), default_strength=asked.vectorDefaultSteerStrength,
    )  # fmt: skip
    view = vectors.add(session, given)
    url = callers.site_url(request.headers, request.app.state.settings)
    url += names.steer_url(view.model, names.steered(view.source, view.index))
    return {"message": "Success", "url": url, "vector": steer_rows.added_vector(view)}


@router.post(
    "/get",
    response_model=steer_schemas.VectorFound,
    responses={503: {"model": schemas.Error, "description": "A feature is asked for, and no live worker runs."}},
)
async def get(request: Request, asked: steer_schemas.VectorAddress) -> Row:
    """A vector of somebody's own; of a feature its decoder row, at unit norm, where Neuronpedia sends its encoder's."""
    ref = FeatureRef(asked.modelId, asked.source, asked.index)
    known = await to_thread.run_sync(_find, request, ref)
    if isinstance(known, vectors.VectorView):
        return {"vector": steer_rows.vector(known)}
    found, strength = known
    client: inference.Client = request.app.state.live
    question = messages.DirectionRequest(**client.header(found), source=ref.source, index=ref.index)
    answer = cast(messages.DirectionReply, await client.ask(question, has_left=request.is_disconnected))
    return {"vector": steer_rows.decoder_row(ref.model, ref.source, ref.index, answer, strength=strength)}


@router.post("/list-owned", response_model=steer_schemas.VectorsOwned)
def list_owned(session: DbSession, viewer: Viewing) -> Row:
    """The vectors you added, newest first; to the operator of a site without accounts all there are."""
    if viewer.account_id is None and not viewer.is_admin:
        raise errors.UnauthorizedError("Nobody is signed in.", hint="Sign in, or send an API key as x-api-key.")
    return {"vectors": [steer_rows.vector(each) for each in vectors.owned(session)]}


@router.post("/delete")
def delete(session: DbSession, asked: steer_schemas.VectorAddress) -> steer_schemas.VectorDeleted:
    """Delete a vector of yours; runs that were saved with it stay."""
    vectors.delete(session, FeatureRef(asked.modelId, asked.source, asked.index))
    return steer_schemas.VectorDeleted(message="Success")


def _find(request: Request, ref: FeatureRef) -> vectors.VectorView | tuple[inference.Places, float]:
    """The vector, or where a feature lies and a strength that shows; raises `NotFoundError`, or without a live worker."""
    with transaction(request) as session:
        own = vectors.named(session, ref.model, {(ref.source, ref.index)})
        if own:
            return own[ref.source, ref.index]
        found = inference.places(session, ref.model, (ref.source,))
        place = found.sources[ref.source]
        live.check_index(place, ref)
        request.app.state.live.check_worker(session)
        key = (place.revision_id or 0, ref.index)
        greatest = steering.max_activations(session, {key}).get(key, 0.0)
        return found, greatest or neuronpedia.DEFAULT_STEER_STRENGTH
