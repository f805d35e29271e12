"""What handlers are given: a database session that is committed before the response is sent, and files of the store."""

from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from backend import storage


def db_session(request: Request) -> Iterator[Session]:
    """One request, one transaction: committed after the handler, rolled back if it raised."""
    with request.app.state.sessions() as session:
        yield session
        session.commit()


DbSession = Annotated[Session, Depends(db_session, scope="function")]
"""With FastAPI's default scope the response would leave before the commit."""


def files(request: Request) -> storage.Mirror:
    """Blobs of the store as local files."""
    found: storage.Mirror = request.app.state.files
    return found


Files = Annotated[storage.Mirror, Depends(files)]
