"""Steering in a real browser: features found and pushed, both texts streamed, stopped, shared, read by keyboard.

The site is whole, on a real database and a real queue; a stand-in for the live worker writes what each test scripts.
`test_steering_live` has the live worker itself.
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
from backend.formats.messages import ErrorReply, Generated, Push, Reply, Request, SteerRequest
from backend.services import inference
from backend.settings import Settings
from backend.web.app import create_app
from tests import hosted, stand_in
from tests.browser.conftest import browser as browser
from tests.site import Site
from tests.site import site as site

pytestmark = pytest.mark.browser
PATIENCE_MS = 60_000

STEER = f"/{hosted.MODEL}/steer"
RICH, LAST = f"{hosted.SOURCE}/{hosted.RICH}", f"{hosted.SOURCE}/{hosted.LAST}"
BOTH = f"{STEER}?feature={RICH}:20&feature={LAST}:3:CLAMP&prompt=The+cat"
"""The same question is answered from the saved run: tests that look at the stream give it a seed of its own."""
DEFAULT = (" sat", " in", " the", " rain", ".")
STEERED = (" sat", " on", " the", " the", "!")


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
    expect(status(page)).to_have_text("5 tokens each; they differ from token 2 on, where underlined.")
    expect(steered(page)).to_have_attribute("aria-busy", "false")
    assert default(page).locator(".is-own").all_text_contents() == [" in", " rain", "."]
    assert steered(page).locator(".is-own").all_text_contents() == [" on", " the", "!"]
    assert "underline" in steered(page).locator(".is-own").first.evaluate("e => getComputedStyle(e).textDecorationLine")
    assert peer.asked.pushes == (
        Push(method="add", strength=12.5, source=hosted.SOURCE, index=hosted.RICH),
        Push(method="clamp", strength=30.0, source=hosted.SOURCE, index=hosted.LAST),
    )
    assert (peer.asked.prompt, peer.asked.is_streamed) == ("The cat", True)


def test_a_shared_link_opens_in_a_browser_that_knows_nothing_and_can_be_tried(open_page: Open, peer: Peer) -> None:
    page = open_page(f"{BOTH}&temperature=0&through={hosted.SOURCE}")
    button(page, "Run").click()
    button(page, "Copy its link").click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()).includes('/steer/')")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.get_by_role("link", name="This run").get_attribute("href")

    other = open_page(link)
    expect(default(other)).to_have_text("The cat sat in the rain.")
    expect(steered(other)).to_have_text("The cat sat on the the!")
    assert steered(other).locator(".is-own").all_text_contents() == [" on", " the", "!"]
    expect(status(other)).to_contain_text("they differ from token 2 on")
    steered(other).get_by_text("on", exact=True).hover()
    expect(other.get_by_role("status").get_by_text("log-prob −1.00")).to_be_visible()

    other.get_by_role("link", name="try it yourself").click()
    expect(other.get_by_label(f"Strength of {RICH}", exact=True)).to_have_value("20")
    expect(other.get_by_label(f"Strength of {LAST}", exact=True)).to_have_value("3")
    expect(other.get_by_label(f"How {LAST} is pushed")).to_have_value("CLAMP")
    expect(other.get_by_label("Text", exact=True)).to_have_value("The cat")
    expect(other.get_by_label("temperature")).to_have_value("0")
    expect(other.get_by_label(f"{hosted.SOURCE} at")).to_be_checked()


def test_a_run_is_stopped_and_nothing_more_is_computed_for_it(open_page: Open, peer: Peer) -> None:
    is_gone = threading.Event()

    def until_left(request: SteerRequest) -> Iterator[Reply]:
        yield next(both(request))
        peer.worker.until_gone(request)
        is_gone.set()

    peer.script = until_left
    page = open_page(f"{BOTH}&seed=2")
    button(page, "Run").click()
    expect(default(page)).to_have_text("The cat sat")
    button(page, "Stop").click()
    expect(status(page)).to_have_text("Stopped. 1 token each, and not one differs.")
    expect(button(page, "Run")).to_be_focused()
    assert is_gone.wait(stand_in.PATIENCE_S), "the worker was told"
    expect(default(page)).to_have_text("The cat sat")
    expect(button(page, "Copy its link")).to_be_hidden()

    peer.script = both
    button(page, "Run").click()
    expect(default(page)).to_have_text("The cat sat in the rain.")


def test_everything_is_done_from_the_keyboard(open_page: Open, peer: Peer) -> None:
    page = open_page(STEER)
    keys = page.keyboard
    keys.press("/")
    box = page.get_by_label("token, index or address")
    expect(box).to_be_focused()
    keys.insert_text("ca")  # at once: each change of the text makes a new list
    expect(page.locator("[role=option]").first).to_be_visible()
    keys.press("ArrowDown")
    expect(page.locator("[role=option][aria-selected=true]")).to_have_count(1)
    keys.press("Escape")
    expect(page.get_by_role("listbox")).to_be_hidden()
    expect(box).to_be_focused()
    keys.press("ControlOrMeta+a")
    keys.type(str(hosted.RICH))
    keys.press("Enter")
    expect(page.locator(f"[data-push='{RICH}']")).to_be_visible()
    expect(box).to_be_focused()
    expect(box).to_have_value("")

    for label in (None, f"Remove {RICH}", f"How {RICH} is pushed", f"Strength of {RICH}, as a slider"):
        keys.press("Tab")
        expect(page.locator("a.ref:focus") if label is None else page.get_by_label(label, exact=True)).to_be_focused()
    keys.press("ArrowRight")
    expect(page.get_by_label(f"Strength of {RICH}", exact=True)).to_have_value("31")
    for _ in range(2):  # the number, the first preset
        keys.press("Tab")
    keys.press("Enter")
    expect(page.get_by_label(f"Strength of {RICH}", exact=True)).to_have_value("-10")
    expect(button(page, "−1×")).to_have_attribute("aria-pressed", "true")

    page.get_by_label("Text", exact=True).focus()
    keys.type("The cat")
    keys.press("ControlOrMeta+Enter")
    expect(status(page)).to_contain_text("5 tokens each")
    expect(page.get_by_label("Text", exact=True)).to_be_focused()
    assert peer.asked.pushes[0].strength == -10.0

    steered(page).focus()
    for _ in range(2):
        keys.press("ArrowRight")
    told = page.locator(".odds")
    expect(told).to_contain_text("on log-prob −1.00")
    rows = [[cell.text_content() for cell in row.locator("td, th").all()] for row in told.locator("tr").all()]
    assert rows == [["", "steered", "as it is"], ["·on", "36.8%", "–"], ["x", "<0.1%", "<0.1%"]]
    keys.press("ArrowRight")
    expect(told).to_contain_text("the log-prob")
    assert told.locator("tr").first.locator("td").count() == 2, "the texts are not comparable any more"
    keys.press("Escape")
    expect(told).to_be_hidden()


def test_the_address_says_what_is_chosen_and_brings_it_back(open_page: Open, peer: Peer) -> None:
    page = open_page(f"{BOTH}&n_tokens=3")
    page.get_by_label(f"Strength of {RICH}", exact=True).fill("-1.5")
    page.get_by_label(f"How {LAST} is pushed").select_option("ablate")
    expect(page.get_by_label(f"Strength of {LAST}", exact=True)).to_be_disabled()
    page.get_by_text("Sampling").click()
    expect(page.get_by_label("push at the special tokens")).to_be_hidden()  # there are none in a text
    page.get_by_label("frequency penalty").fill("0.5")
    page.get_by_label("Text", exact=True).fill("A & B?")
    page.get_by_label("seed").fill("12")
    page.get_by_label("seed").blur()
    here = page.url.partition("?")[2]
    assert here == f"feature={RICH}:-1.5&feature={LAST}:30:ABLATE&prompt=A+%26+B%3F&n_tokens=3&freq_penalty=0.5&seed=12"
    expect(page.locator("[data-part=gist]")).to_have_text("tokens 3, temperature 0.5, top-p 1, penalty 0.5, seed 12")
    page.reload()
    expect(page.get_by_label(f"Strength of {RICH}", exact=True)).to_have_value("-1.5")
    expect(page.get_by_label(f"How {LAST} is pushed")).to_have_value("ABLATE")
    button(page, f"Remove {RICH}").click()
    expect(button(page, f"Remove {LAST}")).to_be_focused()
    assert page.url.partition("?")[2] == here.partition("&")[2]

    button(page, "Run").click()
    expect(status(page)).to_contain_text("tokens each")
    assert (peer.asked.sampling.seed, peer.asked.sampling.n_tokens, peer.asked.prompt) == (12, 3, "A & B?")
    button(page, "New seed").click()
    expect(page.get_by_label("seed")).not_to_have_value("12")
    expect(status(page)).to_contain_text("tokens each")
    assert f"seed={peer.asked.sampling.seed}" in page.url
    assert peer.asked.sampling.seed != 12


def test_clamping_counts_in_multiples_of_the_largest_activation(open_page: Open) -> None:
    page = open_page(f"{STEER}?feature={RICH}:20")
    strength = page.get_by_label(f"Strength of {RICH}", exact=True)
    page.get_by_label(f"How {RICH} is pushed").select_option("clamp")
    expect(strength).to_have_value("2")
    button(page, "½×").click()
    expect(strength).to_have_value("0.5")
    page.get_by_label(f"How {RICH} is pushed").select_option("cap")
    expect(strength).to_have_value("5")
    expect(page.locator("[data-meaning]")).to_contain_text("kept at or below the strength")
    button(page, "10×").click()
    expect(strength).to_have_value("100")


def test_a_chat_goes_on_from_each_side_s_own_answers(open_page: Open, peer: Peer) -> None:
    page = open_page(f"{STEER}?feature={RICH}&mode=chat&system=Be+brief.")
    message = page.get_by_label("Message", exact=True)
    message.fill("Who are you?")
    button(page, "Send").click()
    expect(status(page)).to_contain_text("5 tokens each")
    expect(message).to_have_value("")
    message.fill("And then?")
    button(page, "Send").click()
    expect(default(page).locator(".written")).to_have_count(2)
    expect(status(page)).to_contain_text("5 tokens each")
    expect(button(page, "Copy its link")).to_be_visible()

    said = [("system", "Be brief."), ("user", "Who are you?")]
    chats = (peer.asked.default_chat, peer.asked.steered_chat)
    assert [[(turn.role, turn.content) for turn in chat] for chat in chats] == [
        [*said, ("assistant", "".join(tokens)), ("user", "And then?")] for tokens in (DEFAULT, STEERED)
    ]
    button(page, "New seed").click()
    expect(status(page)).to_contain_text("5 tokens each")
    expect(button(page, "Copy its link")).to_be_visible()
    assert peer.asked.default_chat == chats[0], "the last message again"
    expect(steered(page).locator(".written")).to_have_count(2)

    other = open_page(page.get_by_role("link", name="This run").get_attribute("href") or "")
    expect(steered(other).locator("p")).to_have_text(
        ["Be brief.", "Who are you?", "".join(STEERED), "And then?", "".join(STEERED)]
    )
    button(page, "Start over").click()
    expect(message).to_be_focused()
    expect(default(page)).to_have_text("")
    assert "prompt=" not in page.url


def test_a_message_asked_again_while_it_is_answered_takes_its_own_place(open_page: Open, peer: Peer) -> None:
    page = open_page(f"{STEER}?feature={RICH}:7&mode=chat&prompt=Hello")
    button(page, "Send").click()
    expect(status(page)).to_contain_text("5 tokens each")

    def until_left(request: SteerRequest) -> Iterator[Reply]:
        yield next(both(request))
        peer.script = both
        peer.worker.until_gone(request)

    peer.script = until_left
    page.get_by_label("Message", exact=True).fill("And then?")
    button(page, "Send").click()
    expect(steered(page).locator(".written").nth(1)).to_have_text(" sat")
    button(page, "New seed").click()
    expect(status(page)).to_contain_text("5 tokens each")
    expect(steered(page).locator("p")).to_have_text(["Hello", "".join(STEERED), "And then?", "".join(STEERED)])
    assert [turn.content for turn in peer.asked.steered_chat] == ["Hello", "".join(STEERED), "And then?"]


def test_a_token_is_read_with_a_finger(browser: Browser, address: str, peer: Peer) -> None:
    context = browser.new_context(base_url=address, viewport={"width": 390, "height": 900}, has_touch=True)
    page = context.new_page()
    page.goto(BOTH)
    button(page, "Run").tap()
    expect(status(page)).to_contain_text("5 tokens each")
    steered(page).get_by_text("on", exact=True).tap()
    expect(page.locator(".odds")).to_contain_text("on log-prob −1.00")
    page.get_by_role("heading", level=1).tap(position={"x": 1, "y": 1})
    expect(page.locator(".odds")).to_be_hidden()
    context.close()


def test_what_the_worker_refuses_is_said_in_place_and_takes_nothing_away(open_page: Open, peer: Peer) -> None:
    def refuse(request: SteerRequest) -> Iterator[Reply]:
        yield ErrorReply(
            id=request.id, code="unsupported", error="The model has no chat template.", hint="Give a text."
        )

    peer.script = refuse
    page = open_page(f"{BOTH}&mode=chat")
    button(page, "Send").click()
    refusal = page.get_by_role("alert").filter(has_text="chat template")
    expect(refusal).to_have_text("The model has no chat template. Give a text.")
    expect(page.get_by_label("Message", exact=True)).to_have_value("The cat")
    expect(default(page)).to_have_text("")
    page.get_by_label("Go on with a text").check()
    page.get_by_label("Text", exact=True).fill("The dog")
    expect(refusal).to_be_hidden()

    def break_off(request: SteerRequest) -> Iterator[Reply]:
        yield next(both(request))
        yield ErrorReply(id=request.id, code="unavailable", error="The worker was restarted.")

    peer.script = break_off
    button(page, "Run").click()
    expect(page.get_by_role("alert").filter(has_text="restarted")).to_be_visible()
    expect(status(page)).to_contain_text("Broken off.")
    expect(default(page)).to_have_text("The dog sat")

    page.route("**/api/steer", lambda route: route.abort())
    button(page, "Run").click()
    expect(page.get_by_role("alert").filter(has_text="The server does not answer.")).to_be_visible()


def test_mistakes_are_said_before_anything_is_asked(open_page: Open, peer: Peer) -> None:
    page = open_page(BOTH)
    page.get_by_text("Sampling").click()
    page.get_by_label("temperature").fill("3")
    page.get_by_text("Sampling").click()
    button(page, "Run").click()
    expect(page.get_by_role("alert").filter(has_text="temperature")).to_be_visible()
    expect(page.get_by_label("temperature")).to_be_focused()
    box = page.get_by_label("token, index or address")
    box.fill("zzz")
    expect(page.get_by_role("listbox")).to_contain_text("fires on or promotes a token with “zzz”")
    box.fill(f"http://elsewhere/{hosted.MODEL}/{hosted.SOURCE}/6?x=1")
    box.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="has no feature 6")).to_be_visible()
    expect(page.locator("[data-push]")).to_have_count(2)
    assert not peer.worker.asked


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_moves_while_the_texts_are_written(open_page: Open, peer: Peer, width: int) -> None:
    tokens = tuple(f" word{i}" for i in range(8))
    n_measured = threading.Semaphore(0)

    def slowly(request: SteerRequest) -> Iterator[Reply]:
        for reply in both(request, default=tokens, steered=tokens[::-1]):
            yield reply
            assert n_measured.acquire(timeout=stand_in.PATIENCE_S)

    peer.script = slowly
    page = open_page(f"{BOTH}&seed={width}", width=width)
    button(page, "Run").click()
    places = []
    for n in range(1, len(tokens) + 1):
        expect(default(page).locator(".t")).to_have_count(n)
        places.append(page.evaluate(PLACES))
        n_measured.release()
    expect(status(page)).to_contain_text("8 tokens each")
    assert not [place for place in places if place != places[0]], places[0]


PLACES = """() => ["[data-side=default]", "[data-side=steered]", "[data-part=shared]", "[data-part=run]", "main"].map((each) => {
  const { x, y, width, height } = document.querySelector(each).getBoundingClientRect();
  return [x, y, width, height];
})"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_the_pages_fit_their_window(open_page: Open, peer: Peer, width: int, scheme: str) -> None:
    page = open_page(BOTH, width=width, scheme=scheme)
    button(page, "Run").click()
    expect(button(page, "Copy its link")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    page.get_by_label("token, index or address").fill("ca")
    expect(page.locator("[role=option]").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    page.get_by_role("link", name="This run").click()
    expect(page.get_by_role("link", name="try it yourself")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_a_feature_s_page_leads_to_steering_with_it(open_page: Open) -> None:
    page = open_page(f"/{hosted.MODEL}/{RICH}")
    page.get_by_role("link", name="steer with this").click()
    expect(page.get_by_label(f"Strength of {RICH}", exact=True)).to_have_value("30")
