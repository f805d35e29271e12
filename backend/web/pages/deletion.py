"""Deleting a source: a page that says what would be gone, and the button on it."""

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from backend import names
from backend.services import access, catalog, disk, jobs, removal, shards
from backend.services.progress import JobView
from backend.web import rendering
from backend.web.dependencies import DbSession, Viewing

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


@dataclass(frozen=True, slots=True)
class DeletionContext:
    """What `pages/delete.html` shows."""

    source: catalog.SourceView
    use: disk.DiskUse
    job: JobView | None
    """It computes the source now, and would go on without it or be cancelled."""


@router.get("/{model}/{source}/delete")
def confirm(request: Request, session: DbSession, viewer: Viewing, model: str, source: str) -> HTMLResponse:
    """What would be deleted, to who may."""
    view = catalog.source(session, model, source)
    access.check_may_change(viewer, view.owner_id)
    job = jobs.of_source(session, model, source)
    active = job if job is not None and job.state in shards.ACTIVE else None
    use = disk.of_source(session, model, source, request.app.state.files.store)
    return rendering.respond(request, "pages/delete.html", DeletionContext(view, use, active))


@router.post("/{model}/{source}/delete")
def delete(session: DbSession, model: str, source: str) -> RedirectResponse:
    """Deletes it; workers clear away what it took."""
    removal.remove(session, model, source)
    return RedirectResponse(names.home_url(), 303)
