"""Uploads to a real server process: in little memory however large, and resumed where a connection was cut."""

import hashlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from backend.cli import children
from backend.settings import REPOSITORY
from tests import tiny
from tests.site import Site
from tests.site import site as site

MB = 1_000_000
MOST_BYTES = 200 * MB
"""The whole web process, with everything it has imported."""
LARGE_BYTES = int(os.environ.get("EYEPIECE_TEST_UPLOAD_MB", "300")) * MB
"""`EYEPIECE_TEST_UPLOAD_MB=2048` sends two gigabytes; what is held in memory would show with less."""
PIECE = bytes(range(256)) * 4096


class Server:
    """The web process, and the most memory it has taken."""

    def __init__(self, process: subprocess.Popen[bytes], address: str) -> None:
        self.process, self.address = process, address
        self.most_bytes = 0
        self._watched = psutil.Process(process.pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.most_bytes = max(self.most_bytes, self._watched.memory_info().rss)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture(scope="module")
def server(site: Site) -> Iterator[Server]:
    (site.folder / "manifest.json").write_text("{}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = children.environment(site.settings.model_copy(update={"assets": site.folder}))
    command = ["-m", "uvicorn", "backend.web.app:create_app", "--factory", "--port", str(port), "--log-level", "error"]
    with (site.folder / "web.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, *command], cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
    server = Server(process, f"http://127.0.0.1:{port}")
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{server.address}/api/uploads").raise_for_status()
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline, (site.folder / "web.log").read_text()
                time.sleep(0.1)
        yield server
    finally:
        server.close()


def pieces(n_bytes: int) -> Iterator[bytes]:
    for start in range(0, n_bytes, len(PIECE)):
        yield PIECE[: min(len(PIECE), n_bytes - start)]


def test_a_large_file_passes_through_little_memory(server: Server, site: Site) -> None:
    """One chunk of the whole size: the worst case. Its bytes are on the disk, and the process never held them."""
    with httpx.Client(base_url=f"{server.address}/api/", timeout=600) as api:
        listed = [{"name": "large.txt", "size": LARGE_BYTES}]
        made = api.post("uploads", json={"kind": "corpus", "files": listed}).json()
        headers = {"Upload-Offset": "0", "Content-Length": str(LARGE_BYTES)}
        path = f"uploads/{made['id']}/files/large.txt"
        sent = api.patch(path, content=pieces(LARGE_BYTES), headers=headers).json()
        assert sent["offset"] == LARGE_BYTES
        done = api.post(f"uploads/{made['id']}/complete", json={}).json()
        expected = hashlib.sha256()
        for piece in pieces(LARGE_BYTES):
            expected.update(piece)
        assert done["files"][0]["sha256"] == expected.hexdigest()
        sys.stdout.write(
            f"{LARGE_BYTES / MB:,.0f} MB uploaded; the web process took {server.most_bytes / MB:.0f} MB at most\n"
        )
        assert server.most_bytes < MOST_BYTES
        assert api.delete(f"uploads/{made['id']}").status_code == 200
    assert not list((site.settings.data / "blobs").rglob("large.txt"))


def test_an_upload_cut_at_half_goes_on_and_is_verified(server: Server, tmp_path: Path) -> None:
    """The connection is reset, not closed: as when a network is gone."""
    folder = tiny.save_sae(tmp_path / "cut", architecture="standard", d_sae=30_000)
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    weights = files["sae_weights.safetensors"]
    half = len(weights) // 2
    with httpx.Client(base_url=f"{server.address}/api/", timeout=60) as api:
        listed = [
            {"name": f"cut/{name}", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
        ]
        upload_id = api.post("uploads", json={"files": listed}).json()["id"]
        path = f"uploads/{upload_id}/files/cut"
        api.patch(f"{path}/cfg.json", content=files["cfg.json"], headers={"Upload-Offset": "0"}).raise_for_status()
        cut(server, f"/api/{path}/sae_weights.safetensors", weights, half)

        def offset() -> int:
            found = api.get(f"uploads/{upload_id}").json()["files"]
            return next(file["offset"] for file in found if file["name"].endswith("safetensors"))

        deadline = time.monotonic() + 30
        while True:  # the server hears of the cut in its own time, and lets go of the file then
            there = offset()
            rest = api.patch(
                f"{path}/sae_weights.safetensors", content=weights[there:], headers={"Upload-Offset": str(there)}
            )
            if rest.status_code == 200:
                break
            assert rest.status_code == 409, rest.text
            assert time.monotonic() < deadline
        assert 0 < there <= half
        done = api.post(f"uploads/{upload_id}/complete", json={})
        assert done.status_code == 200, done.text
        assert done.json()["found"][0]["d_sae"] == 30_000


def cut(server: Server, path: str, data: bytes, n_sent: int) -> None:
    """Begin to send all of `data`, and reset the connection after `n_sent` bytes of it."""
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"PATCH {path} HTTP/1.1\r\nHost: localhost:{port}\r\nUpload-Offset: 0\r\nContent-Length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data[:n_sent])
        time.sleep(0.3)  # a reset throws away what the other side has not read yet
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
