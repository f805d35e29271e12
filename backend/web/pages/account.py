"""Pages of signing in and of one's own account: password, browsers, API keys. In `open` mode there are none of them."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.orm import Session

from backend import errors
from backend.services import accounts, invitations, keys, limits, sign_ins
from backend.services.access import SCOPES, Viewer
from backend.services.accounts import AccountView
from backend.services.keys import KeyView
from backend.services.limits import Usage
from backend.services.sign_ins import SignInView
from backend.settings import Settings
from backend.web import callers, forms, links, rendering
from backend.web.dependencies import DbSession, SignedIn, check_accounts

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse, dependencies=[Depends(check_accounts)])

ATTEMPTS = {"name": 20, "address": 60}
"""To sign in, in any `ATTEMPTS_S`: by one name, and from one address. Keys and browsers signed in go on working."""
ATTEMPTS_S = 15 * 60.0
KEY_DAYS = 365

Id = Annotated[int, Path(ge=1, le=2**31 - 1)]
Field = Annotated[str, Form()]


@dataclass(frozen=True, slots=True)
class SignInContext:
    """What `pages/sign_in.html` shows."""

    then: str
    """Where to go afterwards."""
    name: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class SetUpContext:
    """What `pages/set_up.html` shows."""

    name: str
    """Of the account; empty: the first one is made."""
    problem: str = ""
    min_password: int = accounts.MIN_PASSWORD


@dataclass(frozen=True, slots=True)
class AccountContext:
    """What `pages/account.html` shows."""

    account: AccountView
    viewer: Viewer
    usage: Usage
    sign_ins: tuple[SignInView, ...]
    keys: tuple[KeyView, ...]
    scopes: tuple[str, ...]
    """That a key may have."""
    new_key: str = ""
    """Just made: shown this once."""
    problem: str = ""
    key_days: int = KEY_DAYS
    min_password: int = accounts.MIN_PASSWORD


@router.get("/sign-in")
def show_sign_in(request: Request, next: str = "/") -> Response:
    """Asks for name and password; who is signed in is led on."""
    then = forms.own_path(next)
    if request.state.sign_in:
        return RedirectResponse(then, 303)
    return rendering.respond(request, "pages/sign_in.html", SignInContext(then))


@router.post("/sign-in")
def sign_in(
    request: Request,
    session: DbSession,
    name: Field = "",
    password: Field = "",
    next: Field = "/",
) -> Response:
    """Signs in under a token that is new, whatever cookie came with the request."""
    then = forms.own_path(next)
    try:
        _count_attempt(request, name)
        account_id = accounts.authenticate(session, name, password)
    except (errors.UnauthorizedError, errors.BusyError) as error:
        page = rendering.respond(
            request, "pages/sign_in.html", SignInContext(then, name[:40], str(error)), status=error.status
        )
        if isinstance(error, errors.BusyError):
            page.headers["Retry-After"] = str(error.retry_after_s)
        return page
    return _signed_in(request, session, account_id, then)


@router.post("/sign-out")
def sign_out(request: Request, session: DbSession) -> Response:
    """Ends it here; the cookie means nothing any more, wherever a copy of it is."""
    sign_ins.end(session, request.state.sign_in)
    response = RedirectResponse("/", 303)
    _set_cookie(request, response, "")
    return response


@router.get("/set-up/{token}")
def show_set_up(request: Request, session: DbSession, token: str) -> HTMLResponse:
    """Asks for a password, and for a name if the link makes the first account."""
    account = invitations.of(session, token)
    return rendering.respond(request, "pages/set_up.html", SetUpContext(account.name if account else ""))


@router.post("/set-up/{token}")
def set_up(request: Request, session: DbSession, token: str, name: Field = "", password: Field = "") -> Response:
    """Uses the link, and signs in."""
    account = invitations.of(session, token)
    try:
        with session.begin_nested():
            account_id = invitations.accept(session, token, password, name=name)
    except errors.InvalidInputError as error:
        context = SetUpContext(account.name if account else "", str(error))
        return rendering.respond(request, "pages/set_up.html", context, status=error.status)
    return _signed_in(request, session, account_id, "/")


@router.get("/account")
def show(request: Request, session: DbSession, viewer: SignedIn) -> HTMLResponse:
    """The reader's own account."""
    return rendering.respond(request, "pages/account.html", context(session, viewer, request.state.sign_in))


