"""Workers by the dozen: a process that has imported everything a worker needs and forks one for each line it reads.

Importing PyTorch takes seconds; a fork takes none. A line is JSON: {environment, log, netns}; the answer is the pid.
Nothing has been computed before the fork, so no threads are lost by it.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Forked:
    """A worker's process."""

    process: psutil.Process

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """kill -9."""
        if self.process.is_running():
            self.process.kill()

    def terminate(self) -> None:
        self.process.terminate()

    def wait(self, timeout: float | None = None) -> None:
        self.process.wait(timeout)


class Nursery:
    """The process that forks workers; ends with the `with`, its workers do not."""

    def __enter__(self) -> "Nursery":
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.nursery"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def start(self, environment: dict[str, str], log: Path, *, netns: str = "") -> Forked:
        wanted = {"environment": environment, "log": str(log), "netns": netns}
        self._process.stdin.write(json.dumps(wanted) + "\n")
        return Forked(psutil.Process(int(self._process.stdout.readline())))


def main() -> None:
    from workers import celery_app  # imported before the first fork, not by those who only use the class

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them here
    for line in sys.stdin:
        wanted = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become_worker(wanted)
            celery_app.main()
            os._exit(0)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def _become_worker(wanted: dict[str, object]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.update(wanted["environment"])
    log = os.open(wanted["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if wanted["netns"]:
        space = os.open(f"/run/netns/{wanted['netns']}", os.O_RDONLY)
        if ctypes.CDLL(None, use_errno=True).setns(space, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    sys.argv = ["celery"]


if __name__ == "__main__":
    main()
