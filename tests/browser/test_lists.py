"""Lists, comments and embedded pages in a real browser on a real database, under the strict content security policy."""

import http.server
import json
import socket
import threading
import time
from functools import partial
from urllib.parse import quote

import pytest
import uvicorn
from playwright.sync_api import expect

from backend.cli.migrate import migrate
from backend.db.session import create_engine, session_factory, transaction
from backend.names import FeatureRef
from backend.services import feature_lists
from backend.services.feature_lists import ListText, NewItem
from backend.settings import Settings
from backend.web.app import create_app
from tests import database, hosted
from tests.hosted import MODEL, RICH, SINGLE, SOURCE

pytestmark = pytest.mark.browser
FEATURE = f"/{MODEL}/{SOURCE}/{RICH}"


@pytest.fixture(scope="module")
def sessions():
    with database.server() as url:
        migrate(Settings(database_url=url))
        engine = create_engine(url)
        yield session_factory(engine)
        engine.dispose()


@pytest.fixture(scope="module")
def base_url(sessions):
    """A site without accounts and one source of the host's."""
    assets = Settings().assets
    if not (assets / "manifest.json").exists():
        pytest.skip(f"{assets} is not built; run `make setup`")
    with transaction(sessions) as session:
        hosted.host(session)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        url = sessions.kw["bind"].url.render_as_string(hide_password=False)
        app = create_app(Settings(database_url=url, redis_url="", assets=assets))
        server = uvicorn.Server(uvicorn.Config(app, ws="none", log_level="error", proxy_headers=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def elsewhere(base_url, tmp_path):
    """The address of another site, which frames our embedded page, and of one that frames the whole one."""
    for name, query in (("embedded", "?embed=true"), ("whole", "")):
        frame = f'<iframe src="{base_url}{FEATURE}{query}" width="540" height="360"></iframe>'
        (tmp_path / f"{name}.html").write_text(f'<!doctype html><link rel="icon" href="data:,">{frame}')
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://localhost:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def quick(*indexes: int) -> str:
    given = [{"modelId": MODEL, "layer": SOURCE, "index": str(index)} for index in indexes]
    return f"/quick-list?name=Cats&features={quote(json.dumps(given))}"


def open_adding(page) -> None:
    """It is open already where no list has the feature."""
    if not page.get_by_label("Name of a new list").is_visible():
        page.get_by_text("Add to a list").click()


@pytest.mark.parametrize("scripts", [True, False])
def test_a_quick_list_is_saved_commented_on_and_added_to(open_page, scripts):
    page = open_page(quick(RICH), scripts=scripts)
    page.get_by_role("button", name="Save as a list").click()
    page.wait_for_url("**/list/*")
    url = page.url
    expect(page.get_by_role("heading", name="Cats")).to_be_visible()
    page.get_by_label("Your comment").fill("These are about cats.")
    page.get_by_role("button", name="Comment").click()
    expect(page.locator(".comments .said")).to_have_text("These are about cats.")
    page.get_by_label("Features to add").fill(f"{MODEL}/{SOURCE}/{SINGLE}")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator(".listed-feature")).to_have_count(2)
    page.goto(f"/{MODEL}/{SOURCE}/{hosted.LAST}")
    open_adding(page)
    page.get_by_label("One of your lists").select_option(url.rpartition("/")[2])
    page.locator("form.adding-to").get_by_role("button", name="Add").click()
    page.wait_for_url(url)
    expect(page.locator(".listed-feature")).to_have_count(3)
    page.get_by_text("Edit or delete the list").click()
    page.get_by_role("button", name="Delete this list").click()
    page.wait_for_url("**/lists")


def test_a_feature_is_bookmarked_and_described_in_a_list(open_page):
    page = open_page(FEATURE)
    page.get_by_role("button", name="☆ bookmark").click()
    expect(page.get_by_role("button", name="★ bookmarked")).to_be_visible()
    open_adding(page)
    page.get_by_label("Name of a new list").fill("One")
    page.get_by_role("button", name="Make it").click()
    page.get_by_text("Say what it is here for").click()
    page.get_by_label("is here for").fill("The rich one")
    page.get_by_role("button", name="Save", exact=True).last.click()
    expect(page.locator(".listed-feature > .said")).to_have_text("The rich one")
    page.goto("/lists")
    expect(page.locator(".bookmarks a")).to_have_text(FEATURE[1:])


def test_a_lists_test_text_is_tried_on_each_feature(open_page, sessions):
    with transaction(sessions) as session:
        text = ListText(name="Tried", default_test_text="a cat")
        list_id = feature_lists.create(session, text, [NewItem(FeatureRef(MODEL, SOURCE, RICH))]).id
    page = open_page("/definitions")
    answer = "<ol><li data-text='a cat'>fires at 3.50</li></ol>"
    page.route(f"**{FEATURE}/try?text=a+cat", lambda route: route.fulfill(body=answer, content_type="text/html"))
    page.goto(f"/list/{list_id}")
    expect(page.locator(".tested")).to_have_text("fires at 3.50")


def test_the_embed_panel_shows_what_its_code_embeds(open_page):
    page = open_page(FEATURE)
    code, frame = page.locator("#embed-code"), page.frame_locator("[data-preview] iframe")
    page.locator("summary", has_text="Embed").click()
    expect(frame.get_by_role("heading", name=FEATURE[1:])).to_be_visible()
    expect(frame.locator(".embedded-plots")).to_be_visible()
    page.get_by_label("charts").uncheck()
    expect(code).to_contain_text("embedplots=false")
    expect(frame.locator(".embedded-plots")).to_have_count(0)
    page.get_by_label("height").fill("200")
    expect(code).to_contain_text('height="200"')
    expect(page.locator("[data-preview] iframe")).to_have_attribute("height", "200")


@pytest.mark.parametrize("scripts", [True, False])
def test_another_site_shows_an_embedded_feature(open_page, elsewhere, scripts):
    page = open_page("/definitions", scripts=scripts)
    page.goto(f"{elsewhere}/embedded.html")
    frame = page.frame_locator("iframe")
    expect(frame.get_by_role("heading", name=FEATURE[1:])).to_be_visible()
    with page.expect_popup() as opened:
        frame.get_by_role("link", name="open in Eyepiece").click()
    expect(opened.value.locator(".wordmark")).to_be_visible()
    assert opened.value.url.endswith(FEATURE)


def test_another_site_shows_no_whole_page(browser, elsewhere):
    context = browser.new_context()
    page = context.new_page()
    with page.expect_console_message(lambda message: "frame-ancestors" in message.text):
        page.goto(f"{elsewhere}/whole.html")
    expect(page.frame_locator("iframe").locator(".wordmark")).to_have_count(0)
    context.close()
