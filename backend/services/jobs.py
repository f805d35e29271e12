"""Jobs and their shards: who does what, what is done, what was lost. Rows are the truth; messages only wake workers.

A job is three stages: `prepare` (one shard), `encode` (one per run of contexts), `finish` (one). The last shard of a
stage to finish creates the next stage's. A fourth, `evaluate` (one shard), needs nothing of encode and finish: it is
taken by whoever finds no other shard of its job, and where it fails the dashboards are published all the same. A worker
claims a shard under a lease and renews it while it computes; a shard whose lease ran out belongs to nobody and is woken
for again. A message is only a wake-up, one for each shard: whoever gets it takes the next shard of the oldest job.
Claims are row-locked, so no shard has two owners, and a worker that lost its lease cannot finish what is no longer its.
Does not own what a shard computes, nor the sending (`unsent` says what has to be sent).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, Select, and_, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from sqlalchemy.sql.selectable import ForUpdateArg

from backend import errors
from backend.db.tables import Job, Model, Shard, Source, WorkerReport

STAGES = ("prepare", "encode", "finish", "evaluate")
STAGE_SHARE = {"prepare": 0.03, "encode": 0.72, "finish": 0.13, "evaluate": 0.12}
"""Usual share of a job's time, for the bar over the whole job."""
ACTIVE = ("queued", "running")
_LOCK = ForUpdateArg(key_share=True)
"""Does not wait for the finish stage, whose uncommitted revision refers to job and source. The job before its shards."""


