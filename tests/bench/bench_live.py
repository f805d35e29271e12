"""Live answers: how long they take and how many a second, for 1, 8 and 32 callers at a time, on texts that are all distinct.

1. At the worker: requests go on its list and replies come off ours, nothing else between. The base is the same work
   with one request at a time.
2. Over HTTP: the whole site, web server and database included, connections kept open.
3. Beside it the bare forward pass of the same texts, one by one, in this process: what 1 caller's median is over it is
   the overhead of everything else, the SAEs included.
Once for the demo, all three sources at once, and once for TinyStories-260K, one source, where its files are: the first
fills a core with a sentence, the second does not. Feature details are not expanded; steering is `N_GENERATED` tokens with a
feature pushed, both texts. Every answer must be right (200, and as many tokens as asked for) or the run fails.
`make bench-live [ARGS="--write --quick"]`; results go to tests/bench/results/live.json.
"""

import asyncio
import functools
import json
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import torch

from backend.db.session import transaction
from backend.formats import messages
from backend.services import inference
from backend.settings import REPOSITORY
from tests.bench import live_site, machine
from tests.bench.live_site import Caller, Case, LiveSite, quantiles_ms
from workers.compute import language_model, text_activations

IS_QUICK = "--quick" in sys.argv
CALLERS = (1, 8, 32)
N_SEARCHES = {1: 200, 8: 600, 32: 1600}
N_STEERINGS = {1: 10, 8: 64, 32: 192}
LENGTHS = {"short": 20, "sentence": 60, "long": 200}
"""Characters of a text; how many tokens that is, is measured."""
N_GENERATED = 32
RESULT = REPOSITORY / "tests" / "bench" / "results" / "live.json"
Ask = Callable[[int, str], Awaitable[float]]
"""Asks as caller number n about a text; gives the seconds it took."""


def main() -> None:
    """Measure, print, keep."""
    with live_site.running(live_waiting=128) as site:
        result = machine.facts() | asyncio.run(_measure(site))
    print(json.dumps(result, indent=1))
    if "--write" in sys.argv:
        RESULT.write_text(json.dumps(result, indent=1) + "\n")


async def _measure(site: LiveSite) -> dict[str, Any]:
    return {"cases": {case.model: await _case(site, case) for case in live_site.cases()}}


async def _case(site: LiveSite, case: Case) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    queue = _Queue(site, case)
    reading = asyncio.create_task(queue.read())
    try:
        for name, length in LENGTHS.items():
            over_http = _http(site, functools.partial(_search_body, case), "/api/search-all")
            rows = {
                "worker": await _series(case, queue.search, N_SEARCHES, length),
                "http": await _series(case, over_http, N_SEARCHES, length),
                "bare_forward_ms": _bare_forward(case, length),
            }
            rows["overhead_ms"] = round(rows["http"]["1"]["p50"] - rows["bare_forward_ms"]["p50"], 2)
            asked[f"search_{name}"] = rows
        over_http = _http(site, functools.partial(_steer_body, case), "/api/steer")
        asked["steer"] = {
            "worker": await _series(case, queue.steer, N_STEERINGS, LENGTHS["sentence"]),
            "http": await _series(case, over_http, N_STEERINGS, LENGTHS["sentence"]),
        }
    finally:
        reading.cancel()
    return asked


