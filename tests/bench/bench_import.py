"""How fast an export of 24,576 features and 1.1 million activations is imported, and in how much memory.

A real Postgres and one worker, as `eyepiece up` has them. Beside it, before and after, the least that anybody has to do:
unpack the same files and read each line's JSON, in as many processes as the worker uses. Memory is what the worker and
its readers hold besides pages of files, sampled five times a second, less what the idle worker held before. Printed, and
written with --write to tests/bench/results/import.json.

Run: `python -m tests.bench.bench_import [--features N] [--write]`, some minutes.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import orjson
import psutil
from sqlalchemy import text

from backend import import_places
from backend.db.session import transaction
from backend.embedded import services
from backend.formats import import_files
from backend.services import access, imports
from backend.settings import REPOSITORY
from tests import exports, site
from tests.bench import machine

RESULT = REPOSITORY / "tests" / "bench" / "results" / "import.json"
N_FEATURES = 24_576
N_CONTEXTS = 24_576


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser()
    options.add_argument("--features", type=int, default=N_FEATURES)
    options.add_argument("--write", action="store_true")
    options.add_argument("--limit", help="Read the files below this folder, alone.", default="")
    given = options.parse_args()
    if given.limit:
        read_all(sorted(Path(given.limit).rglob("*.gz"))[int(os.environ["SHARE"]) :: int(os.environ["OF"])])
        return
    with tempfile.TemporaryDirectory(prefix="ei-", dir="/tmp") as name:
        found = measure(Path(name), given.features)
    print(json.dumps(found, indent=2))
    if given.write:
        RESULT.write_text(json.dumps(found, indent=2) + "\n")


def measure(folder: Path, n_features: int) -> dict[str, Any]:
    """Import once, and once more, which changes nothing."""
    export = folder / "export"
    n_contexts = max(1, N_CONTEXTS * n_features // N_FEATURES)
    n_activations = exports.write(export, n_features=n_features, n_contexts=n_contexts, source="6-bench")
    n_bytes = sum(path.stat().st_size for path in export.rglob("*.gz"))
    n_processes = os.cpu_count() or 1
    limits = [limit_s(export, n_processes)]
    with ExitStack() as stack:
        urls = stack.enter_context(services.running(folder / "data"))
        made = stack.enter_context(site.opened(folder, urls.database_url, urls.redis_url, straggler_s=1e6))
        worker = made.start_worker()
        memory = Memory(worker.pid)
        _wait_for_worker(made)
        idle = memory.now()
        stack.enter_context(memory)
        first = _run(made, export)
        again = _run(made, export)
        stages = _stages(made)
        peak = memory.peak
    limits.append(limit_s(export, n_processes))
    limit = sum(limits) / len(limits)
    return machine.facts() | {
        "n_features": n_features,
        "n_activations": n_activations,
        "n_contexts": n_contexts,
        "compressed_bytes": n_bytes,
        "seconds": round(first, 2),
        "features_per_s": round(n_features / first),
        "stage_s": stages,
        "again_s": round(again, 2),
        "limit_s": [round(each, 2) for each in limits],
        "times_the_limit": round(first / limit, 2),
        "n_readers": n_processes,
        "idle_worker_bytes": idle,
        "peak_bytes_more": peak - idle,
    }


def _wait_for_worker(made: site.Site) -> None:
    """Wait until the worker has reported that it is there."""
    while True:
        with transaction(made.sessions) as session:
            if session.execute(text("SELECT count(*) FROM worker_report")).scalar_one():
                return
        time.sleep(0.1)


def _run(made: site.Site, export: Path) -> float:
    """Seconds from asking to done."""
    (layout,) = import_files.layouts(import_places.Folder(export))
    start = time.perf_counter()
    with transaction(made.sessions) as session:
        begun = imports.begin(session, access.OPERATOR, layout, {"folder": str(export)}, imports.Wish())
    made.wake()
    view = made.wait(begun.job_id, lambda view: view.state in ("done", "failed"))
    assert view.state == "done", view.error
    return time.perf_counter() - start


def _stages(made: site.Site) -> dict[str, float]:
    """Seconds from the first shard's start to the last one's end, of the first job."""
    query = (
        "SELECT stage, extract(epoch FROM max(finished_at) - min(started_at)) FROM shard WHERE job_id = 1 GROUP BY 1"
    )
    with transaction(made.sessions) as session:
        return {row[0]: round(float(row[1]), 2) for row in session.execute(text(query))}


class Memory:
    """What a process and its children hold for themselves, and the most of it in a `with`."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak = 0

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def now(self) -> int:
        """Bytes."""
        total = 0
        for process in (self._process, *self._process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                held = process.memory_info()
                total += held.rss - held.shared  # pages of files that are mapped can be given up at any time
        return total

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            with suppress(psutil.NoSuchProcess):
                self.peak = max(self.peak, self.now())


def limit_s(export: Path, n: int) -> float:
    """Seconds in which `n` processes unpack and read all files."""
    start = time.perf_counter()
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.bench.bench_import", "--limit", str(export)],
            cwd=REPOSITORY, env=os.environ | {"SHARE": str(i), "OF": str(n)},
        )
        for i in range(n)
    ]  # fmt: skip
    assert all(process.wait() == 0 for process in running)
    return time.perf_counter() - start


def read_all(paths: list[Path]) -> None:
    """Unpack and read the JSON of each line."""
    for path in paths:
        with gzip.open(path) as file:
            for line in file:
                orjson.loads(line)


if __name__ == "__main__":
    main()
