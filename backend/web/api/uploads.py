"""Uploads over REST: say what will come, send it in chunks from wherever the last connection ended, have it checked.

Bodies of chunks are streamed to disk in pieces of a megabyte, so memory does not grow with files. A request's database
session is given back before bytes are awaited.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect

from backend import errors, storage
from backend.formats import upload_files
from backend.formats.sae_files import Declared
from backend.services import access, limits, staging, uploads
from backend.services.staging import Staging
from backend.web.api import uploads_schemas as schemas
from backend.web.dependencies import DbSession, Files, Viewing, transaction

PIECE_BYTES = 1 << 20
"""Written at once."""
_PROBLEMS = {"model": schemas.Problems, "description": "What is wrong with the files, all of it."}
_DECLARED = TypeAdapter(Declared)

router = APIRouter(prefix="/uploads", tags=["uploads"])


def area(request: Request) -> Staging:
    """Where bytes lie while they arrive."""
    return staging.of(request.app.state.settings)


Area = Annotated[Staging, Depends(area)]
Sha256Header = Annotated[str, Header(pattern=r"^(sha256 [0-9a-fA-F]{64})?$", alias="Upload-Checksum")]


@router.post("", responses={422: _PROBLEMS})
def begin(request: Request, viewer: Viewing, place: Area, files: Files, asked: schemas.NewUpload) -> schemas.Upload:
    """Say which files will come. What others have left alone for a day is deleted on this occasion."""
    access.check_may_write(viewer)
    sweep(request, place, files.store)
    with transaction(request) as session:
        given = [uploads.File(file.name, file.size, file.sha256) for file in asked.files]
        made = uploads.create(session, place, viewer, asked.kind, given, name=asked.name)
    return schemas.Upload.model_validate(made)


@router.get("")
def list_own(session: DbSession, viewer: Viewing, place: Area) -> list[schemas.Upload]:
    """One's own uploads that are not hosted yet, newest first."""
    return [schemas.Upload.model_validate(each) for each in uploads.latest(session, place, viewer)]


@router.get("/{upload_id}")
def show(session: DbSession, viewer: Viewing, place: Area, upload_id: str) -> schemas.Upload:
    """How far each file is: after a lost connection, go on from its `offset`."""
    return schemas.Upload.model_validate(uploads.get(session, place, viewer, upload_id))


def _target(request: Request, viewer: Viewing, place: Area, upload_id: str, name: str) -> tuple[Path, int]:
    access.check_may_write(viewer)
    with transaction(request) as session:
        return uploads.target(session, place, viewer, upload_id, name)


@router.patch(
    "/{upload_id}/files/{name:path}",
    openapi_extra={
        "requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
    },
)
async def receive(
    request: Request,
    response: Response,
    target: Annotated[tuple[Path, int], Depends(_target)],
    offset: Annotated[int, Header(alias="Upload-Offset", ge=0)],
    checksum: Sha256Header = "",
) -> schemas.ChunkReceived:
    """Add a chunk, the raw body, at `Upload-Offset`, which is where the file ends: if it is not, 409 says where.

    With `Upload-Checksum: sha256 <hex>` the chunk counts wholly or not at all. Without one, what came before a lost
    connection stays.
    """
    path, size = target
    sha256 = checksum.removeprefix("sha256 ").lower()
    with staging.receiving(path, start=offset, size=size, sha256=sha256) as chunk:
        async for piece in pieces(request):
            await to_thread.run_sync(chunk.write, piece)
    response.headers["Upload-Offset"] = str(chunk.offset)
    return schemas.ChunkReceived(name=request.path_params["name"], size=size, offset=chunk.offset)


@router.post("/{upload_id}/complete", responses={422: _PROBLEMS})
def complete(
    request: Request, viewer: Viewing, place: Area, files: Files, upload_id: str, asked: schemas.Completion
) -> schemas.Upload:
    """Verify sizes and sha256s and check what the files are; 422 lists all problems, and the upload stays open."""
    access.check_may_write(viewer)
    with transaction(request) as session:
        uploads.get(session, place, viewer, upload_id)
    with place.alone(upload_id):
        with transaction(request) as session:
            view = uploads.get(session, place, viewer, upload_id)
        if view.state == "complete":
            return schemas.Upload.model_validate(view)
        return _keep(request, uploads.check(view, place, asked.declared))


@router.delete("/{upload_id}")
def remove(request: Request, viewer: Viewing, place: Area, files: Files, upload_id: str) -> schemas.UploadDeleted:
    """Delete an upload that no source is computed from."""
    access.check_may_write(viewer)
    with transaction(request) as session:
        uploads.get(session, place, viewer, upload_id)
    with place.alone(upload_id):
        with transaction(request) as session:
            uploads.forget(session, viewer, upload_id)
        uploads.remove_files(upload_id, place, files.store)
    return schemas.UploadDeleted(id=upload_id)


