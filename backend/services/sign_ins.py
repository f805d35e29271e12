"""Who is signed in where: a random token in a cookie, its sha256 in a row, gone with the row.

A token is made by signing in and never taken from the request, so nobody can be given one. Signing out, a new password
and disabling the account delete rows; there is nothing else to revoke.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from backend.db.tables import Account, SignIn
from backend.services import accounts, tokens
from backend.services.access import Viewer
from backend.settings import Settings

NOTED_EVERY = timedelta(minutes=5)
"""When somebody was seen last is written no more often."""
_MAX_BROWSER = 200


@dataclass(frozen=True, slots=True)
class SignInView:
    """One browser, as the account's owner sees it."""

    id: int
    browser: str
    address: str
    created_at: datetime
    seen_at: datetime
    expires_at: datetime
    is_this: bool
    """The one the reader is in."""


def start(session: Session, account_id: int, settings: Settings, *, browser: str, address: str) -> str:
    """Sign somebody in and return the token for the cookie; what has expired of theirs is cleared away."""
    session.execute(delete(SignIn).where(SignIn.account_id == account_id, SignIn.expires_at <= func.now()))
    token = tokens.new()
    expires_at = func.now() + timedelta(days=settings.session_days)
    session.add(
        SignIn(
            account_id=account_id, token_hash=tokens.digest(token), browser=browser[:_MAX_BROWSER], address=address,
            expires_at=expires_at,
        )
    )  # fmt: skip
    session.flush()
    return token


def viewer(session: Session, token: str, settings: Settings) -> Viewer | None:
    """Who signed in with this token; None if nobody is any more."""
    of = select(SignIn.id, Account).join(Account, Account.id == SignIn.account_id)
    is_valid = (SignIn.token_hash == tokens.digest(token), SignIn.expires_at > func.now(), Account.is_active)
    found = session.execute(of.where(*is_valid)).one_or_none()
    if found is None:
        return None
    is_old = SignIn.seen_at < func.now() - NOTED_EVERY
    session.execute(update(SignIn).where(SignIn.id == found.id, is_old).values(seen_at=func.now()))
    return accounts.viewer(found.Account, "admin", settings)


def of_account(session: Session, account_id: int, token: str) -> tuple[SignInView, ...]:
    """Where the account is signed in, last seen first; `token` is the reader's own."""
    of = select(SignIn).where(SignIn.account_id == account_id, SignIn.expires_at > func.now())
    this = tokens.digest(token)
    return tuple(
        SignInView(s.id, s.browser, s.address, s.created_at, s.seen_at, s.expires_at, s.token_hash == this)
        for s in session.scalars(of.order_by(SignIn.seen_at.desc(), SignIn.id.desc()))
    )


def end(session: Session, token: str) -> None:
    """Sign out; a token that is not valid any more is left alone."""
    session.execute(delete(SignIn).where(SignIn.token_hash == tokens.digest(token)))


def end_one(session: Session, account_id: int, sign_in_id: int) -> None:
    """Sign the account out in one browser."""
    session.execute(delete(SignIn).where(SignIn.account_id == account_id, SignIn.id == sign_in_id))


def end_others(session: Session, account_id: int, token: str) -> None:
    """Sign the account out everywhere but here."""
    others = SignIn.token_hash != tokens.digest(token)
    session.execute(delete(SignIn).where(SignIn.account_id == account_id, others))
