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
            # Compiling a plan takes longer than any of our queries.
            "options": "-c jit=off",
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
