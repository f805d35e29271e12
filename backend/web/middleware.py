"""What every request passes through, from the outside in: headers, failures, who may ask, and the spelling of paths.

There is no login, so the browser's own rules guard the site: the Host header must be a name of this machine, else a
page of another site could reach it by making its own name point here (DNS rebinding); a request that changes something
must come from our own pages. Other sites may read the API (`Access-Control-Allow-Origin: *`), never write.
"""

import logging
import secrets
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend import errors

logger = logging.getLogger(__name__)

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "font-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

ErrorResponse = Callable[[Request, Exception], Response]


class SecurityHeaders:
    """Adds to every answer the headers that keep browsers strict."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on and sends its answer with the headers."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_api_read = scope["method"] in SAFE_METHODS and is_api(scope["path"])

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Referrer-Policy", "same-origin")
                if is_api_read:
                    headers["Access-Control-Allow-Origin"] = "*"
            await send(message)

        await self._app(scope, receive, send_with_headers)


class Failures:
    """Turns what nobody handled into an answer that tells nothing but a number; the log has the rest under it."""

    def __init__(self, app: ASGIApp, *, respond: ErrorResponse) -> None:
        self._app, self._respond = app, respond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on under a number of its own."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})["request_id"] = request_id = secrets.token_hex(6)
        started_s, is_started = time.monotonic(), False

        async def send_and_note(message: Message) -> None:
            nonlocal is_started
            is_started = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception as error:
            if not isinstance(error, errors.SiteError):
                route = getattr(scope.get("route"), "path", "")
                took_s = round(time.monotonic() - started_s, 3)
                fields = {"request_id": request_id, "method": scope["method"], "route": route, "duration_s": took_s}
                logger.exception("request.failed", extra={"fields": fields})
            if is_started:
                raise
            await self._respond(Request(scope), error)(scope, receive, send)


class KnownCallers:
    """Refuses requests for names that are not this machine's, and writes from pages that are not ours."""

    def __init__(self, app: ASGIApp, *, host: str) -> None:
        self._app = app
        self._names = LOOPBACK_NAMES | {host.strip("[]").lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or raises `InvalidInputError` or `ForbiddenError`."""
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            host = headers.get("host", "")
            if _name(host) not in self._names:
                raise errors.InvalidInputError(
                    "This address is not a name of this machine.", hint="Open Eyepiece as http://localhost:<port>."
                )
            if scope.get("method") not in SAFE_METHODS:
                _check_origin(headers, host)
        await self._app(scope, receive, send)


class WithoutTrailingSlash:
    """Reads `/api/x/` as `/api/x`: clients of Neuronpedia's API write both."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on with its path so spelled."""
        if scope["type"] == "http" and len(scope["path"]) > 1 and scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
        await self._app(scope, receive, send)


def is_api(path: str) -> bool:
    """True for paths that programs ask for."""
    return path == "/api" or path.startswith("/api/")


def _name(host: str) -> str:
    """The host without its port; empty if it cannot be read."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _check_origin(headers: Headers, host: str) -> None:
    """Browsers name the page's origin on every request that may change something; programs do not."""
    origin = headers.get("origin")
    is_ours = headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")
    if origin is not None:
        is_ours = urlsplit(origin).netloc.lower() == host.lower()
    if not is_ours:
        raise ForeignOriginError("Only Eyepiece's own pages may change something here.")


class ForeignOriginError(errors.SiteError):
    """A page of another site tried to write."""

    status = 403
    code = "foreign_origin"
