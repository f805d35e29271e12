"""How far jobs are, from their shards and leases: stages, sources, speed, time left.

Counts come from the database in sums, so a list of jobs costs the same however many shards they have. Speed is what
the workers of this moment do, each by its own lease, so it follows workers that join or are lost. The bar over a whole
job weighs stages by their usual cost, since the true one is known only afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, func, select
from sqlalchemy.orm import Session

from backend.db.tables import Job, JobSource, Lease, Shard, Source
from backend.services import host_paths
from backend.services.shards import ACTIVE, COMPUTE, Stage, stages_of
from backend.services.visibility import unrestricted


@dataclass(frozen=True, slots=True)
class StageView:
    """Progress of one stage of a job."""

    name: str
    unit: str
    """What its work is counted in: tokens, features, bytes, contexts."""
    n_shards: int
    n_shards_done: int
    n_shards_running: int
    n_units: int
    """0 while not known."""
    n_units_done: int


@dataclass(frozen=True, slots=True)
class JobSourceView:
    """Progress of one of a job's sources."""

    name: str
    n_features: int
    n_features_done: int
    """Written; readers see them all at once."""
    is_published: bool
    """Readers see what this job computed."""
    is_deleted: bool = False
    """There is no such source any more; the job goes on without it."""


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as users watch it."""

    id: int
    model: str
    sources: tuple[JobSourceView, ...]
    """In the order they are finished."""
    state: str
    """queued, running, done, failed or cancelled."""
    stage: str
    """The stage at work, or the last one."""
    stages: tuple[StageView, ...]
    """Those that exist so far, in order."""
    fraction: float
    """0–1 over the whole job, by the usual cost of each stage."""
    tokens_per_s: float | None
    """What the workers at it encode together; None while none does."""
    seconds_left: float | None
    """At the speed of the workers at it; None until it can be told."""
    error: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    n_before: int = 0
    """Jobs that are done before it, while it is queued."""
    owner_id: int | None = None
    """The account that asked for it; None: the host's operator."""
    is_import: bool = False
    """It stores dashboards that another tool made."""

    @property
    def title(self) -> str:
        """`model/source`, `model/first and 2 more`."""
        first, *others = [source.name for source in self.sources] or ["?"]
        return f"{self.model}/{first}" + (f" and {len(others)} more" if others else "")


@dataclass(slots=True)
class _Sum:
    """Shards of one stage, added up."""

    n_shards: int = 0
    n_done: int = 0
    n_running: int = 0
    n_units: int = 0
    units_done: int = 0
    """Of shards that are done."""
    seconds_done: float = 0.0
    """Worker-seconds they took."""
    units_running: int = 0
    """Done so far of shards that run."""
    units_per_s: float = 0.0
    """Of the workers at it now."""
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def units_now(self) -> int:
        return self.units_done + self.units_running

    @property
    def speed(self) -> float | None:
        """Of the workers at it; of one worker while none is; None if nobody has done any."""
        if self.units_per_s > 0:
            return self.units_per_s
        return self.units_done / self.seconds_done if self.units_done and self.seconds_done > 0 else None

    @property
    def fraction(self) -> float:
        if self.n_shards and self.n_done == self.n_shards:
            return 1.0
        return min(1.0, self.units_now / self.n_units) if self.n_units else 0.0


def views(session: Session, jobs: Sequence[Job]) -> tuple[JobView, ...]:
    """The jobs with their progress, in the order given; three statements, one more if one is queued, none for no jobs."""
    if not jobs:
        return ()
    ids = [job.id for job in jobs]
    sums: dict[int, dict[str, _Sum]] = {job_id: {} for job_id in ids}
    features: dict[tuple[int, int], tuple[int, int]] = {}
    for row in session.execute(_sums(ids)):
        of = sums[row.job_id].setdefault(row.stage, _Sum())
        _add(of, row)
        if row.stage in ("finish", "store") and row.source_id is not None:
            features[row.job_id, row.source_id] = (int(row.n_units), int(row.units_done))
    for row in session.execute(_leases(ids)):
        known = sums[row.job_id].get(row.stage)
        if known is None:  # a stage that was planned and begun since the statement above
            continue
        known.units_running += row.n_done
        usual = known.units_done / known.seconds_done if known.seconds_done > 0 else 0.0
        known.units_per_s += float(row.units_per_s) if row.n_done else usual
        if row.source_id is not None and (row.job_id, row.source_id) in features:
            n, n_done = features[row.job_id, row.source_id]
            features[row.job_id, row.source_id] = (n, n_done + row.n_done)
    sources: dict[int, list[JobSourceView]] = {job_id: [] for job_id in ids}
    for row in session.execute(_sources(ids)):
        n, n_done = features.get((row.job_id, row.source_id), (row.d_sae, 0))
        sources[row.job_id].append(JobSourceView(row.name, n, n_done, row.published_at is not None, row.is_deleted))
    active = _active(session) if any(job.state == "queued" for job in jobs) else []
    before = {job.id: _n_before(job, active) if job.state == "queued" else 0 for job in jobs}
    errors = {job.id: None if job.error is None else host_paths.shown(session, job, job.error) for job in jobs}
    return tuple(_view(job, tuple(sources[job.id]), sums[job.id], before[job.id], errors[job.id]) for job in jobs)


def _active(session: Session) -> list[tuple[int, bool]]:
    """Every job that is queued or running, whoever may see it, and whether it is an import: those are done first."""
    found = select(Job.id, Job.spec.has_key("import")).where(Job.state.in_(ACTIVE))
    return [(job_id, is_import) for job_id, is_import in session.execute(unrestricted(found))]


