"""Live inference: asking the live workers through Redis, and their side of the same list. No result back-end.

1. `places`: the model and sources are hosted, and in which state. `Client.check_worker`: a live worker was heard from.
2. `Client.ask` and `stream`: refuse with `BusyError` where too many wait, push the request on one list, and wait for what
   comes back on this process's own list, which one thread reads for all its callers. The same question about the same
   state of the rows is answered from memory. A caller who leaves says so, and nothing more is computed for them.
3. A worker takes all that has queued (`take`), and leaves each reply on the list its request names (`reply`).
A request may be lost with a killed worker or a restarted Redis: its caller hears so at the deadline and asks again.
Does not own what is computed (`workers/live`), nor transactions: callers check, commit, then wait.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import itertools
import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import orjson
import redis
from anyio import to_thread
from sqlalchemy import Select, bindparam, func, select
from sqlalchemy.orm import Session

from backend import errors, logs, weights
from backend.db.tables import Model, Revision, Source, WorkerReport
from backend.formats import messages
from backend.formats.messages import Reply, Request
from backend.services import catalog, health
from backend.services.visibility import addressed
from backend.settings import Settings

_logger = logging.getLogger(__name__)
WORKER_KIND = "live"
REQUESTS = "eyepiece:live:requests"
RETRY_AFTER_S = 2
REPLIES_TTL_S = 60
"""A list of replies that nobody reads is gone after it."""
GONE_TTL_S = 600
CONNECT_TIMEOUT_S = 2.0
READ_S = 1.0
"""One wait for replies."""
LEFT_S = 0.5
"""Between two looks at whether a caller is still there."""
_SLACK_S = 5.0
"""A socket waits longer than any command that blocks on it."""
_DEFAULT_DTYPE = "float32"
_PUSH = """
if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('RPUSH', KEYS[1], ARGV[2])
return 1
"""

Queue = redis.Redis
_KINDS: tuple[type[errors.SiteError], ...] = (
    errors.InvalidInputError, errors.NotFoundError, errors.UnsupportedError, errors.UnavailableError,
    errors.TimedOutError,
)  # fmt: skip
_BY_CODE = {kind.code: kind for kind in _KINDS} | {errors.ProblemsError.code: errors.UnsupportedError}
"""Several problems arrive as one text."""


# --- what is asked about -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """A hosted source, as a live worker needs it."""

    id: int
    name: str
    set_name: str
    layer: int
    hook_point: str
    d_in: int
    d_sae: int
    weights: str
    declared: dict[str, Any]
    """What was said beside the SAE's files."""
    dtype: str
    """The model's while its dashboards were computed."""
    revision_id: int | None
    """None: it has no dashboards."""
    model_weights: str
    written_at: int
    """Of the weights, see `weights.written_at`: an SAE trained anew into the same folder is another."""

    @property
    def version(self) -> str:
        """Changes with whatever changes the answers."""
        return _digest(self)


@dataclass(frozen=True, slots=True)
class Places:
    """A model, and sources of it."""

    model: str
    model_weights: str
    n_context: int | None
    """None: the model was never loaded."""
    sources: Mapping[str, Place]

    @property
    def versions(self) -> dict[str, str]:
        """As requests carry them."""
        model = [self.model_weights, weights.written_at(self.model_weights)]
        return {"": _digest(model), **{name: place.version for name, place in self.sources.items()}}


def places(session: Session, model: str, sources: Sequence[str] = ()) -> Places:
    """The named sources of a model, in their order, or only the model. One statement.

    Raises `NotFoundError`, and `UnsupportedError` for what has no weights to be run.

    A model by itself is there for those who see it in lists, a source for those who may open its address.
    """
    if not sources:
        known = select(Model.weights, Model.n_context).where(Model.id == catalog.as_key(model))
        row = session.execute(known).one_or_none()
        if row is None:
            raise errors.NotFoundError(f"No model '{model}' is hosted.", hint="The home page lists those that are.")
        return Places(model, _weights_of(row.weights, f"the model '{model}'"), row.n_context, {})
    found = _read_places(session, _NAMED, model, names=[catalog.as_key(name) for name in sources])
    missing = next((name for name in sources if found is None or name not in found.sources), None)
    if found is None or missing is not None:
        raise errors.NotFoundError(
            f"No source '{missing}' of a model '{model}' is hosted.", hint="The home page lists those that are."
        )
    return dataclasses.replace(found, sources={name: found.sources[name] for name in sources})


