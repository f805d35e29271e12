"""Pages of accounts as the services give them, made without a database."""

from datetime import timedelta
from typing import Any

from backend.services.access import Quota, Viewer
from backend.services.accounts import AccountView
from backend.services.health import HealthView, PartView, WorkerView
from backend.services.keys import KeyView
from backend.services.limits import Usage
from backend.services.overview import DiskView, SourceRow
from backend.services.sign_ins import SignInView
from backend.web.pages import account, admin
from tests.pages import samples
from tests.pages.samples import AT

QUOTA = Quota(20_000_000_000, 2, 600)
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"


def some_account(**changes: Any) -> AccountView:
    facts = {
        "id": 2, "name": "anna", "is_admin": False, "is_active": True, "has_password": True, "quota_bytes": None,
        "quota_jobs": None, "requests_per_minute": None, "created_at": AT,
    }  # fmt: skip
    return AccountView(**facts | changes)


def account_page(**changes: Any) -> account.AccountContext:
    """With keys of every kind, and two browsers, one of which says strange things of itself."""
    day = timedelta(days=1)
    keys = (
        KeyView(3, "notebook", "ep_Zk3x9a", "read", AT, AT + 365 * day, AT + day, is_valid=True),
        KeyView(2, 'nightly "upload" <b>', "ep_pQ81_b", "write", AT - day, None, None, is_valid=True),
        KeyView(1, "old", "ep_aaaaaa", "read", AT - 90 * day, AT - day, AT - 2 * day, is_valid=False),
    )
    browsers = (
        SignInView(9, FIREFOX, "192.0.2.7", AT, AT, AT + 30 * day, is_this=True),
        SignInView(8, "<script>alert(1)</script>", "2001:db8::1", AT - day, AT - day, AT + 29 * day, is_this=False),
    )
    viewer = Viewer(2, "anna", frozenset({"read", "write"}), QUOTA)
    facts = {
        "account": some_account(), "viewer": viewer, "usage": Usage(3_410_000_000, 1), "sign_ins": browsers, "keys": keys,
        "scopes": ("read", "write"),
    }  # fmt: skip
    return account.AccountContext(**facts | changes)


def admin_page(**changes: Any) -> admin.AdminContext:
    """Accounts of every state, sources of every visibility, workers that are there and gone."""
    rows = (
        admin.AccountRow(some_account(id=1, name="root", is_admin=True), Usage(0, 0), Quota()),
        admin.AccountRow(some_account(), Usage(3_410_000_000, 1), QUOTA),
        admin.AccountRow(
            some_account(id=3, name="berta", is_active=False, quota_bytes=0, quota_jobs=4, requests_per_minute=60),
            Usage(125_000_000, 0), Quota(None, 4, 60),
        ),
        admin.AccountRow(some_account(id=4, name="carla", has_password=False), Usage(0, 0), QUOTA),
    )  # fmt: skip
    sources = (
        SourceRow("gpt2-small", "6-res-jb", "", "public", 1_420_000_000),
        SourceRow("gpt2-small", "7-res-mine", "anna", "private", 890_000_000),
        SourceRow("tinystories-260k", "2-batchtopk512", "anna", "unlisted", 9_400_000),
    )
    workers = (
        WorkerView("host-1-421", "dashboards", "cuda:0", "encode 3 of job 4", 1.2, is_alive=True),
        WorkerView("host-1-422", "live", "cuda:0", None, 0.4, is_alive=True),
        WorkerView("host-2-17", "dashboards", "cpu", "finish 1 of job 2", 7300.0, is_alive=False),
    )
    facts = {
        "has_accounts": True, "accounts": rows, "sources": sources, "jobs": (samples.job(),),
        "disk": DiskView(2_310_000_000, 640_000_000, 81_000_000_000),
        "health": HealthView(PartView("ok", "PostgreSQL 18.1"), PartView("ok", "answers"), workers),
    }  # fmt: skip
    return admin.AdminContext(**facts | changes)


def pages() -> dict[str, tuple[str, Any]]:
    """Template and context by name."""
    link = "https://eyepiece.example.org/set-up/Jx0vG3cQm0o9sZq7uYbW2kPfT1nR8hL5eVdA4iKxM6w"
    nothing = admin_page(
        has_accounts=False, accounts=(), sources=(), jobs=(), health=_down(), disk=DiskView(1, None, 2)
    )
    return {
        "sign-in": ("pages/sign_in.html", account.SignInContext("/jobs")),
        "sign-in-again": ("pages/sign_in.html", account.SignInContext("/", "anna", "Name and password do not fit.")),
        "set-up": ("pages/set_up.html", account.SetUpContext("")),
        "set-up-password": ("pages/set_up.html", account.SetUpContext("anna", "The password has 3 characters.")),
        "account": ("pages/account.html", account_page()),
        "new-key": ("pages/account.html", account_page(new_key="ep_" + "Zk3x9a" * 7 + "Q", keys=())),
        "account-problem": ("pages/account.html", account_page(problem="The current password is another.")),
        "admin": ("pages/admin.html", admin_page()),
        "admin-link": ("pages/admin.html", admin_page(link=link, link_for="carla")),
        "admin-open": ("pages/admin.html", nothing),
    }  # fmt: skip


def _down() -> HealthView:
    return HealthView(PartView("down", "connection refused"), PartView("not configured", "no EYEPIECE_REDIS_URL"), ())
