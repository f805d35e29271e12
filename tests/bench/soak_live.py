"""Live answers held up: 32 callers for minutes, with a dashboard job beside them, and somebody who reads pages.

Callers search by text (8 in 10 times), try a text on a feature (1 in 10) and steer (1 in 10), each text a new one, each as
soon as they are answered. Answers may be 200 or 429 (then after `Retry-After`), or the run fails. The job is computed by
one worker with one thread, as nice as it comes. The reader fetches a page four times a second. Memory is of the whole
processes; "grown" compares the median of the last fifth with that of the second fifth.
`python -m tests.bench.soak_live [--minutes 10] [--write]`; results go to tests/bench/results/soak.json.
"""

import argparse
import asyncio
import itertools
import json
import time
from collections import Counter
from typing import Any

import numpy as np
import psutil

from backend import broker, wakeups
from backend.db.session import transaction
from backend.services import jobs, rerun
from backend.settings import REPOSITORY
from tests.bench import live_site, machine
from tests.bench.live_site import MODEL, SET, SOURCES, Caller, LiveSite, quantiles_ms

N_CALLERS = 32
PAGES = ("/", f"/{MODEL}", f"/{MODEL}/{SOURCES[0]}", *(f"/{MODEL}/{SOURCES[1]}/{index}" for index in range(40)))
READ_EVERY_S = 0.25
RESULT = REPOSITORY / "tests" / "bench" / "results" / "soak.json"


class Soak:
    """What happens while it lasts."""

    def __init__(self, site: LiveSite, minutes: float) -> None:
        self.site, self.ends_at = site, time.monotonic() + 60 * minutes
        self.statuses: Counter[str] = Counter()
        self.seconds: dict[str, list[float]] = {"search": [], "activation": [], "steer": [], "page": []}
        self.memory: dict[str, list[int]] = {"live": [], "web": []}
        self._texts = live_site.texts(5_000, 60)
        self._numbers = itertools.count()

    async def call(self) -> None:
        """One caller."""
        caller = Caller(self.site.settings.port)
        while time.monotonic() < self.ends_at:
            number = next(self._numbers)
            kind, path, body = self._question(number)
            started_s = time.perf_counter()
            status, answer = await caller.post(path, body)
            self.statuses[f"{kind} {status}"] += 1
            if status == 200:
                self.seconds[kind].append(time.perf_counter() - started_s)
            elif status == 429:
                await asyncio.sleep(2)
            else:
                raise AssertionError(f"{kind}: {status}: {answer!r}")

    async def read(self) -> None:
        """The one who looks at pages."""
        caller = Caller(self.site.settings.port)
        for page in itertools.cycle(PAGES):
            if time.monotonic() > self.ends_at:
                return
            started_s = time.perf_counter()
            status, _ = await caller.get(page)
            assert status == 200, page
            self.seconds["page"].append(time.perf_counter() - started_s)
            await asyncio.sleep(READ_EVERY_S)

    async def weigh(self) -> None:
        """Memory, once a second."""
        processes = {"live": psutil.Process(self.site.live.pid), "web": psutil.Process(self.site.web.pid)}
        while time.monotonic() < self.ends_at:
            for name, process in processes.items():
                self.memory[name].append(process.memory_info().rss)
            await asyncio.sleep(1)

    def _question(self, number: int) -> tuple[str, str, dict[str, Any]]:
        text = f"{number} {self._texts[number % len(self._texts)]}"
        match number % 10:
            case 8:
                feature = {"modelId": MODEL, "source": SOURCES[0], "index": str(number % 2048)}
                return "activation", "/api/activation/new", {"feature": feature, "customText": text}
            case 9:
                feature = {"modelId": MODEL, "layer": SOURCES[0], "index": number % 2048, "strength": 4.0}
                body = {"prompt": text, "features": [feature], "temperature": 1.0, "n_tokens": 16, "seed": number}
                return "steer", "/api/steer", {"modelId": MODEL, "strength_multiplier": 1.0} | body
        return (
            "search",
            "/api/search-all",
            {"modelId": MODEL, "sourceSet": SET, "text": text, "expand": number % 4 == 0},
        )


async def _soak(soak: Soak) -> float:
    started_s = time.perf_counter()
    await asyncio.gather(soak.read(), soak.weigh(), *(soak.call() for _ in range(N_CALLERS)))
    return time.perf_counter() - started_s


def main() -> None:
    """Hold it up, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    with live_site.running() as site:
        with transaction(site.sessions) as session:
            job_id = rerun.rerun(session, MODEL, SOURCES[:1], {"max_tokens": 10_000_000})
        worker = site.start("workers.celery_app")
        wakeups.send(site.sessions, broker.celery_app(site.settings))
        soak = Soak(site, options.minutes)
        wall_s = asyncio.run(_soak(soak))
        with transaction(site.sessions) as session:
            job = jobs.get(session, job_id)
        worker.kill()
        worker.wait()
    result = machine.facts() | {
        "minutes": round(wall_s / 60, 2),
        "n_callers": N_CALLERS,
        "statuses": dict(sorted(soak.statuses.items())),
        "requests_per_s": round(sum(soak.statuses.values()) / wall_s, 1),
        "ms": {kind: quantiles_ms(seconds) for kind, seconds in soak.seconds.items()},
        "n_pages": len(soak.seconds["page"]),
        "memory_mb": {name: _memory(sizes) for name, sizes in soak.memory.items()},
        "job": {"state": job.state, "fraction": round(job.fraction, 3)},  # "running": it lasted
    }
    print(json.dumps(result, indent=1))
    if options.write:
        RESULT.write_text(json.dumps(result, indent=1) + "\n")


def _memory(sizes: list[int]) -> dict[str, float]:
    fifth = max(len(sizes) // 5, 1)
    early, late = (float(np.median(part)) / 1e6 for part in (sizes[fifth : 2 * fifth] or sizes, sizes[-fifth:]))
    return {"early": round(early, 1), "late": round(late, 1), "grown": round(late - early, 1)}


if __name__ == "__main__":
    main()
