"""Asking the model in a real browser: texts tried on a feature, search by text, links opened by somebody else.

The site is whole: web server, database, queue and a live worker, in processes of their own.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, Locator, Page, expect

from backend import errors
from backend.cli import children
from backend.db import tables
from backend.db.session import transaction
from backend.settings import REPOSITORY, Settings
from backend.web.app import create_app
from tests.browser.conftest import browser as browser
from tests.site import DEADLINE_S, Site
from tests.site import site as site

pytestmark = [pytest.mark.browser, pytest.mark.slow]

MODEL, SET = "tiny-gpt2", "set"
SOURCES = tuple(f"{layer}-{SET}" for layer in range(3))
TEXT, OTHER = "The cat sat in the rain", "moon over the town"
ARRIVES_MS = 300_000
"""The first answer waits until the model and the SAEs are loaded."""
SHIFT = (
    "window.shift = 0; new PerformanceObserver(list => list.getEntries().forEach(e => window.shift += e.value))"
    ".observe({ type: 'layout-shift', buffered: true })"
)
SEARCH = f"/{MODEL}/search"


@pytest.fixture(scope="module")
def computed(site: Site) -> Site:
    """Three layers of a set have dashboards."""
    site.start_worker()
    job_id = site.add(*SOURCES)
    assert site.wait(job_id, lambda job: job.state in ("done", "failed")).state == "done"
    return site


@pytest.fixture(scope="module")
def live(computed: Site) -> Iterator[subprocess.Popen[bytes]]:
    """A live worker that has been heard from."""
    environment = children.environment(computed.settings.model_copy(update={"heartbeat_s": 0.5}))
    with (computed.folder / "live.log").open("ab") as log:
        command = [sys.executable, "-W", "ignore", "-m", "workers.live"]
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
    deadline = time.monotonic() + DEADLINE_S
    while not is_reported(computed):
        assert time.monotonic() < deadline, (computed.folder / "live.log").read_text()[-4000:]
        time.sleep(0.05)
    yield process
    process.send_signal(signal.SIGCONT)
    process.terminate()
    process.wait(DEADLINE_S)


def is_reported(site: Site) -> bool:
    with transaction(site.sessions) as session:
        return session.query(tables.WorkerReport).filter_by(kind="live").first() is not None


@pytest.fixture(scope="module")
def app(computed: Site) -> FastAPI:
    assets = Settings().assets
    if not Path(assets, "manifest.json").exists():
        pytest.skip(f"{assets} is not built; run `make setup`")
    patient = {"assets": assets, "heartbeat_s": 60.0, "live_deadline_s": 120.0}
    return create_app(computed.settings.model_copy(update=patient))


@pytest.fixture(scope="module")
def address(app: FastAPI, live: object) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, ws="none", log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


class Readers:
    """Opens pages, each as somebody who has never been here."""

    def __init__(self, browser: Browser, address: str) -> None:
        self.said: list[str] = []
        self._browser, self._address = browser, address
        self._contexts: list[Any] = []

    def open(self, path: str, *, width: int = 1440, scripts: bool = True, init: str = "") -> Page:
        context = self._browser.new_context(
            base_url=self._address, viewport={"width": width, "height": 900}, java_script_enabled=scripts,
            permissions=["clipboard-read", "clipboard-write"],
        )  # fmt: skip
        self._contexts.append(context)
        page = context.new_page()
        if init:
            page.add_init_script(init)
        page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.goto(path)
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()


@pytest.fixture
def readers(browser: Browser, address: str) -> Iterator[Readers]:
    """Nothing goes wrong in their browsers but for answers that are errors on purpose."""
    readers = Readers(browser, address)
    yield readers
    readers.close()
    assert [each for each in readers.said if "Failed to load resource" not in each] == []


def activations(address: str, source: str, index: int, text: str) -> list[tuple[str, float]]:
    """Tokens and values by the API."""
    feature = {"modelId": MODEL, "source": source, "index": index}
    answer = httpx.post(f"{address}/api/activation/new", json={"feature": feature, "customText": text}, timeout=120)
    body = answer.raise_for_status().json()
    return list(zip(body["tokens"], body["values"], strict=True))


@pytest.fixture(scope="module")
def firing(address: str, computed: Site) -> str:
    """The path of a feature that fires on both texts."""
    with transaction(computed.sessions) as session:
        revision = session.query(tables.Source.revision_id).filter_by(name="1-set").scalar()
        alive = session.query(tables.Feature.index).filter_by(revision_id=revision).filter(tables.Feature.n_firings > 0)
        indexes = [row[0] for row in alive]
    for index in indexes:
        if all(sum(v > 0 for _, v in activations(address, "1-set", index, text)) > 1 for text in (TEXT, OTHER)):
            return f"/{MODEL}/1-set/{index}"
    raise AssertionError("no feature fires on both")


def field(page: Page) -> Locator:
    return page.get_by_role("textbox", name="Try a text")


def own(page: Page) -> Locator:
    return page.locator(".own > li")


def marks(part: Locator) -> list[tuple[str, float]]:
    """Firing tokens of a line and the values they show."""
    found = part.locator(".full mark").evaluate_all(
        "marks => marks.map(m => [[...m.childNodes].filter(n => n.nodeName !== 'I').map(n => n.data).join(''),"
        " m.dataset.value.replace('−', '-')])"
    )
    return [(text, float(value)) for text, value in found]


def lines(page: Page) -> list[list[str]]:
    """Reference, number and text of each feature found."""
    return page.locator(".found > li").evaluate_all(
        "rows => rows.map(row => ['.ref', '.value', '.full'].map(part => row.querySelector(part).textContent))"
    )


def test_a_text_typed_on_a_feature_s_page_shows_its_activations_on_its_tokens(readers, address, firing) -> None:
    page = readers.open(firing)
    expected = [
        (token, round(value, 3))
        for token, value in activations(address, "1-set", int(firing.split("/")[-1]), TEXT)
        if value
    ]
    page.keyboard.press("t")
    expect(field(page)).to_be_focused()
    page.keyboard.type(TEXT)
    page.keyboard.press("Enter")
    expect(own(page).locator("summary")).to_be_visible(timeout=ARRIVES_MS)
    shown = marks(own(page))
    assert [token for token, _ in shown] == [token for token, _ in expected]
    assert [value for _, value in shown] == pytest.approx([value for _, value in expected], abs=2e-3)
    expect(own(page).locator(".after mark").first).to_be_visible()

    page.keyboard.press("Escape")
    own(page).locator("summary").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("[data-readout]")).to_contain_text("% of max")


def test_one_goes_on_trying_and_the_link_opens_the_same_for_somebody_else(readers, firing) -> None:
    page = readers.open(firing)
    for text in (TEXT, OTHER, "a\nb"):
        field(page).fill(text)
        page.get_by_role("button", name="Try", exact=True).click()
    expect(own(page).locator("summary")).to_have_count(3, timeout=ARRIVES_MS)
    assert own(page).evaluate_all("rows => rows.map(row => row.dataset.text)") == ["a\nb", OTHER, TEXT], "newest on top"
    own(page).first.get_by_role("button", name="Remove this text").click()
    expect(own(page)).to_have_count(2)
    expect(own(page).first.locator("summary")).to_be_focused()
    field(page).fill(TEXT)
    page.keyboard.press("Enter")
    expect(own(page).locator("summary")).to_have_count(2, timeout=ARRIVES_MS)
    assert own(page).evaluate_all("rows => rows.map(row => row.dataset.text)") == [TEXT, OTHER], "each once"
    page.get_by_role("link", name="Copy link").click()
    expect(page.get_by_role("link", name="Copied")).to_be_visible()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url

    theirs = readers.open(link)
    expect(own(theirs).locator("summary")).to_have_count(2, timeout=ARRIVES_MS)
    for mine, same in zip(own(page).all(), own(theirs).all(), strict=True):
        assert same.locator("summary").inner_text() == mine.locator("summary").inner_text()
        assert marks(same) == marks(mine)


def test_an_example_s_text_can_be_taken_over(readers, firing) -> None:
    page = readers.open(firing)
    line = page.locator(".group .lines li").first
    line.hover()
    line.get_by_role("button", name="Try this text").click()
    taken = field(page).input_value()
    assert taken
    assert "↵" not in taken
    field(page).fill("")
    line.locator("summary").focus()
    page.keyboard.press("t")
    expect(field(page)).to_be_focused()
    assert field(page).input_value() == taken
    page.keyboard.press("Enter")
    expect(own(page).locator("summary")).to_be_visible(timeout=ARRIVES_MS)


def test_a_text_too_long_for_the_model_is_refused_in_its_row(readers, firing) -> None:
    page = readers.open(firing)
    field(page).fill("word " * 200)
    page.keyboard.press("Enter")
    expect(own(page)).to_contain_text("Text too long", timeout=ARRIVES_MS)
    expect(page.locator(".trying [role=status]")).to_contain_text("Text too long")


def test_without_a_live_worker_the_page_is_whole_and_says_what_starts_one(readers, app, firing, monkeypatch) -> None:
    def nobody(session: object) -> None:
        raise errors.UnavailableError("No live worker runs.", hint="`eyepiece up` starts one.")

    monkeypatch.setattr(app.state.live, "check_worker", nobody)
    page = readers.open(f"{firing}?text=nobody+answers")
    expect(page.locator(".group .lines li").first).to_be_visible()
    expect(own(page)).to_contain_text("No live worker runs. `eyepiece up` starts one.")
    search = readers.open(f"{SEARCH}?text=nobody+answers")
    expect(search.locator(".problem")).to_have_text("No live worker runs. `eyepiece up` starts one.")
    monkeypatch.undo()
    own(page).get_by_role("button", name="Try again").click()
    expect(own(page).locator("summary")).to_be_visible(timeout=ARRIVES_MS)
    search.get_by_role("link", name="Ask again").click()
    expect(search.locator("[role=toolbar]")).to_be_visible(timeout=ARRIVES_MS)


@pytest.mark.parametrize("width", [390, 1440])
def test_pages_are_there_before_the_worker_answers_and_nothing_shifts_when_it_does(
    readers, firing, live, width
) -> None:
    readers.open(f"{SEARCH}?text=warm").wait_for_selector("[role=toolbar]", timeout=ARRIVES_MS)
    live.send_signal(signal.SIGSTOP)
    try:
        page = readers.open(f"{firing}?text=slow+{width}&text=slower+{width}", width=width, init=SHIFT)
        expect(page.locator(".group .lines li").first).to_be_visible()
        expect(page.locator(".own [aria-busy], .own > [aria-busy]")).to_have_count(2)
        search = readers.open(f"{SEARCH}?text=slow+{width}&dense=", width=width, init=SHIFT)
        expect(search.get_by_text("Asking the live worker")).to_be_visible()
    finally:
        live.send_signal(signal.SIGCONT)
    expect(own(page).locator("summary")).to_have_count(2, timeout=ARRIVES_MS)
    expect(search.locator(".found > li").first).to_be_visible(timeout=ARRIVES_MS)
    for each in (page, search):
        each.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert each.evaluate("window.shift") == 0
        assert each.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_a_search_finds_what_fires_and_a_click_on_tokens_ranks_by_them(readers, address) -> None:
    page = readers.open(f"/{MODEL}")
    page.get_by_role("link", name="search by text").click()
    page.get_by_label("fold away features denser than").fill("")
    page.get_by_label("Text", exact=True).fill(TEXT)
    page.keyboard.press("Enter")
    expect(page.locator(".found > li")).to_have_count(50, timeout=ARRIVES_MS)
    values = [float(value) for _, value, _ in lines(page)]
    assert values == sorted(values, reverse=True)
    source, _, index = lines(page)[0][0].partition("/")
    assert values[0] == pytest.approx(max(v for _, v in activations(address, source, int(index), TEXT)), abs=0.01)

    tokens = page.locator("[role=toolbar] button")
    tokens.nth(2).click()
    expect(tokens.nth(2)).to_have_attribute("aria-pressed", "true")
    page.wait_for_url("**&sort=3")
    tokens.nth(4).click()
    page.wait_for_url("**&sort=3&sort=5")
    expect(page.get_by_role("heading", level=2, name="by their sum on 2 chosen tokens")).to_be_visible()
    source, _, index = lines(page)[0][0].partition("/")
    found = activations(address, source, int(index), TEXT)  # without the BOS, so a token's place is one less
    assert float(lines(page)[0][1]) == pytest.approx(found[2][1] + found[4][1], abs=0.02)
    expect(page.locator(".found .full").first.locator("u")).to_have_count(2)

    theirs = readers.open(page.url)
    expect(theirs.locator(".found > li").first).to_be_visible(timeout=ARRIVES_MS)
    assert lines(theirs) == lines(page)
    expect(theirs.locator("[role=toolbar] [aria-pressed=true]")).to_have_count(2)
    theirs.get_by_role("link", name="Choose none").click()
    expect(theirs.locator("[role=toolbar] [aria-pressed=true]")).to_have_count(0)
    assert "sort" not in theirs.url


def test_tokens_are_walked_and_chosen_with_the_keyboard(readers) -> None:
    page = readers.open(f"{SEARCH}?text=a+thin+rain&dense=")
    tokens = page.locator("[role=toolbar] button")
    expect(tokens.first).to_be_visible(timeout=ARRIVES_MS)
    tokens.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(tokens.nth(2)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=2, name="by their activation on the chosen token")).to_be_visible()
    expect(tokens.nth(2)).to_be_focused()
    expect(tokens.nth(2)).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Home")
    expect(tokens.first).to_be_focused()
    assert tokens.evaluate_all("all => all.filter(each => each.tabIndex === 0).length") == 1


def test_features_by_layer_and_by_token_and_their_best_example(readers) -> None:
    page = readers.open(f"{SEARCH}?text=a+thin+rain&dense=")
    expect(page.locator(".found > li").first).to_be_visible(timeout=ARRIVES_MS)
    page.get_by_role("link", name="by layer").click()
    expect(page.locator(".results h3 .ref")).to_have_text(list(SOURCES))
    expect(page.get_by_role("link", name="by layer")).to_be_focused()
    assert page.locator(".results .group").first.locator(".found > li").count() == 10
    page.get_by_role("link", name="by token").click()
    expect(page.locator(".results h3 .token").first).to_be_visible()
    n_tokens = page.locator("[role=toolbar] button").count()
    assert 1 < page.locator(".results h3").count() <= n_tokens

    line = page.locator(".found > li").first
    line.locator("summary").first.click()
    best = line.locator(".best details")
    expect(best.locator("summary")).to_be_visible()
    expected = page.request.get(line.locator(".ref").get_attribute("href")).text()
    assert best.locator("summary .value").inner_text() in expected
    best.locator("summary").click()
    expect(best.locator(".full")).to_be_visible()


def test_dense_features_are_folded_away(readers) -> None:
    page = readers.open(f"{SEARCH}?text=a+thin+rain&dense=50%25")
    folded = page.locator(".dense > summary")
    expect(folded).to_contain_text("fire on more than 50%", timeout=ARRIVES_MS)
    hidden = page.locator(".dense .found > li").first
    expect(hidden).to_be_hidden()
    folded.click()
    expect(hidden).to_be_visible()


def test_another_layer_is_a_click_and_the_page_goes_back_to_what_it_was(readers) -> None:
    page = readers.open(f"{SEARCH}?text=a+thin+rain&dense=")
    expect(page.locator(".found > li").first).to_be_visible(timeout=ARRIVES_MS)
    before = lines(page)
    page.locator(".chip", has_text="2").click()
    page.get_by_role("button", name="Search", exact=True).click()
    page.wait_for_url("**source=2-set**")
    expect(page.locator(".found .ref", has_text="0-set")).to_have_count(0)
    expect(page.locator(".found .ref", has_text="2-set").first).to_be_visible()
    page.go_back()
    expect(page.locator(".found .ref", has_text="0-set").first).to_be_visible(timeout=ARRIVES_MS)
    assert lines(page) == before


def test_all_of_it_works_without_scripts(readers, firing) -> None:
    page = readers.open(firing, scripts=False)
    field(page).fill(TEXT)
    page.get_by_role("button", name="Try", exact=True).click()
    page.wait_for_url("**/try?text=*")
    expect(own(page).locator("summary")).to_be_visible()
    expect(page.get_by_role("button", name="Remove this text")).to_be_hidden()

    page.goto(f"{SEARCH}?text=a+thin+rain")
    page.get_by_role("link", name="Show the features that fire on it").click()
    page.get_by_label("fold away features denser than").fill("")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator(".found > li").first).to_be_visible()
    page.locator("[role=toolbar] button").nth(1).click()
    page.wait_for_url("**toggle=2**")
    expect(page.locator("[role=toolbar] [aria-pressed=true]")).to_have_count(1)
    page.get_by_role("link", name="by layer").click()
    expect(page.locator(".results h3 .ref")).to_have_text(list(SOURCES))
    expect(page.locator("[role=toolbar] [aria-pressed=true]")).to_have_count(1)
