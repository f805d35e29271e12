"""The embedded servers as they are: started, killed, restarted and met by strangers, on folders of every kind."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import redis
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from backend.embedded import account, data_folder, postgres, queue_server, services
from backend.embedded.services import Services, Urls
from backend.errors import ConflictError, UnavailableError
from tests.unit.embedded.waiting import is_gone, until

HOLDER = """
import pathlib, signal, sys
from backend.embedded import data_folder, services
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
with data_folder.opened(pathlib.Path(sys.argv[1]), address="http://127.0.0.1:1") as folder:
    with services.started(folder) as found:
        print(*(server.pid for server in found.servers), flush=True)
        signal.pause()
"""


def query(urls: Urls, statement: str) -> object:
    """The first value a statement gives."""
    engine = create_engine(urls.database_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        result = connection.execute(text(statement))
        return result.scalar() if result.returns_rows else None


@contextmanager
def queue(urls: Urls) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(urls.redis_url, decode_responses=True) as client:
        yield client


@contextmanager
def held_elsewhere(data: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Another process with both servers on `data`, and their process ids; killed at the end."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, data], stdout=subprocess.PIPE, text=True)
    with holder:
        try:
            assert holder.stdout is not None
            yield holder, [int(pid) for pid in holder.stdout.readline().split()]
        finally:
            holder.terminate()


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """As pytest's, but gone after the test and in memory where there is room: a cluster is a thousand files."""
    memory = Path("/dev/shm")
    in_memory = memory.is_dir() and shutil.disk_usage(memory).free > 2_000_000_000
    with tempfile.TemporaryDirectory(prefix="eyepiece-test-", dir=memory if in_memory else None) as folder:
        yield Path(folder).resolve()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Services]:
    with data_folder.opened(tmp_path / "d") as folder, services.started(folder) as found:
        yield found


def test_both_servers_answer_with_what_we_need_of_them(running: Services) -> None:
    assert query(running, "SELECT '[1,2]'::vector <-> '[1,4]'::vector") == 2.0
    assert query(running, "SELECT lower('É') || ' ' || (to_tsvector('simple', 'ÉTÉ') @@ 'été'::tsquery)") == "é true"
    assert query(running, "SHOW server_encoding") == "UTF8"
    assert query(running, "SHOW fsync") == "on"
    with queue(running) as client:
        assert client.config_get("appendonly") == {"appendonly": "yes"}


def test_neither_server_can_be_reached_from_the_network(running: Services) -> None:
    for server in running.servers:
        process = psutil.Process(server.pid)
        listening = [connection for connection in process.net_connections("inet") if connection.status == "LISTEN"]
        assert listening == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes user")
def test_as_root_neither_server_is_root(running: Services) -> None:
    assert all(0 not in psutil.Process(server.pid).uids() for server in running.servers)


def test_restart_keeps_rows_and_messages_under_a_long_path_with_odd_characters(tmp_path: Path) -> None:
    data = tmp_path / ("a long name " * 8) / ("é & 100% 'quoted' " * 5) / "data"
    assert len(str(data)) > 150
    with services.running(data) as urls, queue(urls) as client:
        query(urls, "CREATE TABLE kept AS SELECT 7 AS n")
        client.set("kept", "8")
    with services.running(data) as urls, queue(urls) as client:
        assert query(urls, "SELECT n FROM kept") == 7
        assert client.get("kept") == "8"
    modes = [oct(parent.stat().st_mode & 0o777) for parent in (data, *data.parents[:2])]
    assert modes == ["0o755"] * 3


def test_killed_servers_come_back_with_committed_rows(running: Services) -> None:
    query(running, "CREATE TABLE kept AS SELECT generate_series(1, 1000)")
    with queue(running) as client:
        client.set("kept", "8")
        until(lambda: client.info("persistence")["aof_pending_bio_fsync"] == 0)
    for server in running.servers:
        os.kill(server.pid, signal.SIGKILL)
        until(lambda server=server: server.poll() == -signal.SIGKILL)
        server.start()
    assert query(running, "SELECT count(*) FROM kept") == 1000
    with queue(running) as client:
        assert client.get("kept") == "8"


def test_killed_starter_takes_its_servers_along_and_the_next_start_finds_the_rows(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path / "d") as (holder, pids):
        with services.available(tmp_path / "d") as urls:
            query(urls, "CREATE TABLE kept AS SELECT 7 AS n")
        holder.kill()
        holder.wait()
    with services.running(tmp_path / "d") as urls:  # at once: the old servers may still be going
        assert query(urls, "SELECT n FROM kept") == 7
        assert all(is_gone(pid) for pid in pids)


