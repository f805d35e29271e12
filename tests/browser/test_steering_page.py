"""Steering in a real browser: features found and pushed, both texts streamed, stopped, shared, read by keyboard.

The site is whole, on a real database and a real queue. A stand-in for the live worker writes what each test scripts;
the last test has the live worker itself.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect

from backend.db import tables
from backend.db.session import transaction
from backend.formats.messages import Generated, Push, Reply, Request, SteerRequest
from backend.services import inference
from backend.settings import Settings
from backend.web.app import create_app
from tests import hosted, stand_in
from tests.browser.conftest import browser as browser
from tests.site import Site
from tests.site import site as site

pytestmark = pytest.mark.browser

STEER = f"/{hosted.MODEL}/steer"
RICH, LAST = f"{hosted.SOURCE}/{hosted.RICH}", f"{hosted.SOURCE}/{hosted.LAST}"
BOTH = f"{STEER}?feature={RICH}:20&feature={LAST}:3:CLAMP&prompt=The+cat"
DEFAULT = (" sat", " in", " the", " rain", ".")
STEERED = (" sat", " on", " the", " the", "!")
PATIENCE_MS = 20_000


class Peer:
    """The stand-in, and what it is to say; a test changes `script` before it asks."""

    def __init__(self, queue: inference.Queue) -> None:
        self.script: Callable[[SteerRequest], Iterable[Reply]] = both
        self.worker = stand_in.StandIn(queue, self._say)

    def _say(self, request: Request) -> Iterable[Reply]:
        assert isinstance(request, SteerRequest)
        return self.script(request)

    @property
    def asked(self) -> SteerRequest:
        """The last request."""
        return self.worker.steered[-1]


def both(_: SteerRequest, *, default: tuple[str, ...] = DEFAULT, steered: tuple[str, ...] = STEERED) -> Iterator[Reply]:
    """A reply for each token of the two texts."""
    for at in range(len(default)):
        yield stand_in.reply(_text(steered, at), _text(default, at))


def _text(tokens: tuple[str, ...], at: int) -> Generated:
    """The token at `at`, and the text as it then is."""
    is_done = at == len(tokens) - 1
    return stand_in.generated(tokens[at], before="".join(tokens[:at]), is_done=is_done)


@pytest.fixture(scope="module")
def rows(site: Site) -> None:
    """A model with a source, and a live worker that is heard from for ever."""
    with transaction(site.sessions) as session:
        hosted.host(session)
        report = {"name": "peer", "kind": inference.WORKER_KIND, "device": "cpu", "doing": None}
        session.add(tables.WorkerReport(**report, seen_at=stand_in.FOR_EVER))


@pytest.fixture(scope="module")
def address(site: Site, rows: None) -> Iterator[str]:
    with serving(site) as url:
        yield url


@contextmanager
def serving(site: Site) -> Iterator[str]:
    assets = Settings().assets
    if not Path(assets, "manifest.json").exists():
        pytest.skip(f"{assets} is not built; run `make setup`")
    app = create_app(site.settings.model_copy(update={"assets": assets, "live_deadline_s": 60.0}))
    server = uvicorn.Server(uvicorn.Config(app, port=0, ws="none", log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def peer(site: Site) -> Iterator[Peer]:
    queue = inference.connect(site.settings)
    made = Peer(queue)
    made.worker.start()
    yield made
    made.worker.stop()
    queue.close()
    assert not made.worker.failed, made.worker.failed


Open = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, address: str) -> Iterator[Open]:
    """Opens a path in a browser of its own; whatever the console says fails the test, refusals left out."""
    said: list[str] = []
    contexts = []

    def open_(path: str, *, width: int = 1440, scheme: str = "light") -> Page:
        context = browser.new_context(
            base_url=address, viewport={"width": width, "height": 900}, color_scheme=scheme,
            permissions=["clipboard-read", "clipboard-write"],
        )  # fmt: skip
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(path)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert [each for each in said if "Failed to load resource" not in each] == []


def default(page: Page):
    return page.locator("[data-side=default]")


def steered(page: Page):
    return page.locator("[data-side=steered]")


def button(page: Page, name: str):
    return page.get_by_role("button", name=name, exact=True)


def status(page: Page):
    return page.locator("[data-part=status], .said").first


# --- with a stand-in -----------------------------------------------------------------------------------------------


def test_two_features_are_found_by_token_and_both_texts_are_streamed(open_page: Open, peer: Peer) -> None:
    is_seen = threading.Event()

    def half_way(request: SteerRequest) -> Iterator[Reply]:
        first, second, *rest = both(request)
        yield first
        yield second
        assert is_seen.wait(stand_in.PATIENCE_S)
        yield from rest

    peer.script = half_way
    page = open_page(STEER)
    for index in (hosted.RICH, hosted.LAST):
        page.get_by_label("token, index or address").fill("ca" if index == hosted.RICH else "%")
        page.locator(f"[role=option][data-name='{hosted.SOURCE}/{index}']").click()
        expect(page.locator(f"[data-push='{hosted.SOURCE}/{index}']")).to_be_visible()
    page.get_by_label(f"Strength of {RICH}", exact=True).fill("12.5")
    page.get_by_label(f"How {LAST} is pushed").select_option("clamp")
    page.get_by_label("Text", exact=True).fill("The cat")
    button(page, "Run").click()

    expect(default(page)).to_have_text("The cat sat in")
    expect(steered(page)).to_have_text("The cat sat on")
    expect(steered(page)).to_have_attribute("aria-busy", "true")
    is_seen.set()
    expect(default(page)).to_have_text("The cat sat in the rain.")
    expect(steered(page)).to_have_text("The cat sat on the the!")
    expect(status(page)).to_have_text(
        "5 tokens each; they differ from token 2 on. Underlined is what only one of them has."
    )
    expect(steered(page)).to_have_attribute("aria-busy", "false")
    assert default(page).locator(".is-own").all_text_contents() == [" in", " rain", "."]
    assert steered(page).locator(".is-own").all_text_contents() == [" on", " the", "!"]
    assert "underline" in steered(page).locator(".is-own").first.evaluate("e => getComputedStyle(e).textDecorationLine")
    assert peer.asked.pushes == (
        Push(method="add", strength=12.5, source=hosted.SOURCE, index=hosted.RICH),
        Push(method="clamp", strength=30.0, source=hosted.SOURCE, index=hosted.LAST),
    )
    assert (peer.asked.prompt, peer.asked.is_streamed) == ("The cat", True)