async def _series(case: Case, ask: Ask, n_requests: dict[int, int], length: int) -> dict[str, Any]:
    """Latencies and requests a second for each number of callers; what more callers gain over one."""
    found: dict[str, Any] = {}
    for n_callers in CALLERS:
        n = max(n_requests[n_callers] // (8 if IS_QUICK else 1), n_callers, 4)
        warm_up = live_site.texts(2 * n_callers, length, seed=1000 + n_callers, path=case.text)
        await _load(ask, warm_up, n_callers)
        seconds, wall_s = await _load(ask, live_site.texts(n, length, seed=n_callers, path=case.text), n_callers)
        found[str(n_callers)] = quantiles_ms(seconds) | {"requests_per_s": round(n / wall_s, 1)}
    base = found["1"]["requests_per_s"]
    found["gain"] = {str(n): round(found[str(n)]["requests_per_s"] / base, 2) for n in CALLERS[1:]}
    return found


async def _load(ask: Ask, texts: list[str], n_callers: int) -> tuple[list[float], float]:
    """Each caller asks as soon as it is answered, until all texts are done."""
    left = iter(texts)
    seconds: list[float] = []

    async def call(number: int) -> None:
        seconds.extend([await ask(number, text) for text in left])

    started_s = time.perf_counter()
    await asyncio.gather(*(call(number) for number in range(n_callers)))
    return seconds, time.perf_counter() - started_s


class _Queue:
    """Asks the live worker on its own list, and reads the replies off one list for all callers."""

    def __init__(self, site: LiveSite, case: Case) -> None:
        self._case = case
        self._queue = inference.connect(site.settings)
        self._reader = inference.connect(site.settings)
        self._replies = f"eyepiece:live:replies:{uuid.uuid4().hex}"
        self._waiting: dict[str, asyncio.Future[bytes]] = {}
        with transaction(site.sessions) as session:
            self._places = inference.places(session, case.model, case.sources)

    async def read(self) -> None:
        """Hand replies to who waits for them."""
        while True:
            for packed in await asyncio.to_thread(inference._pop, self._reader, self._replies, wait_s=0.5, n_most=256):
                waiting = self._waiting.pop(messages.id_of(packed), None)
                if waiting is not None:
                    waiting.set_result(packed)

    async def search(self, _: int, text: str) -> float:
        """The top 50 features of a text over all sources."""
        return await self._ask(
            lambda header: messages.SearchRequest(**header, sources=self._case.sources, texts=(text,)),
            messages.SearchReply,
        )

    async def steer(self, number: int, text: str) -> float:
        """Both texts, to their end."""
        push = messages.Push(source=self._case.sources[0], index=7, strength=5.0)
        sampling = messages.Sampling(n_tokens=N_GENERATED, seed=number)
        return await self._ask(
            lambda header: messages.SteerRequest(**header, prompt=text, pushes=(push,), sampling=sampling),
            messages.SteerReply,
        )

    async def _ask(self, make: Callable[[dict[str, Any]], messages.Request], kind: type) -> float:
        header = {
            "id": uuid.uuid4().hex, "reply_to": self._replies, "deadline_at": time.time() + 120,
            "model": self._case.model,
            "versions": self._places.versions,
        }  # fmt: skip
        request = make(header)
        waiting = self._waiting[request.id] = asyncio.get_running_loop().create_future()
        started_s = time.perf_counter()
        self._queue.rpush(inference.REQUESTS, messages.write_request(request))
        packed = await waiting
        seconds = time.perf_counter() - started_s
        reply = messages.read_reply(packed)
        assert isinstance(reply, kind), reply
        return seconds


def _http(site: LiveSite, body: Callable[[int, str], dict[str, Any]], path: str) -> Ask:
    callers = [Caller(site.settings.port) for _ in range(max(CALLERS))]

    async def ask(number: int, text: str) -> float:
        started_s = time.perf_counter()
        status, answer = await callers[number].post(path, body(number, text))
        assert status == 200, answer
        return time.perf_counter() - started_s

    return ask


def _search_body(case: Case, _: int, text: str) -> dict[str, Any]:
    return {"modelId": case.model, "sourceSet": case.set_name, "text": text, "selectedLayers": [], "expand": False}


def _steer_body(case: Case, _: int, text: str) -> dict[str, Any]:
    # a seed of its own each, so that no saved run answers
    seed = int.from_bytes(uuid.uuid4().bytes[:4]) % 10**8
    feature = {"modelId": case.model, "layer": case.sources[0], "index": 7, "strength": 5.0}
    return {
        "modelId": case.model, "prompt": text, "features": [feature], "temperature": 1.0, "n_tokens": N_GENERATED,
        "seed": seed, "strength_multiplier": 1.0,
    }  # fmt: skip


def _bare_forward(case: Case, length: int) -> dict[str, float]:
    """The whole model alone, one text after the other."""
    torch.set_num_threads(1)
    model = language_model.load(str(case.weights), device=torch.device("cpu"), dtype=torch.float32)
    seconds, n_tokens = [], []
    with torch.inference_mode():
        for text in live_site.texts(120, length, seed=99, path=case.text):
            ids = text_activations.tokenise(text, model.tokenizer, prepend_bos=True)
            n_tokens.append(len(ids))
            rows = torch.tensor([ids])
            started_s = time.perf_counter()
            model.model(input_ids=rows, use_cache=False)
            seconds.append(time.perf_counter() - started_s)
    return quantiles_ms(seconds[20:]) | {"n_tokens": float(np.median(n_tokens))}


if __name__ == "__main__":
    main()
