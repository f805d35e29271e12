"""Keeps children running: one that dies is started again, later each time, until it dies too often.

No thread of its own: whoever waits calls `check` a few times a second, or `watch` to do nothing else.
(A child is told to die with the *thread* that started it, so restarts belong in the main thread.)
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Protocol

from backend.errors import UnavailableError

MAX_DEATHS = 5
WINDOW_S = 60.0
FIRST_DELAY_S = 0.25
POLL_S = 0.2


class Member(Protocol):
    """What can be supervised: `processes.Child`, `Postgres`, `QueueServer`."""

    @property
    def name(self) -> str:
        """As in messages."""

    @property
    def log(self) -> Path:
        """Its log file."""

    def start(self) -> None:
        """Starts it; servers return when ready."""

    def poll(self) -> int | None:
        """Exit status, None while it runs."""

    def stop(self) -> None:
        """Ends it; does nothing if it does not run."""

    def failure(self, what: str) -> UnavailableError:
        """The error that says `what` happened to it and why."""


@dataclass(slots=True)
class _History:
    deaths: list[float] = field(default_factory=list)
    """Times within the last window, oldest first."""
    due: float | None = None
    """When to start it again; None while it is believed to run."""


class Supervisor:
    """Watches members that have been started already."""

    def __init__(
        self,
        members: Sequence[Member],
        *,
        report: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._members = [(member, _History()) for member in members]
        self._report = report
        self._clock = clock

    def check(self) -> None:
        """Looks at every member once and starts again those that are due.

        Raises:
            UnavailableError: One has died more than `MAX_DEATHS` times within a minute, or a server cannot start.
        """
        for member, history in self._members:
            status = member.poll()
            if status is None:
                continue
            if history.due is None:
                self._note_death(member, history, status)
            elif self._clock() >= history.due:
                history.due = None
                member.start()

    def watch(self) -> NoReturn:
        """Checks for ever."""
        while True:
            self.check()
            time.sleep(POLL_S)

    def _note_death(self, member: Member, history: _History, status: int) -> None:
        now = self._clock()
        history.deaths = [death for death in history.deaths if now - death < WINDOW_S] + [now]
        if len(history.deaths) > MAX_DEATHS:
            raise member.failure(f"stopped {len(history.deaths)} times within a minute")
        history.due = now + FIRST_DELAY_S * 2 ** (len(history.deaths) - 1)
        self._report(f"The {member.name} stopped ({_how(status)}) and is started again. Its log: {member.log}")


def _how(status: int) -> str:
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"