@router.post(
    "/whole",
    responses={422: _PROBLEMS},
    openapi_extra={
        "requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
    },
)
async def receive_whole(
    request: Request,
    viewer: Viewing,
    place: Area,
    name: Annotated[str, Query(description="The file's name; .zip, .tar, .tar.gz and .tgz are unpacked.")],
    kind: Annotated[uploads.Kind, Query()] = "sae",
    declared: Annotated[str, Query(description="JSON of what the files do not say.")] = "{}",
) -> schemas.Upload:
    """One file or archive in one request, as `curl -T` sends it: received, checked and complete, or not there at all."""
    access.check_may_write(viewer)
    said = _declared(declared)
    if problem := upload_files.name_problem(name):
        raise errors.ProblemsError("the upload", [problem])
    announced = request.headers.get("content-length", "")
    length = int(announced) if announced.isdecimal() else 0  # 0: not said
    most = await to_thread.run_sync(_most_bytes, request, place, length)
    upload_id = uploads.new_id()
    try:
        whole = place.path(upload_id, uploads.WHOLE)
        with staging.receiving(whole, start=0, size=most) as chunk:
            async for piece in pieces(request):
                await to_thread.run_sync(chunk.write, piece)
        if length and chunk.offset != length:
            raise errors.InvalidInputError(f"{chunk.offset:,} of {length:,} bytes came.", hint="Send it again.")
        return await to_thread.run_sync(_take_whole, request, place, uploads.Whole(upload_id, kind, name, said))
    except BaseException:
        place.remove(upload_id)
        raise


def _take_whole(request: Request, place: Staging, whole: uploads.Whole) -> schemas.Upload:
    return _keep(request, uploads.check(uploads.unpack(whole, place), place, whole.declared), is_new=True)


def _most_bytes(request: Request, place: Staging, length: int) -> int:
    """That may come: so many as are announced, or as there is room for if none are (0); raises where there is not."""
    place.check_room(length)
    with transaction(request) as session:
        limits.check_bytes(session, request.state.viewer, length)
        left = limits.bytes_left(session, request.state.viewer)
    return length or min(place.room(), place.max_bytes if left is None else left)


def _keep(request: Request, checked: uploads.Checked, *, is_new: bool = False) -> schemas.Upload:
    """Checked files become blobs, then the row says so, then what arrived is let go."""
    place = area(request)
    with transaction(request) as session:
        uploads.check_quota(session, request.state.viewer, checked)
    blobs: storage.Store = request.app.state.files.store
    uploads.store(checked, place, blobs)
    try:
        with transaction(request) as session:
            view = uploads.complete(session, place, request.state.viewer, checked, is_new=is_new)
    except errors.NotFoundError:
        uploads.remove_files(checked.id, place, blobs)
        raise
    place.remove(checked.id)
    return schemas.Upload.model_validate(view)


async def pieces(request: Request, *, hint: str = "Go on from the offset.") -> AsyncIterator[bytes]:
    """The body in pieces of about a megabyte; raises `InvalidInputError` where the sender goes away, after the last."""
    waiting, n_waiting = [], 0
    try:
        async for data in request.stream():
            waiting.append(data)
            n_waiting += len(data)
            if n_waiting >= PIECE_BYTES:
                yield b"".join(waiting)
                waiting, n_waiting = [], 0
    except ClientDisconnect as error:
        if waiting:
            yield b"".join(waiting)
        raise errors.InvalidInputError("the connection ended before the bytes did.", hint=hint) from error
    if waiting:
        yield b"".join(waiting)


def _declared(text: str) -> Declared:
    try:
        return _DECLARED.validate_python(json.loads(text))
    except (ValueError, ValidationError) as error:
        raise errors.InvalidInputError(
            "'declared' is not what can be said of an SAE.",
            hint='Give JSON such as {"hook_point": "blocks.6.hook_resid_pre"}.',
        ) from error


def sweep(request: Request, place: Staging, blobs: storage.Store) -> None:
    """Delete what has been left alone for too long, and bytes that no row is of."""
    keep_s = request.app.state.settings.upload_keep_s
    with transaction(request) as session:
        abandoned = uploads.forget_abandoned(session, for_s=keep_s)
        left = place.left_alone(for_s=keep_s)
        left = sorted(set(left) - uploads.known(session, left)) if left else []
    for upload_id in abandoned:
        uploads.remove_files(upload_id, place, blobs)
    for upload_id in left:
        place.remove(upload_id)
