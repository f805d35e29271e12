"""A site for tests: real Postgres and queue in a short folder, a tiny model, and worker processes on request."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from backend import broker, wakeups
from backend.cli import children, migrate
from backend.db import tables
from backend.db.session import create_engine, session_factory, transaction
from backend.embedded import services
from backend.services import hosting, jobs, progress
from backend.settings import REPOSITORY, Settings
from tests import tiny
from tests.nursery import Forked, Nursery

DEADLINE_S = 300
D_SAE = {0: 300, 1: 64, 2: 600}
"""By layer: two, one and three ranges of features."""


@dataclass
class Site:
    settings: Settings
    sessions: sessionmaker[Session]
    folder: Path
    stack: ExitStack
    workers: list[subprocess.Popen[bytes] | Forked] = field(default_factory=list)
    """Every one started; those still running are killed at the end."""
    nursery: Nursery | None = None

    def fork_worker(self, *, netns: str = "", **settings: Any) -> Forked:
        """As `start_worker`, in no time; in a network namespace, if one is named."""
        if self.nursery is None:
            self.nursery = self.stack.enter_context(Nursery())
        environment = children.environment(self.settings.model_copy(update=settings))
        worker = self.nursery.start(environment, self.folder / "worker.log", netns=netns)
        self.workers.append(worker)
        return worker

    def start_worker(self, **settings: Any) -> subprocess.Popen[bytes]:
        environment = children.environment(self.settings.model_copy(update=settings))
        command = [sys.executable, "-W", "ignore", "-m", "workers.celery_app"]
        with (self.folder / "worker.log").open("ab") as log:
            worker = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
        self.workers.append(worker)
        return worker

    def add(self, *sources: str, n_documents: int = 400, **spec: Any) -> int:
        """Host sources, `2-x` in layer 2 and `x` in layer 1; the id of the one job that computes them."""
        corpus = self.folder / f"text-{n_documents}.txt"
        corpus.write_text(tiny.text(n_documents))
        full = {"corpus": str(corpus), "is_tokens": False, "hook_point": "", "threads": 1} | spec
        saes = [self.folder / "sae" / source for source in sources]
        for sae in saes:
            layer = int(sae.name[0]) if sae.name[:2] in ("0-", "1-", "2-") else 1
            if not sae.exists():
                metadata = {"hook_name": f"blocks.{layer}.hook_resid_post"}
                tiny.save_sae(sae, d_sae=D_SAE[layer], seed=layer, metadata=metadata)
        with transaction(self.sessions) as session:
            return hosting.register(session, str(self.folder / "tiny-gpt2"), saes, full).job_id

    def wake(self) -> None:
        wakeups.send(self.sessions, broker.celery_app(self.settings))

    def wait(self, job_id: int, is_reached: Callable[[progress.JobView], bool]) -> progress.JobView:
        """Look until the job is where the test wants it."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            with transaction(self.sessions) as session:
                view = jobs.get(session, job_id)
            if is_reached(view):
                return view
            assert time.monotonic() < deadline, f"{view}\n{self._explain()}"
            time.sleep(0.05)

    def _explain(self) -> str:
        """What the workers are at, each thread of them, and what they have said."""
        for worker in self.workers:
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                os.kill(worker.pid, signal.SIGUSR1)
        time.sleep(2)
        with transaction(self.sessions) as session:
            found = [vars(row) for table in (tables.Shard, tables.Lease) for row in session.scalars(select(table))]
        return "\n".join([*map(str, found), (self.folder / "worker.log").read_text()[-12000:]])

    def rows(self, source: str) -> list[tuple[Any, ...]]:
        """Everything stored of a source's features, revision ids left out."""
        with transaction(self.sessions) as session:
            revision = session.scalars(select(tables.Source.revision_id).where(tables.Source.name == source)).one()
            f, d = tables.Feature, tables.Dashboard
            narrow = (f.index, f.n_firings, f.density, f.max_activation, f.logit_kurtosis, f.fires_on, f.promotes)
            query = select(*narrow, d.packed).join(d, (d.revision_id == f.revision_id) & (d.index == f.index))
            return [tuple(row) for row in session.execute(query.where(f.revision_id == revision).order_by(f.index))]


@contextmanager
def opened(folder: Path, database_url: str, redis_url: str, **changed: Any) -> Iterator[Site]:
    """A site on servers that run; its workers end with the block."""
    tiny.save_model(folder / "tiny-gpt2")
    settings = Settings(
        data=folder / "data", database_url=database_url, redis_url=redis_url,
        shard_tokens=tiny.N_CONTEXT * 64, finish_s=0.01, heartbeat_s=0.1, lease_s=3.0, sweep_s=0.3, straggler_s=1e6,
    )  # fmt: skip
    migrate.migrate(settings)
    engine = create_engine(settings.database_url)
    with ExitStack() as stack:
        stack.callback(engine.dispose)
        made = Site(settings.model_copy(update=changed), session_factory(engine), folder, stack)
        try:
            yield made
        finally:
            for worker in made.workers:
                worker.kill()
                worker.wait()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="ej-", dir="/tmp"))
        urls = stack.enter_context(services.running(Path(name) / "data"))
        yield stack.enter_context(opened(Path(name), urls.database_url, urls.redis_url))
