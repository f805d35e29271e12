"""Pages of computations: all of them, one with its progress, and the buttons that cancel it or try it again."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from sqlalchemy.orm import Session

from backend import names
from backend.services import access, events, filling, jobs, shards
from backend.services.events import EventView
from backend.services.filling import SoFar
from backend.services.progress import JobView
from backend.web import rendering
from backend.web.dependencies import DbSession

router = APIRouter(prefix="/jobs", include_in_schema=False, default_response_class=HTMLResponse)


JobId = Annotated[int, Path(le=2**31 - 1)]
"""What the database can hold; anything larger is not an address."""


@dataclass(frozen=True, slots=True)
class JobsContext:
    """What `pages/jobs.html` shows."""

    jobs: tuple[JobView, ...]
    """Newest first."""
    is_live: bool
    """True while one of them may still change."""


@dataclass(frozen=True, slots=True)
class JobContext:
    """What `pages/job.html` and its part `pages/job_progress.html` show."""

    job: JobView
    log: tuple[EventView, ...] = ()
    """Its newest lines, oldest first."""
    so_far: tuple[SoFar, ...] = ()
    """What is known of its sources that are not published yet."""
    can_change: bool = True
    """The viewer may cancel it and try it again."""


@router.get("")
def show_all(request: Request, session: DbSession) -> HTMLResponse:
    """The newest jobs."""
    return rendering.respond(request, "pages/jobs.html", context(jobs.latest(session)))


@router.get("/{job_id:int}")
def show(request: Request, session: DbSession, job_id: JobId) -> HTMLResponse:
    """One job."""
    return rendering.respond(request, "pages/job.html", _watched(session, job_id))


@router.get("/{job_id:int}/progress")
def show_progress(request: Request, session: DbSession, job_id: JobId) -> HTMLResponse:
    """The part of pages that changes while the job runs: rendered here, so there is one template of it."""
    return rendering.respond(request, "pages/job_progress.html", _watched(session, job_id))


@router.post("/{job_id:int}/cancel")
def cancel(session: DbSession, job_id: JobId) -> RedirectResponse:
    """Stops it."""
    jobs.cancel(session, job_id)
    return RedirectResponse(names.job_url(job_id), 303)


@router.post("/{job_id:int}/retry")
def retry(session: DbSession, job_id: JobId) -> RedirectResponse:
    """Does again what was not finished; the sweep sends the messages."""
    jobs.retry(session, job_id)
    return RedirectResponse(names.job_url(job_id), 303)


def _watched(session: Session, job_id: int) -> JobContext:
    job = jobs.get(session, job_id)
    can_change = access.may_change(access.viewer_of(session), job.owner_id)
    return JobContext(job, events.newest(session, job_id), filling.of_job(session, job_id), can_change)


def context(latest: tuple[JobView, ...]) -> JobsContext:
    """The list, and whether it may still change."""
    return JobsContext(latest, any(job.state in shards.ACTIVE for job in latest))
