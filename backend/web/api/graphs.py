"""Attribution graphs over REST: handing them over, finding them, and what people save of them. Bodies are Neuronpedia's.

Its client hands a graph over in three steps: it asks where to put the file, puts it there, and has it saved. Where
Neuronpedia's address is Amazon's, ours is this host's own. Files are read one at a time: parsed, the largest take some
ten times their size of memory.
"""

import gzip
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, Response, StreamingResponse

from backend import errors, names
from backend.formats import graphs as graph_files
from backend.services import access, catalog, graphs, subgraphs, summaries
from backend.services.access import Viewer
from backend.services.catalog import SourceView
from backend.services.graphs import GraphView
from backend.services.staging import Staging, receiving
from backend.settings import Settings
from backend.web import callers, graph_schemas
from backend.web.api import uploads, uploads_schemas
from backend.web.api.uploads import Area, area
from backend.web.dependencies import DbSession, Files, Viewing, transaction

router = APIRouter(prefix="/graph", tags=["graphs"])

ARRIVED = "graph"
"""Of the file that was put, in its staging folder."""
MOST_TOKENS = 5
"""Of each list that is told of a feature."""
_READ_BYTES = 1 << 18
PATIENCE_S = 10.0
"""For other graphs that are being read: who waits keeps a thread of the web process from everybody else."""
RETRY_AFTER_S = 10
_one_at_a_time = threading.Lock()


@router.post("/signed-put")
def begin(
    request: Request, viewer: Viewing, place: Area, files: Files, asked: graph_schemas.NewGraphUpload
) -> graph_schemas.GraphPut:
    """Ask where to put a graph's file. What others put and never saved is deleted on this occasion."""
    access.check_may_write(viewer)
    _clear(request)
    uploads.sweep(request, place, files.store)
    given = graphs.NewUpload(
        filename=asked.filename, content_type=asked.contentType, n_bytes=asked.contentLength
    )  # fmt: skip
    with transaction(request) as session:
        upload_id, token = graphs.begin(session, given, max_bytes=_max_bytes(request))
    url = _site_url(request) + names.graph_put_url(upload_id, token)
    return graph_schemas.GraphPut(url=url, key=graphs.blob_key(upload_id), putRequestId=upload_id)


@router.put(
    "/put/{upload_id}",
    openapi_extra={
        "requestBody": {"content": {"application/json": {"schema": {"type": "string", "format": "binary"}}}}
    },
)
async def receive(
    request: Request,
    upload_id: str,
    token: Annotated[str, Query(max_length=100, description="The secret in the address that was given.")] = "",
) -> graph_schemas.GraphReceived:
    """Put a graph's file, the raw body, gzipped or not: as many bytes as were announced, or nothing is kept."""
    size = await to_thread.run_sync(_announced, request, upload_id, token)
    folder = area(request).path(upload_id)
    part = folder / f".{secrets.token_hex(8)}"
    try:
        with receiving(part, start=0, size=size) as chunk:
            async for piece in uploads.pieces(request, hint="Send it again."):
                await to_thread.run_sync(chunk.write, piece)
        if chunk.offset != size:
            raise errors.InvalidInputError(f"{chunk.offset:,} of {size:,} bytes came.", hint="Send all of them.")
        part.replace(folder / ARRIVED)
    finally:
        part.unlink(missing_ok=True)
    await to_thread.run_sync(_note_arrival, request, upload_id)
    return graph_schemas.GraphReceived(putRequestId=upload_id, contentLength=size)


@router.post(
    "/save-to-db",
    responses={422: {"model": uploads_schemas.Problems, "description": "What is wrong with the file, all of it."}},
)
def save(request: Request, place: Area, files: Files, asked: graph_schemas.GraphToSave) -> graph_schemas.GraphSaved:
    """Check the file that was put and make a graph of it; one of yours at the same model and slug is replaced."""
    with transaction(request) as session:
        view = graphs.check_arrived(session, asked.putRequestId)
    if view is None:
        with place.alone(asked.putRequestId):
            view = _keep(request, place, asked)
        place.remove(asked.putRequestId)
        _clear(request)
    url = _site_url(request) + names.graph_url(view.model, view.slug)
    return graph_schemas.GraphSaved(message="Success", url=url, numNodes=view.n_nodes, numLinks=view.n_links)


