"""The launcher: a program that gets its signal when its starter dies, or never begins."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from backend.embedded import child
from tests.unit.embedded.waiting import until


def test_program_takes_the_launchers_place_with_its_arguments_untouched() -> None:
    command = child.command(["/bin/echo", "a b", "--c", "$d"], death_signal=signal.SIGKILL)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.communicate()[0] == b"a b --c $d\n"


def test_program_is_not_begun_when_its_starter_is_gone(tmp_path: Path) -> None:
    command = child.command(["/bin/touch", str(tmp_path / "begun")], death_signal=signal.SIGKILL)
    command[command.index(str(os.getpid()))] = "1"
    assert subprocess.run(command, check=False).returncode == child.CANNOT_START
    assert not (tmp_path / "begun").exists()


def test_program_gets_the_signal_it_was_promised(tmp_path: Path) -> None:
    log = tmp_path / "log"
    inner = f"trap 'echo asked >> {log}; exit' TERM; echo ready >> {log}; while :; do sleep 0.02; done"
    script = f"""
import signal, subprocess
from backend.embedded import child
subprocess.Popen(child.command(["/bin/sh", "-c", {inner!r}], death_signal=signal.SIGTERM))
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", script]) as starter:
        until(lambda: log.exists() and log.read_text() == "ready\n")
        starter.kill()
    until(lambda: log.read_text() == "ready\nasked\n")
