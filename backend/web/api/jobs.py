"""Jobs over REST: what is computed, how far it is, and stopping or repeating it."""

from typing import Annotated

from fastapi import APIRouter, Path

from backend.services import jobs
from backend.web import schemas
from backend.web.dependencies import DbSession

router = APIRouter(prefix="/jobs", tags=["jobs"])
JobId = Annotated[int, Path(ge=1, le=2**31 - 1)]


@router.get("")
def list_latest(session: DbSession) -> list[schemas.Job]:
    """The latest jobs, newest first."""
    return [schemas.Job.model_validate(job) for job in jobs.latest(session)]


@router.get("/{job_id}")
def show(session: DbSession, job_id: JobId) -> schemas.Job:
    """One job and the progress of its stages."""
    return schemas.Job.model_validate(jobs.get(session, job_id))


@router.post("/{job_id}/cancel")
def cancel(session: DbSession, job_id: JobId) -> schemas.Job:
    """Stop a job that is queued or running."""
    jobs.cancel(session, job_id)
    return schemas.Job.model_validate(jobs.get(session, job_id))


@router.post("/{job_id}/retry")
def retry(session: DbSession, job_id: JobId) -> schemas.Job:
    """Go on with a job that failed; begin one again that was cancelled."""
    jobs.retry(session, job_id)
    return schemas.Job.model_validate(jobs.get(session, job_id))
