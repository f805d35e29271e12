"""What is known of a source while it is computed: how often each feature has fired in the shards encoded so far.

Each encode shard adds its counts to the job's source in the transaction that ends it, so every shard counts once. When
the last one is done they are the whole corpus's, and the revision is summed up with them; from then on the source's page
shows those numbers, and the features whose dashboards are finished can be read (`catalog`).
"""

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from backend.db.tables import JobSource, Revision, Shard, Source
from backend.formats import quality
from backend.services import ingest


@dataclass(frozen=True, slots=True)
class SoFar:
    """A source of a job, as far as it is encoded."""

    name: str
    n_features: int
    n_tokens: int
    """Unmasked, encoded so far."""
    n_firings: int
    n_alive: int
    """Features that have fired so far."""
    density_low: float
    density_high: float
    density_counts: tuple[int, ...]
    """Features that have fired by log10 density so far, as in `catalog.SourceView`."""
    ready: tuple[tuple[int, int], ...]
    """First and last of each run of features that can be read, ascending."""

    @property
    def mean_l0(self) -> float:
        """Firings per token so far."""
        return self.n_firings / self.n_tokens if self.n_tokens else 0.0

    @property
    def n_ready(self) -> int:
        """Features that can be read."""
        return sum(last - first + 1 for first, last in self.ready)


def add_firings(session: Session, job_id: int, source_id: int, firings: NDArray[np.int64], *, n_tokens: int) -> None:
    """Count an encode shard in: firings of each feature on its unmasked tokens. Called with the job locked."""
    of = session.get_one(JobSource, _key(session, job_id, source_id), populate_existing=True)
    whole = firings if of.firings is None else firings + _unpack(of.firings)
    of.firings = zlib.compress(whole.astype("<i8").tobytes(), 1)
    of.n_tokens += n_tokens
    session.flush()


def sum_up(session: Session, job_id: int) -> None:
    """Every shard is encoded: the revisions say how much their features fire. Called with the job locked."""
    rows = select(JobSource).where(JobSource.job_id == job_id, JobSource.revision_id.is_not(None))
    for of in session.scalars(rows.execution_options(populate_existing=True)):
        if of.firings is None:
            continue
        firings = _unpack(of.firings)
        alive = firings[firings > 0]
        known = {
            "n_alive": alive.size, "n_firings": int(firings.sum()),
            "n_dense": int((firings > quality.DENSE * of.n_tokens).sum()),
            "density_histogram": ingest.density_histogram(alive / of.n_tokens),
        }  # fmt: skip
        session.execute(update(Revision).where(Revision.id == of.revision_id).values(known))


def of_job(session: Session, job_id: int) -> tuple[SoFar, ...]:
    """What is known of each source of a job that is under way, published and deleted ones left out; two statements."""
    rows = session.execute(
        select(JobSource.source_id, Source.name, Source.d_sae, JobSource.firings, JobSource.n_tokens)
        .join(Source, Source.id == JobSource.source_id)
        .where(JobSource.job_id == job_id, JobSource.firings.is_not(None), Source.model_id.is_not(None))
        .order_by(JobSource.number)
    ).all()
    ready = _ready(session, job_id) if rows else {}
    return tuple(
        _so_far(row.name, row.d_sae, _unpack(row.firings), row.n_tokens, ready.get(row.source_id, ())) for row in rows
    )


def _so_far(
    name: str, n_features: int, firings: NDArray[np.int64], n_tokens: int, ready: tuple[tuple[int, int], ...]
) -> SoFar:
    alive = firings[firings > 0]
    histogram = ingest.density_histogram(alive / max(n_tokens, 1))
    return SoFar(
        name, n_features, n_tokens, int(firings.sum()), alive.size, histogram["low"], histogram["high"],
        tuple(histogram["counts"]), ready,
    )  # fmt: skip


def _ready(session: Session, job_id: int) -> dict[int, tuple[tuple[int, int], ...]]:
    """Runs of finished features by source, joined where they touch."""
    done = select(Shard.source_id, Shard.first, Shard.n)
    done = done.where(Shard.job_id == job_id, Shard.stage == "finish", Shard.state == "done").order_by(Shard.first)
    runs: dict[int, list[tuple[int, int]]] = {}
    for row in session.execute(done):
        of = runs.setdefault(row.source_id, [])
        if of and of[-1][1] == row.first - 1:
            of[-1] = (of[-1][0], row.first + row.n - 1)
        else:
            of.append((row.first, row.first + row.n - 1))
    return {source_id: tuple(of) for source_id, of in runs.items()}


def _key(session: Session, job_id: int, source_id: int) -> tuple[int, int]:
    number = select(JobSource.number).where(JobSource.job_id == job_id, JobSource.source_id == source_id)
    return job_id, session.scalars(number).one()


def _unpack(packed: bytes) -> NDArray[np.int64]:
    return np.frombuffer(zlib.decompress(packed), "<i8").astype(np.int64)
