"""Steering in a real browser with the real live worker, up to a link that somebody else opens.

Model and SAEs are real; the rows that say what features fire on are not, so that nothing has to be computed first.
"""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import select

from backend.cli import children
from backend.db.session import transaction
from backend.db.tables import Feature, Source
from backend.embedded.data_folder import DataFolder
from backend.formats import copy_rows
from backend.settings import Settings
from backend.web.app import create_app
from tests import hosted
from tests.browser.conftest import browser as browser
from tests.site import Site
from tests.site import site as site

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PATIENCE_MS = 300_000
MODEL, SOURCES = "tiny-gpt2", ("0-first", "1-second")
SETTINGS = "prompt=The+cat&n_tokens=12&temperature=0"
"""The likeliest tokens: a random model finds all of them nearly as likely, whatever pushes it."""


@pytest.fixture(scope="module")
def address(site: Site) -> Iterator[str]:
    """A site with two sources and a live worker."""
    assets = Settings().assets
    if not Path(assets, "manifest.json").exists():
        pytest.skip(f"{assets} is not built; run `make setup`")
    for source in SOURCES:
        site.add(source)
        add_features(site, source)
    changed = {"assets": assets, "heartbeat_s": 2.0, "live_deadline_s": 120.0}
    settings = site.settings.model_copy(update=changed)
    folder = DataFolder(settings.data)
    folder.logs.mkdir(parents=True, exist_ok=True)
    (live,) = [each for each in children.all_of(settings, folder) if each.name == "live worker"]
    live.start()
    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=0, ws="none", log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        live.stop()


def add_features(site: Site, source: str) -> None:
    """Two features of the source that fire on `a`, as if its dashboards had been computed."""
    with transaction(site.sessions) as session:
        source_id = session.scalars(select(Source.id).where(Source.name == source)).one()
        vocabulary_id = hosted.add_vocabulary(session, hosted.TEXTS)
        revision_id = hosted.add_revision(session, source_id, hosted.add_corpus(session, MODEL, vocabulary_id))
        fires_on = [" a", " the"]
        said = {"fires_on": fires_on, "promotes": [" in"], "token_texts": copy_rows.token_texts([*fires_on, " in"])}
        for index in (3, 4):
            feature = {"index": index, "n_firings": 50, "density": 0.01, "max_activation": 2.0, **said}
            session.add(Feature(revision_id=revision_id, **feature))


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    said: list[str] = []
    context = browser.new_context(base_url=address, viewport={"width": 1440, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    context.close()
    assert [each for each in said if "Failed to load resource" not in each] == [], "but for refusals"


def choose(page: Page, source: str) -> str:
    """Find a feature of the source by a token and choose the first; its name."""
    page.get_by_label("of", exact=True).select_option(source)
    page.get_by_label("token, index or address").fill("a")
    found = page.locator(f"[role=option][data-name^='{source}/']").first
    name = found.get_attribute("data-name") or ""
    found.click()
    expect(page.locator(f"[data-push='{name}']")).to_be_visible()
    page.get_by_role("group", name=f"Strength of {name}").get_by_role("button", name="10×").click()
    return name


def texts(page: Page) -> list[str]:
    return [page.locator(f"[data-side={side}]").text_content() or "" for side in ("default", "steered")]


def until_live(page: Page) -> None:
    """The page says so while no live worker was heard from."""
    notice = page.get_by_text("No live worker runs")
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while notice.count():
        assert time.monotonic() < deadline
        page.reload()


def test_two_features_push_a_real_model_and_the_link_shows_what_it_wrote(page: Page, browser: Browser) -> None:
    page.goto(f"/{MODEL}/steer?{SETTINGS}")
    until_live(page)
    names = [choose(page, source) for source in SOURCES]
    page.get_by_role("button", name="Run").click()
    expect(page.locator("[data-part=status]")).to_contain_text("they differ from token", timeout=PATIENCE_MS)
    written = texts(page)
    assert all(text.startswith("The cat") and len(text) > len("The cat") for text in written)
    assert written[0] != written[1]
    link = page.get_by_role("link", name="This run").get_attribute("href") or ""

    stranger = browser.new_context(viewport={"width": 390, "height": 900}).new_page()
    stranger.goto(link)
    assert texts(stranger) == written
    for name in names:
        expect(stranger.get_by_role("link", name=name)).to_be_visible()
    stranger.get_by_role("link", name="try it yourself").click()
    stranger.get_by_role("button", name="Run").click()
    expect(stranger.locator("[data-part=status]")).to_contain_text("they differ", timeout=PATIENCE_MS)
    assert texts(stranger) == written, "the same settings, the same texts"
    stranger.context.close()


def test_through_the_sae_the_text_is_another_and_without_a_push_the_same(page: Page) -> None:
    page.goto(f"/{MODEL}/steer?{SETTINGS}&through={SOURCES[0]}")
    until_live(page)
    page.get_by_role("button", name="Run").click()
    expect(page.locator("[data-part=status]")).to_contain_text("they differ", timeout=PATIENCE_MS)
    page.get_by_label(f"{SOURCES[0]} at").uncheck()
    page.get_by_role("button", name="Run").click()
    expect(page.locator("[data-part=status]")).to_contain_text("not one differs", timeout=PATIENCE_MS)


def test_a_model_without_a_chat_template_says_so(page: Page) -> None:
    page.goto(f"/{MODEL}/steer?mode=chat&prompt=Who+are+you")
    until_live(page)
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("alert").filter(has_text="chat template")).to_be_visible(timeout=PATIENCE_MS)
