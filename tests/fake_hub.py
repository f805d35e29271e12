"""A local HTTP server that answers as the Hugging Face hub does: repositories from a folder, tokens, refusals."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GOOD = "hf_good_token"


class FakeHub:
    """`folder/models/OWNER/NAME` and `folder/datasets/OWNER/NAME` are what it has; `gated` ones want `GOOD`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gated: set[str] = set()
        self.asked: list[str] = []
        self.status = 0
        """Answer everything with it."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self)

            def do_HEAD(self) -> None:
                hub.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator["FakeHub"]:
        thread = threading.Thread(target=self._server.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = unquote(urlsplit(request.path).path).strip("/").split("/")
        self.asked.append("/".join(parts))
        is_api = parts[0] == "api"
        parts = parts[1:] if is_api else parts
        kind = parts[0] if parts[0] in ("models", "datasets") else "models"
        if len(parts) < 3:
            return self._send(request, 404, {}, b"{}")
        owner, name, *rest = parts[1:] if parts[0] == kind else parts
        repo = self.folder / kind / owner / name
        if self.status:
            return self._send(request, self.status, {}, b"{}")
        if not repo.is_dir():
            return self._send(request, 404, {"X-Error-Code": "RepoNotFound"}, b"{}")
        if f"{owner}/{name}" in self.gated and request.headers.get("authorization") != f"Bearer {GOOD}":
            status = 403 if request.headers.get("authorization") else 401
            return self._send(request, status, {"X-Error-Code": "GatedRepo"}, b"{}")
        revision = rest[1] if len(rest) > 1 else "main"
        if revision not in ("main", COMMIT):
            return self._send(request, 404, {"X-Error-Code": "RevisionNotFound"}, b"{}")
        if is_api:
            files = sorted(path for path in repo.rglob("*") if path.is_file())
            named = [{"rfilename": path.relative_to(repo).as_posix(), "size": path.stat().st_size} for path in files]
            body = json.dumps({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": named}).encode()
            return self._send(request, 200, {"Content-Type": "application/json"}, body)
        body = (repo / "/".join(rest[2:])).read_bytes()
        etag = hashlib.sha256(body).hexdigest()
        return self._send(request, 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, body)

    def _send(self, request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)
