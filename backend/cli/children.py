"""The processes of a site besides its servers: web server, worker and live worker, as `eyepiece up` starts them.

They are told everything by `EYEPIECE_*` variables, one for each setting, so they need no arguments of ours.
"""

import http.client
import importlib.util
import os
import signal
import sys
import time
from pathlib import Path

from backend.embedded.data_folder import DataFolder
from backend.embedded.processes import Child, Program
from backend.settings import REPOSITORY, Settings

HEALTHY_S = 60.0
POLL_S = 0.05
DRAIN_S = 2
"""Seconds the web server gives open answers, such as streams of progress, when it is stopped."""


def all_of(settings: Settings, folder: DataFolder) -> list[Child]:
    """The children in the order they are started; the web server first."""
    web = ["uvicorn", "backend.web.app:create_app", "--factory", "--host", settings.host, "--port", str(settings.port)]
    # Who a request came from is ours to find out, by EYEPIECE_PROXIES: uvicorn would believe anything from this machine.
    web += ["--log-level", "warning", "--timeout-graceful-shutdown", str(DRAIN_S), "--no-proxy-headers"]
    children = [
        _child("web server", web, folder.logs / "web.log", settings),
        _child("worker", ["workers.celery_app"], folder.logs / "worker.log", settings),
    ]
    if importlib.util.find_spec("workers.live") is not None:
        children.append(_child("live worker", ["workers.live"], folder.logs / "live.log", settings))
    return children


def wait_until_healthy(web: Child, host: str, port: int) -> None:
    """Returns when the site answers.

    Raises:
        UnavailableError: The web server stopped, or does not answer in time.
    """
    deadline = time.monotonic() + HEALTHY_S
    while not _is_healthy(host, port):
        if web.poll() is not None:
            raise web.failure("stopped while starting")
        if time.monotonic() > deadline:
            raise web.failure(f"did not answer within {HEALTHY_S:.0f} s")
        time.sleep(POLL_S)


def environment(settings: Settings) -> dict[str, str]:
    """Our own environment with every setting as a variable."""
    ours = {f"EYEPIECE_{name.upper()}": str(value) for name, value in settings.model_dump().items()}
    return {**os.environ, **ours, "PYTHONUNBUFFERED": "1"}


def _child(name: str, module: list[str], log: Path, settings: Settings) -> Child:
    return Child(
        Program(
            name=name,
            command=(sys.executable, "-m", *module),
            folder=REPOSITORY,
            log=log,
            environment=environment(settings),
            stop=((signal.SIGTERM, DRAIN_S + 3.0),),
        )
    )


def _is_healthy(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/api/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
