"""A stand-in for the live worker: a real peer on the real queue, which says what a test has written for it.

It takes requests and leaves replies as the worker does, in a thread; nothing of the web server's side is replaced.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import cast

import pytest
from fastapi import FastAPI
from sqlalchemy.orm import Session

from backend.db.tables import WorkerReport
from backend.embedded import services
from backend.embedded.data_folder import opened
from backend.formats import messages
from backend.formats.messages import Alternative, Generated, GeneratedToken, Reply, Request, SteerReply, SteerRequest
from backend.services import inference

POLL_S = 0.02
PATIENCE_S = 120.0
FOR_EVER = "2100-01-01T00:00:00Z"

Script = Callable[[Request], Iterable[Reply]]


@dataclass
class StandIn:
    """Answers each request with what `script` yields for it, each reply sent before the next is asked for."""

    queue: inference.Queue
    script: Script
    asked: list[Request] = field(default_factory=list)
    failed: list[BaseException] = field(default_factory=list)
    """Told at the end of the test: an exception in a thread of its own would go unnoticed."""
    _is_over: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="stand-in")
        self._thread.start()

    def stop(self) -> None:
        """Take nothing more."""
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.is_set():
            for packed in inference.take(self.queue, wait_s=POLL_S, n_most=16):
                try:
                    self._answer(messages.read_request(packed))
                except BaseException as error:  # noqa: BLE001 - handed to the test
                    self.failed.append(error)

    def _answer(self, request: Request) -> None:
        self.asked.append(request)
        for reply in self.script(request):
            inference.reply(self.queue, [(request, replace(reply, id=request.id))])

    @property
    def steered(self) -> list[SteerRequest]:
        """The requests for steered text."""
        return [cast(SteerRequest, each) for each in self.asked]

    def until_gone(self, request: Request) -> None:
        """Wait until the caller has said that it left."""
        pause = threading.Event()
        for _ in range(int(PATIENCE_S / POLL_S)):
            if inference.gone(self.queue, [request.id]):
                return
            pause.wait(POLL_S)
        raise AssertionError("nobody said that the caller left")


def generated(*tokens: str, prompt: str = "", is_done: bool = True, before: str = "") -> Generated:
    """A text of these tokens, after `before`; log-probabilities are -1, -2, … and each has two alternatives."""
    told = tuple(
        GeneratedToken(text, -1.0 - i, (Alternative(text, -1.0 - i), Alternative("x", -9.0)))
        for i, text in enumerate(tokens)
    )
    return Generated(prompt, before + "".join(tokens), told, is_done)


def reply(steered: Generated, default: Generated) -> SteerReply:
    return SteerReply(id="", steered=steered, default=default, is_done=steered.is_done and default.is_done)


def two_texts(request: Request) -> Iterator[Reply]:
    """Two tokens each, in two replies where they are streamed. The steered text counts the pushes."""
    asked = cast(SteerRequest, request)
    prompt = asked.prompt or "".join(f"<{turn.role}>{turn.content}" for turn in asked.steered_chat)
    pushed = f" +{len(asked.pushes)}"
    if asked.is_streamed:
        yield reply(generated(" a", prompt=prompt, is_done=False), generated(" a", prompt=prompt, is_done=False))
        yield reply(
            generated(pushed, prompt=prompt, before=" a"), generated("\0é", prompt=prompt, before=" a")
        )  # fmt: skip
    else:
        yield reply(generated(" a", pushed, prompt=prompt), generated(" a", "\0é", prompt=prompt))


@contextmanager
def answering(app: FastAPI, session: Session, redis_url: str, script: Script = two_texts) -> Iterator[StandIn]:
    """A live worker for the application, until the block ends."""
    settings = app.state.settings.model_copy(update={"redis_url": redis_url, "live_waiting": 8})
    queue = inference.connect(settings)
    queue.flushall()
    session.add(WorkerReport(name="stand-in", kind=inference.WORKER_KIND, device="cpu", doing=None, seen_at=FOR_EVER))
    session.commit()
    before, app.state.live = app.state.live, inference.Client(settings)
    made = StandIn(queue, script)
    made.start()
    try:
        yield made
    finally:
        made.stop()
        app.state.live.close()
        app.state.live = before
        queue.close()
    assert not made.failed, made.failed


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a Valkey of its own; the database is not needed."""
    with (
        opened(tmp_path_factory.mktemp("queue") / "data") as folder,
        services.started(folder, database_url="postgresql://x") as found,
    ):
        yield found.redis_url


@pytest.fixture
def worker(app: FastAPI, session: Session, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A live worker for `app`."""
    monkeypatch.setattr(inference, "READ_S", POLL_S)  # how long a client that closes waits for its reader
    with answering(app, session, redis_url) as made:
        yield made
