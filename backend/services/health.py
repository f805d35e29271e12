"""Whether the parts answer: the database, the queue, the workers. Nothing here raises; a part that is down says why."""

from dataclasses import dataclass
from typing import Literal

import redis
from sqlalchemy import Row, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from backend.db.tables import WorkerReport
from backend.services import access
from backend.settings import Settings

QUEUE_TIMEOUT_S = 1.0
N_MISSED_HEARTBEATS = 5
"""A worker not heard from for longer counts as gone."""
FORGOTTEN_AFTER_S = 24 * 3600.0

State = Literal["ok", "down", "not configured"]


@dataclass(frozen=True, slots=True)
class PartView:
    """One part the site needs."""

    state: State
    detail: str
    """The server's version, or what went wrong."""


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker heard from within a day."""

    name: str
    kind: str
    device: str
    doing: str | None
    """Only admins are told: it names sources."""
    seconds_since_seen: float
    is_alive: bool


@dataclass(frozen=True, slots=True)
class HealthView:
    """The state of everything."""

    database: PartView
    queue: PartView
    workers: tuple[WorkerView, ...]
    """By name; empty while the database is down."""

    @property
    def is_ok(self) -> bool:
        """True if pages can be shown and jobs be queued; workers may come later."""
        return self.database.state == "ok" and self.queue.state != "down"


def check(session: Session, settings: Settings) -> HealthView:
    """Ask every part; at most some seconds where one does not answer."""
    queue = _queue(settings.redis_url)
    try:
        version = session.execute(text("SHOW server_version")).scalar_one()
        workers = _workers(session, settings.heartbeat_s)
    except DBAPIError as error:
        session.rollback()
        return HealthView(PartView("down", _first_line(error.orig or error)), queue, ())
    return HealthView(PartView("ok", f"PostgreSQL {version}"), queue, workers)


def _queue(url: str) -> PartView:
    if not url:
        return PartView("not configured", "no EYEPIECE_REDIS_URL")
    try:
        client = redis.Redis.from_url(
            url, socket_timeout=QUEUE_TIMEOUT_S, socket_connect_timeout=QUEUE_TIMEOUT_S, retry=None
        )
        with client:
            client.ping()
    except (redis.RedisError, OSError, ValueError) as error:
        return PartView("down", _first_line(error))
    return PartView("ok", "answers")


def _workers(session: Session, heartbeat_s: float) -> tuple[WorkerView, ...]:
    since = func.extract("epoch", func.clock_timestamp() - WorkerReport.seen_at).label("since")
    query = select(WorkerReport.name, WorkerReport.kind, WorkerReport.device, WorkerReport.doing, since)
    rows = session.execute(query.where(since < FORGOTTEN_AFTER_S).order_by(WorkerReport.name))
    is_told = access.viewer_of(session).is_admin
    return tuple(_worker(row, heartbeat_s, is_told=is_told) for row in rows)


def _worker(row: Row[str, str, str, str | None, float], heartbeat_s: float, *, is_told: bool) -> WorkerView:
    since = max(float(row.since), 0.0)
    is_alive = since <= N_MISSED_HEARTBEATS * heartbeat_s
    return WorkerView(row.name, row.kind, row.device, row.doing if is_told else None, since, is_alive)


def _first_line(error: BaseException) -> str:
    """What to show of an error: its kind where it says nothing, never a second line with settings in it."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