@router.post("/list-owned")
def list_owned(request: Request, session: DbSession, viewer: Viewing) -> list[graph_schemas.GraphMetadata]:
    """The graphs you added, newest first; to the operator of a site without accounts all there are."""
    if viewer.account_id is None and not viewer.is_admin:
        raise errors.UnauthorizedError("Nobody is signed in.", hint="Sign in, or send an API key as x-api-key.")
    return [_metadata(request, viewer, view) for view in graphs.owned(session)]


@router.post("/delete")
def delete(request: Request, asked: graph_schemas.GraphAddress) -> graph_schemas.GraphDeleted:
    """Delete a graph of yours."""
    with transaction(request) as session:
        graphs.delete(session, asked.modelId, asked.slug)
    _clear(request)
    return graph_schemas.GraphDeleted(message="Success")


@router.post("/generate", include_in_schema=False)
def refuse_to_generate() -> None:
    """Graphs are not computed here; clients hear why, as they raise what a refusal says."""
    raise errors.UnsupportedError(
        "Eyepiece stores and shows attribution graphs, and does not compute them.",
        hint="Make one with circuit-tracer, and upload its file.",
    )


@router.post("/features")
def list_features(session: DbSession, asked: graph_schemas.GraphFeaturesRequest) -> graph_schemas.GraphFeatures:
    """What is known here of features in a graph: those of its source set, where sources of it are hosted."""
    graph = graphs.get(session, asked.modelId, asked.slug)
    by_layer = _sources(catalog.sources_of(session, graph.model), graph.source_set) if graph.source_set else {}
    wanted = sorted({(each.layer, each.index) for each in asked.features if each.layer in by_layer})
    known = summaries.of(session, [(by_layer[layer], index) for layer, index in wanted])
    return graph_schemas.GraphFeatures(
        features=[
            graph_schemas.HostedFeature(
                layer=each.source.layer,
                index=each.index,
                source=each.source.name,
                url=names.feature_url(graph.model, each.source.name, each.index),
                label=each.label,
                firesOn=list(each.fires_on[:MOST_TOKENS]),
                promotes=list(each.promotes[:MOST_TOKENS]),
                density=each.density,
            )
            for each in sorted(known.values(), key=lambda each: (each.source.layer, each.index))
        ]
    )


@router.post("/subgraph/save")
def save_subgraph(session: DbSession, asked: graph_schemas.SubgraphToSave) -> graph_schemas.SubgraphSaved:
    """Save the state of a graph's page, for yourself."""
    kept = {"pinnedIds", "supernodes", "clerps", "pruningThreshold", "densityThreshold"}
    state = asked.model_dump(include=kept)
    saved = subgraphs.save(
        session, asked.modelId, asked.slug, state, name=asked.displayName, replaced=asked.overwriteId
    )  # fmt: skip
    return graph_schemas.SubgraphSaved(subgraphId=saved.id)


@router.post("/subgraph/list")
def list_subgraphs(session: DbSession, asked: graph_schemas.GraphAddress) -> graph_schemas.Subgraphs:
    """What you saved of a graph, newest first."""
    found = subgraphs.of_graph(session, asked.modelId, asked.slug)
    return graph_schemas.Subgraphs(
        subgraphs=[
            graph_schemas.Subgraph(
                id=each.id, displayName=each.name, createdAt=each.created_at, updatedAt=each.updated_at, **each.state
            )
            for each in found
        ]
    )  # fmt: skip


@router.post("/subgraph/delete")
def delete_subgraph(session: DbSession, asked: graph_schemas.SubgraphId) -> graph_schemas.SubgraphDeleted:
    """Delete a state you saved."""
    subgraphs.delete(session, asked.subgraphId)
    return graph_schemas.SubgraphDeleted(message="Success")


@router.get("/{model}/{slug}")
def show(request: Request, session: DbSession, viewer: Viewing, model: str, slug: str) -> graph_schemas.GraphMetadata:
    """A graph, without its nodes and links."""
    return _metadata(request, viewer, graphs.get(session, model, slug))


