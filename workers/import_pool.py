"""Readers of imports, a process for each core: tasks go out as lines of JSON, results come back (`import_reader`)."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Any

from backend import errors
from backend.settings import REPOSITORY

Task = dict[str, Any]


def run(tasks: Sequence[Task], n_readers: int, on_progress: Callable[[int], None]) -> list[dict[str, Any]]:
    """What each task found, in order.

    Args:
        tasks: As `import_reader` takes them.
        n_readers: Processes at a time.
        on_progress: Told the sum of what all tasks have done; what it raises stops them.

    Raises:
        InvalidInputError: A file is at fault.
        RuntimeError: A reader failed otherwise.
    """
    n_readers = max(1, min(n_readers, len(tasks)))
    done = [0] * len(tasks)
    lock = threading.Lock()

    def said(number: int, n: int) -> None:
        with lock:
            done[number] = n
            total = sum(done)
        on_progress(total)

    with ExitStack() as stack:
        free: SimpleQueue[_Reader] = SimpleQueue()
        for _ in range(n_readers):
            free.put(stack.enter_context(_Reader()))
        pool = stack.enter_context(ThreadPoolExecutor(n_readers))
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)

        def do(number: int, task: Task) -> dict[str, Any]:
            reader = free.get()
            try:
                return reader.do(task, lambda n: said(number, n))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            finally:
                free.put(reader)

        return [future.result() for future in [pool.submit(do, i, task) for i, task in enumerate(tasks)]]


class _Reader:
    """One process."""

    def __init__(self) -> None:
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "workers.import_reader"], cwd=REPOSITORY, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def do(self, task: Task, said: Callable[[int], None]) -> dict[str, Any]:
        """Send a task and wait for its result."""
        assert self._process.stdin is not None, "a pipe"
        assert self._process.stdout is not None, "a pipe"
        try:
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise RuntimeError(f"a reader ended with {self._process.wait()}") from error
        for line in self._process.stdout:
            message = json.loads(line)
            if "at" in message:
                said(message["at"])
            elif "result" in message:
                return dict(message["result"])
            elif message["is_input"]:
                raise errors.InvalidInputError(message["error"])
            else:
                raise RuntimeError(message["error"])
        raise RuntimeError(f"a reader ended with {self._process.wait()}")
