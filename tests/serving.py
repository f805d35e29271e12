"""An application on a port of this machine, for clients that bring their own connections."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import urllib3.util.connection
import uvicorn
from fastapi import FastAPI


@contextmanager
def served(app: FastAPI) -> Iterator[int]:
    """The port the application answers at, until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def lead(monkeypatch: pytest.MonkeyPatch, host: str, port: int, to: int) -> None:
    """From now on requests to that host and port reach `to` on this machine, as if a name server said so."""
    monkeypatch.setenv("no_proxy", "*")
    connect = urllib3.util.connection.create_connection

    def redirected(address, *args, **kwargs):
        return connect(("127.0.0.1", to) if address == (host, port) else address, *args, **kwargs)

    monkeypatch.setattr(urllib3.util.connection, "create_connection", redirected)
