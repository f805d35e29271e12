"""`eyepiece up` as a user meets it: it starts, it stops, it comes back, and it refuses in one line."""

import errno
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import psycopg2
import pytest
import typer
from alembic.util import CommandError
from sqlalchemy.exc import OperationalError
from typer.testing import CliRunner

from backend.cli import children, failures, up
from backend.cli.failures import Commands
from backend.embedded.data_folder import DataFolder
from backend.embedded.processes import Child, Program
from backend.errors import ConflictError, InvalidInputError, UnavailableError, UnsupportedError
from backend.settings import REPOSITORY, Access, Settings
from tests.unit.embedded.waiting import is_gone, until

START_S = 90.0
needs_assets = pytest.mark.skipif(
    not (Settings().assets / "manifest.json").exists(), reason="the browser assets are not built (make setup)"
)


@pytest.fixture
def data() -> Iterator[Path]:
    """A data folder that is gone after the test, in memory where there is room."""
    memory = Path("/dev/shm")
    in_memory = memory.is_dir() and shutil.disk_usage(memory).free > 2_000_000_000
    with tempfile.TemporaryDirectory(prefix="eyepiece-test-", dir=memory if in_memory else None) as folder:
        yield Path(folder).resolve() / "data"


@pytest.fixture
def port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Site:
    """A running `eyepiece up`."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path, port: int) -> None:
        self.process = process
        self.output = output
        self.port = port

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def said(self) -> str:
        return self.output.read_text()

    def is_healthy(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/api/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def child(self, part: str) -> psutil.Process:
        """The child with `part` in its command line."""
        return next(child for child in self.children() if any(part in word for word in child.cmdline()))

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@contextmanager
def site(data: Path, port: int, *more: str, **settings: str) -> Iterator[Site]:
    command = [sys.executable, "-m", "backend.cli.main", "up", "--no-demo", "--port", str(port), "--data", str(data)]
    output = data.with_name(f"output-{port}")
    environment = os.environ | settings
    with (
        output.open("wb") as file,
        subprocess.Popen([*command, *more], cwd=REPOSITORY, stdout=file, stderr=file, env=environment) as process,
    ):
        found = Site(process, output, port)
        try:
            until(lambda: "Eyepiece is at" in found.said() or process.poll() is not None, deadline_s=START_S)
            assert process.poll() is None, found.said()
            yield found
        finally:
            process.terminate()


def refused(*arguments: str) -> str:
    """The only line a command that must fail wrote."""
    command = [sys.executable, "-m", "backend.cli.main", "up", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=START_S)
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.slow
@needs_assets
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_site_answers_and_a_stop_signal_ends_everything(data: Path, port: int, number: signal.Signals) -> None:
    with site(data, port) as found:
        assert found.is_healthy()
        pids = [child.pid for child in found.children()]
        assert len(pids) >= 4
        found.process.send_signal(number)
        assert found.process.wait(60) == 0, found.said()
        assert found.said().endswith("Stopping …\nStopped.\n")
        assert "Traceback" not in found.said()
        until(lambda: all(map(is_gone, pids)))


@pytest.mark.slow
@needs_assets
def test_nothing_outlives_a_killed_site_and_it_starts_again(data: Path, port: int) -> None:
    with site(data, port) as found:
        pids = [child.pid for child in found.children()]
        found.process.kill()
        found.process.wait()
        until(lambda: all(map(is_gone, pids)))
    with site(data, port) as found:
        assert found.is_healthy()


@pytest.mark.slow
@needs_assets
def test_parts_that_are_killed_come_back(data: Path, port: int) -> None:
    with site(data, port) as found:
        for part in ("uvicorn", "workers.celery_app", "valkey-server", "bin/postgres"):
            n_restarts = found.said().count("is started again")
            found.child(part).kill()
            until(lambda n_restarts=n_restarts: found.said().count("is started again") > n_restarts)
        until(found.is_healthy)
        assert found.process.poll() is None


@pytest.mark.slow
@needs_assets
def test_second_site_on_the_same_data_is_told_where_the_first_is(data: Path, port: int) -> None:
    with site(data, port) as found:
        line = refused("--data", str(data))
        assert re.search(rf"Another Eyepiece \(process {found.process.pid}, {found.address}\) already runs", line)


def test_busy_port_is_one_line(data: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        line = refused("--port", str(port), "--data", str(data))
    assert line == f"Port {port} of 127.0.0.1 is already in use. Choose another with --port."


def test_folder_of_another_version_is_one_line(data: Path) -> None:
    data.mkdir()
    (data / "VERSION").write_text("99\n")
    assert "has format version '99'; this Eyepiece reads version 1." in refused("--data", str(data))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_address_others_could_reach_is_refused(host: str) -> None:
    with pytest.raises(UnsupportedError, match="no login"):
        up.refuse_open_network(host)


def test_address_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="is not an address of this machine"):
        up.refuse_open_network("not a host")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_addresses_pass(host: str, port: int) -> None:
    up.refuse_open_network(host)
    up.refuse_busy_port(host, port)


def test_port_in_use_is_a_conflict() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConflictError, match="already in use"):
            up.refuse_busy_port("localhost", other.getsockname()[1])


def test_children_are_told_every_setting(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, database_url="postgresql+psycopg2://x", redis_url="unix:///q", port=4000)
    told = children.environment(settings)
    assert told["EYEPIECE_DATA"] == str(tmp_path)
    again = Settings(
        **{name: told[f"EYEPIECE_{name.upper()}"] for name in Settings.model_fields},  # parsed as from a variable
    )
    assert again == settings


def test_site_is_a_web_server_and_workers(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    names = [child.name for child in children.all_of(Settings(data=tmp_path), folder)]
    assert names[:2] == ["web server", "worker"]


def test_web_server_that_stops_while_starting_is_an_error_with_its_last_words(tmp_path: Path, port: int) -> None:
    web = Child(Program("web server", ("/bin/sh", "-c", "echo no such module; exit 1"), tmp_path, tmp_path / "web.log"))
    web.start()
    with pytest.raises(
        UnavailableError, match=r"web server stopped while starting: no such module\. Its log: .*web\.log"
    ):
        children.wait_until_healthy(web, "127.0.0.1", port)


def test_web_server_that_does_not_answer_is_given_up(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "HEALTHY_S", 0.1)
    web = Child(Program("web server", ("/bin/sleep", "600"), tmp_path, tmp_path / "web.log"))
    web.start()
    try:
        with pytest.raises(UnavailableError, match=r"did not answer within"):
            children.wait_until_healthy(web, "127.0.0.1", port)
    finally:
        web.stop()


def run(failure: Callable[[], None]) -> tuple[int, str, BaseException | None]:
    """Exit status, stderr and uncaught exception of a command that does `failure`."""
    app = typer.Typer(cls=Commands, pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    app.command("fail")(failure)
    result = CliRunner().invoke(app, ["fail"])
    uncaught = result.exception if not isinstance(result.exception, SystemExit) else None
    return result.exit_code, result.stderr, uncaught


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConflictError("No\nroom.", hint="Go."), "No room. Go."),
        (OSError(errno.ENOSPC, "No space left on device"), "The disk is full."),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "/x/y cannot be used: Permission denied."),
        (CommandError("Can't locate revision 'abc'"), "The tables cannot be brought up to date: Can't locate revision"),
    ],
)
def test_expected_failure_is_one_line_on_stderr(error: Exception, line: str) -> None:
    def fail() -> None:
        raise error

    status, stderr, uncaught = run(fail)
    assert (status, uncaught) == (1, None)
    assert stderr.startswith(line)
    assert stderr.count("\n") == 1


class DiskFull(psycopg2.OperationalError):
    """psycopg2's own cannot be given a code."""

    pgcode = "53100"


