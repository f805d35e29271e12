"""Connections to Postgres: the engine, the factory of sessions, and one transaction.

Services take a `Session` and never commit; the edges (a web request, a task, a command) open the transaction here.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

CONNECT_TIMEOUT_S = 5
POOL_SIZE = 10
MAX_OVERFLOW = 20
"""Above FastAPI's 40 worker threads only in sum: a burst waits for a connection rather than exhaust the server's 100."""

DEAD_AFTER_S = 27
"""A host that cannot be reached is given up by both sides, and what its transactions have locked is free again."""
_SERVER_OPTIONS = {
    "jit": "off",  # compiling a plan takes longer than any of our queries
    "tcp_keepalives_idle": DEAD_AFTER_S // 3,
    "tcp_keepalives_interval": DEAD_AFTER_S // 9,
    "tcp_keepalives_count": 6,
    "tcp_user_timeout": 1000 * DEAD_AFTER_S,
    "idle_in_transaction_session_timeout": 120_000,
}


def create_engine(url: str) -> Engine:
    """A pooled engine that notices a restarted server before a request does."""
    return sqlalchemy.create_engine(
        url,
        pool_size=POOL_SIZE,
        max_overflow=MAX_OVERFLOW,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": "eyepiece",
            "keepalives_idle": DEAD_AFTER_S // 3,
            "keepalives_interval": DEAD_AFTER_S // 9,
            "keepalives_count": 6,
            "tcp_user_timeout": 1000 * DEAD_AFTER_S,
            "options": " ".join(f"-c {name}={value}" for name, value in _SERVER_OPTIONS.items()),
        },
    )


def session_factory(engine: Engine) -> sessionmaker[Session]:
    """Sessions whose rows stay readable after commit."""
    return sessionmaker(engine, expire_on_commit=False)


@contextmanager
def transaction(sessions: sessionmaker[Session]) -> Iterator[Session]:
    """A session that commits when the block ends and rolls back when it raises."""
    with sessions.begin() as session:
        yield session