@dataclass(frozen=True, slots=True)
class StageView:
    """Progress of one stage of a job."""

    name: str
    """One of `STAGES`."""
    n_shards: int
    n_shards_done: int
    n_units: int
    """Tokens while encoding and evaluating, features while finishing; 0 while not known."""
    n_units_done: int


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as users watch it."""

    id: int
    model: str
    source: str
    state: str
    """queued, running, done, failed or cancelled."""
    stage: str
    """The stage at work, or the last one."""
    stages: tuple[StageView, ...]
    """Those that exist so far, in order."""
    fraction: float
    """0–1 over the whole job, by the usual cost of each stage."""
    tokens_per_s: float | None
    """Encoding speed over all workers; None before the first report."""
    seconds_left: float | None
    """None until it can be told."""
    error: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Claim:
    """A shard that is ours until its lease runs out."""

    shard_id: int
    job_id: int
    source_id: int
    stage: str
    number: int
    first_context: int
    n_contexts: int
    model: str
    model_weights: str
    source: str
    source_weights: str
    spec: dict[str, Any]
    attempt: int
    worker: str


def create(session: Session, source_id: int, spec: dict[str, Any]) -> int:
    """Queue a computation and return its id. A source computes one thing at a time."""
    session.execute(select(Source.id).where(Source.id == source_id).with_for_update(key_share=True))
    busy = session.scalar(select(Job.id).where(Job.source_id == source_id, Job.state.in_(ACTIVE)))
    if busy is not None:
        raise errors.ConflictError(f"job {busy} is computing this source already.", hint="Wait for it, or cancel it.")
    job = Job(source_id=source_id, state="queued", spec=spec)
    session.add(job)
    session.flush()
    session.add(Shard(job_id=job.id, stage="prepare", number=0, state="queued"))
    session.flush()
    return job.id


def unsent(session: Session, *, resend_after_s: float) -> list[int]:
    """Shards whose message has to be sent (again), marked as sent: new ones, lost messages, run-out leases."""
    now = func.now()
    is_lost = Shard.sent_at < now - timedelta(seconds=resend_after_s)
    wanted = or_(
        and_(Shard.state == "queued", or_(Shard.sent_at.is_(None), is_lost)),
        and_(Shard.state == "running", Shard.lease_until < now, or_(Shard.sent_at < Shard.lease_until, is_lost)),
    )
    found = (
        select(Shard.id).where(wanted).order_by(Shard.job_id, Shard.id).limit(1000).with_for_update(skip_locked=True)
    )
    ids = list(session.scalars(found))
    session.execute(update(Shard).where(Shard.id.in_(ids)).values(sent_at=now))
    return ids


def forget_sending(session: Session, shard_ids: Sequence[int]) -> None:
    """The messages could not be sent after all."""
    session.execute(update(Shard).where(Shard.id.in_(shard_ids), Shard.state == "queued").values(sent_at=None))


def claim_next(session: Session, *, worker: str, lease_s: float, max_attempts: int) -> Claim | None:
    """Take the next shard there is: of the oldest job, in order, evaluation last. None if none is free.

    A shard tried too often fails its job, and the next one is looked for.
    """
    is_free = or_(Shard.state == "queued", and_(Shard.state == "running", Shard.lease_until < func.now()))
    order = (Shard.job_id, Shard.stage == "evaluate", Shard.id)
    free = select(Shard).where(is_free).order_by(*order).limit(1).with_for_update(skip_locked=True)
    while (shard := session.scalar(free)) is not None:
        if shard.attempts >= max_attempts:
            _fail(session, shard, f"the {shard.stage} stage was started {shard.attempts} times and never ended.")
            session.flush()
            continue
        shard.state, shard.worker, shard.attempts, shard.n_done = "running", worker, shard.attempts + 1, 0
        shard.lease_until = func.now() + timedelta(seconds=lease_s)
        shard.started_at = func.now()
        begun = update(Job).where(Job.id == shard.job_id, Job.state == "queued")
        session.execute(begun.values(state="running", started_at=func.now()))
        session.flush()
        return _claim(session, shard)
    return None


def _claim(session: Session, shard: Shard) -> Claim:
    job = session.get_one(Job, shard.job_id)
    source = session.get_one(Source, job.source_id)
    model = session.get_one(Model, source.model_id)
    return Claim(
        shard.id, job.id, source.id, shard.stage, shard.number, shard.first_context, shard.n_contexts,
        model.id, model.weights, source.name, source.weights, job.spec, shard.attempts, shard.worker or "",
    )  # fmt: skip


def renew(session: Session, claimed: Claim, *, lease_s: float, n_done: int, n_units: int) -> bool:
    """Report progress and keep the lease; False if the shard is no longer ours (cancelled, or the lease was lost)."""
    kept = session.execute(
        update(Shard)
        .where(Shard.id == claimed.shard_id, Shard.worker == claimed.worker, Shard.attempts == claimed.attempt)
        .where(Shard.state == "running")
        .values(lease_until=func.now() + timedelta(seconds=lease_s), n_done=n_done, n_units=n_units)
        .returning(Shard.id)
    )
    return kept.first() is not None


def finish_shard(
    session: Session,
    claimed: Claim,
    *,
    n_units: int,
    blob_key: str | None = None,
    seconds: dict[str, Any] | None = None,
) -> bool:
    """Mark our shard done; False if it was not ours any more (then nothing is changed). Locks the job first."""
    job = session.get_one(Job, claimed.job_id, with_for_update=_LOCK)
    shard = session.get_one(Shard, claimed.shard_id, with_for_update=_LOCK)
    if not _is_ours(shard, claimed) or job.state != "running":
        return False
    shard.state, shard.lease_until, shard.finished_at = "done", None, func.now()
    shard.n_done = shard.n_units = n_units
    shard.blob_key, shard.seconds = blob_key, seconds
    session.flush()
    return True


def plan_encoding(session: Session, job_id: int, plan: Sequence[tuple[int, int, int]]) -> None:
    """Create the encode stage: (first_context, n_contexts, n_tokens) of each shard."""
    session.add_all(
        Shard(job_id=job_id, stage="encode", number=i, state="queued", first_context=a, n_contexts=n, n_units=units)
        for i, (a, n, units) in enumerate(plan)
    )
    session.flush()


def plan_finish_if_encoded(session: Session, job_id: int, *, n_features: int) -> None:
    """Create the finish stage once every encode shard is done; the caller's lock on the job makes it happen once."""
    left = session.scalar(
        select(func.count()).where(Shard.job_id == job_id, Shard.stage == "encode", Shard.state != "done")
    )
    if left == 0:
        session.add(Shard(job_id=job_id, stage="finish", number=0, state="queued", n_units=n_features))
        session.flush()


def plan_evaluation(session: Session, job_id: int, *, n_tokens: int) -> None:
    """Create the evaluate stage; `n_tokens` are those it will report."""
    session.add(Shard(job_id=job_id, stage="evaluate", number=0, state="queued", n_units=n_tokens))
    session.flush()


def is_evaluated(session: Session, job_id: int) -> bool:
    """The evaluate stage is done; the caller holds the lock on the job."""
    done = select(Shard.id).where(Shard.job_id == job_id, Shard.stage == "evaluate", Shard.state == "done")
    return session.scalar(done) is not None