@router.post("/account/password")
def change_password(
    request: Request, session: DbSession, viewer: SignedIn, current: Field = "", password: Field = ""
) -> Response:
    """Chooses another, which signs out everywhere else."""
    try:
        _count_attempt(request, viewer.name)
        account_id = accounts.authenticate(session, viewer.name, current)
        accounts.set_password(session, account_id, password)
    except (errors.UnauthorizedError, errors.InvalidInputError, errors.BusyError) as error:
        status = 400 if isinstance(error, errors.UnauthorizedError) else error.status
        problem = "The current password is another." if status == 400 and error.status == 401 else str(error)
        page = context(session, viewer, request.state.sign_in, problem=problem)
        return rendering.respond(request, "pages/account.html", page, status=status)
    return _signed_in(request, session, account_id, links.account_url())


@router.post("/account/sign-ins/others/end")
def end_others(request: Request, session: DbSession, viewer: SignedIn) -> RedirectResponse:
    """Signs out everywhere but here."""
    sign_ins.end_others(session, _id(viewer), request.state.sign_in)
    return RedirectResponse(links.account_url(), 303)


@router.post("/account/sign-ins/{sign_in_id:int}/end")
def end_one(session: DbSession, viewer: SignedIn, sign_in_id: Id) -> RedirectResponse:
    """Signs out in one browser."""
    sign_ins.end_one(session, _id(viewer), sign_in_id)
    return RedirectResponse(links.account_url(), 303)


@router.post("/account/keys")
def add_key(
    request: Request, session: DbSession, viewer: SignedIn, name: Field = "", scope: Field = "", days: Field = "0"
) -> HTMLResponse:
    """Makes an API key and shows it: the only time it can be read."""
    key, problem, status = "", "", 201
    try:
        number = int(days) if days.strip().isdecimal() and len(days) < 7 else -1
        key = keys.add(session, _id(viewer), name, scope, days=number)
    except errors.SiteError as error:
        problem, status = str(error), error.status
    page = context(session, viewer, request.state.sign_in, new_key=key, problem=problem)
    response = rendering.respond(request, "pages/account.html", page, status=status)
    response.headers["Cache-Control"] = "no-store"
    return response


@router.post("/account/keys/{key_id:int}/revoke")
def revoke_key(session: DbSession, viewer: SignedIn, key_id: Id) -> RedirectResponse:
    """The key is unknown from now on."""
    keys.revoke(session, _id(viewer), key_id)
    return RedirectResponse(links.account_url(), 303)


def context(session: Session, viewer: Viewer, sign_in: str, *, new_key: str = "", problem: str = "") -> AccountContext:
    """The account, where it is signed in, and its keys."""
    account_id = _id(viewer)
    return AccountContext(
        account=accounts.get(session, account_id),
        viewer=viewer,
        usage=limits.usage(session, account_id),
        sign_ins=sign_ins.of_account(session, account_id, sign_in),
        keys=keys.of_account(session, account_id),
        scopes=tuple(scope for scope in SCOPES if scope in viewer.scopes),
        new_key=new_key,
        problem=problem,
    )


def _id(viewer: Viewer) -> int:
    assert viewer.account_id is not None
    return viewer.account_id


def _count_attempt(request: Request, name: str) -> None:
    """Raises `BusyError` for too many tries by this name, or from this address."""
    settings: Settings = request.app.state.settings
    address = callers.network_of(callers.client_address(request.scope, settings.proxies))
    for kind, who in (("address", address), ("name", name.strip().lower()[:40])):
        taken = request.app.state.rates.take(f"sign-in:{kind}:{who}", ATTEMPTS[kind], ATTEMPTS_S)
        if not taken.is_allowed:
            raise errors.BusyError(
                "There were too many attempts to sign in.",
                hint=f"Try again in {-(-taken.retry_after_s // 60)} min.", retry_after_s=taken.retry_after_s,
            )  # fmt: skip


def _signed_in(request: Request, session: Session, account_id: int, then: str) -> Response:
    """Leads on with a new cookie; what the browser was signed in as before ends."""
    settings: Settings = request.app.state.settings
    sign_ins.end(session, request.state.sign_in)
    address = callers.client_address(request.scope, settings.proxies)
    browser = request.headers.get("user-agent", "")
    token = sign_ins.start(session, account_id, settings, browser=browser, address=address)
    response = RedirectResponse(then, 303)
    _set_cookie(request, response, token)
    return response


def _set_cookie(request: Request, response: Response, token: str) -> None:
    """Scripts cannot read it and other sites' pages cannot send it; an empty token takes it away."""
    settings: Settings = request.app.state.settings
    response.set_cookie(
        callers.cookie_name(settings), token, max_age=int(settings.session_days * 86_400) if token else 0,
        path="/", secure=callers.is_secure(settings), httponly=True, samesite="lax",
    )  # fmt: skip
    response.headers["Cache-Control"] = "no-store"
