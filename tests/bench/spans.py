"""Seconds and memory of child processes, and a long run's seconds from its first blocks."""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from backend.settings import REPOSITORY

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

POLL_S = 0.05


class ChildError(Exception):
    """A measured process failed; the message ends with its last words."""


@dataclass(frozen=True, slots=True)
class Seconds:
    """Wall and CPU time of one span."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A run's seconds: fixed + n_blocks × per_block."""

    total: Seconds
    fixed: Seconds
    """What comes once: before the first block, and what the first takes longer than the others."""
    per_block: Seconds
    n_blocks: int
    n_measured: int
    """Equal to `n_blocks`: the run was complete and `total` is its sum."""


def estimate(before: Seconds, blocks: Sequence[Seconds], n_blocks: int) -> Estimate:
    """The whole run's seconds from its first blocks; the first one carries what comes once.

    Raises:
        ValueError: Fewer than two blocks, so the two parts cannot be told apart, or more than there are.
    """
    if not 2 <= len(blocks) <= n_blocks:
        raise ValueError(f"{len(blocks)} blocks measured of {n_blocks}; needed are 2 to {n_blocks}.")
    per_block = Seconds(*(sum(column) / (len(blocks) - 1) for column in _columns(blocks[1:])))
    fixed = Seconds(
        before.wall_s + blocks[0].wall_s - per_block.wall_s,
        before.cpu_s + blocks[0].cpu_s - per_block.cpu_s,
    )
    total = Seconds(fixed.wall_s + n_blocks * per_block.wall_s, fixed.cpu_s + n_blocks * per_block.cpu_s)
    return Estimate(total, fixed, per_block, n_blocks, len(blocks))


def stop_with_us() -> None:
    """Let a SIGTERM end this process as Ctrl-C does, so that the child being measured ends too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def run(command: Sequence[str | Path], *, log: Path, environment: dict[str, str]) -> tuple[str, int]:
    """Run a child on one thread; its last line of output and its peak memory in bytes (0 outside Linux).

    Raises:
        ChildError: It ended with an error; what it wrote to stderr is in `log`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    peak_bytes = 0
    with log.open("w") as errors, TemporaryFile("w+") as output:
        variables = environment | ONE_THREAD
        words = [str(part) for part in command]
        child = subprocess.Popen(words, stdout=output, stderr=errors, cwd=REPOSITORY, env=variables)
        try:
            while child.poll() is None:
                peak_bytes = max(peak_bytes, _peak_bytes(child.pid))
                time.sleep(POLL_S)
        except BaseException:
            child.kill()
            raise
        output.seek(0)
        lines = output.read().splitlines()
    if child.returncode != 0 or not lines:
        last = " | ".join(log.read_text().splitlines()[-3:])
        raise ChildError(f"{command[0]} ended with {child.returncode}: {last} (all of it in {log})")
    return lines[-1], peak_bytes


def _peak_bytes(pid: int) -> int:
    """A process's own high-water mark. (`ru_maxrss` would count the parent's memory at the fork too.)"""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


def _columns(blocks: Sequence[Seconds]) -> list[list[float]]:
    return [[block.wall_s for block in blocks], [block.cpu_s for block in blocks]]
