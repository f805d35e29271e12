"""Children: started with a log, ended by signals, gone when their starter is."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from backend.embedded import processes
from backend.embedded.account import Account
from backend.embedded.processes import Child, Program
from tests.unit.embedded.waiting import is_gone, until

STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.02; done"
POLITE = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.02; done"


def shell(tmp_path: Path, script: str, *, patience_s: float = 20.0, account: Account | None = None) -> Child:
    stop = ((signal.SIGTERM, patience_s),)
    command = ("/bin/sh", "-c", script)
    return Child(Program("thing", command, tmp_path, tmp_path / "log", account=account, stop=stop))


def start_ready(child: Child) -> int:
    child.start()
    until(lambda: "ready" in child.log.read_text())
    assert child.pid is not None
    return child.pid


def test_output_goes_to_the_log_and_is_appended(tmp_path: Path) -> None:
    child = shell(tmp_path, "echo out; echo err >&2; exit 3")
    for _ in range(2):
        child.start()
        until(lambda: child.poll() == 3)
    assert child.log.read_text() == "out\nerr\n" * 2
    assert str(child.failure("stopped")) == f"The thing stopped: err. Its log: {child.log}"


def test_polite_child_ends_by_the_first_signal(tmp_path: Path) -> None:
    child = shell(tmp_path, POLITE)
    pid = start_ready(child)
    child.stop()
    assert is_gone(pid)
    assert child.log.read_text() == "ready\nbye\n"
    child.stop()  # once more does nothing


def test_stubborn_child_is_killed_with_its_own_children(tmp_path: Path) -> None:
    child = shell(tmp_path, f'/bin/sh -c "{STUBBORN}" & echo child=$!; {STUBBORN}', patience_s=0.05)
    pid = start_ready(child)
    until(lambda: child.log.read_text().count("ready") == 2)
    grandchild = int(re.search(r"child=(\d+)", child.log.read_text())[1])
    child.stop()
    until(lambda: is_gone(pid) and is_gone(grandchild))
    assert child.poll() == -signal.SIGKILL


def test_interrupt_while_stopping_hurries(tmp_path: Path) -> None:
    child = shell(tmp_path, STUBBORN.replace("''", "'echo asked'"), patience_s=600)
    pid = start_ready(child)

    def ask_again() -> None:
        until(lambda: "asked" in child.log.read_text())
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread = threading.Thread(target=ask_again)
        thread.start()
        child.stop()
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert is_gone(pid)


def test_stop_before_start_does_nothing(tmp_path: Path) -> None:
    child = shell(tmp_path, POLITE)
    child.stop()
    assert child.pid is None


def test_missing_program_says_so_in_the_log(tmp_path: Path) -> None:
    child = Child(Program("thing", ("/no/such/program",), tmp_path, tmp_path / "log"))
    child.start()
    until(lambda: child.poll() is not None)
    assert "/no/such/program cannot be started" in processes.last_line(child.log)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes user")
def test_account_works_in_a_folder_it_has_no_way_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    inner = tmp_path / "inner"
    inner.mkdir()
    os.chown(inner, 12345, 12346)
    command = ("/bin/sh", "-c", "id -u; id -g; id -G; echo made > file")
    child = Child(Program("thing", command, inner, tmp_path / "log", account=Account(12345, 12346)))
    child.start()
    until(lambda: child.poll() is not None)
    assert child.log.read_text().split() == ["12345", "12346", "12346"]
    assert (inner / "file").stat().st_uid == 12345


def test_child_ends_with_its_killed_starter(tmp_path: Path) -> None:
    script = f"""
import pathlib, signal
from backend.embedded.processes import Child, Program
child = Child(Program("thing", ("/bin/sh", "-c", {STUBBORN!r}), pathlib.Path("/"), pathlib.Path({str(tmp_path)!r}, "log")))
child.start()
print(child.pid, flush=True)
signal.pause()
"""
    starter = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        until(lambda: (tmp_path / "log").read_text() == "ready\n")
        starter.kill()
    until(lambda: is_gone(pid))


def test_long_log_is_put_aside_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "MAX_LOG_BYTES", 10)
    log = tmp_path / "web.log"
    log.write_text("x" * 10)
    processes.rotate(log)
    assert log.exists()
    log.write_text("x" * 11)
    processes.rotate(log)
    assert not log.exists()
    assert (tmp_path / "web.log.1").read_text() == "x" * 11


@pytest.mark.parametrize(
    ("text", "line"),
    [("", "it wrote nothing"), ("a\n b \n\n", "b"), ("x" * 9000, "x" * 300), ("a\n\xff\n", "\xff")],
)
def test_last_line(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "log").write_text(text)
    assert processes.last_line(tmp_path / "log") == line
    assert processes.last_line(tmp_path / "absent") == "it wrote nothing"


def test_failure_does_not_quote_an_earlier_run(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("ValueError: of last week\n")
    child = shell(tmp_path, "exit 1")
    child.start()
    until(lambda: child.poll() == 1)
    assert "it wrote nothing." in str(child.failure("stopped"))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts `program` under the name `name` in `folder`; whatever still runs at the end is killed."""
    with ExitStack() as stack:

        def started(name: str, folder: Path, program: str, *arguments: str) -> subprocess.Popen[bytes]:
            folder.mkdir(exist_ok=True)
            copy = tmp_path / name
            if not copy.exists():
                shutil.copy(program, copy)
            process = stack.enter_context(subprocess.Popen([copy, *arguments], cwd=folder, stdout=subprocess.PIPE))
            stack.callback(process.kill)
            return process

        yield started


def test_leftovers_are_ended_by_name_and_folder_only(
    tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    left = start("eyepiece-left", tmp_path / "here", "/bin/sleep", "600")
    elsewhere = start("eyepiece-left", tmp_path / "there", "/bin/sleep", "600")
    other = start("other", tmp_path / "here", "/bin/sleep", "600")
    processes.end_leftovers("eyepiece-left", tmp_path / "here", signal.SIGTERM)
    assert [is_gone(process.pid) for process in (left, elsewhere, other)] == [True, False, False]


def test_stubborn_leftovers_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    monkeypatch.setattr(processes, "LEFTOVER_S", 0.1)
    left = start("eyepiece-left", tmp_path / "here", "/bin/sh", "-c", STUBBORN)
    assert left.stdout is not None
    assert left.stdout.readline() == b"ready\n"
    processes.end_leftovers("eyepiece-left", tmp_path / "here", signal.SIGTERM)
    assert is_gone(left.pid)