def settle(session: Session, job_id: int) -> bool:
    """End the job if all its shards have ended: as failed if its evaluation was, else as done. True if it has ended."""
    states = set(session.scalars(select(Shard.state).where(Shard.job_id == job_id)))
    if not states <= {"done", "failed"}:
        return False
    ended = update(Job).where(Job.id == job_id)
    session.execute(ended.values(state="failed" if "failed" in states else "done", finished_at=func.now()))
    return True


def postings_keys(session: Session, job_id: int) -> list[str]:
    """Blob keys of the encoded shards, in order of context."""
    query = select(Shard.blob_key).where(Shard.job_id == job_id, Shard.stage == "encode").order_by(Shard.number)
    return [key for key in session.scalars(query) if key is not None]


def fail(session: Session, claimed: Claim, message: str, *, is_final: bool) -> None:
    """Our shard went wrong. Final (the input is at fault): the job fails. Else it is queued again, up to its limit."""
    session.get_one(Job, claimed.job_id, with_for_update=_LOCK)
    shard = session.get_one(Shard, claimed.shard_id, with_for_update=_LOCK)
    if not _is_ours(shard, claimed):
        return
    if is_final:
        _fail(session, shard, message)
    else:
        shard.state, shard.lease_until, shard.sent_at = "queued", None, None


def _fail(session: Session, shard: Shard, message: str) -> None:
    shard.state = "failed"
    if shard.stage == "evaluate":
        said = f"the quality was not measured: {message} The dashboards do not need it; retrying measures it again."
        session.execute(update(Job).where(Job.id == shard.job_id).values(error=said))
        session.flush()
        settle(session, shard.job_id)
        return
    session.execute(
        update(Job).where(Job.id == shard.job_id).values(state="failed", error=message, finished_at=func.now())
    )
    _stop_shards(session, shard.job_id)


def _is_ours(shard: Shard, claimed: Claim) -> bool:
    return (shard.state, shard.worker, shard.attempts) == ("running", claimed.worker, claimed.attempt)


def earlier_jobs(session: Session, claimed: Claim) -> list[int]:
    """Ended jobs of the same source before this one: what they left as blobs is nobody's any more."""
    query = select(Job.id).where(Job.source_id == claimed.source_id, Job.id < claimed.job_id)
    return list(session.scalars(query.where(Job.state.not_in(ACTIVE))))


def cancel(session: Session, job_id: int) -> None:
    """Stop a job; a worker that is at it hears within a heartbeat. One that has ended is left as it is."""
    job = session.get(Job, job_id, with_for_update=_LOCK)
    if job is None:
        raise _no_job(job_id)
    if job.state in ACTIVE:
        job.state, job.finished_at = "cancelled", func.now()
        _stop_shards(session, job_id)


def _stop_shards(session: Session, job_id: int) -> None:
    stopped = update(Shard).where(Shard.job_id == job_id, Shard.state.in_(ACTIVE))
    session.execute(stopped.values(state="cancelled", lease_until=None))


def retry(session: Session, job_id: int) -> None:
    """Queue what a failed or cancelled job has not finished; what is done stays done."""
    job = session.get(Job, job_id, with_for_update=_LOCK)
    if job is None:
        raise _no_job(job_id)
    if job.state in ACTIVE or job.state == "done":
        raise errors.ConflictError(
            f"job {job_id} is {job.state}.", hint="Only a failed or cancelled job can be retried."
        )
    busy = session.scalar(select(Job.id).where(Job.source_id == job.source_id, Job.state.in_(ACTIVE)))
    if busy is not None:
        raise errors.ConflictError(f"job {busy} is computing this source now.", hint="Wait for it, or cancel it.")
    job.state, job.error, job.finished_at = "queued", None, None
    again = update(Shard).where(Shard.job_id == job_id, Shard.state.in_(("failed", "cancelled")))
    session.execute(again.values(state="queued", attempts=0, sent_at=None, worker=None, n_done=0))


def report_worker(session: Session, name: str, *, kind: str, device: str, doing: str | None) -> None:
    """Say that a worker is alive."""
    values = {"name": name, "kind": kind, "device": device, "doing": doing, "seen_at": func.now()}
    row = insert(WorkerReport).values(values)
    session.execute(row.on_conflict_do_update(index_elements=["name"], set_=values))


def forget_worker(session: Session, name: str) -> None:
    """A worker that ends says so."""
    session.execute(delete(WorkerReport).where(WorkerReport.name == name))


