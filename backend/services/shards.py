"""Shards of jobs: who does which, what is done, what was lost. Rows are the truth; messages only wake workers.

A job goes through the stages of `STAGES`; the last shard of one plans the next one's. A worker claims a shard under a
lease and renews it while it computes; a shard no lease holds belongs to nobody and is claimed anew. Where nothing else
waits, an idle worker also claims what takes far longer than its siblings did: whoever finishes first wins, and the
other hears at its next heartbeat. Claims are row-locked, and a worker whose lease is gone cannot finish what is no
longer its.
Does not own what a shard computes, nor the sending of messages (`n_waiting` says how many workers there is work for).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, exists, func, or_, select, update
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.selectable import ForUpdateArg

from backend.db.tables import Job, JobSource, Lease, Model, Shard, Source
from backend.services import events

ACTIVE = ("queued", "running")
LOCK = ForUpdateArg(key_share=True)
"""Does not wait for writers of rows that refer to the locked one. The job before its shards."""
STRAGGLER_FACTOR = 3.0
"""A straggler takes so many times the median of its siblings that are done."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One kind of shard."""

    name: str
    unit: str
    """What its work is counted in."""
    share: float
    """Usual share of a job's time, for what cannot be told from the job itself."""
    is_extra: bool = False
    """Dashboards are published without it: claimed last, and a job it failed in goes on with the rest."""


COMPUTE = (
    Stage("prepare", "tokens", 0.03),
    Stage("encode", "tokens", 0.72),
    Stage("finish", "features", 0.13),
    Stage("evaluate", "tokens", 0.12, is_extra=True),
)
"""Of a job that computes dashboards, in order. To add one: a line here, a function in `workers/stages.py`, and `plan`
where its shards become possible."""
IMPORT = (
    Stage("prepare", "bytes", 0.03),
    Stage("read", "bytes", 0.55),
    Stage("merge", "contexts", 0.12),
    Stage("store", "features", 0.30),
)
"""Of a job that imports them; functions in `workers/importing.py`."""
STAGES = (*COMPUTE, *IMPORT[1:])


def stages_of(spec: dict[str, Any]) -> tuple[Stage, ...]:
    """The stages of a job, by its spec."""
    return IMPORT if "import" in spec else COMPUTE


_EXTRA = tuple(stage.name for stage in STAGES if stage.is_extra)


@dataclass(frozen=True, slots=True)
class Piece:
    """A shard to be planned."""

    first: int
    n: int
    """Of the range it is about: contexts or features."""
    n_units: int
    source_id: int | None = None
    """None: it is about all the job's sources."""


@dataclass(frozen=True, slots=True)
class ClaimedSource:
    """One source of a claimed shard's job."""

    id: int
    name: str
    weights: str
    """Empty: none are known; only an import does without."""
    declared: dict[str, Any]
    """What was said beside the weights' files."""
    revision_id: int | None
    """What the job writes; None before the corpus is prepared."""

    @property
    def written_id(self) -> int:
        """The revision, in stages after the first."""
        assert self.revision_id is not None, "the prepare stage opened one"
        return self.revision_id


@dataclass(frozen=True, slots=True)
class Claim:
    """A shard that is ours until our lease runs out."""

    lease_id: int
    shard_id: int
    job_id: int
    stage: str
    number: int
    first: int
    n: int
    n_units: int
    source_id: int | None
    model: str
    model_weights: str
    """Empty: as of its sources."""
    sources: tuple[ClaimedSource, ...]
    """All of the job's, in its order."""
    spec: dict[str, Any]
    attempt: int

    @property
    def source(self) -> ClaimedSource:
        """The one the shard is about."""
        return next(source for source in self.sources if source.id == self.source_id)


def claim_next(session: Session, *, worker: str, lease_s: float, max_attempts: int, straggler_s: float) -> Claim | None:
    """Take the next shard there is: of the oldest job, in order, extras last; else a straggler's. None if none is free.

    Imports are short and come before jobs that compute. A shard tried too often fails its job, and the next one is looked for.
    """
    while True:
        shard = session.scalar(_next(_is_free()))
        if shard is not None and shard.attempts >= max_attempts:
            _fail(session, shard, f"the {shard.stage} stage was started {shard.attempts} times and never ended.")
            session.flush()
            continue
        n_held = 0
        if shard is None:
            shard = session.scalar(_next(and_(_is_straggler(straggler_s), Shard.attempts < max_attempts)))
            n_held = 1
        if shard is None:
            return None
        # The lock may have come after another's claim, which the query that found the shard did not see.
        if _n_held(session, shard.id) > n_held:
            continue
        if n_held:
            said = f"Shard {shard.number} of {shard.stage} takes long; worker {worker} does it too."
            events.note(session, shard.job_id, said)
        return _claim(session, shard, worker, lease_s)


