"""Live inference: asking the live worker through Redis, and its side of the same list. No result back-end.

1. `check_*`: the thing is hosted, and a live worker has been heard from; else nothing is queued.
2. `activations`, `tokens`: refuse with `BusyError` where too many wait, push the request on one list, wait for the
   reply on a key of its own. Every request has a deadline; a caller who gives up takes the request back.
3. The worker takes all that has queued (`take`), and leaves each reply under its key for a minute (`reply`).
A request may be lost with a killed worker or a restarted Redis: its caller hears so at the deadline and asks again.
Does not own what is computed (`workers/live`), nor transactions: callers check, commit, then wait.
"""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import redis
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Model, Revision, Source, WorkerReport
from backend.formats import messages
from backend.formats.messages import Reply, Request, TextActivations
from backend.names import FeatureRef
from backend.services import catalog, health
from backend.settings import Settings

WORKER_KIND = "live"
REQUESTS = "eyepiece:live:requests"
REPLY_TTL_S = 60
RETRY_AFTER_S = 2
CONNECT_TIMEOUT_S = 2.0
_SLACK_S = 5.0
"""A socket waits longer than any command that blocks on it."""
_DEFAULT_DTYPE = "float32"

Queue = redis.Redis
_KINDS: tuple[type[errors.SiteError], ...] = (
    errors.InvalidInputError, errors.NotFoundError, errors.UnsupportedError, errors.UnavailableError,
)  # fmt: skip
_BY_CODE = {kind.code: kind for kind in _KINDS} | {errors.ProblemsError.code: errors.UnsupportedError}
"""Several problems arrive as one text."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a caller accepts."""

    deadline_s: float
    n_waiting: int
    """Requests that may wait before one more is refused."""


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """What the live worker loads for a source."""

    model_weights: str
    sae_weights: str
    declared: dict[str, Any]
    """What was said beside the SAE's files."""
    hook_point: str
    dtype: str
    """The one its dashboards were computed in."""


def connect(settings: Settings) -> Queue:
    """A client that connects when first used; raises `UnavailableError` where no queue is named."""
    if not settings.redis_url:
        raise errors.UnavailableError("no queue is named.", hint="Set EYEPIECE_REDIS_URL, or run `eyepiece up`.")
    timeout_s = settings.live_deadline_s + _SLACK_S
    return Queue.from_url(
        settings.redis_url, socket_connect_timeout=CONNECT_TIMEOUT_S, socket_timeout=timeout_s, retry=None
    )


def check_feature(session: Session, ref: FeatureRef, *, heartbeat_s: float) -> None:
    """Return if the feature is hosted and a live worker runs; raises `NotFoundError` or `UnavailableError`."""
    source = catalog.source(session, ref.model, ref.source)
    if ref.index >= source.d_sae:
        raise errors.NotFoundError(
            f"'{ref.model}/{ref.source}' has no feature {ref.index}.", hint=f"It has 0 to {source.d_sae - 1}."
        )
    _check_worker(session, heartbeat_s)


def check_model(session: Session, model: str, *, heartbeat_s: float) -> None:
    """Return if the model is hosted and a live worker runs; raises as `check_feature`."""
    catalog.model(session, model)
    _check_worker(session, heartbeat_s)


def _check_worker(session: Session, heartbeat_s: float) -> None:
    since = func.clock_timestamp() - timedelta(seconds=health.N_MISSED_HEARTBEATS * heartbeat_s)
    alive = select(WorkerReport.name).where(WorkerReport.kind == WORKER_KIND, WorkerReport.seen_at >= since)
    if session.execute(alive.limit(1)).first() is None:
        raise errors.UnavailableError("No live worker runs.", hint="`eyepiece up` starts one.")


def activations(
    queue: Queue, ref: FeatureRef, texts: Sequence[str], limits: Limits, *, is_leading_special_dropped: bool = False
) -> tuple[TextActivations, ...]:
    """The feature's activations on each text, in order.

    Raises:
        BusyError: Too many requests wait.
        UnavailableError: The queue is down, or no reply came by the deadline.
        SiteError: What the worker refused, such as a text that is too long.
    """
    answer = _ask(
        queue,
        messages.ActivationsRequest(
            id=uuid.uuid4().hex, deadline_at=time.time() + limits.deadline_s, model=ref.model, source=ref.source,
            index=ref.index, texts=tuple(texts), is_leading_special_dropped=is_leading_special_dropped,
        ),
        limits,
    )  # fmt: skip
    if not isinstance(answer, messages.ActivationsReply) or len(answer.texts) != len(texts):
        raise _not_understood()
    return answer.texts


