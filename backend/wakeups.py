"""Waking workers for the shards that wait: rows first, then messages, and rows put right if the queue is down.

Used by whoever has just committed work (commands, tasks) and by every worker's sweep. Opens its own transactions.
"""

from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from backend import broker, errors
from backend.db.session import transaction
from backend.services import jobs

RESEND_AFTER_S = 120.0
"""A message not claimed for this long may be lost; sending it again costs nothing."""


def send(sessions: sessionmaker[Session], app: Celery) -> None:
    """Send one message for each shard that needs one; raises `UnavailableError`, the shards then marked as unsent."""
    with transaction(sessions) as session:
        shard_ids = jobs.unsent(session, resend_after_s=RESEND_AFTER_S)
    try:
        broker.wake_workers(app, len(shard_ids))
    except errors.UnavailableError:
        with transaction(sessions) as session:
            jobs.forget_sending(session, shard_ids)
        raise