def _next(condition: ColumnElement[bool]) -> Any:
    is_import = select(Job.spec.has_key("import")).where(Job.id == Shard.job_id).scalar_subquery()
    order = (is_import.desc(), Shard.job_id, Shard.stage.in_(_EXTRA), Shard.id)
    found = select(Shard).where(condition).order_by(*order).limit(1)
    return found.with_for_update(skip_locked=True, of=Shard).execution_options(populate_existing=True)


def _is_free() -> ColumnElement[bool]:
    holds = exists().where(Lease.shard_id == Shard.id, Lease.until > func.now())
    return or_(Shard.state == "queued", and_(Shard.state == "running", ~holds))


def _is_straggler(straggler_s: float) -> ColumnElement[bool]:
    """Held by one worker, for longer than `straggler_s` and than three times what its siblings took (their median)."""
    sibling = aliased(Shard)
    took = func.extract("epoch", sibling.finished_at - sibling.started_at)
    usual = (
        select(func.percentile_cont(0.5).within_group(took))
        .where(sibling.job_id == Shard.job_id, sibling.stage == Shard.stage, sibling.state == "done")
        .scalar_subquery()
    )
    holding = (Lease.shard_id == Shard.id, Lease.until > func.now())
    n_holding = select(func.count()).where(*holding).scalar_subquery()
    so_far = select(func.extract("epoch", func.now() - func.min(Lease.started_at))).where(*holding).scalar_subquery()
    is_long = so_far > func.greatest(straggler_s, STRAGGLER_FACTOR * usual)
    return and_(Shard.state == "running", n_holding == 1, usual.is_not(None), is_long)


def _n_held(session: Session, shard_id: int) -> int:
    held = select(func.count()).select_from(Lease).where(Lease.shard_id == shard_id, Lease.until > func.now())
    return session.scalars(held).one()


def _claim(session: Session, shard: Shard, worker: str, lease_s: float) -> Claim:
    over = delete(Lease).where(Lease.shard_id == shard.id, Lease.until <= func.now())
    for lost in session.scalars(over.returning(Lease.worker)).all():
        said = f"Worker {lost} went away during shard {shard.number} of {shard.stage}; worker {worker} does it again."
        events.note(session, shard.job_id, said, level="warning")
    lease = Lease(shard_id=shard.id, worker=worker, until=func.now() + timedelta(seconds=lease_s))
    session.add(lease)
    shard.state, shard.attempts = "running", shard.attempts + 1
    begun = update(Job).where(Job.id == shard.job_id, Job.state == "queued").returning(Job.id)
    if session.execute(begun.values(state="running", started_at=func.now())).first() is not None:
        events.note(session, shard.job_id, f"Started by worker {worker}.")
    session.flush()
    job = session.get_one(Job, shard.job_id)
    model = session.get_one(Model, job.model_id)
    assert model.weights is not None or "import" in job.spec, "nothing else is queued without"
    rows = (
        select(Source.id, Source.name, Source.weights, Source.declared, JobSource.revision_id)
        .join(JobSource, JobSource.source_id == Source.id)
        .where(JobSource.job_id == job.id)
        .order_by(JobSource.number)
    )
    sources = tuple(
        ClaimedSource(row.id, row.name, row.weights or "", row.declared, row.revision_id)
        for row in session.execute(rows)
    )
    return Claim(
        lease.id, shard.id, job.id, shard.stage, shard.number, shard.first, shard.n, shard.n_units, shard.source_id,
        model.id, model.weights or "", sources, job.spec, shard.attempts,
    )  # fmt: skip


def renew(session: Session, claimed: Claim, *, lease_s: float, n_done: int) -> bool:
    """Report progress and keep the lease; False if the shard is no longer ours (cancelled, done by another, lost)."""
    is_wanted = exists().where(Shard.id == Lease.shard_id, Shard.state == "running")
    kept = session.execute(
        update(Lease)
        .where(Lease.id == claimed.lease_id, is_wanted)
        .values(until=func.now() + timedelta(seconds=lease_s), n_done=n_done)
        .returning(Lease.id)
    )
    return kept.first() is not None


def release(session: Session, claimed: Claim) -> None:
    """Give our lease back; a shard we have not finished is free at once."""
    session.execute(delete(Lease).where(Lease.id == claimed.lease_id))


def lock_writing(session: Session, claimed: Claim) -> None:
    """Until the transaction ends, no other worker writes this shard's rows; it waits here if one does."""
    session.execute(select(func.pg_advisory_xact_lock(claimed.shard_id)))


def finish(
    session: Session,
    claimed: Claim,
    *,
    n_units: int,
    result: dict[str, Any] | None = None,
    seconds: dict[str, Any] | None = None,
) -> bool:
    """Mark our shard done; False if it was not ours any more (then nothing is changed). Locks the job first."""
    job = session.get_one(Job, claimed.job_id, with_for_update=LOCK, populate_existing=True)
    shard = session.get(Shard, claimed.shard_id, with_for_update=LOCK, populate_existing=True)
    lease = session.get(Lease, claimed.lease_id, populate_existing=True)
    if shard is None or lease is None or shard.state != "running" or job.state != "running":
        return False
    shard.state, shard.n_units, shard.result, shard.seconds = "done", n_units, result, seconds
    shard.started_at, shard.finished_at = lease.started_at, func.now()
    session.flush()
    session.execute(delete(Lease).where(Lease.shard_id == shard.id))
    return True


