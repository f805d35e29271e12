"""Database and queue for the time of a `with`: what tests, `eyepiece up` and other commands start from.

- `running(data)`: both servers on a data folder nobody else uses.
- `available(data)`: those of the Eyepiece that runs on the folder now, else our own.
- `started(folder, …)`: the servers a caller needs on a folder it has opened; a URL it gives is taken instead.
Call them from a thread that outlives the `with`: servers end with the thread that started them.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from backend.embedded import account as accounts
from backend.embedded import data_folder, sockets
from backend.embedded.data_folder import DataFolder
from backend.embedded.postgres import Postgres
from backend.embedded.queue_server import QueueServer
from backend.embedded.supervisor import Member
from backend.errors import ConflictError, UnavailableError


@dataclass(frozen=True, slots=True)
class Urls:
    """Where the two servers are."""

    database_url: str
    """SQLAlchemy's."""
    redis_url: str
    """redis-py's."""


@dataclass(frozen=True, slots=True)
class Services(Urls):
    """Urls, and the servers behind them that are ours to watch."""

    servers: tuple[Member, ...]


@contextmanager
def running(data: Path) -> Iterator[Urls]:
    """Both servers on a data folder, stopped at the end."""
    with data_folder.opened(data) as folder, started(folder) as services:
        yield services


@contextmanager
def available(data: Path) -> Iterator[Urls]:
    """The servers of the Eyepiece that runs on the folder, or our own if none does."""
    with ExitStack() as stack:
        try:
            urls: Urls = stack.enter_context(running(data))
        except ConflictError:
            recorded = _recorded(data)
            if recorded is None:
                raise
            urls = recorded
        yield urls


@contextmanager
def started(folder: DataFolder, *, database_url: str = "", redis_url: str = "") -> Iterator[Services]:
    """The servers that no URL was given for, stopped in reverse order at the end.

    Raises:
        UnavailableError: One is not installed or does not start.
    """
    _file(folder.path).unlink(missing_ok=True)  # left by an Eyepiece that was killed
    with ExitStack() as stack:
        servers: list[Member] = []
        if not database_url or not redis_url:
            account = accounts.choose(folder.path)
            place = stack.enter_context(sockets.opened(folder.path, account))
        if not database_url:
            postgres = Postgres(folder, account, place)
            database_url = postgres.url
            servers.append(postgres)
        if not redis_url:
            queue = QueueServer(folder, account, place)
            redis_url = queue.url
            servers.append(queue)
        for server in servers:
            stack.callback(server.stop)  # first, so that one cut short while starting is stopped too
            server.start()
        services = Services(database_url, redis_url, tuple(servers))
        stack.enter_context(_record(folder, services))
        yield services


def _file(data: Path) -> Path:
    return DataFolder(data.expanduser().resolve()).run / "services.json"


@contextmanager
def _record(folder: DataFolder, urls: Urls) -> Iterator[None]:
    file = _file(folder.path)
    fresh = file.with_suffix(".new")
    fresh.touch(mode=0o600)  # a given URL may hold a password
    fresh.write_text(json.dumps({"database_url": urls.database_url, "redis_url": urls.redis_url}))
    fresh.replace(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _recorded(data: Path) -> Urls | None:
    file = _file(data)
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_text())
    except OSError as error:
        raise UnavailableError(f"{file} cannot be read: {error.strerror}.", hint="Run as the same user.") from error
    return Urls(found["database_url"], found["redis_url"])
