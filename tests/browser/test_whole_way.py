"""A lab's site in a real browser: sign in, hand over a real SAE, watch it compute, read it, hide it, delete it.

The site is whole: accounts, web server, database, queue and a worker, in processes of their own.
"""

import socket
import threading
import time
from pathlib import Path

import httpx
import pytest
import uvicorn
from playwright.sync_api import expect

from backend.db.session import transaction
from backend.services import accounts
from backend.settings import Access, Settings
from backend.web.app import create_app
from tests import tiny
from tests.browser.conftest import browser as browser
from tests.browser.test_adding import CORPUS, MODEL, SAE, choose_corpus, choose_folder, choose_model
from tests.site import Site
from tests.site import site as site

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PASSWORD = "correct horse battery"
SOURCE = "/tinystories-260k/2-batchtopk512"


@pytest.fixture(scope="module")
def address(site: Site):
    """A site with accounts, whose admin is `ada`."""
    assets = Settings().assets
    if not Path(assets, "manifest.json").exists():
        pytest.skip(f"{assets} is not built; run `make setup`")
    with transaction(site.sessions) as session:
        accounts.add(session, "ada", PASSWORD, is_admin=True)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        changed = {"assets": assets, "access": Access.ACCOUNTS, "public_url": url}
        app = create_app(site.settings.model_copy(update=changed))
        server = uvicorn.Server(uvicorn.Config(app, ws="none", log_level="error", proxy_headers=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield url
        server.should_exit = True
        thread.join()


@pytest.fixture
def page(browser, address):
    context = browser.new_context(base_url=address, viewport={"width": 1440, "height": 900})
    yield context.new_page()
    context.close()


def test_from_signing_in_to_deleting(site: Site, page, address: str) -> None:
    if not SAE.is_dir():
        pytest.skip(f"the shared data is not at {tiny.SHARED}")
    site.start_worker(shard_tokens=0, finish_s=5.0)
    page.goto("/add")
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/add")

    choose_folder(page, SAE)
    expect(page.locator("[data-part=found]")).to_contain_text("64 × 512")
    choose_model(page, MODEL)
    choose_corpus(page, CORPUS)
    page.get_by_label("Use at most").fill("20,000")
    page.get_by_role("button", name="Compute dashboards").click()

    page.wait_for_url("**/jobs/*")
    expect(page.get_by_role("row", name="finish")).to_contain_text("512 of 512", timeout=300_000)
    page.get_by_role("heading", level=1).get_by_role("link").click()
    page.locator(".features tbody a").first.click()
    page.wait_for_url(f"**{SOURCE}/*")
    expect(page.locator(".lines li").first).to_be_visible()

    page.goto(SOURCE)
    page.get_by_label("seen by").select_option("unlisted")
    page.get_by_role("button", name="Set").click()
    expect(page.get_by_label("seen by")).to_have_value("unlisted")
    assert httpx.get(address + SOURCE).status_code == 200
    assert SOURCE not in httpx.get(address).text

    page.get_by_role("link", name="Delete").click()
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("2-batchtopk512")).to_have_count(0)
    assert httpx.get(address + SOURCE).status_code == 404
