"""Links that are used once: to make the first account, or to choose a password for one that is there.

Whoever holds the link may use it, so it is made for one account, valid for a while, and replaced by the next one.
"""

from datetime import timedelta

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Invitation
from backend.services import accounts, tokens
from backend.services.accounts import AccountView

VALID_FOR = timedelta(hours=24)


def invite(session: Session, account_id: int | None) -> str:
    """The token of a link to choose the account's password; None: to make the first account. Earlier links end."""
    session.execute(delete(Invitation).where(_of(account_id)))
    token = tokens.new()
    session.add(Invitation(token_hash=tokens.digest(token), account_id=account_id, expires_at=func.now() + VALID_FOR))
    session.flush()
    return token


def of(session: Session, token: str) -> AccountView | None:
    """Whose password the link chooses; None: it makes the first account. Raises `NotFoundError`."""
    query = select(Invitation).where(Invitation.token_hash == tokens.digest(token), Invitation.expires_at > func.now())
    found = session.scalar(query)
    if found is None or (found.account_id is None and accounts.is_any(session)):
        raise _no_link()
    return None if found.account_id is None else accounts.get(session, found.account_id)


def accept(session: Session, token: str, password: str, *, name: str = "") -> int:
    """Use the link, and return the account: it has the password now, and `name` if the link makes it.

    Raises `NotFoundError` if the link cannot be used any more, `InvalidInputError` for a bad name or password.
    """
    is_it = (Invitation.token_hash == tokens.digest(token), Invitation.expires_at > func.now())
    # Deleted before anything else: of two who use it at once, the second finds nothing.
    used = session.execute(delete(Invitation).where(*is_it).returning(Invitation.account_id)).one_or_none()
    if used is None:
        raise _no_link()
    if used.account_id is not None:
        accounts.set_password(session, used.account_id, password)
        return int(used.account_id)
    if accounts.is_any(session):
        raise _no_link()
    accounts.check_password(password)
    return accounts.add(session, name, password, is_admin=True)


def _of(account_id: int | None) -> ColumnElement[bool]:
    return Invitation.account_id.is_(None) if account_id is None else Invitation.account_id == account_id


def _no_link() -> errors.NotFoundError:
    return errors.NotFoundError("This link is used up, too old or wrong.", hint="Ask an admin for a new one.")
