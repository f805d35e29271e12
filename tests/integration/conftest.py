"""The database of `tests/database.py`, and the application on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

from backend.services import visibility
from backend.settings import Access, Settings
from backend.web.app import create_app
from tests import signing_in
from tests.database import connection as connection
from tests.database import database_url as database_url
from tests.database import engine as engine
from tests.database import session as session
from tests.database import sessions as sessions


@pytest.fixture
def app(database_url: str, sessions: sessionmaker[Session], tmp_path: Path) -> FastAPI:
    """Every request's transaction is inside the test's; no assets are built."""
    (tmp_path / "manifest.json").write_text("{}")
    app = create_app(Settings(database_url=database_url, redis_url="", assets=tmp_path, data=tmp_path / "data"))
    app.state.sessions = sessions
    return app


@pytest.fixture
def api(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url="http://localhost/api/", raise_server_exceptions=True) as client:
        yield client


@pytest.fixture
def site(database_url: str, sessions: sessionmaker[Session], tmp_path: Path) -> FastAPI:
    """The application with accounts; assets are stand-ins, and nothing is counted."""
    (tmp_path / "manifest.json").write_text(
        '{"main.js": "main-1.js", "main.css": "main-2.css", "icon.svg": "icon.svg"}'
    )
    settings = Settings(
        database_url=database_url, redis_url="", assets=tmp_path, data=tmp_path / "data",
        access=Access.ACCOUNTS, public_url=signing_in.ORIGIN,
    )  # fmt: skip
    app = create_app(settings)
    app.state.sessions = visibility.only_public(sessionmaker(**sessions.kw))
    return app
