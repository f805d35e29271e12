"""Signing in and all that follows, in a real browser on a real database, under the strict content security policy."""

import socket
import threading
import time

import httpx
import pytest
import uvicorn
from playwright.sync_api import expect
from sqlalchemy import update

from backend.cli.migrate import migrate
from backend.db.session import create_engine, session_factory, transaction
from backend.db.tables import Source
from backend.services import accounts, invitations
from backend.settings import Access, Settings
from backend.web.app import create_app
from tests import database, hosted

pytestmark = pytest.mark.browser
PASSWORD = "correct horse battery"
SOURCE = f"/{hosted.MODEL}/{hosted.SOURCE}"


@pytest.fixture(scope="module")
def sessions():
    with database.server() as url:
        migrate(Settings(database_url=url))
        engine = create_engine(url)
        yield session_factory(engine)
        engine.dispose()


@pytest.fixture(scope="module")
def base_url(sessions):
    """A site with accounts and one source of the host's."""
    assets = Settings().assets
    if not (assets / "manifest.json").exists():
        pytest.skip(f"{assets} is not built; run `make setup`")
    with transaction(sessions) as session:
        hosted.host(session)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        url = sessions.kw["bind"].url.render_as_string(hide_password=False)
        app = create_app(
            Settings(database_url=url, redis_url="", assets=assets, access=Access.ACCOUNTS, public_url=address)
        )
        server = uvicorn.Server(uvicorn.Config(app, ws="none", log_level="error", proxy_headers=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield address
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def admin(sessions):
    """The name of an admin with `PASSWORD`."""
    with transaction(sessions) as session:
        accounts.add(session, "root", PASSWORD, is_admin=True)
    return "root"


def sign_in(page, name):
    page.goto("/sign-in")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()


def test_the_first_link_makes_an_admin_who_lets_others_in(open_page, sessions):
    with transaction(sessions) as session:
        assert not accounts.is_any(session)
        token = invitations.invite(session, None)
    page = open_page(f"/set-up/{token}")
    page.get_by_label("Name").fill("First")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Make the account").click()
    expect(page.get_by_role("link", name="first", exact=True)).to_be_visible()
    page.get_by_role("link", name="Admin").click()
    page.get_by_label("Name", exact=True).fill("anna")
    page.get_by_role("button", name="Add the account").click()
    link = page.locator("#link").inner_text()
    other = open_page("/definitions")
    other.goto(link)
    other.get_by_label("Password").fill(PASSWORD)
    other.get_by_role("button", name="Choose").click()
    expect(other.get_by_role("link", name="anna", exact=True)).to_be_visible()
    expect(other.get_by_role("link", name="Admin")).to_have_count(0)


@pytest.mark.parametrize("scripts", [True, False])
def test_a_page_that_needs_an_account_comes_after_signing_in(open_page, admin, scripts):
    page = open_page("/account", scripts=scripts)
    assert page.url.endswith("/sign-in?next=%2Faccount")
    page.get_by_label("Name").fill(admin)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/account")
    page.get_by_role("button", name="Sign out", exact=True).first.click()
    expect(page.get_by_role("link", name="Sign in")).to_be_visible()


def test_a_key_is_made_shown_once_used_and_revoked(open_page, base_url, admin):
    page = open_page("/definitions")
    sign_in(page, admin)
    page.goto("/account")
    page.get_by_label("What it is for").fill("a notebook")
    page.get_by_role("button", name="Make a key").click()
    key = page.locator("#key").inner_text()
    assert httpx.get(f"{base_url}/api/jobs", headers={"x-api-key": key}).status_code == 200
    page.goto("/account")
    assert key not in page.content()
    page.get_by_role("button", name="Revoke a notebook").click()
    expect(page.get_by_text("None yet.")).to_be_visible()
    assert httpx.get(f"{base_url}/api/jobs", headers={"x-api-key": key}).status_code == 401


def test_who_sees_a_source_is_said_on_its_page(open_page, base_url, admin):
    page = open_page("/definitions")
    sign_in(page, admin)
    for visibility, is_listed, status in (("unlisted", False, 200), ("private", False, 404), ("public", True, 200)):
        page.goto(SOURCE)
        page.get_by_label("seen by").select_option(visibility)
        page.get_by_role("button", name="Set").click()
        expect(page.get_by_label("seen by")).to_have_value(visibility)
        stranger = httpx.get(base_url)
        assert (hosted.SOURCE in stranger.text) == is_listed
        assert httpx.get(base_url + SOURCE).status_code == status
    assert "seen by" not in httpx.get(base_url + SOURCE).text


def test_no_page_of_another_site_signs_anybody_out(open_page, base_url, admin):
    """`localhost` is another site to the browser, and sends no cookie; here the form itself is refused."""
    page = open_page("/definitions")
    sign_in(page, admin)
    elsewhere = httpx.post(f"{base_url}/sign-out", headers={"origin": "http://localhost:1"}, cookies=cookies_of(page))
    assert elsewhere.status_code == 403
    assert httpx.post(f"{base_url}/sign-out", cookies=cookies_of(page)).status_code == 403, "without the form's token"
    page.goto("/account")
    expect(page.get_by_role("link", name=admin, exact=True)).to_be_visible()


def cookies_of(page):
    return {cookie["name"]: cookie["value"] for cookie in page.context.cookies()}


def test_scripts_cannot_read_the_cookie(open_page, admin):
    page = open_page("/definitions")
    sign_in(page, admin)
    (cookie,) = [cookie for cookie in page.context.cookies() if cookie["name"] == "eyepiece"]
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Lax", "/")
    assert "eyepiece" not in page.evaluate("document.cookie")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_pages_fit_their_window(open_page, sessions, admin, width, scheme):
    with transaction(sessions) as session:
        session.execute(update(Source).values(owner_id=accounts.named(session, admin).id))
    page = open_page("/sign-in", width=width, scheme=scheme)
    overflow = "document.documentElement.scrollWidth - innerWidth"
    assert page.evaluate(overflow) <= 0
    sign_in(page, admin)
    for path in ("/account", "/admin", SOURCE):
        page.goto(path)
        assert page.evaluate(overflow) <= 0, path