def test_full_disk_of_the_database_is_told_from_other_failures_of_it() -> None:
    line = failures.describe(OperationalError("INSERT", {}, DiskFull("could not extend file")))
    assert line is not None
    assert line.startswith("The disk of the database is full.")
    assert failures.describe(OperationalError("SELECT", {}, psycopg2.OperationalError("gone"))) is None


def test_setting_that_does_not_parse_is_named_as_the_user_wrote_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYEPIECE_PORT", "many")

    def read() -> None:
        Settings()

    status, stderr, _ = run(read)
    assert status == 1
    assert stderr.startswith("EYEPIECE_PORT=many: Input should be a valid integer")


def test_mistake_of_ours_keeps_its_traceback() -> None:
    status, _, uncaught = run(lambda: [][0])
    assert status == 1
    assert isinstance(uncaught, IndexError)


def test_interrupt_ends_a_command_with_130() -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    assert run(fail)[0] == 130


def test_up_can_be_stopped_before_it_is_up(data: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(settings: Settings, *, n_sources: int | None) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(up, "_run", interrupt)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    up.up(port=port, data=data)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


@pytest.mark.slow
@needs_assets
def test_with_accounts_anybody_may_reach_it_and_the_first_link_makes_an_admin(data: Path, port: int) -> None:
    public = f"http://127.0.0.1:{port}"
    with site(data, port, "--host", "0.0.0.0", EYEPIECE_ACCESS="accounts", EYEPIECE_PUBLIC_URL=public) as found:
        until(lambda: "/set-up/" in found.said(), deadline_s=START_S)
        link = re.search(rf"{public}(/set-up/[\w-]+)", found.said())[1]
        with httpx.Client(base_url=public, headers={"origin": public}) as browser:
            assert browser.get("/admin").status_code == 303
            answer = browser.post(link, data={"name": "root", "password": "correct horse battery"})
            assert (answer.status_code, answer.headers["location"]) == (303, "/")
            assert "Accounts" in browser.get("/admin").text
            spoofed = {"x-forwarded-for": "192.0.2.9", "x-forwarded-proto": "https"}
            assert "192.0.2.9" not in browser.get("/account", headers=spoofed).text
            assert int(browser.get("/api/jobs").headers.get("x-limit-remaining", -1)) == -1, "an admin is not limited"
        with httpx.Client(base_url=public, headers=spoofed) as stranger:
            assert stranger.get("/admin").status_code == 303
            left = [int(stranger.get("/api/jobs").headers["x-limit-remaining"]) for _ in range(2)]
            assert all(0 < n < 600 for n in left)
            stranger.headers["host"] = "evil.example"
            assert stranger.get("/api/jobs").status_code == 400


def test_with_accounts_it_must_know_its_address() -> None:
    with pytest.raises(InvalidInputError, match="EYEPIECE_PUBLIC_URL"):
        up.refuse_unknown_address(Settings(access=Access.ACCOUNTS))
