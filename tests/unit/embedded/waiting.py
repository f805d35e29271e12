"""Waiting for what another process does: asked often, given up at a deadline."""

import time
from collections.abc import Callable

import psutil

DEADLINE_S = 120.0


def until(fact: Callable[[], bool], *, deadline_s: float = DEADLINE_S) -> None:
    """Returns once `fact()` is true."""
    end = time.monotonic() + deadline_s
    while not fact():
        assert time.monotonic() < end, "did not become true in time"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    """True if no program runs under that process id any more (a dead one may still await its parent)."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
