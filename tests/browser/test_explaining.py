"""Explaining a feature in a real browser on a real database: written, found by its words, voted on, edited, deleted."""

import threading
import time

import pytest
import uvicorn
from playwright.sync_api import expect

from backend.cli.migrate import migrate
from backend.db.session import create_engine, session_factory, transaction
from backend.settings import Settings
from backend.web.app import create_app
from tests import database, hosted

pytestmark = pytest.mark.browser
FEATURE = f"/{hosted.MODEL}/{hosted.SOURCE}/{hosted.RICH}"


@pytest.fixture(scope="module")
def base_url():
    """A site without accounts and one source."""
    assets = Settings().assets
    if not (assets / "manifest.json").exists():
        pytest.skip(f"{assets} is not built; run `make setup`")
    with database.server() as url:
        settings = Settings(database_url=url, redis_url="", assets=assets)
        migrate(settings)
        engine = create_engine(url)
        with transaction(session_factory(engine)) as session:
            hosted.host(session)
        engine.dispose()
        server = uvicorn.Server(uvicorn.Config(create_app(settings), port=0, ws="none", log_level="error"))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize("scripts", [True, False], ids=["with-scripts", "without"])
def test_an_explanation_is_written_found_voted_on_edited_and_deleted(open_page, scripts):
    page = open_page(FEATURE, scripts=scripts)
    panel = page.get_by_role("region", name="Explanations")
    expect(panel).to_contain_text("Nobody has said yet")
    page.get_by_label("Your explanation").fill("Running cats\nand <b>dogs</b>")
    panel.get_by_role("button", name="Add").click()
    expect(panel.locator(".words")).to_have_text("Running cats and <b>dogs</b>")
    expect(page.locator(".headline")).to_contain_text("Running cats")
    expect(page.get_by_label("Your explanation")).to_have_value("")

    page.get_by_role("link", name="Search", exact=True).click()
    page.get_by_label("Words of explanations").fill("run cat")
    page.get_by_role("button", name="Search").click()
    found = page.get_by_role("link", name="Running cats and <b>dogs</b>")
    expect(found).to_be_visible()
    expect(page.locator(".cards .lines li")).to_have_count(3)
    found.click()

    panel.get_by_role("button", name="0 votes: vote for it").click()
    voted = panel.get_by_role("button", name="1 vote: take yours back")
    expect(voted).to_have_attribute("aria-pressed", "true")
    voted.click()
    expect(panel.get_by_role("button", name="0 votes: vote for it")).to_be_visible()

    panel.get_by_text("edit", exact=True).click()
    panel.get_by_label("The explanation").fill("birds")
    panel.get_by_role("button", name="Save").click()
    expect(panel.locator(".words")).to_have_text("birds")
    expect(page.locator(".headline")).to_have_text("birds")

    panel.get_by_text("edit", exact=True).click()
    panel.get_by_role("button", name="Delete").click()
    expect(panel).to_contain_text("Nobody has said yet")
    expect(page.locator(".headline")).to_be_hidden()


def test_scripts_keep_the_page_the_focus_and_what_is_half_written(open_page):
    page = open_page(FEATURE)
    page.evaluate("window.isSamePage = true")
    panel = page.get_by_role("region", name="Explanations")
    field = page.get_by_label("Your explanation")
    field.fill("cats")
    panel.get_by_role("button", name="Add").click()
    expect(panel.locator(".words")).to_have_text("cats")
    expect(field).to_be_focused()
    field.fill("half written")
    panel.get_by_role("button", name="0 votes: vote for it").click()
    expect(panel.get_by_role("button", name="1 vote: take yours back")).to_be_focused()
    expect(field).to_have_value("half written")
    assert page.evaluate("window.isSamePage")
    panel.get_by_text("edit", exact=True).click()
    panel.get_by_role("button", name="Delete").click()
    expect(panel.locator(".words")).to_have_count(0)