@router.get(
    "/{model}/{slug}/json",
    response_class=Response,
    responses={200: {"model": graph_schemas.GraphFile}, 304: {"description": "It is the one whose ETag was sent."}},
)
def send(request: Request, files: Files, model: str, slug: str) -> Response:
    """The graph's file: circuit-tracer's JSON, gzipped where that is accepted."""
    with transaction(request) as session:
        view = graphs.get(session, model, slug)
    try:
        path = files.path(view.blob_key)
    except FileNotFoundError as error:  # it was deleted this moment
        raise errors.NotFoundError(f"There is no graph '{model}/{slug}' any more.") from error
    headers = {"Vary": "Accept-Encoding", "Cache-Control": "private, no-cache", "ETag": f'W/"{view.upload_id}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return FileResponse(path, media_type="application/json", headers=headers | {"Content-Encoding": "gzip"})
    return StreamingResponse(_unpacked(path), media_type="application/json", headers=headers)


def _keep(request: Request, place: Staging, asked: graph_schemas.GraphToSave) -> GraphView:
    """A file that has arrived becomes a blob, then a row says so."""
    upload_id, blobs = asked.putRequestId, request.app.state.files.store
    packed = place.path(upload_id, graphs.PACKED)
    try:
        with _alone():
            data = graph_files.unpacked(place.path(upload_id, ARRIVED), max_bytes=_max_bytes(request))
            graph = graph_files.parse(data)
            n_bytes = graphs.pack(graph.text, packed)
    except FileNotFoundError as error:
        raise graphs.no_upload() from error
    graphs.put_blob(blobs, upload_id, packed)
    try:
        with transaction(request) as session:
            return graphs.save(session, upload_id, graph, n_bytes=n_bytes, visibility=asked.visibility)
    except errors.NotFoundError:
        blobs.delete(graphs.blob_key(upload_id))
        raise


@contextmanager
def _alone() -> Iterator[None]:
    if not _one_at_a_time.acquire(timeout=PATIENCE_S):
        raise errors.BusyError(
            "Other graphs are being read.", hint="Save this one again in a moment.", retry_after_s=RETRY_AFTER_S
        )
    try:
        yield
    finally:
        _one_at_a_time.release()


def _announced(request: Request, upload_id: str, token: str) -> int:
    with transaction(request) as session:
        size = graphs.announced_bytes(session, upload_id, token)
    area(request).check_room(size)
    return size


def _note_arrival(request: Request, upload_id: str) -> None:
    with transaction(request) as session:
        graphs.arrived(session, upload_id)


def _clear(request: Request) -> None:
    """Delete files that have expired, each in a transaction of its own."""
    upload_id: str | None = ""
    while upload_id is not None:
        with transaction(request) as session:
            upload_id = graphs.clear_step(session, request.app.state.files.store)
        if upload_id is not None:
            area(request).remove(upload_id)


def _metadata(request: Request, viewer: Viewer, view: GraphView) -> graph_schemas.GraphMetadata:
    is_own = view.owner_id is not None and view.owner_id == viewer.account_id
    return graph_schemas.GraphMetadata(
        id=str(view.id),
        modelId=view.model,
        slug=view.slug,
        sourceSetName=view.source_set or None,
        promptTokens=list(view.prompt_tokens),
        prompt=view.prompt,
        titlePrefix=view.title_prefix,
        isFeatured=False,
        url=_site_url(request) + names.graph_json_url(view.model, view.slug),
        userId=None if view.owner_id is None else str(view.owner_id),
        user=graph_schemas.GraphUser(id=str(view.owner_id), name=viewer.name) if is_own else None,
        createdAt=view.created_at,
        updatedAt=view.updated_at,
        numNodes=view.n_nodes,
        numLinks=view.n_links,
        visibility=view.visibility,
    )


def _sources(listed: tuple[SourceView, ...], source_set: str) -> dict[int, SourceView]:
    """Those of a set that have dashboards, by layer; of several in a layer the first."""
    of_set = [each for each in listed if each.set_name == source_set and each.revision_id is not None]
    return {each.layer: each for each in reversed(of_set)}


def _unpacked(path: Path) -> Iterator[bytes]:
    with gzip.open(path) as file:
        while part := file.read(_READ_BYTES):
            yield part


def _max_bytes(request: Request) -> int:
    settings: Settings = request.app.state.settings
    return round(settings.graph_mb * 1e6)


def _site_url(request: Request) -> str:
    return callers.site_url(request.headers, request.app.state.settings)
