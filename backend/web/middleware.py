"""What every request passes through, from the outside in: headers, failures, who may ask, and the spelling of paths.

The browser's own rules guard the site: the Host header must be a name of this site (without a login, of this machine),
else a page of another site could reach it by making its own name point here (DNS rebinding); a request that changes
something must come from our own pages. Other sites may read the API (`Access-Control-Allow-Origin: *`, so without
cookies), by GET and by the POST routes that change nothing. They may write only with accounts and an API key, which only
who has it can send; `identity` then does not look at cookies.
"""

import logging
import secrets
import time
from collections.abc import Callable

from fastapi import Request
from fastapi.responses import Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend import errors
from backend.settings import Access, Settings
from backend.web import callers

logger = logging.getLogger(__name__)

EMBEDDED_CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "font-src 'self'",
        "frame-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
    )
)
"""Of pages that are made to be embedded: any page may frame them, since nothing on them changes anything."""
CONTENT_SECURITY_POLICY = f"{EMBEDDED_CONTENT_SECURITY_POLICY}; frame-ancestors 'self'"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
READING = frozenset(
    f"/api/{path}"
    for path in (
        "activation/get", "activation/new", "activation/source", "cossim", "explanation/search", "explanation/search-all",
        "explanation/search-model", "explanation/search-release", "features", "features-offset", "global",
        "graph/features", "graph/subgraph/list", "list/get", "model/get", "model/list", "search-all",
        "search-topk-by-token", "steer-load", "steer/presets", "tokenize", "umap", "vector/get",
    )
)  # fmt: skip
"""POST routes of Neuronpedia's that only read: they ask with a body because what they ask for is long."""
MOST_FORM_BYTES = 2**16
MOST_JSON_BYTES = 2**23
MOST_FEATURES_BYTES = 2**26
"""Of features handed over: 128 of them, each with dozens of texts, are tens of megabytes."""
LIMIT_REMAINING = "x-limit-remaining"
"""Requests that could be made at once, as Neuronpedia names it."""

ErrorResponse = Callable[[Request, Exception], Response]


class SecurityHeaders:
    """Adds to every answer the headers that keep browsers strict, and those that let other sites read the API."""

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self._app = app
        self._is_with_accounts = settings.access is Access.ACCOUNTS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on and sends its answer with the headers."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_open_to_all = is_api(scope["path"]) and (
            _is_read(scope) or (self._is_with_accounts and callers.api_key(Headers(scope=scope)) is not None)
        )

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Referrer-Policy", "same-origin")
                if self._is_with_accounts:  # what one person may see is no other's, whatever cache stands between
                    headers.setdefault("Cache-Control", "private, no-cache")
                if is_open_to_all:
                    headers["Access-Control-Allow-Origin"] = "*"
                    headers["Access-Control-Expose-Headers"] = f"{LIMIT_REMAINING}, Retry-After"
                n_left = scope.get("state", {}).get("limit_remaining")
                if n_left is not None and is_api(scope["path"]):
                    headers[LIMIT_REMAINING] = str(n_left)
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
    """Refuses requests for names that are not the site's, and writes from pages that are not ours.

    Answers browsers that ask what another site's page may send (preflight requests, which carry no key).
    """

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self._app = app
        self._is_with_accounts = settings.access is Access.ACCOUNTS
        self._origins = callers.public_origins(settings)
        names = {callers.host_name(origin.partition("//")[2]) for origin in self._origins}
        self._names = callers.LOOPBACK_NAMES | {settings.host.strip("[]").lower()} | names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or raises `InvalidInputError` or `ForbiddenError`."""
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            if callers.host_name(headers.get("host", "")) not in self._names:
                place = self._origins[0] if self._origins else "http://localhost:<port>"
                raise errors.InvalidInputError(
                    "This address is not the site's name.", hint=f"Open Eyepiece as {place}."
                )
            if (
                scope.get("method") == "OPTIONS"
                and "access-control-request-method" in headers
                and is_api(scope["path"])
            ):
                await self._preflight(is_reading=_spelled(scope["path"]) in READING)(scope, receive, send)
                return
            has_key = self._is_with_accounts and callers.api_key(headers) is not None
            # With a cookie it would be read in somebody's name, which pages of other sites do not do.
            is_read = _is_read(scope) and (scope.get("method") in SAFE_METHODS or "cookie" not in headers)
            if not is_read and not has_key and not callers.is_own_origin(headers, self._origins):
                raise ForeignOriginError("Only Eyepiece's own pages may change something here.")
        await self._app(scope, receive, send)

    def _preflight(self, *, is_reading: bool) -> Response:
        methods = "GET, HEAD, POST" if is_reading else "GET, HEAD"
        if self._is_with_accounts:
            methods = "GET, HEAD, POST, PUT, PATCH, DELETE"
        return Response(
            status_code=204,
            headers={
                "Access-Control-Allow-Methods": methods,
                "Access-Control-Allow-Headers": "x-api-key, authorization, content-type",
                "Access-Control-Max-Age": "86400",
            },
        )


class BodyLimits:
    """Refuses forms and JSON too large for what they are: handlers are given them whole. Files are streamed, and free."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on; raises `TooLargeError`, at once where the request says its size."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        most = _most_bytes(scope["path"], headers.get("content-type", ""))
        length = headers.get("content-length", "")
        n_read = 0

        async def receive_some() -> Message:
            nonlocal n_read
            message = await receive()
            n_read += len(message.get("body", b""))
            if most is not None and n_read > most:
                raise TooLargeError(f"A body of this kind may have {most:,} bytes.")
            return message

        if most is not None and length.isdigit() and int(length) > most:
            raise TooLargeError(f"A body of this kind may have {most:,} bytes; this one has {int(length):,}.")
        await self._app(scope, receive_some, send)


