"""Jobs over REST: what is computed, how far it is, and stopping or repeating it."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from backend.services import events, jobs, rerun
from backend.web import schemas
from backend.web.api import job_schemas
from backend.web.dependencies import DbSession

router = APIRouter(prefix="/jobs", tags=["jobs"])
JobId = Annotated[int, Path(ge=1, le=2**31 - 1)]


@router.get("")
def list_latest(session: DbSession) -> list[schemas.Job]:
    """The latest jobs, newest first."""
    return [schemas.Job.model_validate(job) for job in jobs.latest(session)]


@router.post("")
def compute_again(session: DbSession, asked: job_schemas.NewJob) -> schemas.Job:
    """Compute sources of a model again, as the last time but for what is given."""
    model, names = asked.model_and_sources()
    given = rerun.corpus_given(
        session, model, corpus_id=asked.corpus_id, corpus_path=asked.corpus_path, is_tokens=asked.is_tokens
    )
    changed = asked.changed()
    job_id = rerun.rerun(session, model, names, changed | given)
    return schemas.Job.model_validate(jobs.get(session, job_id))


@router.get("/{job_id}")
def show(session: DbSession, job_id: JobId) -> schemas.Job:
    """One job and the progress of its stages."""
    return schemas.Job.model_validate(jobs.get(session, job_id))


@router.get("/{job_id}/events")
def list_events(
    session: DbSession, job_id: JobId, after: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0
) -> list[job_schemas.JobEvent]:
    """The job's log, oldest first: at most 500 lines after the one with the id `after`."""
    job = jobs.get(session, job_id)
    return [job_schemas.JobEvent.model_validate(line) for line in events.of_job(session, job.id, after=after)]


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
