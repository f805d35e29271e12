"""The live worker killed under load: who asks hears so in time, and service comes back by itself."""

import itertools
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient

from backend.embedded.processes import Child
from backend.embedded.supervisor import Supervisor
from backend.web.app import create_app
from tests import tiny
from tests.live import PATIENCE_S, worker
from tests.site import Site
from tests.site import site as site
from tests.unit.embedded.waiting import until

DEADLINE_S = 5.0
N_CALLERS = 8


@pytest.fixture(scope="module")
def hosted(site: Site) -> Site:
    site.settings = site.settings.model_copy(update={"heartbeat_s": 0.5, "live_deadline_s": DEADLINE_S})
    tiny.save_sae(site.folder / "sae" / "topk", architecture="topk", d_sae=64)
    site.add("topk")
    (site.folder / "manifest.json").write_text("{}")
    return site


@pytest.fixture
def live(hosted: Site) -> Iterator[Child]:
    with worker(hosted) as child:
        yield child


def test_killed_under_load_callers_hear_in_time_and_service_returns(hosted: Site, live: Child) -> None:
    app = create_app(hosted.settings.model_copy(update={"assets": hosted.folder}))
    numbers = itertools.count()
    answers: list[tuple[int, float]] = []
    is_over = threading.Event()
    feature = {"modelId": "tiny-gpt2", "source": "1-topk", "index": 3}

    with TestClient(app, base_url="http://localhost/api/") as client, ThreadPoolExecutor(N_CALLERS) as pool:

        def ask() -> int:
            """A text nobody has asked about."""
            response = client.post("activation/new", json={"feature": feature, "customText": f"in {next(numbers)}"})
            return response.status_code

        def call() -> None:
            while not is_over.is_set():
                started_s = time.monotonic()
                status = ask()
                answers.append((status, time.monotonic() - started_s))

        until(lambda: ask() == 200, deadline_s=PATIENCE_S)
        supervisor = Supervisor([live], report=lambda _: None)
        calls = [pool.submit(call) for _ in range(N_CALLERS)]
        try:
            until(lambda: len(answers) >= 4 * N_CALLERS, deadline_s=PATIENCE_S)
            killed, before = live.pid, len(answers)
            assert killed is not None
            os.kill(killed, signal.SIGKILL)

            def is_back() -> bool:
                supervisor.check()
                return live.pid not in (None, killed) and Counter(status for status, _ in answers[before:])[200] > 20

            until(is_back, deadline_s=PATIENCE_S)
        finally:
            is_over.set()
        for each in calls:
            each.result()
    statuses = Counter(status for status, _ in answers)
    assert set(statuses) <= {200, 503, 504}, statuses
    assert statuses[504] + statuses[503] >= 1, "those it had taken are lost with it"
    slowest_s = max(seconds for _, seconds in answers)
    assert slowest_s < DEADLINE_S + 30, "nobody waits much longer than the deadline, however busy the machine is"
