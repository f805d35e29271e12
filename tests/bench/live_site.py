"""A site to measure live answers on: the demo with dashboards over a little text, and its processes, as `eyepiece up` runs them.

Callers here are as light as can be, since they share the machine with what is measured: one asyncio process with
connections of its own that are kept open, HTTP/1.1 by hand.
"""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backend import broker, wakeups
from backend.cli import children, demo
from backend.cli.migrate import migrate
from backend.db.session import create_engine, session_factory, transaction
from backend.embedded import services
from backend.services import hosting, inference, jobs
from backend.settings import REPOSITORY, Settings
from demo import stdlib_text
from tests import tiny

MODEL, SET = demo.MODEL, "res-2k"
SOURCES = tuple(sorted(demo.SOURCES))
TINY = "tinystories-260k"


@dataclass(frozen=True, slots=True)
class Case:
    """A model and the sources of one set, asked about together."""

    model: str
    weights: Path
    saes: tuple[Path, ...]
    set_name: str
    sources: tuple[str, ...]
    text: Path | None
    """What texts are cut from; None: this Python's own library."""


CASES = {
    "demo": Case(MODEL, demo.WEIGHTS / MODEL, tuple(demo.WEIGHTS / "saes" / name for name in SOURCES), SET, SOURCES, None),
    TINY: Case(
        TINY, tiny.SHARED / "models" / TINY, (tiny.SHARED / "saes" / TINY / "jumprelu512",), "jumprelu512",
        ("2-jumprelu512",), tiny.SHARED / "corpora" / "tinystories-head.txt",
    ),
}  # fmt: skip
"""The second where its files are: they are no part of the repository."""
READY_S = 120.0


@dataclass
class LiveSite:
    """Where it answers, and its processes."""

    settings: Settings
    folder: Path
    live: "subprocess.Popen[bytes]"
    web: "subprocess.Popen[bytes]"
    sessions: Any

    def start(self, module: str, *arguments: str, **changed: Any) -> "subprocess.Popen[bytes]":
        """One more process of the site."""
        return _start(self.settings.model_copy(update=changed), self.folder, module, *arguments)


@contextlib.contextmanager
def running(**changed: Any) -> Iterator[LiveSite]:
    """Every case with dashboards over 100,000 tokens, a web server and a live worker."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ej-live-", dir="/tmp")))
        urls = stack.enter_context(services.running(folder / "data"))
        settings = Settings(
            data=folder / "data", database_url=urls.database_url, redis_url=urls.redis_url, port=_free_port(), threads=1,
            log_level="WARNING",
        ).model_copy(update=changed)  # fmt: skip
        migrate(settings)
        engine = create_engine(settings.database_url)
        stack.callback(engine.dispose)
        sessions = session_factory(engine)
        job_ids = [_add(sessions, settings, case) for case in cases()]
        processes: list[subprocess.Popen[bytes]] = []

        def stop_all() -> None:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(30)

        worker = _start(settings, folder, "workers.celery_app")
        wakeups.send(sessions, broker.celery_app(settings))
        _until(lambda: all(_state(sessions, job_id) in ("done", "failed") for job_id in job_ids), 600)
        worker.terminate()
        worker.wait(30)
        assert all(_state(sessions, job_id) == "done" for job_id in job_ids), (folder / "log.txt").read_text()[-4000:]
        stack.callback(stop_all)
        live = _start(settings, folder, "workers.live")
        web = _start(
            settings, folder, "uvicorn", "backend.web.app:create_app", "--factory", "--host", "127.0.0.1", "--port",
            str(settings.port), "--log-level", "warning", "--no-proxy-headers",
        )  # fmt: skip
        processes += [live, web]
        _until(lambda: _is_alive(sessions, settings), READY_S)
        _until(lambda: _answers(settings.port), READY_S)
        yield LiveSite(settings, folder, live, web, sessions)


def cases() -> list[Case]:
    """Those whose files are here."""
    return [case for case in CASES.values() if case.weights.is_dir()]


def texts(n: int, n_characters: int, *, seed: int = 0, path: Path | None = None) -> list[str]:
    """Distinct pieces of a text, or this Python's own library, of so many characters, white space as one blank."""
    with tempfile.TemporaryDirectory() as name:
        if path is None:
            path = Path(name) / "stdlib.txt"
            stdlib_text.write(path, max_bytes=1_000_000)
        whole = " ".join(path.read_text().split())
    starts = np.random.default_rng(seed).choice(len(whole) - n_characters, n, replace=False)
    return [whole[start : start + n_characters] for start in starts.tolist()]


class Caller:
    """One connection that is kept open; one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        """Status and body."""
        packed = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nContent-Type: application/json\r\n"
        return await self._send(f"{head}Content-Length: {len(packed)}\r\n\r\n".encode() + packed)

    async def get(self, path: str) -> tuple[int, bytes]:
        """Status and body."""
        return await self._send(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n\r\n".encode())

    async def _send(self, packed: bytes) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(packed)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status = int(head.split()[1])
        length = next((line for line in head.split("\r\n") if line.startswith("content-length:")), None)
        if length is not None:
            body = await reader.readexactly(int(length.partition(":")[2]))
        else:
            body = b""
            while (size := int((await reader.readline()).strip(), 16)) > 0:
                body += await reader.readexactly(size)
                await reader.readline()
            await reader.readline()
        if "connection: close" in head:
            await self.close()
        return status, body

    async def close(self) -> None:
        """The end of the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def quantiles_ms(seconds: list[float]) -> dict[str, float]:
    """p50, p95, p99 in milliseconds."""
    return {f"p{q}": round(1e3 * float(np.quantile(seconds, q / 100)), 2) for q in (50, 95, 99)}


def _add(sessions: Any, settings: Settings, case: Case) -> int:
    demo.TEXT_BYTES, demo.MAX_TOKENS, demo.QUALITY_TOKENS = 20_000_000, 100_000, 0
    with transaction(sessions) as session:
        spec = demo._spec(settings.data) | {"threads": 1} | ({} if case.text is None else {"corpus": str(case.text)})
        return hosting.register(session, str(case.weights), case.saes, spec).job_id


def _state(sessions: Any, job_id: int) -> str:
    with transaction(sessions) as session:
        return jobs.get(session, job_id).state


def _is_alive(sessions: Any, settings: Settings) -> bool:
    with transaction(sessions) as session:
        return inference.is_worker_alive(session, heartbeat_s=settings.heartbeat_s)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def _start(settings: Settings, folder: Path, module: str, *arguments: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-W", "ignore", "-m", module, *arguments]
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(command, cwd=REPOSITORY, env=children.environment(settings), stdout=log, stderr=log)


def _until(fact: Any, deadline_s: float) -> None:
    end = time.monotonic() + deadline_s
    while not fact():
        if time.monotonic() > end:
            raise TimeoutError(f"not so within {deadline_s:.0f} s")
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
