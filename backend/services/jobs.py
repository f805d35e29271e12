"""Jobs: asking for a computation, watching, stopping and repeating it, and clearing up after it.

A job computes one or more sources of a model on one corpus. Its pieces are `shards`' business, its progress is
`progress`'s. Each source is published when its own last range is done; the job is done when all shards are. What a cancelled
job wrote is deleted and a retry starts from the beginning; a failed one keeps it, and a retry goes on from there.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from backend import errors
from backend.db.tables import Job, JobSource, Lease, Model, Revision, Shard, Source, WorkerReport
from backend.services import access, events, limits, progress, shards
from backend.services.progress import JobView
from backend.services.shards import ACTIVE, LOCK
from backend.services.visibility import unrestricted

OF_PREPARE = ("corpus_id", "longer_key", "batch_contexts", "written_at", "model_commit")
"""What the prepare stage adds to a job's spec."""


def create(session: Session, source_ids: Sequence[int], spec: dict[str, Any], *, owner_id: int | None = None) -> int:
    """Queue a computation of sources of one model and return its id. A source computes one thing at a time.

    `owner_id` is the account that asks; None: the host's operator.
    """
    locked = select(Source).where(Source.id.in_(source_ids)).order_by(Source.id).with_for_update(key_share=True)
    found = session.scalars(locked.execution_options(populate_existing=True)).all()
    models = {source.model_id for source in found if source.model_id is not None}
    if len(models) != 1 or len(set(source_ids)) != len(source_ids):
        raise errors.InvalidInputError(
            f"a job's sources are different ones of one model, not {len(source_ids)} of {len(models)} models.",
            hint="Queue a job for each model.",
        )
    if "import" not in spec:
        _refuse_without_weights(session, found)
    _refuse_busy(session, source_ids, "is computing this source already")
    job = Job(model_id=models.pop(), state="queued", spec=spec, owner_id=owner_id)
    session.add(job)
    session.flush()
    session.add_all(JobSource(job_id=job.id, number=i, source_id=source) for i, source in enumerate(source_ids))
    shards.plan(session, job.id, "prepare", [_prepare(spec)])
    note(session, job.id, "info", "Queued.")
    return job.id


def note(session: Session, job_id: int, level: events.Level, text: str) -> None:
    """Write a line of the job's log, in its user's words; see `events`."""
    events.note(session, job_id, text, level=level)


def _prepare(spec: dict[str, Any]) -> shards.Piece:
    """The tokens are not known before they are read, except as the limit that was asked for."""
    return shards.Piece(0, 0, int(spec.get("max_tokens") or 0))


def _refuse_without_weights(session: Session, sources: Sequence[Source]) -> None:
    bare = [f"{source.model_id}/{source.name}" for source in sources if source.weights is None]
    model_ids = {source.model_id for source in sources}
    known = select(Model.id).where(Model.id.in_(model_ids), Model.weights.is_(None))
    bare += session.scalars(unrestricted(known)).all()
    if bare:
        raise errors.UnsupportedError(
            f"no weights of {', '.join(bare)} are known, so nothing can be computed.",
            hint="Attach them with `eyepiece add`.",
        )


def _refuse_busy(session: Session, source_ids: Sequence[int], what: str) -> None:
    query = select(Job.id).join(JobSource, JobSource.job_id == Job.id)
    query = query.where(JobSource.source_id.in_(source_ids), Job.state.in_(ACTIVE)).limit(1)
    busy = session.scalar(unrestricted(query))
    if busy is not None:
        raise errors.ConflictError(f"job {busy} {what}.", hint="Wait for it, or cancel it.")


def set_prepared(session: Session, job_id: int, *, spec: dict[str, Any], revision_ids: dict[int, int]) -> None:
    """The corpus is there: the spec names it, and each source (by id) has a revision to write."""
    session.get_one(Job, job_id).spec = spec
    for source_id, revision_id in revision_ids.items():
        of = update(JobSource).where(JobSource.job_id == job_id, JobSource.source_id == source_id)
        session.execute(of.values(revision_id=revision_id, published_at=None, firings=None, n_tokens=0))


def set_published(session: Session, job_id: int, source_id: int) -> None:
    """Readers see what the job computed of this source."""
    of = update(JobSource).where(JobSource.job_id == job_id, JobSource.source_id == source_id)
    session.execute(of.values(published_at=func.now(), firings=None))
    name = session.scalars(unrestricted(select(Source.name).where(Source.id == source_id))).one()
    note(session, job_id, "info", f"{name} is published: its dashboards can be read.")


def cancel(session: Session, job_id: int) -> None:
    """Stop a job; a worker that is at it hears within a heartbeat. One that has ended is left as it is."""
    job = session.get(Job, job_id, with_for_update=LOCK)
    if job is None:
        raise _no_job(job_id)
    access.check_may_change(access.viewer_of(session), job.owner_id)
    if job.state in ACTIVE:
        job.state, job.finished_at = "cancelled", func.now()
        shards.stop(session, job_id)
        note(session, job_id, "warning", "Cancelled.")