def tokens(queue: Queue, model: str, text: str, limits: Limits, *, is_bos_prepended: bool) -> messages.TokensReply:
    """How the model cuts the text; raises as `activations`."""
    answer = _ask(
        queue,
        messages.TokensRequest(
            id=uuid.uuid4().hex, deadline_at=time.time() + limits.deadline_s, model=model, text=text,
            is_bos_prepended=is_bos_prepended,
        ),
        limits,
    )  # fmt: skip
    if not isinstance(answer, messages.TokensReply):
        raise _not_understood()
    return answer


def _ask(queue: Queue, request: Request, limits: Limits) -> Reply:
    packed = messages.write_request(request)
    try:
        if queue.llen(REQUESTS) >= limits.n_waiting:
            raise errors.BusyError(
                f"{limits.n_waiting} requests wait for the live worker.",
                hint="Ask again in a moment.", retry_after_s=RETRY_AFTER_S,
            )  # fmt: skip
        queue.rpush(REQUESTS, packed)
        found = cast("tuple[bytes, bytes] | None", queue.blpop([_reply_key(request.id)], timeout=limits.deadline_s))
        if found is None:
            queue.lrem(REQUESTS, 1, cast(Any, packed))
            raise errors.UnavailableError(
                f"The live worker did not answer within {limits.deadline_s:g} s.",
                hint="It may still be loading the model. Ask again in a moment.",
            )
    except (OSError, redis.RedisError) as error:
        raise errors.UnavailableError("The queue does not answer.", hint="Try again in a moment.") from error
    try:
        answer = messages.read_reply(found[1])
    except errors.InvalidInputError as error:
        raise _not_understood() from error
    if isinstance(answer, messages.ErrorReply):
        raise _BY_CODE.get(answer.code, errors.SiteError)(answer.error, hint=answer.hint)
    return answer


def take(queue: Queue, *, wait_s: float, n_most: int) -> list[bytes]:
    """All that has queued, oldest first, at most `n_most`; waits for the first one. Empty if none came."""
    first = cast("tuple[bytes, bytes] | None", queue.blpop([REQUESTS], timeout=wait_s))
    if first is None:
        return []
    rest = cast("list[bytes] | None", queue.lpop(REQUESTS, n_most - 1)) if n_most > 1 else None
    return [first[1], *(rest or [])]


def reply(queue: Queue, request_id: str, answer: Reply) -> None:
    """Leave the answer where its caller waits; gone after a minute if there is none."""
    with queue.pipeline() as pipeline:
        pipeline.rpush(_reply_key(request_id), messages.write_reply(answer))
        pipeline.expire(_reply_key(request_id), REPLY_TTL_S)
        pipeline.execute()


def source_files(session: Session, model: str, source: str) -> SourceFiles:
    """What to load for a source; raises `NotFoundError`."""
    query = select(Model.weights, Source.weights, Source.declared, Source.hook_point, Revision.spec).select_from(Model)
    query = query.join(Source, Source.model_id == Model.id)
    query = query.outerjoin(Revision, Revision.id == Source.revision_id)
    row = session.execute(query.where(Model.id == model, Source.name == source)).one_or_none()
    if row is None:
        raise errors.NotFoundError(f"No source '{source}' of a model '{model}' is hosted.")
    return SourceFiles(row[0], row[1], row[2], row[3], (row[4] or {}).get("dtype", _DEFAULT_DTYPE))


def model_weights(session: Session, model: str) -> str:
    """Where a model's weights lie; raises `NotFoundError`."""
    weights = session.scalar(select(Model.weights).where(Model.id == model))
    if weights is None:
        raise errors.NotFoundError(f"No model '{model}' is hosted.")
    return weights


def _reply_key(request_id: str) -> str:
    return f"eyepiece:live:reply:{request_id}"


def _not_understood() -> errors.UnavailableError:
    return errors.UnavailableError(
        "The live worker's answer cannot be read.", hint="Is it of the same version? Restart it."
    )