def places_of_set(session: Session, model: str, source_set: str) -> Places:
    """The sources of a set that the viewer sees in lists and that can be run, by layer. One statement.

    Raises `NotFoundError` for none in lists, and `UnsupportedError` where none of them has weights.
    """
    found = _read_places(session, _OF_SET, model, set_name=catalog.as_key(source_set))
    if found is None:
        raise errors.NotFoundError(
            f"No source set '{source_set}' of a model '{model}' is hosted.", hint="The home page lists those that are."
        )
    return found


# Put together once: that takes longer than running them.
_PLACES = (
    select(
        Source.id, Source.name, Source.set_name, Source.layer, Source.hook_point, Source.d_in, Source.d_sae,
        Source.weights, Source.declared, Revision.spec["dtype"].astext.label("dtype"), Source.revision_id,
        Model.weights.label("model_weights"), Model.n_context,
    )
    .select_from(Source)
    .join(Model, Model.id == Source.model_id)
    .outerjoin(Revision, Revision.id == Source.revision_id)
    .where(Source.model_id == bindparam("model"))
)  # fmt: skip
_NAMED = addressed(_PLACES.where(Source.name.in_(bindparam("names", expanding=True))))
_OF_SET = _PLACES.where(Source.set_name == bindparam("set_name")).order_by(Source.layer, Source.name)


def _read_places(session: Session, query: Select[Any], model: str, **asked: Any) -> Places | None:
    """Those with weights, where only a set is named; None: there is no such source."""
    rows = [dict(row) for row in session.execute(query, {"model": catalog.as_key(model), **asked}).mappings()]
    if not rows:
        return None
    if "set_name" in asked:
        rows = [row for row in rows if row["weights"] is not None] or rows[:1]
    for row in rows:
        _weights_of(row["weights"], f"'{model}/{row['name']}'")
    n_context, *_ = [row.pop("n_context") for row in rows]
    found = [
        Place(**{**row, "dtype": row["dtype"] or _DEFAULT_DTYPE}, written_at=weights.written_at(row["weights"]))
        for row in rows
    ]
    return Places(model, found[0].model_weights, n_context, {place.name: place for place in found})


def _weights_of(known: str | None, what: str) -> str:
    if known is None:
        raise errors.UnsupportedError(
            f"No weights of {what} are known: only its dashboards were imported, so nothing can be run.",
            hint="Attach its weights with `eyepiece add`; its dashboards stay.",
        )
    return known


def _digest(value: Any) -> str:
    return hashlib.blake2b(orjson.dumps(value, option=orjson.OPT_SORT_KEYS), digest_size=12).hexdigest()


def is_worker_alive(session: Session, *, heartbeat_s: float) -> bool:
    """A live worker has been heard from."""
    since = func.clock_timestamp() - timedelta(seconds=health.N_MISSED_HEARTBEATS * heartbeat_s)
    alive = select(WorkerReport.name).where(WorkerReport.kind == WORKER_KIND, WorkerReport.seen_at >= since)
    return session.execute(alive.limit(1)).first() is not None


# --- the web server's side -----------------------------------------------------------------------------------------


