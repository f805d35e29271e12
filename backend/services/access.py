"""Who asks, and what they may change.

A web request's database session carries its `Viewer` as `session.info["viewer"]`; commands and workers have none. What
a viewer may see is `visibility`'s rule over every statement; a handler that changes something finds the row first
(what may not be seen is not there: 404), then calls one of the two checks here. Does not own accounts and keys, which
say who somebody is.
"""

from dataclasses import dataclass
from typing import Literal

from sqlalchemy.orm import Session

from backend import errors

Scope = Literal["read", "write", "admin"]
Visibility = Literal["private", "unlisted", "public"]


SCOPES: tuple[Scope, ...] = ("read", "write", "admin")
"""Each includes those before it."""
VISIBILITIES: tuple[Visibility, ...] = ("private", "unlisted", "public")


@dataclass(frozen=True, slots=True)
class Quota:
    """What an account may use; None: no limit."""

    n_bytes: int | None = None
    n_jobs: int | None = None
    """Queued or running at a time."""
    requests_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class Viewer:
    """Somebody who asks for a page or through the API."""

    account_id: int | None
    """None: nobody is signed in, or in `open` mode, where whoever reaches this machine is its operator."""
    name: str
    scopes: frozenset[Scope]
    """What the session or the key allows."""
    quota: Quota = Quota()

    @property
    def is_admin(self) -> bool:
        """Sees and changes everything."""
        return "admin" in self.scopes


OPERATOR = Viewer(None, "", frozenset({"read", "write", "admin"}))
"""`open` mode: there is no login, and only this machine reaches the site."""
NOBODY = Viewer(None, "", frozenset({"read"}))
"""With accounts: not signed in. Sees what is public, and what is unlisted by its address."""


def viewer_of(session: Session) -> Viewer:
    """Who asks through this session; `OPERATOR` for a command or a worker."""
    viewer: Viewer = session.info.get("viewer", OPERATOR)
    return viewer


def check_may_write(viewer: Viewer) -> None:
    """Return if the viewer may add and compute; raises `UnauthorizedError` or `ForbiddenError`."""
    if "write" in viewer.scopes:
        return
    if viewer.account_id is None:
        raise errors.UnauthorizedError("Nobody is signed in.", hint="Sign in, or send an API key as x-api-key.")
    raise errors.ForbiddenError("This API key may only read.", hint="Make one with the scope 'write'.")


def check_may_change(viewer: Viewer, owner_id: int | None) -> None:
    """Return if the viewer may change what that account owns (None: the host's own); raises as `check_may_write`."""
    check_may_write(viewer)
    if not may_change(viewer, owner_id):
        raise errors.ForbiddenError("This belongs to somebody else.", hint="Ask its owner, or an admin.")


def may_change(viewer: Viewer, owner_id: int | None) -> bool:
    """Whether `check_may_change` would return: for pages, which do not show what would be refused."""
    return "write" in viewer.scopes and owns(viewer, owner_id)


def owns(viewer: Viewer, owner_id: int | None) -> bool:
    """Whether it is the viewer's own: an admin's is everything."""
    return viewer.is_admin or (owner_id is not None and owner_id == viewer.account_id)
