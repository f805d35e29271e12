"""The one task: claim a shard, do what its stage says, then wake workers for what has become possible.

What a shard computes is in `workers/stages.py`. Here is what happens around it: errors of the input fail the job with
their sentence, anything else is tried again, work nobody wants any more is dropped, and ended jobs are cleared up.
"""

import contextlib
import logging
from typing import Any

from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from backend import errors, logs, storage, wakeups, weights
from backend.db.session import transaction
from backend.services import graphs, jobs, kept_index, removal, shards
from backend.settings import Settings
from workers import runtime, stages
from workers.leases import Heartbeat
from workers.work import OpenPostings, Work

_logger = logging.getLogger(__name__)


class Worker:
    """One process that does shards, with what it keeps from one to the next: the last model, its SAEs, postings."""

    def __init__(self, settings: Settings, sessions: sessionmaker[Session], app: Celery, name: str) -> None:
        self.settings, self.sessions, self.app, self.name = settings, sessions, app, name
        self.doing: str | None = None
        self._blobs = storage.store(settings)
        self._resident = runtime.Resident(cache=weights.cache_of(settings))
        self._postings = OpenPostings(self._blobs)

    def run(self) -> None:
        """Do the next shard if there is one, then send what follows from it."""
        s = self.settings
        with transaction(self.sessions) as session:
            claimed = shards.claim_next(
                session, worker=self.name, lease_s=s.lease_s, max_attempts=s.max_attempts, straggler_s=s.straggler_s
            )
        if claimed is None:
            self._postings.close()
            return
        self.doing = f"{claimed.stage} {claimed.number} of job {claimed.job_id}"
        try:
            self._do(claimed)
        finally:
            self.doing = None
            self._release(claimed)
        self.sweep()

    def _do(self, claimed: shards.Claim) -> None:
        fields: dict[str, Any] = {"job_id": claimed.job_id, "stage": claimed.stage, "shard": claimed.number}
        logs.event(_logger, "shard.started", attempt=claimed.attempt, **fields)
        try:
            with Heartbeat(self.settings, self.sessions, claimed) as heartbeat:
                stages.STAGES[claimed.stage](
                    Work(claimed, heartbeat, self.settings, self.sessions, self._blobs, self._resident, self._postings)
                )
            logs.event(_logger, "shard.finished", **fields)
        except errors.CancelledError:
            logs.event(_logger, "shard.given_up", **fields)
        except errors.SiteError as error:
            self._fail(claimed, str(error), is_final=True)
        except Exception as error:
            _logger.exception("shard.failed", extra={"fields": fields})
            is_final = claimed.attempt >= self.settings.max_attempts
            self._fail(claimed, f"{type(error).__name__} in the {claimed.stage} stage: {error}", is_final=is_final)

    def sweep(self) -> None:
        """Clear up after jobs that ended, and wake workers for what waits; after each shard, and every few seconds."""
        self._clear()
        try:
            wakeups.send(self.sessions, self.app, straggler_s=self.settings.straggler_s)
        except errors.UnavailableError:
            _logger.warning("queue.unreachable")  # the next sweep sends them

    def _clear(self) -> None:
        """Delete what ended jobs and deleted sources and graphs left; a job that is asked for again meanwhile waits."""
        while self._clear_job() or self._clear_source() or self._clear_graph():
            continue

    def _clear_job(self) -> bool:
        with transaction(self.sessions) as session:
            job_id = jobs.next_to_clear(session)
            if job_id is not None:
                self._blobs.delete_folder(f"jobs/{job_id}")
                for source_id in jobs.set_cleared(session, job_id):
                    kept_index.sweep(session, self._blobs, source_id)
            return job_id is not None

    def _clear_source(self) -> bool:
        with transaction(self.sessions) as session:
            return removal.clear_step(session, self._blobs)

    def _clear_graph(self) -> bool:
        with transaction(self.sessions) as session:
            return graphs.clear_step(session, self._blobs) is not None

    def _fail(self, claimed: shards.Claim, message: str, *, is_final: bool) -> None:
        with transaction(self.sessions) as session:
            shards.fail(session, claimed, message, is_final=is_final)

    def _release(self, claimed: shards.Claim) -> None:
        """A lease that is left over, as of a worker told to stop, would keep others waiting."""
        with contextlib.suppress(Exception), transaction(self.sessions) as session:
            shards.release(session, claimed)