class Client:
    """One for each web process; its methods may be called from any event loop, `check_worker` from any thread.

    Raises:
        BusyError: Too many requests wait.
        TimedOutError: No reply came by the deadline.
        UnavailableError: The queue is down, or no live worker runs.
        SiteError: What the worker refused, such as a text that is too long.
    """

    def __init__(self, settings: Settings) -> None:
        """Connects when first used."""
        self._settings = settings
        self._queue: Queue | None = None
        self._name = uuid.uuid4().hex
        self._replies = f"eyepiece:live:replies:{self._name}"
        self._numbers = itertools.count()
        self._waiting: dict[str, tuple[asyncio.AbstractEventLoop, asyncio.Queue[bytes]]] = {}
        self._lock = threading.Lock()
        self._reader: threading.Thread | None = None
        self._is_closed = threading.Event()
        self._leaving: list[threading.Thread] = []
        """They say whose callers have left; the queue is closed after them."""
        self._heard_at = -float("inf")
        self._cache = Cache(int(settings.live_cache_mb * 1e6))

    def close(self) -> None:
        """Stop reading; who still waits hears so at their deadline."""
        with self._lock:
            self._is_closed.set()
        for thread in self._leaving:
            thread.join(READ_S + _SLACK_S)
        if self._reader is not None:
            self._reader.join(READ_S + _SLACK_S)
        if self._queue is not None:
            self._queue.close()

    def check_worker(self, session: Session) -> None:
        """Raises `UnavailableError` where no live worker was heard from; asks the database at most once a heartbeat."""
        heartbeat_s = self._settings.heartbeat_s
        if time.monotonic() - self._heard_at < heartbeat_s:
            return
        if not is_worker_alive(session, heartbeat_s=heartbeat_s):
            raise errors.UnavailableError("No live worker runs.", hint="`eyepiece up` starts one.")
        self._heard_at = time.monotonic()

    def header(self, found: Places, *, deadline_s: float | None = None) -> dict[str, Any]:
        """The fields every request has, for one about these places."""
        deadline_s = self._settings.live_deadline_s if deadline_s is None else deadline_s
        return {
            "id": f"{self._name}-{next(self._numbers)}", "reply_to": self._replies, "deadline_at": time.time() + deadline_s,
            "model": found.model, "versions": found.versions,
        }  # fmt: skip

    async def ask(self, request: Request, *, has_left: Callable[[], Awaitable[bool]] | None = None) -> Reply:
        """The one reply; `has_left` tells when nobody waits for it any more, as Starlette's `is_disconnected` does.

        Raises as the class says, and `CancelledError` for who has left.
        """
        key = self._cache.key(request)
        known = None if key is None else self._cache.get(key)
        if known is not None:
            return _read(known)
        async with contextlib.aclosing(self._replies_to(request, has_left)) as replies:
            packed = await anext(replies)
        answer = _read(packed)
        if key is not None:
            self._cache.put(key, packed)
        return answer

    async def stream(
        self, request: Request, *, has_left: Callable[[], Awaitable[bool]] | None = None
    ) -> AsyncGenerator[Reply]:
        """Every reply as it comes, until one that is done."""
        async with contextlib.aclosing(self._replies_to(request, has_left)) as replies:
            async for packed in replies:
                yield _read(packed)
                if messages.is_last(packed):
                    return

    async def _replies_to(
        self, request: Request, has_left: Callable[[], Awaitable[bool]] | None
    ) -> AsyncGenerator[bytes]:
        """Everything that comes back, until the caller has enough, leaves, or the deadline passes."""
        packed = messages.write_request(request)
        mine: asyncio.Queue[bytes] = asyncio.Queue()
        with self._lock:
            if len(self._waiting) >= self._settings.live_waiting:
                raise _busy(self._settings.live_waiting)
            self._waiting[request.id] = (asyncio.get_running_loop(), mine)
        is_answered = False
        try:
            await to_thread.run_sync(self._push, packed)
            while True:
                reply = await self._next(mine, request.deadline_at, has_left)
                is_answered = messages.is_last(reply)
                yield reply
        finally:
            with self._lock:
                self._waiting.pop(request.id, None)
            if not is_answered:
                # shielded by being a thread: the caller's task may be cancelled already
                self._leave(request.id, packed)

    async def _next(
        self, mine: "asyncio.Queue[bytes]", deadline_at: float, has_left: Callable[[], Awaitable[bool]] | None
    ) -> bytes:
        while True:
            left_s = deadline_at - time.time()
            if left_s <= 0:
                raise errors.TimedOutError(
                    "The live worker did not answer in time.",
                    hint="It may still be loading the model, or have been restarted. Ask again in a moment.",
                )
            try:
                return await asyncio.wait_for(mine.get(), min(left_s, LEFT_S))
            except TimeoutError:
                if has_left is not None and await has_left():
                    raise errors.CancelledError("Nobody waits for the answer any more.") from None

    def _push(self, packed: bytes) -> None:
        try:
            queue = self._connected()
            is_pushed = queue.eval(_PUSH, 1, REQUESTS, str(self._settings.live_waiting), cast(Any, packed))
        except (OSError, redis.RedisError) as error:
            raise errors.UnavailableError("The queue does not answer.", hint="Try again in a moment.") from error
        if not is_pushed:
            raise _busy(self._settings.live_waiting)

    def _leave(self, request_id: str, packed: bytes) -> None:
        thread = threading.Thread(target=self._take_back, args=(request_id, packed), daemon=True)
        with self._lock:
            if self._is_closed.is_set():
                return
            self._leaving = [each for each in self._leaving if each.is_alive()] + [thread]
            thread.start()

    def _take_back(self, request_id: str, packed: bytes) -> None:
        try:
            queue = self._connected()
            if not queue.lrem(REQUESTS, 1, cast(Any, packed)):
                queue.set(_gone_key(request_id), b"", ex=GONE_TTL_S)
        except (OSError, redis.RedisError, errors.UnavailableError) as error:
            logs.event(_logger, "live.not_taken_back", error=type(error).__name__)

    def _connected(self) -> Queue:
        with self._lock:
            if self._queue is None:
                self._queue = connect(self._settings)
                self._reader = threading.Thread(target=self._read_replies, name="live replies", daemon=True)
                self._reader.start()
            return self._queue

    def _read_replies(self) -> None:
        """Hand what comes back to who waits for it."""
        queue = connect(self._settings)
        while not self._is_closed.is_set():
            try:
                for packed in _pop(queue, self._replies, wait_s=READ_S, n_most=256):
                    self._hand_over(packed)
            except (OSError, redis.RedisError) as error:
                logs.event(_logger, "live.replies_unreadable", error=type(error).__name__)
                self._is_closed.wait(READ_S)
        queue.close()

    def _hand_over(self, packed: bytes) -> None:
        with self._lock:
            waiting = self._waiting.get(messages.id_of(packed))
        if waiting is None:
            return
        loop, mine = waiting
        try:
            loop.call_soon_threadsafe(mine.put_nowait, packed)
        except RuntimeError:  # its loop has ended, and the caller with it
            logs.event(_logger, "live.caller_gone")