def retry(session: Session, job_id: int) -> None:
    """Queue what a failed job has not finished, what is done stays done; all of one whose work has been deleted."""
    job = session.get(Job, job_id, with_for_update=LOCK)
    if job is None:
        raise _no_job(job_id)
    access.check_may_change(access.viewer_of(session), job.owner_id)
    if job.state in ACTIVE or job.state == "done":
        raise errors.ConflictError(
            f"job {job_id} is {job.state}.", hint="Only a failed or cancelled job can be retried."
        )
    limits.check_jobs(session, access.viewer_of(session))
    source_ids = _left(session, job_id)
    _refuse_busy(session, source_ids, "is computing this source now")
    job.state, job.error, job.finished_at = "queued", None, None
    unpublished = select(JobSource.number).where(JobSource.job_id == job_id, JobSource.published_at.is_(None))
    unpublished = unpublished.where(JobSource.source_id.in_(source_ids)).limit(1)
    if job.has_blobs or session.scalar(unpublished) is None:
        of_job = select(Shard.id).where(Shard.job_id == job_id)
        session.execute(delete(Lease).where(Lease.shard_id.in_(of_job)))
        again = update(Shard).where(Shard.job_id == job_id, Shard.state.in_(("failed", "cancelled")))
        again = again.where(or_(Shard.source_id.is_(None), Shard.source_id.in_(source_ids)))
        session.execute(again.values(state="queued", attempts=0))
        note(session, job_id, "info", "Queued again; what is done stays done.")
        return
    job.has_blobs, job.started_at = True, None
    job.spec = asked(job.spec)
    session.execute(delete(Shard).where(Shard.job_id == job_id))
    session.execute(delete(JobSource).where(JobSource.job_id == job_id, JobSource.source_id.not_in(source_ids)))
    session.execute(update(JobSource).where(JobSource.job_id == job_id).values(firings=None, n_tokens=0))
    shards.plan(session, job_id, "prepare", [_prepare(job.spec)])
    note(session, job_id, "info", "Queued again, from the beginning.")


def asked(spec: dict[str, Any]) -> dict[str, Any]:
    """What of a job's spec was asked for. A corpus's id is, where it stands in place of a text."""
    is_asked = ("corpus_id",) if spec.get("corpus") == "" else ()
    return {name: value for name, value in spec.items() if name not in OF_PREPARE or name in is_asked}


def _left(session: Session, job_id: int) -> Sequence[int]:
    """Ids of the job's sources, deleted ones left out; raises `ConflictError` where that leaves none."""
    left = select(JobSource.source_id).join(Source, Source.id == JobSource.source_id)
    left = left.where(JobSource.job_id == job_id, Source.model_id.is_not(None))
    source_ids = session.scalars(unrestricted(left)).all()
    if not source_ids:
        raise errors.ConflictError(f"the sources of job {job_id} were deleted.", hint="Add them again.")
    return source_ids


def next_to_clear(session: Session) -> int | None:
    """An ended job whose blobs nobody needs and nobody writes any more; locked, so that a retry waits.

    A failed job's are kept for a retry until its sources are published, or a later job computes one of them.
    """
    later, of, of_later = aliased(Job), aliased(JobSource), aliased(JobSource)
    is_replaced = (
        exists()
        .where(of.job_id == Job.id, of_later.source_id == of.source_id, of_later.job_id > Job.id)
        .where(later.id == of_later.job_id)
    )
    is_held = exists().where(Shard.job_id == Job.id, Lease.shard_id == Shard.id, Lease.until > func.now())
    unpublished = exists().where(JobSource.job_id == Job.id, JobSource.published_at.is_(None))
    is_over = or_(Job.state.in_(("done", "cancelled")), (Job.state == "failed") & or_(is_replaced, ~unpublished))
    found = select(Job.id).where(Job.has_blobs, is_over, ~is_held).order_by(Job.id).limit(1)
    return session.scalar(found.with_for_update(skip_locked=True, key_share=True, of=Job))


def set_cleared(session: Session, job_id: int) -> list[int]:
    """Its blobs are gone; so are the revisions its own have replaced, and those it never published. Its sources' ids."""
    session.execute(update(Job).where(Job.id == job_id).values(has_blobs=False))
    rows = select(JobSource).where(JobSource.job_id == job_id, JobSource.revision_id.is_not(None))
    for of in session.scalars(rows.execution_options(populate_existing=True)).all():
        revision = delete(Revision).where(Revision.source_id == of.source_id)
        is_old = Revision.id == of.revision_id if of.published_at is None else Revision.id < of.revision_id
        session.execute(revision.where(is_old))
    return list(session.scalars(select(JobSource.source_id).where(JobSource.job_id == job_id)))


def report_worker(session: Session, name: str, *, kind: str, device: str, doing: str | None) -> None:
    """Say that a worker is alive."""
    values = {"name": name, "kind": kind, "device": device, "doing": doing, "seen_at": func.now()}
    row = insert(WorkerReport).values(values)
    session.execute(row.on_conflict_do_update(index_elements=["name"], set_=values))


def forget_worker(session: Session, name: str) -> None:
    """A worker that ends says so."""
    session.execute(delete(WorkerReport).where(WorkerReport.name == name))


def get(session: Session, job_id: int) -> JobView:
    """One job; raises `NotFoundError`."""
    job = session.get(Job, job_id, populate_existing=True)
    if job is None:
        raise _no_job(job_id)
    return progress.views(session, [job])[0]


def latest(session: Session, n: int = 50) -> tuple[JobView, ...]:
    """The newest jobs, newest first."""
    found = select(Job).order_by(Job.id.desc()).limit(n).execution_options(populate_existing=True)
    return progress.views(session, session.scalars(found).all())


def of_source(session: Session, model: str, source: str) -> JobView | None:
    """The newest job of a source."""
    found = (
        select(Job)
        .join(JobSource, JobSource.job_id == Job.id)
        .join(Source, Source.id == JobSource.source_id)
        .where(Source.model_id == model, Source.name == source)
        .order_by(Job.id.desc())
        .limit(1)
        .execution_options(populate_existing=True)
    )
    return next(iter(progress.views(session, session.scalars(found).all())), None)


def _no_job(job_id: int) -> errors.NotFoundError:
    return errors.NotFoundError(f"There is no job {job_id}.", hint="GET /api/jobs lists them.")
