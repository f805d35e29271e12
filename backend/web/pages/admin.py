"""The page of everything, for admins: accounts, sources, jobs, disk, workers. In `open` mode the operator is one."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from sqlalchemy.orm import Session

from backend import errors, names
from backend.services import accounts, health, invitations, jobs, limits, overview
from backend.services.access import Quota
from backend.services.accounts import AccountView
from backend.services.health import HealthView
from backend.services.limits import Usage
from backend.services.overview import DiskView, SourceRow
from backend.services.progress import JobView
from backend.settings import Access, Settings
from backend.web import callers, links, rendering
from backend.web.dependencies import Administering, DbSession, check_accounts

router = APIRouter(prefix="/admin", include_in_schema=False, default_response_class=HTMLResponse)

N_JOBS = 20
Id = Annotated[int, Path(ge=1, le=2**31 - 1)]
Field = Annotated[str, Form()]


@dataclass(frozen=True, slots=True)
class AccountRow:
    """An account, what it takes and what it may."""

    account: AccountView
    usage: Usage
    quota: Quota


@dataclass(frozen=True, slots=True)
class AdminContext:
    """What `pages/admin.html` shows."""

    has_accounts: bool
    accounts: tuple[AccountRow, ...]
    sources: tuple[SourceRow, ...]
    """The largest first."""
    jobs: tuple[JobView, ...]
    disk: DiskView
    health: HealthView
    link: str = ""
    """Just made, to choose a password with: shown this once."""
    link_for: str = ""
    problem: str = ""


@router.get("")
def show(request: Request, session: DbSession, viewer: Administering) -> HTMLResponse:
    """Everything."""
    return rendering.respond(request, "pages/admin.html", _gathered(request, session))


@router.post("/accounts")
def add(
    request: Request, session: DbSession, viewer: Administering, name: Field = "", is_admin: Field = ""
) -> HTMLResponse:
    """A new account, and the link with which its owner chooses a password."""
    check_accounts(request)
    try:
        account_id = accounts.add(session, name, is_admin=bool(is_admin))
    except (errors.InvalidInputError, errors.ConflictError) as error:
        page = _gathered(request, session, problem=str(error))
        return rendering.respond(request, "pages/admin.html", page, status=error.status)
    return _with_link(request, session, account_id)


@router.post("/accounts/{account_id:int}/link")
def make_link(request: Request, session: DbSession, viewer: Administering, account_id: Id) -> HTMLResponse:
    """A link to choose a new password; the old one is valid until it is used."""
    return _with_link(request, session, accounts.get(session, account_id).id)


@router.post("/accounts/{account_id:int}/disable")
def disable(session: DbSession, viewer: Administering, account_id: Id) -> RedirectResponse:
    """Signs the account out everywhere, and lets it in no more."""
    accounts.set_active(session, account_id, is_active=False)
    return RedirectResponse(links.admin_url(), 303)


@router.post("/accounts/{account_id:int}/enable")
def enable(session: DbSession, viewer: Administering, account_id: Id) -> RedirectResponse:
    """Lets it in again."""
    accounts.set_active(session, account_id, is_active=True)
    return RedirectResponse(links.admin_url(), 303)


@router.post("/accounts/{account_id:int}/admin")
def set_admin(session: DbSession, viewer: Administering, account_id: Id, is_admin: Field = "") -> RedirectResponse:
    """Makes somebody an admin, or no longer one."""
    accounts.set_admin(session, account_id, is_admin=bool(is_admin))
    return RedirectResponse(links.admin_url(), 303)


@router.post("/accounts/{account_id:int}/quota")
def set_quota(
    session: DbSession,
    viewer: Administering,
    account_id: Id,
    gigabytes: Field = "",
    n_jobs: Field = "",
    requests: Field = "",
) -> RedirectResponse:
    """What this account may use; empty fields: as the settings say, 0: no limit."""
    n_gigabytes = _number("gigabytes", gigabytes)
    accounts.set_quota(
        session, account_id, n_bytes=None if n_gigabytes is None else int(n_gigabytes * 1e9),
        n_jobs=_whole("jobs", n_jobs), requests_per_minute=_whole("requests", requests),
    )  # fmt: skip
    return RedirectResponse(links.admin_url(), 303)


def _gathered(
    request: Request, session: Session, *, link: str = "", link_for: str = "", problem: str = ""
) -> AdminContext:
    settings: Settings = request.app.state.settings
    rows = (
        AccountRow(account, limits.usage(session, account.id), accounts.quota(account, settings))
        for account in accounts.all_of(session)
    )
    return AdminContext(
        has_accounts=settings.access is Access.ACCOUNTS,
        accounts=tuple(rows),
        sources=overview.sources(session),
        jobs=jobs.latest(session, N_JOBS),
        disk=overview.disk(session, settings),
        health=health.check(session, settings),
        link=link,
        link_for=link_for,
        problem=problem,
    )


def _with_link(request: Request, session: Session, account_id: int) -> HTMLResponse:
    check_accounts(request)
    origin = callers.public_origins(request.app.state.settings)[0]
    link = origin + names.set_up_url(invitations.invite(session, account_id))
    page = _gathered(request, session, link=link, link_for=accounts.get(session, account_id).name)
    response = rendering.respond(request, "pages/admin.html", page, status=201)
    response.headers["Cache-Control"] = "no-store"
    return response


def _number(name: str, text: str) -> float | None:
    """None for an empty field; raises `InvalidInputError` for what is no number from 0 to a million."""
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1e6:
        raise errors.InvalidInputError(f"{name} is a number from 0 to 1,000,000, not '{text[:40]}'.")
    return value


def _whole(name: str, text: str) -> int | None:
    value = _number(name, text)
    if value is not None and value != int(value):
        raise errors.InvalidInputError(f"{name} is a whole number, not '{text[:40]}'.")
    return None if value is None else int(value)
