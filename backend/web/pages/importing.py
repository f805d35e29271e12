"""The page where dashboards of another tool are handed over. Its script does it over REST (`api/uploads`, `api/imports`)."""

import shlex
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from backend.services import access, uploads
from backend.services.access import Viewer
from backend.services.uploads import UploadView
from backend.web import links, rendering
from backend.web.api.uploads import Area
from backend.web.dependencies import DbSession, Viewing
from backend.web.pages import commands

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


@dataclass(frozen=True, slots=True)
class ImportContext:
    """What `pages/import.html` shows."""

    pending: tuple[UploadView, ...]
    """The reader's uploads of dashboards that are not imported yet."""
    is_operator: bool
    """May name folders of the host and addresses."""
    curl_upload: str
    curl_import: str
    command: str
    visibilities: tuple[str, ...] = access.VISIBILITIES[::-1]


@router.get("/import")
def show(request: Request, session: DbSession, viewer: Viewing, place: Area) -> HTMLResponse:
    """Where an export is dropped."""
    access.check_may_write(viewer)
    page = context(viewer, uploads.latest(session, place, viewer), origin=str(request.base_url).rstrip("/"))
    return rendering.respond(request, "pages/import.html", page)


def context(viewer: Viewer, known: tuple[UploadView, ...], *, origin: str) -> ImportContext:
    """The page, with commands that reach this site at `origin`."""
    key = commands.curl_key(viewer)
    upload = shlex.quote(f"{origin}{links.uploads_api_url()}/whole?name=my-export.zip&kind=dashboards")
    body = "-H 'content-type: application/json' -d '{\"upload\": \"…\"}'"
    return ImportContext(
        tuple(each for each in known if each.kind == "dashboards"),
        viewer.is_admin,
        f"curl -X POST -T my-export.zip{key} {upload}",
        f"curl{key} {body} {origin}{links.imports_api_url()}",
        commands.import_(),
    )