def _n_before(job: Job, active: Sequence[tuple[int, bool]]) -> int:
    place = ("import" not in job.spec, job.id)
    return sum((not is_import, job_id) < place for job_id, is_import in active)


def _sums(ids: Sequence[int]) -> Any:
    is_done = Shard.state == "done"
    return (
        select(
            Shard.job_id, Shard.stage, Shard.source_id, func.count().label("n_shards"),
            func.count().filter(is_done).label("n_done"),
            func.count().filter(Shard.state == "running").label("n_running"),
            func.sum(Shard.n_units).label("n_units"),
            func.coalesce(func.sum(Shard.n_units).filter(is_done), 0).label("units_done"),
            func.sum(func.extract("epoch", Shard.finished_at - Shard.started_at)).label("seconds_done"),
            func.min(Shard.started_at).label("started_at"), func.max(Shard.finished_at).label("finished_at"),
        )
        .where(Shard.job_id.in_(ids))
        .group_by(Shard.job_id, Shard.stage, Shard.source_id)
    )  # fmt: skip


def _leases(ids: Sequence[int]) -> Any:
    """Of each shard that runs, how far the first of its workers is, and how fast the fastest."""
    seconds = func.extract("epoch", func.now() - Lease.started_at)
    return (
        select(
            Shard.job_id, Shard.stage, Shard.source_id, func.max(Lease.n_done).label("n_done"),
            func.max(Lease.n_done / func.greatest(seconds, 0.001)).label("units_per_s"),
        )
        .join(Shard, Shard.id == Lease.shard_id)
        .where(Shard.job_id.in_(ids), Shard.state == "running", Lease.until > func.now())
        .group_by(Shard.id)
    )  # fmt: skip


def _sources(ids: Sequence[int]) -> Any:
    columns = (
        JobSource.job_id,
        JobSource.source_id,
        JobSource.published_at,
        Source.name,
        Source.d_sae,
        Source.model_id.is_(None).label("is_deleted"),
    )
    found = select(*columns).join(Source, Source.id == JobSource.source_id).where(JobSource.job_id.in_(ids))
    return found.order_by(JobSource.job_id, JobSource.number)


def _add(of: _Sum, row: Row[Any]) -> None:
    of.n_shards += row.n_shards
    of.n_done += row.n_done
    of.n_running += row.n_running
    of.n_units += int(row.n_units)
    of.units_done += int(row.units_done)
    of.seconds_done += float(row.seconds_done or 0.0)
    of.started_at = min(filter(None, (of.started_at, row.started_at)), default=None)
    of.finished_at = max(filter(None, (of.finished_at, row.finished_at)), default=None)


def _view(
    job: Job, sources: tuple[JobSourceView, ...], sums: dict[str, _Sum], n_before: int, error: str | None
) -> JobView:
    all_stages = stages_of(job.spec)
    stages = tuple(_stage(stage, sums[stage.name]) for stage in all_stages if stage.name in sums)
    at_work = next((stage.name for stage in stages if stage.n_shards_done < stage.n_shards), "")
    encoding = sums.get("encode", _Sum())
    return JobView(
        id=job.id, model=job.model_id, sources=sources, state=job.state,
        stage=at_work or (stages[-1].name if stages else all_stages[0].name), stages=stages,
        fraction=1.0 if job.state == "done" else fraction(sums, all_stages),
        tokens_per_s=encoding.units_per_s or None,
        seconds_left=seconds_left(sums) if job.state == "running" else None, error=error,
        created_at=job.created_at, started_at=job.started_at, finished_at=job.finished_at, n_before=n_before,
        owner_id=job.owner_id, is_import="import" in job.spec,
    )  # fmt: skip


def _stage(stage: Stage, of: _Sum) -> StageView:
    return StageView(stage.name, stage.unit, of.n_shards, of.n_done, of.n_running, of.n_units, of.units_now)


def expected(sums: dict[str, _Sum], all_stages: Sequence[Stage] = COMPUTE) -> list[Stage]:
    """Stages the job has or will have: extra ones only if it has them, since they are planned with the others."""
    return [stage for stage in all_stages if stage.name in sums or not (stage.is_extra and len(sums) > 1)]


def fraction(sums: dict[str, _Sum], all_stages: Sequence[Stage] = COMPUTE) -> float:
    """Of the whole job, by the usual share of each stage."""
    stages = expected(sums, all_stages)
    whole = sum(stage.share for stage in stages)
    return sum(stage.share * sums[stage.name].fraction for stage in stages if stage.name in sums) / whole


def seconds_left(sums: dict[str, _Sum]) -> float | None:
    """What is left of each stage at its speed; of a stage with none yet, its usual share beside the encode stage's."""
    encoding = sums.get("encode")
    if encoding is None:
        return None
    shares = {stage.name: stage.share for stage in COMPUTE}
    whole: float | None = None
    if encoding.fraction == 1.0 and encoding.started_at and encoding.finished_at:
        whole = (encoding.finished_at - encoding.started_at).total_seconds()
    elif encoding.speed:
        whole = encoding.n_units / encoding.speed
    left = 0.0
    for stage in expected(sums):
        of = sums.get(stage.name, _Sum())
        if of.fraction == 1.0:
            continue
        if of.speed:
            left += max(0, of.n_units - of.units_now) / of.speed
        elif whole is not None:
            left += whole * stage.share / shares["encode"] * (1 - of.fraction)
        else:
            return None
    return left
