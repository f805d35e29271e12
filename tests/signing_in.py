"""A site with accounts, for tests: who has signed in, and with which cookie."""

from dataclasses import dataclass
from functools import cache

from argon2 import PasswordHasher
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session

from backend.db.tables import Account
from backend.services import keys, sign_ins
from backend.settings import Settings
from backend.web import callers, identity

ORIGIN = "https://eyepiece.example.org"
PASSWORD = "correct horse battery"


@dataclass(frozen=True)
class Person:
    """Somebody with an account, signed in."""

    id: int
    name: str
    token: str
    """Of the cookie."""

    @property
    def form_token(self) -> str:
        return identity.form_token(self.token)


@cache
def password_hash() -> str:
    return PasswordHasher().hash(PASSWORD)


def person(session: Session, settings: Settings, name: str, *, is_admin: bool = False) -> Person:
    """A new account with `PASSWORD`, signed in."""
    account = Account(name=name, password_hash=password_hash(), is_admin=is_admin)
    session.add(account)
    session.flush()
    token = sign_ins.start(session, account.id, settings, browser="A browser", address="192.0.2.1")
    session.commit()
    return Person(account.id, name, token)


def browser(app: FastAPI, who: Person | None = None) -> TestClient:
    """A browser at the site, in which `who` is signed in."""
    client = TestClient(app, base_url=ORIGIN, follow_redirects=False)
    client.headers["origin"] = ORIGIN
    if who is not None:
        client.cookies.set(callers.cookie_name(app.state.settings), who.token)
    return client


def program(app: FastAPI, session: Session, who: Person | None, scope: str = "write") -> TestClient:
    """A program with an API key of `who`."""
    client = TestClient(app, base_url=ORIGIN, follow_redirects=False)
    if who is not None:
        client.headers["x-api-key"] = keys.add(session, who.id, "a test", scope, days=1)
        session.commit()
    return client
