"""Exports over REST: every dashboard of a source as one zip, sent while it is made.

A zip and no tar: see `formats/file_streams`. Each batch of features has a session of its own, given back before its bytes
are sent. An export that fails on the way ends without the zip's list, so what has arrived does not open.
"""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from backend.formats import file_streams
from backend.services import exports
from backend.services.exports import Export
from backend.web.dependencies import DbSession, transaction
from backend.web.export_schemas import ZIP, ExportQuery

router = APIRouter(prefix="/export", tags=["exports"])
_ZIP_FILE = {"content": {ZIP: {"schema": {"type": "string", "format": "binary"}}}, "description": "The export."}
Asked = Annotated[ExportQuery, Query()]


@router.get("/{model}/{source}", response_class=Response, responses={200: _ZIP_FILE})
def export(request: Request, session: DbSession, model: str, source: str, asked: Asked) -> StreamingResponse:
    """All dashboards and explanations of a source as a zip that `eyepiece import` and Neuronpedia's importer read back."""
    found = exports.begin(session, model, source, asked.format, only=asked.features)
    files = exports.files(partial(transaction, request), found)
    return StreamingResponse(file_streams.zipped(files), media_type=ZIP, headers=_headers(found))


@router.head("/{model}/{source}", include_in_schema=False)
def head(session: DbSession, model: str, source: str, asked: Asked) -> Response:
    """What `export` would say of its answer, without making it."""
    return Response(
        media_type=ZIP, headers=_headers(exports.begin(session, model, source, asked.format, only=asked.features))
    )


def _headers(found: Export) -> dict[str, str]:
    """Names are ids, so they need no quoting. Proxies are not to gather the answer first."""
    return {
        "Content-Disposition": f'attachment; filename="{found.name}.zip"',
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",
    }