class Cache:
    """Replies by what was asked and the state of the rows; those used longest ago go first. Threads may share it."""

    def __init__(self, n_bytes: int) -> None:
        self._n_most, self._n_bytes = n_bytes, 0
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def key(self, request: Request) -> bytes | None:
        """What the reply is kept under; None: it is not kept, as what is generated."""
        if isinstance(request, messages.SteerRequest) or self._n_most == 0:
            return None
        same = dataclasses.replace(request, id="", reply_to="", deadline_at=0.0)
        return hashlib.blake2b(messages.write_request(same), digest_size=20).digest()

    def get(self, key: bytes) -> bytes | None:
        """The reply kept, if any."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: bytes, packed: bytes) -> None:
        """Keep a reply."""
        with self._lock:
            old = self._kept.pop(key, None)
            self._n_bytes += len(packed) - (0 if old is None else len(old))
            self._kept[key] = packed
            while self._n_bytes > self._n_most:
                _, gone = self._kept.popitem(last=False)
                self._n_bytes -= len(gone)


def _read(packed: bytes) -> Reply:
    try:
        answer = messages.read_reply(packed)
    except errors.InvalidInputError as error:
        raise errors.UnavailableError(
            "The live worker's answer cannot be read.", hint="Is it of the same version? Restart it."
        ) from error
    if isinstance(answer, messages.ErrorReply):
        raise _BY_CODE.get(answer.code, errors.SiteError)(answer.error, hint=answer.hint)
    return answer


def _busy(n_waiting: int) -> errors.BusyError:
    return errors.BusyError(
        f"{n_waiting} requests wait for the live worker.", hint="Ask again in a moment.", retry_after_s=RETRY_AFTER_S
    )


# --- both sides, and the worker's ----------------------------------------------------------------------------------


def connect(settings: Settings) -> Queue:
    """A client that connects when first used; raises `UnavailableError` where no queue is named."""
    if not settings.redis_url:
        raise errors.UnavailableError("no queue is named.", hint="Set EYEPIECE_REDIS_URL, or run `eyepiece up`.")
    return Queue.from_url(
        settings.redis_url, socket_connect_timeout=CONNECT_TIMEOUT_S, socket_timeout=READ_S + _SLACK_S, retry=None
    )


def take(queue: Queue, *, wait_s: float, n_most: int) -> list[bytes]:
    """All requests that have queued, oldest first, at most `n_most`; waits up to `wait_s` for the first one."""
    return _pop(queue, REQUESTS, wait_s=wait_s, n_most=n_most)


def _pop(queue: Queue, key: str, *, wait_s: float, n_most: int) -> list[bytes]:
    taken: list[bytes] = []
    if wait_s > 0:
        first = cast("tuple[bytes, bytes] | None", queue.blpop([key], timeout=wait_s))
        if first is None:
            return []
        taken = [first[1]]
    rest = cast("list[bytes] | None", queue.lpop(key, n_most - len(taken))) if n_most > len(taken) else None
    return [*taken, *(rest or [])]


def reply(queue: Queue, answers: Sequence[tuple[Request, Reply]]) -> None:
    """Leave the answers where their callers wait; gone after a minute where nobody does. One round trip."""
    with queue.pipeline(transaction=False) as pipeline:
        for request, answer in answers:
            pipeline.rpush(request.reply_to, messages.write_reply(answer))
        for key in {request.reply_to for request, _ in answers}:
            pipeline.expire(key, REPLIES_TTL_S)
        pipeline.execute()


def gone(queue: Queue, request_ids: Sequence[str]) -> set[str]:
    """Those of the requests whose callers have left."""
    if not request_ids:
        return set()
    found = cast("list[bytes | None]", queue.mget([_gone_key(each) for each in request_ids]))
    return {each for each, mark in zip(request_ids, found, strict=True) if mark is not None}


def _gone_key(request_id: str) -> str:
    return f"eyepiece:live:gone:{request_id}"
