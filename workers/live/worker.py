"""The loop: take what has queued, answer it, and go on generating, in turns short enough that nobody waits long.

1. Take all requests that have queued; drop those whose callers have gone or will not wait longer.
2. What needs a model or source that is not loaded stands aside while a thread loads it (`resident`).
3. Requests about texts are answered together, those of one model in one go (`answers`); a scan is a batch of its own.
4. Texts being generated all go on by one token (`steering`); then from 1 again.
A thread reports that the worker lives, also while it loads. Redis and Postgres may restart: it waits and goes on.
On SIGTERM it answers what it has taken and ends. It never does dashboard shards, so nobody waits behind one.
"""

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Hashable, Iterator, Sequence

import redis
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from backend import errors, logs, storage
from backend.formats import messages
from backend.formats.messages import Reply, Request
from backend.services import inference
from backend.settings import Settings
from workers.live import answers, scanning
from workers.live.resident import Ready, Residents
from workers.live.steering import Steering

_logger = logging.getLogger(__name__)
N_TAKEN = 256
"""Requests taken at a time."""
WAIT_S = 1.0
LOADING_S = 0.02
"""A wait for requests while something loads."""
LONGEST_PAUSE_S = 5.0
"""Between attempts while Redis does not answer."""
GONE_S = 0.25
"""Between two looks at whose callers have left."""


class LiveWorker:
    """What the process keeps, and how it answers."""

    def __init__(self, settings: Settings, sessions: sessionmaker[Session], queue: inference.Queue) -> None:
        self.sessions, self._queue = sessions, queue
        self.residents = Residents(settings, sessions, storage.mirror(settings))
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.steering = Steering(self.residents, self._reply, self._refuse)
        self._parked: list[Request] = []
        """Waiting for what they need to be loaded, or for room to generate in; oldest first."""
        self._answered: list[tuple[Request, Reply]] = []
        self._looked_at = 0.0

    @property
    def doing(self) -> str | None:
        """In words, for whoever looks at the workers."""
        loading = self.residents.loading
        return f"loading {loading}" if loading else None

    def run(self, stop: threading.Event) -> None:
        """Answer until told to stop."""
        pause_s = 0.1
        while not stop.is_set():
            try:
                self.receive(inference.take(self._queue, wait_s=self._wait_s(), n_most=N_TAKEN))
                self.turn()
                pause_s = 0.1
            except (OSError, redis.RedisError) as error:
                logs.event(_logger, "queue.unreachable", error=type(error).__name__)
                stop.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        self.residents.close()

    def receive(self, packed: list[bytes]) -> None:
        """Take requests in; what cannot be read has no caller to answer to."""
        for each in packed:
            try:
                self._parked.append(messages.read_request(each))
            except errors.InvalidInputError as error:
                _logger.warning("live.unreadable", extra={"fields": {"error": error.message}})

    def turn(self) -> None:
        """Answer what can be answered now."""
        started_s = time.monotonic()
        self.residents.turn()
        self._drop_gone()
        n_answered = 0
        for requests in self._ready_by_model():
            n_answered += len(requests)
            self._answer(requests)
            self._send()
        self.steering.step()
        self._send()
        if n_answered:
            logs.event(
                _logger, "live.answered", n_requests=n_answered, duration_s=round(time.monotonic() - started_s, 4)
            )

    def _wait_s(self) -> float:
        if self.steering.requests:
            return 0.0
        return LOADING_S if self._parked or self.residents.is_loading else WAIT_S

    def _drop_gone(self) -> None:
        """Forget requests whose callers have left, or do not wait any more."""
        asked = [*self._parked, *self.steering.requests]
        if not asked:
            return
        now = time.monotonic()
        left: set[str] = set()
        if now - self._looked_at > GONE_S:
            self._looked_at = now
            left = inference.gone(self._queue, [request.id for request in asked])
        for request in asked:
            if request.id in left or not _is_wanted(request):
                left.add(request.id)
                logs.event(_logger, "live.dropped", late_s=round(time.time() - request.deadline_at, 3))
        self._parked = [request for request in self._parked if request.id not in left]
        self.steering.drop([*left])

    def _ready_by_model(self) -> Iterator[list[tuple[Request, Ready]]]:
        """Requests that have all they need, by model; the others stay parked."""
        groups: dict[Hashable, list[tuple[Request, Ready]]] = {}
        waiting, self._parked = self._parked, []
        for request in waiting:
            with self._refusing([request]):
                ready = self.residents.ready(request)
                if ready is None:
                    self._parked.append(request)
                else:
                    groups.setdefault(ready.model.key, []).append((request, ready))
        yield from groups.values()

    def _answer(self, asked: list[tuple[Request, Ready]]) -> None:
        """All of one model."""
        texts: list[tuple[answers.TextsRequest, Ready]] = []
        for request, ready in asked:
            with self._refusing([request]):
                match request:
                    case messages.TokensRequest():
                        self._reply(request, answers.tokens(request, ready.model))
                    case messages.DirectionRequest():
                        self._reply(request, answers.direction(request, ready))
                    case messages.CosineRequest():
                        self._reply(request, answers.cosine(request, ready))
                    case messages.SteerRequest():
                        if not self.steering.start(request, ready):
                            self._parked.append(request)
                    case messages.ScanRequest():
                        source = ready.sources[request.push.source].loaded if request.push.source else None
                        scan = scanning.answer(ready.model.model, ready.model.vocabulary, source, request)
                        self._reply(request, scan)
                    case _:
                        texts.append((request, ready))
        if texts:
            with self._refusing([request for request, _ in texts]):
                answers.on_texts(texts, self.residents, self._reply, self._refuse, _is_wanted)

    @contextlib.contextmanager
    def _refusing(self, requests: Sequence[Request]) -> Iterator[None]:
        """What goes wrong inside is told to those who asked; where Redis fails nobody can be told."""
        try:
            yield
        except Exception as error:
            if isinstance(error, redis.RedisError):
                raise
            for request in requests:
                self._refuse(request, error)

    def _refuse(self, request: Request, error: Exception) -> None:
        match error:
            case errors.SiteError():
                answer = messages.ErrorReply(id=request.id, code=error.code, error=error.message, hint=error.hint)
            case DBAPIError():
                answer = messages.ErrorReply(id=request.id, code="unavailable", error="The database does not answer.")
            case _:
                _logger.error("live.failed", exc_info=error)
                answer = messages.ErrorReply(
                    id=request.id, code="internal", error="The live worker could not compute this."
                )
        self._reply(request, answer)

    def _reply(self, request: Request, answer: Reply) -> None:
        self._answered.append((request, answer))

    def _send(self) -> None:
        if self._answered:
            answered, self._answered = self._answered, []
            inference.reply(self._queue, answered)


def _is_wanted(request: Request) -> bool:
    return time.time() < request.deadline_at