class WithoutTrailingSlash:
    """Reads `/api/x/` as `/api/x`: clients of Neuronpedia's API write both."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on with its path so spelled."""
        if scope["type"] == "http" and len(scope["path"]) > 1 and scope["path"].endswith("/"):
            scope = {**scope, "path": _spelled(scope["path"])}
        await self._app(scope, receive, send)


class ReadAsJson:
    """Takes the body of a route that only reads for JSON, whatever it says of itself, as Neuronpedia's server does.

    Of the routes that write, a body that is not said to be JSON is refused: a page of another site can send one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, its body called JSON."""
        if scope["type"] == "http" and scope["method"] == "POST" and _spelled(scope["path"]) in READING:
            others = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
            scope = {**scope, "headers": [*others, (b"content-type", b"application/json")]}
        await self._app(scope, receive, send)


def _spelled(path: str) -> str:
    return path.rstrip("/") or "/"


def _is_read(scope: Scope) -> bool:
    """What changes nothing, whoever asks; a websocket has no method."""
    method = scope.get("method")
    return method in SAFE_METHODS or (method == "POST" and _spelled(scope["path"]) in READING)


def _most_bytes(path: str, content_type: str) -> int | None:
    """None: no limit here."""
    kind = content_type.partition(";")[0].strip().lower()
    if is_api(path):
        # A chunk or a file, whatever a program calls its kind; other handlers get a body whole, whatever its kind.
        is_file = path.startswith("/api/uploads/") and "/files/" in path
        is_streamed = is_file or path == "/api/uploads/whole" or path.startswith("/api/graph/put/")
        if is_streamed:
            return None
        return MOST_FEATURES_BYTES if _spelled(path) == "/api/feature/upload-batch" else MOST_JSON_BYTES
    return MOST_FORM_BYTES if kind == "application/x-www-form-urlencoded" else None


def is_api(path: str) -> bool:
    """True for paths that programs ask for."""
    return path == "/api" or path.startswith("/api/")


class ForeignOriginError(errors.SiteError):
    """A page of another site tried to write."""

    status = 403
    code = "foreign_origin"


class TooLargeError(errors.SiteError):
    """A form or a JSON body is larger than any sensible one."""

    status = 413
    code = "too_large"
