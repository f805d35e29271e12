"""Jobs and their shards: who does what, what is done, what was lost. Rows are the truth; messages only wake workers."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class StageView:
    """Progress of one stage of a job."""

    name: str
    """prepare, encode or finish."""
    n_shards: int
    n_shards_done: int
    n_units: int
    """Tokens while encoding, features while finishing; 0 while not known."""
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
