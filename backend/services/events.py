"""The log of a job in its user's words: what happened to it, line by line.

Services and workers write a line in the transaction of what it tells, so a line is there exactly if that happened.
Lines hold no secrets; paths of the host are shown to the job's owner and admins only (`host_paths`). Who may read them is
who may see the job.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, cast

from sqlalchemy import Row, insert, select
from sqlalchemy.orm import Session

from backend.db.tables import Job, JobEvent
from backend.services import host_paths

Level = Literal["info", "warning", "error"]
MAX_LINES = 500
"""Given at once; a reader asks for those after the last one it has."""
MAX_TEXT = 2000
"""Characters of a line."""


@dataclass(frozen=True, slots=True)
class EventView:
    """One line."""

    id: int
    """Ascending within a job."""
    at: datetime
    level: Level
    text: str


def storable(text: str) -> str:
    """`text` as a row can hold it: errors quote what strangers' files say, in which anything may stand."""
    shown = text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
    return shown.replace("\0", "�").encode("utf-8", "replace").decode()


def note(session: Session, job_id: int, text: str, *, level: Level = "info") -> None:
    """Write a line of a job's log."""
    session.execute(insert(JobEvent).values(job_id=job_id, level=level, text=storable(text)))


def of_job(session: Session, job_id: int, *, after: int = 0, n: int = MAX_LINES) -> tuple[EventView, ...]:
    """The job's first `n` lines after the one with the id `after`, oldest first; the caller has found the job."""
    found = _LINES.where(JobEvent.job_id == job_id, JobEvent.id > after).order_by(JobEvent.id)
    return _views(session, job_id, session.execute(found.limit(n)).all())


def newest(session: Session, job_id: int, n: int = 100) -> tuple[EventView, ...]:
    """The job's last `n` lines, oldest first; the caller has found the job."""
    found = _LINES.where(JobEvent.job_id == job_id).order_by(JobEvent.id.desc())
    return _views(session, job_id, session.execute(found.limit(n)).all())[::-1]


_LINES = select(JobEvent.id, JobEvent.at, JobEvent.level, JobEvent.text)


def _views(session: Session, job_id: int, rows: Sequence[Row[int, datetime, str, str]]) -> tuple[EventView, ...]:
    job = session.get_one(Job, job_id)
    return tuple(
        EventView(row.id, row.at, cast(Level, row.level), host_paths.shown(session, job, row.text)) for row in rows
    )
