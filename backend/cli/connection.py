"""How a command reaches an Eyepiece: the one that runs on the data folder, one named by URLs, or one of its own.

`add` works with nothing running too: it starts database, queue and a worker for as long as it follows its job.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session, sessionmaker

from backend.cli import children, migrate
from backend.db.session import create_engine, session_factory
from backend.embedded import data_folder, services
from backend.embedded.processes import Child
from backend.settings import Settings


@dataclass(frozen=True, slots=True)
class Connection:
    """An open way to the database, and the settings that hold its URLs."""

    settings: Settings
    sessions: sessionmaker[Session]
    check: Callable[[], None]
    """Raises `UnavailableError` when a worker of our own has died."""
    address: str
    """Of the site: the one that runs on the folder, or where `eyepiece up` would serve it."""


def settings_of(data: Path | None) -> Settings:
    """Settings with a data folder given on the command line."""
    given: dict[str, Any] = {} if data is None else {"data": data}
    return Settings(**given)


@contextmanager
def opened(data: Path | None, *, with_worker: bool = False) -> Iterator[Connection]:
    """Connect; where no Eyepiece runs, start database and queue (and a worker, on request) for the time of the `with`.

    Raises:
        UnavailableError: The servers cannot be started.
    """
    settings = settings_of(data)
    with ExitStack() as stack:
        check: Callable[[], None] = _nothing_to_check
        if not (settings.database_url and settings.redis_url):
            urls = stack.enter_context(services.available(settings.data))
            is_own = isinstance(urls, services.Services)
            found = {"database_url": urls.database_url, "redis_url": urls.redis_url, "data": settings.data.resolve()}
            settings = settings.model_copy(update=found)
            if is_own:
                migrate.migrate(settings)
                if with_worker:
                    folder = data_folder.DataFolder(settings.data)
                    worker = children.all_of(settings, folder)[1]
                    stack.callback(worker.stop)
                    worker.start()
                    check = partial(_refuse_dead, worker)
        engine = create_engine(settings.database_url)
        stack.callback(engine.dispose)
        address = data_folder.address_of(settings.data) or f"http://{settings.host}:{settings.port}"
        yield Connection(settings, session_factory(engine), check, address)


def _nothing_to_check() -> None:
    """The Eyepiece that runs watches its own workers."""


def _refuse_dead(worker: Child) -> None:
    if worker.poll() is not None:
        raise worker.failure("stopped")
