"""Jobs on real Postgres, a real queue and real worker processes, killed where it hurts."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from backend import broker, errors
from backend.cli import add, children, migrate
from backend.db import tables
from backend.db.session import create_engine, session_factory, transaction
from backend.embedded import services
from backend.names import FeatureRef
from backend.services import catalog, features, jobs
from backend.settings import REPOSITORY, Settings
from tests import tiny

DEADLINE_S = 240


@dataclass
class Site:
    settings: Settings
    sessions: sessionmaker[Session]
    folder: Path

    def start_worker(self, **settings: Any) -> subprocess.Popen[bytes]:
        environment = children.environment(self.settings.model_copy(update=settings))
        command = [sys.executable, "-W", "ignore", "-m", "workers.celery_app"]
        with (self.folder / "worker.log").open("ab") as log:
            return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)

    def add(self, name: str, *, n_documents: int = 400, **spec: Any) -> int:
        """Host a new source; the job's id."""
        corpus = self.folder / f"text-{n_documents}.txt"
        corpus.write_text(tiny.text(n_documents))
        full = {"corpus": str(corpus), "is_tokens": False, "hook_point": "", "threads": 1} | spec
        sae = self.folder / "sae" / name
        if not sae.exists():
            tiny.save_sae(sae, d_sae=64)
        with transaction(self.sessions) as session:
            return add.register(session, str(self.folder / "tiny-gpt2"), sae, full, source=f"1-{name}")[0]

    def wake(self) -> None:
        with transaction(self.sessions) as session:
            n = len(jobs.unsent(session, resend_after_s=120))
        broker.wake_workers(broker.celery_app(self.settings), n)

    def wait(self, job_id: int, is_reached: Callable[[jobs.JobView], bool]) -> jobs.JobView:
        """Look until the job is where the test wants it."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            with transaction(self.sessions) as session:
                view = jobs.get(session, job_id)
            if is_reached(view):
                return view
            assert time.monotonic() < deadline, f"{view}\n{(self.folder / 'worker.log').read_text()[-4000:]}"
            time.sleep(0.05)

    def rows(self, source: str) -> list[tuple[Any, ...]]:
        """Everything stored of a source's features, revision ids left out."""
        with transaction(self.sessions) as session:
            revision = session.scalars(select(tables.Source.revision_id).where(tables.Source.name == source)).one()
            f, d = tables.Feature, tables.Dashboard
            narrow = (f.index, f.n_firings, f.density, f.max_activation, f.logit_kurtosis, f.fires_on, f.promotes)
            query = select(*narrow, d.packed).join(d, (d.revision_id == f.revision_id) & (d.index == f.index))
            return [tuple(row) for row in session.execute(query.where(f.revision_id == revision).order_by(f.index))]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="ej-", dir="/tmp") as name:
        folder = Path(name)
        tiny.save_model(folder / "tiny-gpt2")
        with services.running(folder / "data") as urls:
            settings = Settings(
                data=folder / "data", database_url=urls.database_url, redis_url=urls.redis_url,
                shard_tokens=tiny.N_CONTEXT * 64, heartbeat_s=0.1, lease_s=3.0, sweep_s=0.3,
            )  # fmt: skip
            migrate.migrate(settings)
            engine = create_engine(settings.database_url)
            yield Site(settings, session_factory(engine), folder)
            engine.dispose()


def stop(worker: subprocess.Popen[bytes]) -> None:
    worker.terminate()
    worker.wait(20)


def is_done(view: jobs.JobView) -> bool:
    assert view.state not in ("failed", "cancelled"), view.error
    return view.state == "done"


def test_a_killed_worker_costs_time_and_nothing_else(site: Site) -> None:
    """One worker, killed with -9 while encoding, and another: the same rows as an undisturbed run with one shard."""
    killed_id = site.add("killed")
    worker = site.start_worker()
    site.wake()
    view = site.wait(killed_id, lambda v: v.stage == "encode" and any(s.n_shards_done for s in v.stages[1:]))
    assert view.stages[1].n_shards >= 7
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    with transaction(site.sessions) as session:
        assert jobs.get(session, killed_id).state == "running"
        source = catalog.source(session, "tiny-gpt2", "1-killed")
        assert source.revision_id is None, "nothing half-written is seen"
    worker = site.start_worker()
    site.wait(killed_id, is_done)
    stop(worker)

    whole_id = site.add("whole")
    worker = site.start_worker(shard_tokens=10_000_000)
    site.wake()
    view = site.wait(whole_id, is_done)
    stop(worker)
    assert [stage.n_shards for stage in view.stages] == [1, 1, 1]
    killed, whole = site.rows("1-killed"), site.rows("1-whole")
    assert len(whole) == 64
    assert sum(row[1] for row in whole) > 1000
    assert killed == whole
    with transaction(site.sessions) as session:
        shown = features.get(session, FeatureRef("tiny-gpt2", "1-killed", whole[10][0]))
        assert shown.n_firings == whole[10][1]
    assert not list((site.settings.data / "blobs" / "jobs").glob("*")), "postings are gone once used"


def test_cancelling_stops_the_worker_and_retrying_ends_with_dashboards(site: Site) -> None:
    job_id = site.add("cancelled", n_documents=1500)
    worker = site.start_worker()
    site.wake()
    site.wait(job_id, lambda v: v.stage == "encode" and v.stages[1].n_shards_done >= 1)
    with transaction(site.sessions) as session:
        jobs.cancel(session, job_id)
    view = site.wait(job_id, lambda v: v.state == "cancelled")
    assert view.stages[1].n_shards_done < view.stages[1].n_shards
    with (
        transaction(site.sessions) as session,
        pytest.raises(errors.ConflictError, match="cancelled|running|done|computing"),
    ):
        jobs.retry(session, job_id)
        jobs.retry(session, job_id)
    with transaction(site.sessions) as session:
        jobs.retry(session, job_id)
    site.wait(job_id, is_done)
    stop(worker)
    assert len(site.rows("1-cancelled")) == 64


def test_a_lost_message_is_sent_again(site: Site) -> None:
    """Nobody wakes the worker for this job; its own sweep does."""
    job_id = site.add("unsent", n_documents=60)
    worker = site.start_worker()
    site.wait(job_id, is_done)
    stop(worker)


def test_input_at_fault_fails_the_job_with_what_to_do(site: Site) -> None:
    corpus = site.folder / "short.txt"
    corpus.write_text("Too short.")
    job_id = site.add("short", corpus=str(corpus))
    worker = site.start_worker()
    view = site.wait(job_id, lambda v: v.state == "failed")
    stop(worker)
    assert view.error is not None
    assert "shorter than one context" in view.error
    assert "Give more text" in view.error


def test_computing_again_replaces_the_revision_at_once(site: Site) -> None:
    first = site.rows("1-whole")
    job_id = site.add("whole", n_documents=100)
    worker = site.start_worker()
    site.wait(job_id, is_done)
    stop(worker)
    assert site.rows("1-whole") != first
    with transaction(site.sessions) as session:
        source = session.scalars(select(tables.Source).where(tables.Source.name == "1-whole")).one()
        kept = session.scalars(select(tables.Revision.id).where(tables.Revision.source_id == source.id)).all()
        assert kept == [source.revision_id]
