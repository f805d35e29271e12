"""Accounts: adding, checking a password, changing and disabling them.

Passwords are kept as argon2id (RFC 9106's parameters for 64 MiB, as argon2-cffi chooses them). A name that is not there
takes the same work as a wrong password, so the time an answer takes does not tell which names exist. Does not own who
is signed in (`sign_ins`), keys (`keys`), links to choose a password (`invitations`), nor what accounts may use (`limits`).
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from threading import BoundedSemaphore

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Account, SignIn
from backend.services import rates
from backend.services.access import SCOPES, Quota, Scope, Viewer
from backend.settings import Settings

MIN_PASSWORD = 10
MAX_PASSWORD = 1000
"""Characters."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")
_hashing = BoundedSemaphore(2)
"""Each takes 64 MiB: a crowd at the sign-in page must not take all memory."""
_waiting = BoundedSemaphore(8)
"""Those who hash or wait to: nor all of the threads that answer everybody else."""
RETRY_AFTER_S = 2


@dataclass(frozen=True, slots=True)
class AccountView:
    """An account as its owner and admins see it."""

    id: int
    name: str
    is_admin: bool
    is_active: bool
    has_password: bool
    """False until its first link is used."""
    quota_bytes: int | None
    """None: as the settings say; 0: no limit. So are the next two."""
    quota_jobs: int | None
    requests_per_minute: int | None
    created_at: datetime


def add(session: Session, name: str, password: str = "", *, is_admin: bool = False) -> int:
    """A new account and its id; without a password it waits for an invitation.

    Raises `InvalidInputError`, or `ConflictError` if the name is taken.
    """
    name = _checked_name(name)
    if password:
        check_password(password)
    if session.scalar(select(Account.id).where(Account.name == name)) is not None:
        raise errors.ConflictError(f"There is an account '{name}' already.", hint="Choose another name.")
    account = Account(name=name, password_hash=_hash(password) if password else "", is_admin=is_admin)
    session.add(account)
    session.flush()
    return account.id


def authenticate(session: Session, name: str, password: str) -> int:
    """The id of the account with this name and password.

    Raises `UnauthorizedError`, the same for every reason, or `BusyError` where too many ask at once.
    """
    account = _by_name(session, name)
    is_right = _verify(account.password_hash if account else "", password)
    if account is None or not is_right or not account.is_active:
        raise errors.UnauthorizedError("Name and password do not fit.", hint="An admin can send a link for a new one.")
    if _hasher().check_needs_rehash(account.password_hash):
        account.password_hash = _hash(password)
    return account.id


def set_password(session: Session, account_id: int, password: str) -> None:
    """Choose a password; whoever is signed in with the old one is so no more."""
    check_password(password)
    session.get_one(Account, account_id).password_hash = _hash(password)
    session.execute(delete(SignIn).where(SignIn.account_id == account_id))


def set_active(session: Session, account_id: int, *, is_active: bool) -> None:
    """Disable an account, which signs it out everywhere, or enable it; raises `ConflictError` for the last admin."""
    account = _locked(session, account_id)
    if not is_active:
        _refuse_last_admin(session, account)
        session.execute(delete(SignIn).where(SignIn.account_id == account_id))
    account.is_active = is_active


def set_admin(session: Session, account_id: int, *, is_admin: bool) -> None:
    """Make somebody an admin, or no longer one; raises `ConflictError` for the last one."""
    account = _locked(session, account_id)
    if not is_admin:
        _refuse_last_admin(session, account)
    account.is_admin = is_admin


def set_quota(
    session: Session, account_id: int, *, n_bytes: int | None, n_jobs: int | None, requests_per_minute: int | None
) -> None:
    """What this account may use; None: as the settings say, 0: no limit."""
    account = _locked(session, account_id)
    account.quota_bytes, account.quota_jobs, account.requests_per_minute = n_bytes, n_jobs, requests_per_minute


def get(session: Session, account_id: int) -> AccountView:
    """One account; raises `NotFoundError`."""
    account = session.get(Account, account_id, populate_existing=True)
    if account is None:
        raise errors.NotFoundError(f"There is no account {account_id}.")
    return _view(account)


def named(session: Session, name: str) -> AccountView:
    """The account of that name; raises `NotFoundError`."""
    account = _by_name(session, name)
    if account is None:
        raise errors.NotFoundError(f"There is no account '{name}'.", hint="`eyepiece users list` lists them.")
    return _view(account)


