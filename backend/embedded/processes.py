"""One child process: started through `child`, logging to its own file, ended by ever stronger signals.

A child has a session of its own, so that Ctrl-C in the terminal reaches Eyepiece alone, which then stops its
children in order. While a child is being stopped, a further Ctrl-C goes straight to the next signal.
Restarting those that die is `supervisor`'s.
"""

import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from backend.embedded import account as accounts
from backend.embedded.account import Account
from backend.errors import UnavailableError

MAX_LOG_BYTES = 10_000_000
LEFTOVER_S = 30.0


@dataclass(frozen=True, slots=True)
class Program:
    """What to run and how to end it."""

    name: str
    """As it is called in messages: `web server`."""
    command: tuple[str, ...]
    """The first is an absolute path."""
    folder: Path
    """Working folder; entered before the user changes, so `account` needs no way to it."""
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    account: Account | None = None
    """Whom it runs as; None: as Eyepiece does."""
    stop: tuple[tuple[signal.Signals, float], ...] = ((signal.SIGTERM, 5.0),)
    """Signals in order, each with the seconds it is given; SIGKILL follows by itself."""
    death_signal: signal.Signals = signal.SIGKILL
    """What it gets when Eyepiece dies."""


class Child:
    """A program that may be started, watched, stopped and started again."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start_bytes = 0

    @property
    def name(self) -> str:
        """As in messages."""
        return self.program.name

    @property
    def log(self) -> Path:
        """Its log file."""
        return self.program.log

    @property
    def pid(self) -> int | None:
        """Process id, None before the first start."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Starts it, without waiting for it to be ready."""
        program = self.program
        rotate(program.log)
        with program.log.open("ab") as log:
            self._log_start_bytes = log.tell()
            self._process = subprocess.Popen(
                accounts.command(program.command, program.account, death_signal=program.death_signal),
                cwd=program.folder,
                env=dict(program.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """Exit status (minus the signal's number if one killed it), None while it runs."""
        assert self._process is not None, "started before watched"
        return self._process.poll()

    def stop(self) -> None:
        """Ends it if it runs; returns when it is gone."""
        process = self._process
        if process is None:
            return
        for number, patience_s in self.program.stop:
            if process.poll() is not None:
                return
            process.send_signal(number)
            try:
                process.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
            except KeyboardInterrupt:  # asked again: hurry
                continue
            return
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # its session, so its own children too
            process.wait()

    def failure(self, what: str) -> UnavailableError:
        """The error that says `what` happened to it, why by its own last words, and where to read more."""
        words = last_line(self.log, since_bytes=self._log_start_bytes)
        return UnavailableError(f"The {self.name} {what}: {words.rstrip('.')}.", hint=f"Its log: {self.log}")


def rotate(log: Path) -> None:
    """Puts a log that has grown too long aside as `<name>.1`, in place of the one before."""
    if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
        log.replace(log.with_name(f"{log.name}.1"))


def last_line(log: Path, *, since_bytes: int = 0) -> str:
    """The last line of a log, after its first bytes, that says something; cut to 300 characters."""
    if not log.exists():
        return "it wrote nothing"
    with log.open("rb") as file:
        file.seek(max(since_bytes, log.stat().st_size - 8192))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    return next((line[:300] for line in reversed(lines) if line), "it wrote nothing")


def end_leftovers(name: str, folder: Path, number: signal.Signals) -> None:
    """Ends servers an Eyepiece that was killed has left behind: programs called `name` that work in `folder`.

    Recorded process ids are not trusted: after a restart of the machine they belong to others.
    The caller holds the data folder's lock, so no server there can be anybody's.
    """
    left = [process for process in psutil.process_iter(["name", "cwd"]) if process.info == _facts(name, folder)]
    for patience_s, strength in ((LEFTOVER_S, number), (LEFTOVER_S, signal.SIGKILL)):
        for process in left:
            try:
                process.send_signal(strength)
            except psutil.NoSuchProcess:
                continue
        _, left = psutil.wait_procs(left, timeout=patience_s)


def _facts(name: str, folder: Path) -> dict[str, str]:
    return {"name": name, "cwd": str(folder)}