def fail(session: Session, claimed: Claim, message: str, *, is_final: bool) -> bool:
    """Our shard went wrong; False if it was not ours. Final (the input is at fault): the job fails. Else it is free."""
    session.get_one(Job, claimed.job_id, with_for_update=LOCK)
    shard = session.get(Shard, claimed.shard_id, with_for_update=LOCK, populate_existing=True)
    lease = session.get(Lease, claimed.lease_id, populate_existing=True)
    if shard is None or lease is None or shard.state != "running":
        return False
    session.delete(lease)
    message = events.storable(message)
    if is_final:
        _fail(session, shard, message)
    else:
        said = f"Shard {shard.number} of {shard.stage} went wrong and is tried again: {message}"
        events.note(session, claimed.job_id, said, level="warning")
    return True


def _fail(session: Session, shard: Shard, message: str) -> None:
    shard.state = "failed"
    session.flush()
    failed = update(Job).where(Job.id == shard.job_id)
    if shard.stage in _EXTRA:
        said = f"the {shard.stage} stage failed: {message} The dashboards do not need it; a retry does it again."
        session.execute(failed.values(error=said))
        events.note(session, shard.job_id, _sentence(said), level="error")
        settle(session, shard.job_id)
        return
    session.execute(failed.values(state="failed", error=message, finished_at=func.now()))
    events.note(session, shard.job_id, f"Failed: {message}", level="error")
    stop(session, shard.job_id)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def stop(session: Session, job_id: int, source_id: int | None = None) -> None:
    """No shard of the job (about one source, if given) is wanted any more; its workers hear at their next heartbeat."""
    stopped = update(Shard).where(Shard.job_id == job_id, Shard.state.in_(ACTIVE))
    if source_id is not None:
        stopped = stopped.where(Shard.source_id == source_id)
    session.execute(stopped.values(state="cancelled"))


def settle(session: Session, job_id: int) -> None:
    """End the job if every source is published or deleted and every shard has ended; called with the job locked.

    It has failed if one of an extra stage has, else it is done.
    """
    of_job = (JobSource.job_id == job_id, Source.id == JobSource.source_id, Source.model_id.is_not(None))
    unpublished = exists().where(*of_job, JobSource.published_at.is_(None))
    unended = exists().where(Shard.job_id == job_id, Shard.state.in_(ACTIVE))
    failed = exists().where(Shard.job_id == job_id, Shard.state == "failed")
    ended = update(Job).where(Job.id == job_id, Job.state == "running", ~unpublished, ~unended)
    session.execute(ended.where(failed).values(state="failed", finished_at=func.now()))
    is_done = ended.where(~failed).values(state="done", error=None, finished_at=func.now()).returning(Job.id)
    if session.execute(is_done).first() is not None:
        events.note(session, job_id, "Done.")


def deleted_sources(session: Session, job_id: int) -> frozenset[int]:
    """Ids of the job's sources that were deleted; `finish`'s lock on the job keeps them."""
    found = select(Source.id).join(JobSource, JobSource.source_id == Source.id)
    return frozenset(session.scalars(found.where(JobSource.job_id == job_id, Source.model_id.is_(None))))


def plan(session: Session, job_id: int, stage: str, pieces: Sequence[Piece]) -> None:
    """Queue shards of a stage, in this order."""
    session.add_all(
        Shard(job_id=job_id, stage=stage, number=i, state="queued", first=piece.first, n=piece.n,
              n_units=piece.n_units, source_id=piece.source_id)
        for i, piece in enumerate(pieces)
    )  # fmt: skip
    session.flush()


def is_done(session: Session, job_id: int, stage: str, source_id: int | None = None) -> bool:
    """Whether every shard of a stage (of one source, if given) is done; `finish`'s lock on the job keeps it so."""
    left = select(func.count()).select_from(Shard)
    left = left.where(Shard.job_id == job_id, Shard.stage == stage, Shard.state != "done")
    if source_id is not None:
        left = left.where(Shard.source_id == source_id)
    return session.scalars(left).one() == 0


def results(session: Session, job_id: int, stage: str, source_id: int | None = None) -> list[dict[str, Any]]:
    """What the shards of a stage (of one source, if given) left for later ones, in order."""
    query = select(Shard.result).where(Shard.job_id == job_id, Shard.stage == stage).order_by(Shard.number)
    if source_id is not None:
        query = query.where(Shard.source_id == source_id)
    return [result for result in session.scalars(query) if result is not None]


def n_waiting(session: Session, *, straggler_s: float) -> int:
    """Shards a worker could claim now, stragglers' included."""
    wanted = or_(_is_free(), _is_straggler(straggler_s))
    return session.scalars(select(func.count()).select_from(Shard).where(Shard.state.in_(ACTIVE), wanted)).one()