def all_of(session: Session) -> tuple[AccountView, ...]:
    """Every account, by name."""
    return tuple(_view(account) for account in session.scalars(select(Account).order_by(Account.name)))


def is_any(session: Session) -> bool:
    """False before the first account is made."""
    return session.scalar(select(Account.id).limit(1)) is not None


def viewer(account: Account, scope: str, settings: Settings) -> Viewer:
    """What the account may do through a session or key of that scope, with its own limits or the settings'."""
    most = "admin" if account.is_admin else "write"
    allowed: list[Scope] = list(SCOPES[: 1 + min(SCOPES.index(_scope(scope)), SCOPES.index(_scope(most)))])
    return Viewer(account.id, account.name, frozenset(allowed), quota(account, settings))


def quota(account: Account | AccountView, settings: Settings) -> Quota:
    """The account's own limits, else the settings'; admins have none but their own."""
    usual = Quota() if account.is_admin else _usual(settings)
    return Quota(
        _own(account.quota_bytes, usual.n_bytes),
        _own(account.quota_jobs, usual.n_jobs),
        _own(account.requests_per_minute, usual.requests_per_minute),
    )


def _usual(settings: Settings) -> Quota:
    per_minute = settings.requests_per_minute or rates.REQUESTS_PER_MINUTE
    return Quota(int(settings.quota_gb * 1e9) or None, settings.quota_jobs or None, per_minute)


def _own(own: int | None, usual: int | None) -> int | None:
    return usual if own is None else own or None


def check_password(password: str) -> None:
    """Raises `InvalidInputError` for one that is too short, or so long that it is no password."""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise errors.InvalidInputError(
            f"The password has {len(password)} characters.",
            hint=f"Choose one of {MIN_PASSWORD} to {MAX_PASSWORD}; several words are easy to remember.",
        )


def _checked_name(name: str) -> str:
    name = name.strip().lower()
    if _NAME.fullmatch(name) is None:
        raise errors.InvalidInputError(
            f"'{name[:60]}' cannot be the name of an account.",
            hint="Use letters, digits, '.', '_' and '-', at most 40, starting with a letter or digit.",
        )
    return name


def _by_name(session: Session, name: str) -> Account | None:
    """None too for what is no name: Postgres refuses even to compare a NUL."""
    name = name.strip().lower()
    return session.scalar(select(Account).where(Account.name == name)) if _NAME.fullmatch(name) else None


def _locked(session: Session, account_id: int) -> Account:
    account = session.get(Account, account_id, with_for_update=True, populate_existing=True)
    if account is None:
        raise errors.NotFoundError(f"There is no account {account_id}.")
    return account


def _refuse_last_admin(session: Session, account: Account) -> None:
    """Without an admin nobody could put anything right from the site."""
    others = select(Account.id).where(Account.is_admin, Account.is_active, Account.id != account.id)
    if account.is_admin and not session.scalars(others.with_for_update()).all():
        raise errors.ConflictError(f"'{account.name}' is the last admin.", hint="Make somebody else one first.")


def _view(account: Account) -> AccountView:
    return AccountView(
        account.id, account.name, account.is_admin, account.is_active, bool(account.password_hash), account.quota_bytes,
        account.quota_jobs, account.requests_per_minute, account.created_at,
    )  # fmt: skip


def _scope(text: str) -> Scope:
    return next(scope for scope in SCOPES if scope == text)


@cache
def _hasher() -> PasswordHasher:
    return PasswordHasher()


@cache
def _of_nobody() -> str:
    """Verified where there is no password to verify, for the time it takes."""
    return _hasher().hash("nobody's password")


@contextmanager
def _turn() -> Iterator[None]:
    if not _waiting.acquire(blocking=False):
        raise errors.BusyError(
            "Too many people sign in at this moment.", hint="Try again in a moment.", retry_after_s=RETRY_AFTER_S
        )
    try:
        with _hashing:
            yield
    finally:
        _waiting.release()


def _hash(password: str) -> str:
    with _turn():
        return _hasher().hash(password)


def _verify(password_hash: str, password: str) -> bool:
    nobody = _of_nobody()  # made on the first call, whoever that is about
    with _turn():
        try:
            is_right = _hasher().verify(password_hash or nobody, password[:MAX_PASSWORD])
        except (VerificationError, InvalidHashError):
            return False
    return is_right and bool(password_hash)
