"""Who asks: found out once for every request, before any handler, and how often they may.

1. An API key, if one is sent, says who it is, and a wrong one is refused; cookies then mean nothing. What cannot be a
   key of ours is nobody's: Neuronpedia's clients send one of its keys whatever they ask.
2. Else the cookie of a browser that signed in; one that is not valid any more is nobody's.
3. The request is counted against the account, or the address where there is none.

`request.state.viewer` is the answer, `request.state.form_token` what forms of that browser must send back. In `open`
mode whoever reaches this machine is its operator, and a key, which Neuronpedia's clients always send, means nothing.
"""

import hashlib
import hmac

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Receive, Scope, Send

from backend import errors
from backend.services import access, keys, rates, sign_ins
from backend.services.access import Viewer
from backend.settings import Access, Settings
from backend.web import callers

PERIOD_S = 60.0
UNCOUNTED = frozenset({"/api/health"})
"""What restarts the site asks often, and must hear."""


class Identity:
    """Says who asks, and refuses those who ask too often."""

    def __init__(self, app: ASGIApp, *, free: tuple[str, ...]) -> None:
        """Paths below `free` are everybody's and not counted."""
        self._app, self._free = app, free

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on with its viewer; raises `UnauthorizedError` or `BusyError`."""
        if scope["type"] != "http" or scope["path"].startswith(self._free):
            await self._app(scope, receive, send)
            return
        settings: Settings = scope["app"].state.settings
        state = scope.setdefault("state", {})
        state["form_token"], state["sign_in"] = "", ""
        if settings.access is Access.OPEN:
            state["viewer"] = access.OPERATOR
            if settings.requests_per_minute:
                await run_in_threadpool(_count, scope, settings)
        else:
            await run_in_threadpool(_identify, scope, settings)
        await self._app(scope, receive, send)


def form_token(sign_in: str) -> str:
    """What forms of this browser send back: follows from the cookie's token, which it does not tell."""
    return hmac.new(sign_in.encode(), b"form", hashlib.sha256).hexdigest()


def _identify(scope: Scope, settings: Settings) -> None:
    headers, state = Headers(scope=scope), scope["state"]
    key, cookie = callers.api_key(headers), _cookie(headers, callers.cookie_name(settings))
    state["viewer"] = access.NOBODY
    if key is None and cookie:
        found = _signed_in(scope, cookie, settings)
        if found is not None:
            state["viewer"], state["sign_in"], state["form_token"] = found, cookie, form_token(cookie)
    elif key is not None and callers.is_ours(headers, keys.PREFIX):
        try:
            with scope["app"].state.sessions() as session:
                state["viewer"] = keys.viewer(session, key, settings)
                session.commit()
        except errors.UnauthorizedError:
            _count(scope, settings)
            raise
    _count(scope, settings)


def _signed_in(scope: Scope, cookie: str, settings: Settings) -> Viewer | None:
    with scope["app"].state.sessions() as session:
        viewer = sign_ins.viewer(session, cookie, settings)
        session.commit()
    return viewer


def _count(scope: Scope, settings: Settings) -> None:
    """Takes one from the bucket of the account or the address; raises `BusyError` when it is empty."""
    viewer: Viewer = scope["state"]["viewer"]
    per_minute = viewer.quota.requests_per_minute
    who = f"account:{viewer.account_id}"
    if viewer.account_id is None:
        per_minute = settings.requests_per_minute or rates.REQUESTS_PER_MINUTE
        who = f"address:{callers.network_of(callers.client_address(scope, settings.proxies))}"
    if per_minute is None or scope["path"] in UNCOUNTED:
        return
    taken = scope["app"].state.rates.take(who, per_minute, PERIOD_S)
    scope["state"]["limit_remaining"] = taken.n_left
    if not taken.is_allowed:
        raise errors.BusyError(
            f"More than {per_minute} requests came within a minute.",
            hint=f"Ask again in {taken.retry_after_s} s.", retry_after_s=taken.retry_after_s,
        )  # fmt: skip


def _cookie(headers: Headers, name: str) -> str:
    """Its value; empty if there is none."""
    return str(cookie_parser(headers.get("cookie", "")).get(name, ""))