_JobRow = Row[Job, str, str]


def get(session: Session, job_id: int) -> JobView:
    """One job; raises `NotFoundError`."""
    views = _views(session, _jobs().where(Job.id == job_id))
    if not views:
        raise _no_job(job_id)
    return views[0]


def latest(session: Session, n: int = 50) -> tuple[JobView, ...]:
    """The newest jobs, newest first."""
    return _views(session, _jobs().order_by(Job.id.desc()).limit(n))


def of_source(session: Session, model: str, source: str) -> JobView | None:
    """The newest job of a source."""
    query = _jobs().where(Source.model_id == model, Source.name == source).order_by(Job.id.desc()).limit(1)
    return next(iter(_views(session, query)), None)


def _jobs() -> Select[Job, str, str]:
    return select(Job, Source.model_id, Source.name).join(Source, Source.id == Job.source_id)


def _views(session: Session, query: Select[Job, str, str]) -> tuple[JobView, ...]:
    rows = session.execute(query).all()
    shards: dict[int, list[Shard]] = {row[0].id: [] for row in rows}
    found = select(Shard).where(Shard.job_id.in_(shards)).order_by(Shard.number)
    for shard in session.scalars(found.execution_options(populate_existing=True)):
        shards[shard.job_id].append(shard)
    now = session.scalar(select(func.now())) if rows else None
    return tuple(_view(row, shards[row[0].id], now) for row in rows)


def _view(row: _JobRow, shards: list[Shard], now: datetime | None) -> JobView:
    job, model, source = row
    stages = tuple(_stage(name, of) for name in STAGES if (of := [shard for shard in shards if shard.stage == name]))
    expected = {name: share for name, share in STAGE_SHARE.items() if name != "evaluate" or _has(stages, name)}
    fraction = sum(STAGE_SHARE[stage.name] * _fraction(stage) for stage in stages) / sum(expected.values())
    current = next((stage.name for stage in stages if stage.n_shards_done < stage.n_shards), _last(stages))
    if job.state == "done":
        fraction = 1.0
    speed = _tokens_per_s(shards, now)
    left = None
    if job.state == "running" and job.started_at is not None and now is not None and fraction > STAGE_SHARE["prepare"]:
        encode = next((stage for stage in stages if stage.name == "encode"), None)
        if speed and encode is not None and current == "encode":
            after = sum(expected.values()) - STAGE_SHARE["prepare"] - STAGE_SHARE["encode"]
            to_finish = encode.n_units / speed * after / STAGE_SHARE["encode"]
            left = (encode.n_units - encode.n_units_done) / speed + to_finish
        else:
            left = (now - job.started_at).total_seconds() * (1 - fraction) / fraction
    return JobView(
        id=job.id, model=model, source=source, state=job.state, stage=current,
        stages=stages, fraction=fraction, tokens_per_s=speed, seconds_left=left, error=job.error,
        created_at=job.created_at, started_at=job.started_at, finished_at=job.finished_at,
    )  # fmt: skip


def _stage(name: str, shards: list[Shard]) -> StageView:
    return StageView(
        name, len(shards), sum(shard.state == "done" for shard in shards),
        sum(shard.n_units for shard in shards), sum(shard.n_done for shard in shards),
    )  # fmt: skip


def _last(stages: Sequence[StageView]) -> str:
    return stages[-1].name if stages else STAGES[0]


def _has(stages: Sequence[StageView], name: str) -> bool:
    return any(stage.name == name for stage in stages)


def _fraction(stage: StageView) -> float:
    if stage.n_shards_done == stage.n_shards:
        return 1.0
    return stage.n_units_done / stage.n_units if stage.n_units else 0.0


def _tokens_per_s(shards: list[Shard], now: datetime | None) -> float | None:
    """Tokens encoded over the time from the first shard's start to the last one's end (now, while one runs)."""
    begun = [shard for shard in shards if shard.stage == "encode" and shard.started_at is not None and shard.n_done > 0]
    if not begun or now is None:
        return None
    start = min(shard.started_at for shard in begun if shard.started_at is not None)
    end = max(shard.finished_at or now for shard in begun)
    seconds = (end - start).total_seconds()
    return sum(shard.n_done for shard in begun) / seconds if seconds > 0 else None


def _no_job(job_id: int) -> errors.NotFoundError:
    return errors.NotFoundError(f"There is no job {job_id}.", hint="GET /api/jobs lists them.")
