"""API keys: made by their owner, shown once, kept as a hash, sent as `x-api-key` or `Authorization: Bearer`."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Account, ApiKey
from backend.services import accounts, tokens
from backend.services.access import SCOPES, Viewer
from backend.settings import Settings

PREFIX = "ep_"
"""So that programs that look for leaked secrets can know one."""
SHOWN = len(PREFIX) + 6
MAX_DAYS = 3650
MAX_NAME = 80
MAX_KEYS = 100
"""Of one account that are not revoked."""
NOTED_EVERY = timedelta(minutes=5)
"""When a key was used last is written no more often."""


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key as its owner sees it."""

    id: int
    name: str
    prefix: str
    scope: str
    created_at: datetime
    expires_at: datetime | None
    """None: never."""
    used_at: datetime | None
    is_valid: bool
    """Neither revoked nor expired."""


def add(session: Session, account_id: int, name: str, scope: str, *, days: int) -> str:
    """A new key, for the only time; 0 days: it does not expire. Raises `InvalidInputError` or `ForbiddenError`."""
    name = name.strip()
    problems = []
    if not (name.isprintable() and 1 <= len(name) <= MAX_NAME):
        problems.append(f"a key has a name of 1 to {MAX_NAME} characters")
    if scope not in SCOPES:
        problems.append(f"its scope is {', '.join(SCOPES[:-1])} or {SCOPES[-1]}")
    if not 0 <= days <= MAX_DAYS:
        problems.append(f"it is valid for 1 to {MAX_DAYS} days, or 0 for ever")
    if problems:
        raise errors.InvalidInputError("This key cannot be made.", hint="; ".join(problems).capitalize() + ".")
    account = session.get_one(Account, account_id, with_for_update=True)
    if scope == "admin" and not account.is_admin:
        raise errors.ForbiddenError("Only an admin's key can have the scope 'admin'.")
    n = session.scalar(select(func.count()).where(ApiKey.account_id == account_id, ApiKey.revoked_at.is_(None)))
    if (n or 0) >= MAX_KEYS:
        raise errors.ConflictError(f"The account has {n} keys.", hint="Revoke one first.")
    key = tokens.new(PREFIX)
    expires_at = func.now() + timedelta(days=days) if days else None
    session.add(
        ApiKey(
            account_id=account_id, name=name, prefix=key[:SHOWN], key_hash=tokens.digest(key), scope=scope,
            expires_at=expires_at,
        )
    )  # fmt: skip
    session.flush()
    return key


def viewer(session: Session, key: str, settings: Settings) -> Viewer:
    """Whose key this is and what it allows; raises `UnauthorizedError`."""
    of = select(ApiKey.id, ApiKey.scope, Account).join(Account, Account.id == ApiKey.account_id)
    found = session.execute(
        of.where(ApiKey.key_hash == tokens.digest(key), _is_valid(), Account.is_active)
    ).one_or_none()
    if found is None:
        raise errors.UnauthorizedError(
            "This API key is unknown, expired or revoked.", hint="Make one on your account's page."
        )
    is_old = or_(ApiKey.used_at.is_(None), ApiKey.used_at < func.now() - NOTED_EVERY)
    session.execute(update(ApiKey).where(ApiKey.id == found.id, is_old).values(used_at=func.now()))
    return accounts.viewer(found.Account, found.scope, settings)


def of_account(session: Session, account_id: int) -> tuple[KeyView, ...]:
    """The account's keys, newest first; revoked ones are left out."""
    of = select(ApiKey, _is_valid().label("is_valid")).where(
        ApiKey.account_id == account_id, ApiKey.revoked_at.is_(None)
    )
    return tuple(
        KeyView(k.id, k.name, k.prefix, k.scope, k.created_at, k.expires_at, k.used_at, is_valid)
        for k, is_valid in session.execute(of.order_by(ApiKey.id.desc()))
    )


def revoke(session: Session, account_id: int, key_id: int) -> None:
    """From now on the key is unknown; raises `NotFoundError` if it is not the account's."""
    of = update(ApiKey).where(ApiKey.id == key_id, ApiKey.account_id == account_id, ApiKey.revoked_at.is_(None))
    if session.scalar(of.values(revoked_at=func.now()).returning(ApiKey.id)) is None:
        raise errors.NotFoundError(f"The account has no key {key_id}.")


def _is_valid() -> ColumnElement[bool]:
    return ApiKey.revoked_at.is_(None) & or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now())