def test_pid_file_that_names_a_living_stranger_is_not_believed(tmp_path: Path) -> None:
    with services.running(tmp_path / "d") as urls:
        query(urls, "CREATE TABLE kept AS SELECT 7 AS n")
    pid_file = tmp_path / "d" / "postgres" / "postmaster.pid"
    who = account.choose(tmp_path)
    command = account.command(["/bin/sleep", "600"], who, death_signal=signal.SIGKILL)
    with subprocess.Popen(command) as stranger:
        pid_file.write_text(f"{stranger.pid}\n{pid_file.parent}\n1795233648\n5432\n/tmp\n\n 16039956 4\nready   \n")
        with services.running(tmp_path / "d") as urls:
            assert query(urls, "SELECT n FROM kept") == 7
        assert stranger.poll() is None
        stranger.kill()


def test_two_folders_at_once_do_not_meet(tmp_path: Path) -> None:
    with services.running(tmp_path / "a") as a, services.running(tmp_path / "b") as b:
        query(a, "CREATE TABLE only_in_a (n int)")
        assert query(b, "SELECT to_regclass('only_in_a')") is None
        with queue(a) as client_a, queue(b) as client_b:
            client_a.set("only in a", "1")
            assert client_b.dbsize() == 0


def test_second_opener_is_refused_while_another_process_holds_the_folder(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path / "d") as (holder, _):
        expected = rf"Another Eyepiece \(process {holder.pid}, http://127.0.0.1:1\)"
        with pytest.raises(ConflictError, match=expected), services.running(tmp_path / "d"):
            pass


def test_available_uses_the_running_servers_or_starts_its_own(tmp_path: Path) -> None:
    with services.available(tmp_path / "d") as first, services.available(tmp_path / "d") as second:
        assert (second.database_url, second.redis_url) == (first.database_url, first.redis_url)
        assert query(second, "SELECT 1") == 1


def test_available_says_so_while_the_other_is_still_starting(tmp_path: Path) -> None:
    with (
        data_folder.opened(tmp_path / "d"),
        pytest.raises(ConflictError, match="already runs"),
        services.available(tmp_path / "d"),
    ):
        pass


def test_given_urls_start_nothing(tmp_path: Path) -> None:
    given = {"database_url": "postgresql+psycopg2://db/x", "redis_url": "redis://queue"}
    with data_folder.opened(tmp_path / "d") as folder, services.started(folder, **given) as found:
        assert found == Services(**given, servers=())
        assert list(folder.postgres.iterdir()) == []


def test_creation_that_was_cut_short_starts_over(tmp_path: Path) -> None:
    with data_folder.opened(tmp_path / "d") as folder:
        half = folder.path / "postgres.new"
        half.mkdir()
        (half / "PG_VERSION").write_text("18\n")
        with services.started(folder) as urls:
            assert query(urls, "SELECT 1") == 1
        assert not half.exists()


def test_cluster_of_another_postgres_is_refused(tmp_path: Path) -> None:
    with data_folder.opened(tmp_path / "d") as folder:
        (folder.postgres / "PG_VERSION").write_text("17\n")
        with pytest.raises(ConflictError, match="made by PostgreSQL 17; this Eyepiece brings 18"):
            services.started(folder).__enter__()


def test_servers_that_do_not_start_say_why_and_where_to_read_more(tmp_path: Path) -> None:
    with services.running(tmp_path / "d"):
        pass
    settings = tmp_path / "d" / "postgres" / "postgresql.conf"
    settings.write_text(settings.read_text() + "no_such_setting = 1\n")
    expected = r"database stopped while starting: .*FATAL.* Its log: .*postgres\.log"
    with pytest.raises(UnavailableError, match=expected), services.running(tmp_path / "d"):
        pass
    settings.write_text(re.sub("no_such_setting.*", "", settings.read_text()))
    (append_only,) = (tmp_path / "d" / "queue" / "appendonlydir").glob("*.incr.aof")
    append_only.write_bytes(b"nonsense\r\n" * 5)
    expected = r"queue stopped while starting: .* Its log: .*queue\.log"
    with pytest.raises(UnavailableError, match=expected), services.running(tmp_path / "d"):
        pass


@pytest.mark.parametrize("module", [postgres, queue_server])
def test_server_that_is_not_installed_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object
) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    starter = postgres.Postgres if module is postgres else queue_server.QueueServer
    with data_folder.opened(tmp_path) as folder, pytest.raises(UnavailableError, match=r"not installed.*pip install"):
        starter(folder, None, tmp_path)
