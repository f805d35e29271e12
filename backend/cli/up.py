"""`eyepiece up`: the whole of Eyepiece in one terminal, until Ctrl-C.

Steps: 1. refuse what cannot work (an address others could reach without a login; another Eyepiece on the data;
a busy port), 2. start database and queue unless their URLs are given, 3. bring the tables up to date, 4. start web
server, worker and live worker, 5. wait until the site answers, 6. offer the demo, 7. keep everything running.
Everything is stopped in reverse order; a second Ctrl-C hurries. Nothing outlives this process even if it is killed.
"""

import errno
import ipaddress
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console

from backend import broker, names, wakeups
from backend.cli import children, follow, migrate
from backend.cli import demo as demos
from backend.db.session import create_engine, session_factory, transaction
from backend.embedded import data_folder, services
from backend.embedded.supervisor import Supervisor
from backend.errors import ConflictError, InvalidInputError, UnsupportedError
from backend.services import accounts, invitations
from backend.settings import Access, Settings

console = Console(soft_wrap=True, highlight=False, markup=False)


def up(
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of the site; 3000 if not given.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of all that is kept; `data` if not given.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 if not given.")] = None,
    demo: Annotated[bool, typer.Option("--demo/--no-demo", help="Compute the demo's dashboards.")] = True,
    sources: Annotated[int | None, typer.Option(min=1, help="Compute only so many of the demo's sources.")] = None,
) -> None:
    """Start Eyepiece: database, queue, workers and site. Ctrl-C stops it."""
    given: dict[str, Any] = {"port": port, "data": data, "host": host}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    with _stop_signals():
        try:
            _run(settings, n_sources=sources if demo else 0)
        except KeyboardInterrupt:
            console.print("Stopped.")


def _run(settings: Settings, *, n_sources: int | None) -> None:
    """From the refusals to the end of the last child; leaves only by an exception."""
    address = f"http://{f'[{settings.host}]' if ':' in settings.host else settings.host}:{settings.port}"
    if settings.access is Access.OPEN:
        refuse_open_network(settings.host)
    else:
        refuse_unknown_address(settings)
    with ExitStack() as stack:
        folder = stack.enter_context(data_folder.opened(settings.data, address=address))
        refuse_busy_port(settings.host, settings.port)
        with console.status("Starting database and queue"):
            servers = stack.enter_context(
                services.started(folder, database_url=settings.database_url, redis_url=settings.redis_url)
            )
            found = {"data": folder.path, "database_url": servers.database_url, "redis_url": servers.redis_url}
            settings = settings.model_copy(update=found)
            migrate.migrate(settings)
        started = children.all_of(settings, folder)
        with console.status("Starting the site"):
            for child in started:
                stack.callback(child.stop)
                child.start()
            children.wait_until_healthy(started[0], settings.host, settings.port)
        supervisor = Supervisor((*servers.servers, *started), report=console.print)
        stack.callback(console.print, "Stopping …")
        console.print(f"Eyepiece is at {address}")
        if settings.access is Access.ACCOUNTS:
            _invite_first(settings)
        _compute_demo(settings, address, n_sources, supervisor)
        supervisor.watch()


def _invite_first(settings: Settings) -> None:
    """Tell how the first account is made, while there is none."""
    engine = create_engine(settings.database_url)
    try:
        with transaction(session_factory(engine)) as session:
            if accounts.is_any(session):
                return
            link = settings.public_url.split(",")[0].strip().rstrip("/")
            link += names.set_up_url(invitations.invite(session, None))
    finally:
        engine.dispose()
    console.print(
        f"There is no account yet. This link makes the first, an admin's; it works once, for 24 hours:\n{link}"
    )


def _compute_demo(settings: Settings, address: str, n_sources: int | None, supervisor: Supervisor) -> None:
    """Host the demo and show its progress until it is computed; nothing to show the second time."""
    if n_sources == 0:
        return
    engine = create_engine(settings.database_url)
    try:
        sessions = session_factory(engine)
        with transaction(sessions) as session:
            job_ids = demos.register(session, settings.data, n_sources=n_sources)
        if job_ids:
            console.print("Computing the demo over this Python's own standard library; browse as it goes.")
            wakeups.send(sessions, broker.celery_app(settings))
            ended = follow.follow(sessions, job_ids, console, on_poll=supervisor.check)
            for view in ended:
                if view.state != "done":
                    console.print(f"{view.title}: {view.error or view.state}. See {address}{names.job_url(view.id)}")
        console.print(f"Browse the demo at {address}{names.model_url(demos.MODEL)}. Ctrl-C stops Eyepiece.")
    finally:
        engine.dispose()


def refuse_unknown_address(settings: Settings) -> None:
    """With accounts the site's name decides which requests it answers; raises `InvalidInputError` without one."""
    if not settings.public_url:
        raise InvalidInputError(
            "With EYEPIECE_ACCESS=accounts the site must know its address.",
            hint="Set EYEPIECE_PUBLIC_URL to what people open, such as https://eyepiece.example.org.",
        )


def refuse_open_network(host: str) -> None:
    """Lets only addresses of this machine pass.

    Raises:
        UnsupportedError: Others could reach the address.
        InvalidInputError: It is no address and no name of one.
    """
    if not all(ipaddress.ip_address(number).is_loopback for _, number in _addresses(host)):
        raise UnsupportedError(
            f"With no login, Eyepiece does not listen on {host!r}, where others could reach it.",
            hint="Set EYEPIECE_ACCESS=accounts, or use --host 127.0.0.1 and an ssh tunnel to reach it from elsewhere.",
        )


def refuse_busy_port(host: str, port: int) -> None:
    """Tries the port, so that the user reads one line rather than the web server's log.

    Raises:
        ConflictError: Another program listens there.
        InvalidInputError: This user may not listen there.
    """
    for family, number in _addresses(host):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the web server does
                probe.bind((number, port))
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue  # `localhost` has an IPv6 address even where the machine has none
            if error.errno == errno.EADDRINUSE:
                raise ConflictError(
                    f"Port {port} of {host} is already in use.", hint="Choose another with --port."
                ) from error
            raise InvalidInputError(f"Eyepiece cannot listen on port {port} of {host}: {error.strerror}.") from error


def _addresses(host: str) -> list[tuple[socket.AddressFamily, str]]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise InvalidInputError(
            f"{host!r} is not an address of this machine: {error.strerror}.", hint="Use --host 127.0.0.1."
        ) from error
    return [(family, str(place[0])) for family, _, _, _, place in found]


@contextmanager
def _stop_signals() -> Iterator[None]:
    """Every way a terminal or a service manager says stop becomes `KeyboardInterrupt`."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # else run by nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
