"""A site for tests: real Postgres and queue in a short folder, a tiny model, and worker processes on request."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from backend import broker, wakeups
from backend.cli import add, children, migrate
from backend.db import tables
from backend.db.session import create_engine, session_factory, transaction
from backend.embedded import services
from backend.services import jobs
from backend.settings import REPOSITORY, Settings
from tests import tiny

DEADLINE_S = 240


@dataclass
class Site:
    settings: Settings
    sessions: sessionmaker[Session]
    folder: Path
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    """Every one started; those still running are killed at the end."""

    def start_worker(self, **settings: Any) -> subprocess.Popen[bytes]:
        environment = children.environment(self.settings.model_copy(update=settings))
        command = [sys.executable, "-W", "ignore", "-m", "workers.celery_app"]
        with (self.folder / "worker.log").open("ab") as log:
            worker = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
        self.workers.append(worker)
        return worker

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
        wakeups.send(self.sessions, broker.celery_app(self.settings))

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
            made = Site(settings, session_factory(engine), folder)
            yield made
            for worker in made.workers:
                worker.kill()
                worker.wait()
            engine.dispose()
