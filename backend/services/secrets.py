"""Tokens of other services, sealed at rest: put once, read by workers, never shown again.

Sealed with Fernet (AES-128-CBC and HMAC-SHA256) by the key of `EYEPIECE_SECRET_KEY`, or of a file in the data folder that
is made at the first use and only its owner may read. Who has a copy of the database has no token. A token is an
account's own, or the host's: jobs of accounts never use the host's.
"""

import base64
import hashlib
import os
import re
from dataclasses import dataclass
from datetime import datetime

from cryptography.fernet import Fernet, InvalidToken
from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Secret
from backend.settings import Settings

HUGGING_FACE = "huggingface"
NAMES = (HUGGING_FACE,)
KEY_FILE = "secret.key"
_TOKEN = re.compile(r"[\x21-\x7e]{8,512}")


@dataclass(frozen=True, slots=True)
class SecretView:
    """That there is a token; not which."""

    name: str
    created_at: datetime


def put(session: Session, settings: Settings, name: str, token: str, owner_id: int | None) -> None:
    """Keep a token, instead of the one there was; raises `InvalidInputError` for what is none."""
    check_name(name)
    token = token.strip()
    if _TOKEN.fullmatch(token) is None:
        raise errors.InvalidInputError("that is no token.", hint="Copy it from huggingface.co/settings/tokens.")
    sealed = _lock(settings).encrypt(token.encode())
    row = insert(Secret).values(owner_id=owner_id, name=name, sealed=sealed)
    session.execute(
        row.on_conflict_do_update(
            index_elements=["owner_id", "name"],
            set_={"sealed": row.excluded.sealed, "created_at": row.excluded.created_at},
        )
    )


def get(session: Session, settings: Settings, name: str, owner_id: int | None) -> str | None:
    """The owner's token; None if there is none. Raises `UnavailableError` where the key is not the one it was sealed by."""
    query = select(Secret.sealed).where(Secret.name == name, Secret.owner_id.is_not_distinct_from(owner_id))
    sealed = session.scalar(query)
    if sealed is None:
        return None
    try:
        return _lock(settings).decrypt(sealed).decode()
    except InvalidToken as error:
        raise errors.UnavailableError(
            f"the {name} token was sealed with another key.",
            hint="Set EYEPIECE_SECRET_KEY as it was, or give the token again.",
        ) from error


def forget(session: Session, name: str, owner_id: int | None) -> bool:
    """Delete a token; False if there was none."""
    check_name(name)
    mine = delete(Secret).where(Secret.name == name, Secret.owner_id.is_not_distinct_from(owner_id))
    return session.execute(mine.returning(Secret.id)).first() is not None


def of_owner(session: Session, owner_id: int | None) -> tuple[SecretView, ...]:
    """Which tokens there are."""
    query = select(Secret.name, Secret.created_at).where(Secret.owner_id.is_not_distinct_from(owner_id))
    return tuple(SecretView(*row) for row in session.execute(query.order_by(Secret.name)))


def check_name(name: str) -> None:
    """Return if tokens of that service are kept; raises `NotFoundError`."""
    if name not in NAMES:
        raise errors.NotFoundError(f"no tokens of '{name[:50]}' are kept.", hint=f"Known: {', '.join(NAMES)}.")


def _lock(settings: Settings) -> Fernet:
    given = settings.secret_key.get_secret_value()
    key = hashlib.sha256(given.encode()).digest() if given else _key_of_file(settings)
    return Fernet(base64.urlsafe_b64encode(key))


def _key_of_file(settings: Settings) -> bytes:
    """32 bytes, the same for whoever comes first and after."""
    path = settings.data / KEY_FILE
    try:
        return path.read_bytes()
    except FileNotFoundError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{KEY_FILE}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(os.urandom(32))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(partial, path)  # unlike a rename it never replaces a key that something was sealed with
    except FileExistsError:
        pass
    finally:
        partial.unlink()
    return path.read_bytes()
