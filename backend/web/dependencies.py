"""What handlers are given: who asks, a database session that is theirs and committed before the response, files."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from backend import errors, storage
from backend.services import visibility
from backend.services.access import Viewer
from backend.settings import Access


def viewing(request: Request) -> Viewer:
    """Who asks; `middleware` has found out."""
    viewer: Viewer = request.state.viewer
    return viewer


Viewing = Annotated[Viewer, Depends(viewing)]


def signed_in(request: Request) -> Viewer:
    """Who is signed in in this browser: what accounts do about themselves is not done with a key.

    Raises `NotFoundError` where there are no accounts, `UnauthorizedError` where nobody is signed in.
    """
    check_accounts(request)
    if not request.state.sign_in:
        raise errors.UnauthorizedError("Nobody is signed in.", hint="Sign in first.")
    return viewing(request)


SignedIn = Annotated[Viewer, Depends(signed_in)]


def check_accounts(request: Request) -> None:
    """Raises `NotFoundError` in `open` mode."""
    if request.app.state.settings.access is Access.OPEN:
        raise errors.NotFoundError("There are no accounts here.", hint="EYEPIECE_ACCESS=accounts would start them.")


def administering(request: Request) -> Viewer:
    """An admin; to others there is no such page. Raises `UnauthorizedError` or `NotFoundError`."""
    viewer = viewing(request)
    if viewer.account_id is None and not viewer.is_admin:
        raise errors.UnauthorizedError("Nobody is signed in.", hint="Sign in as an admin.")
    if not viewer.is_admin:
        raise errors.NotFoundError("There is nothing at this address.")
    return viewer


Administering = Annotated[Viewer, Depends(administering)]


@contextmanager
def transaction(request: Request) -> Iterator[Session]:
    """For handlers that give their session back before they are done: committed with the block, seen by who asks."""
    with request.app.state.sessions() as session:
        visibility.see_as(session, viewing(request))
        yield session
        session.commit()


def db_session(request: Request) -> Iterator[Session]:
    """One request, one transaction: committed after the handler, rolled back if it raised."""
    with transaction(request) as session:
        yield session


DbSession = Annotated[Session, Depends(db_session, scope="function")]
"""With FastAPI's default scope the response would leave before the commit."""


def files(request: Request) -> storage.Mirror:
    """Blobs of the store as local files."""
    found: storage.Mirror = request.app.state.files
    return found


Files = Annotated[storage.Mirror, Depends(files)]
