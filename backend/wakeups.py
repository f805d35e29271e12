"""Waking workers for the shards that wait: as many messages as there are shards, less those that wait in the queue.

Used by whoever has just committed work (commands, tasks) and by every worker's sweep. Opens its own transaction.
"""

from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from backend import broker
from backend.db.session import transaction
from backend.services import shards


def send(sessions: sessionmaker[Session], app: Celery, *, straggler_s: float = 60.0) -> None:
    """Fill the queue up to one message for each shard a worker could claim; raises `UnavailableError`."""
    with transaction(sessions) as session:
        n = shards.n_waiting(session, straggler_s=straggler_s)
    broker.wake_workers(app, n)
