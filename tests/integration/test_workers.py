"""Many workers: killed at random, joining in the middle, one slower than the others."""

import random
import signal
import time

import pytest
from sqlalchemy import text

from backend.db.session import transaction
from backend.services import jobs
from backend.services.progress import JobView
from tests.integration.test_jobs import is_done, stop
from tests.nursery import Forked
from tests.site import Site
from tests.site import site as site

OPEN_TRANSACTIONS = (
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)


def n_done(view: JobView) -> int:
    return sum(stage.n_shards_done for stage in view.stages)


def add(site: Site, name: str) -> int:
    return site.add(f"1-{name}", f"2-{name}", n_documents=800)


def rows(site: Site, name: str) -> list[object]:
    return [site.rows(f"1-{name}"), site.rows(f"2-{name}")]


@pytest.fixture(scope="module")
def undisturbed(site: Site) -> list[object]:
    """The rows one worker makes."""
    job_id = add(site, "calm")
    worker = site.fork_worker()
    site.wake()
    site.wait(job_id, is_done)
    stop(worker)
    return rows(site, "calm")


@pytest.mark.slow
def test_ten_random_kills_change_nothing(site: Site, undisturbed: list[object]) -> None:
    """Each time some more shards are done, a worker of three is killed with -9 and another started."""
    rng = random.Random(3)
    settings = {"shard_tokens": 32 * 32, "max_attempts": 50, "lease_s": 1.0}
    workers = [site.fork_worker(**settings) for _ in range(3)]
    job_id = add(site, "killed")
    site.wake()
    for _ in range(10):
        with transaction(site.sessions) as session:
            enough = n_done(jobs.get(session, job_id)) + rng.randrange(3)
        view = site.wait(job_id, lambda v, enough=enough: n_done(v) >= enough or is_done(v))
        assert view.state != "done", "the job is too short for ten kills"
        victim = workers.pop(rng.randrange(len(workers)))
        victim.kill()
        victim.wait()
        workers.append(site.fork_worker(**settings))
    site.wait(job_id, is_done)
    for worker in workers:
        stop(worker)
    assert rows(site, "killed") == undisturbed


def test_a_worker_that_joins_gets_its_share(site: Site, undisturbed: list[object]) -> None:
    job_id = add(site, "joined")
    workers = [site.fork_worker(shard_tokens=32 * 32)]
    site.wake()
    site.wait(job_id, lambda v: v.stage == "encode" and n_done(v) >= 2)
    workers.append(site.fork_worker())
    view = site.wait(job_id, lambda v: any(stage.n_shards_running == 2 for stage in v.stages) or is_done(v))
    assert view.state == "running", "both were at work at once"
    site.wait(job_id, is_done)
    for worker in workers:
        stop(worker)
    assert rows(site, "joined") == undisturbed


def test_an_idle_worker_does_what_a_stopped_one_holds(site: Site, undisturbed: list[object]) -> None:
    """A worker that hangs for good, but not so long that its lease has run out: its shard is done by another."""
    job_id = add(site, "stuck")
    settings = {"shard_tokens": 32 * 32, "lease_s": 1000.0, "straggler_s": 0.5}
    stuck = site.fork_worker(**settings)
    site.wake()
    site.wait(job_id, lambda v: v.stage == "encode" and n_done(v) >= 3 and v.stages[1].n_shards_running == 1)
    stop_between_transactions(site, stuck, job_id)
    other = site.fork_worker(**settings)
    site.wait(job_id, is_done)
    stuck.process.send_signal(signal.SIGCONT)
    for worker in (stuck, other):
        stop(worker)
    assert rows(site, "stuck") == undisturbed


def stop_between_transactions(site: Site, worker: Forked, job_id: int) -> None:
    """Stop the worker while it holds a shard and no lock: those of a frozen transaction are free after two minutes only."""
    for _ in range(200):
        worker.process.send_signal(signal.SIGSTOP)
        time.sleep(0.05)  # what it has sent is answered
        with transaction(site.sessions) as session:
            n_open = session.scalar(text(OPEN_TRANSACTIONS))
            view = jobs.get(session, job_id)
        if n_open == 0 and view.stage == "encode" and view.stages[1].n_shards_running == 1:
            return
        worker.process.send_signal(signal.SIGCONT)
        time.sleep(0.01)
    raise AssertionError(f"never stopped with a shard and without a transaction: {view}")
