"""An attribution graph from Neuronpedia's client to a shared address, in a real browser on a real database."""

import json
import socket
import threading
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import uvicorn
from playwright.sync_api import Page, expect

from backend.cli.migrate import migrate
from backend.db.session import create_engine, session_factory, transaction
from backend.settings import Settings
from backend.web.app import create_app
from tests import database, graph_samples, hosted

pytest.importorskip("neuronpedia", reason="Neuronpedia's client is not installed")
pytestmark = pytest.mark.browser

SMALL = f"/{hosted.MODEL}/graph/small"
LOW, HIGH, OUT = f"2_{hosted.RICH}_1", "1_2_1", "3_7_1"


def small():
    """With a feature that is hosted."""
    graph = graph_samples.small(scan=hosted.MODEL, feature_details={"neuronpedia_source_set": "tiny-sae"})
    text = json.dumps(graph).replace("0_3_1", LOW)
    graph = json.loads(text)
    graph["nodes"][2] |= {"layer": "2", "clerp": ""}
    graph["nodes"][3]["layer"], graph["nodes"][5]["layer"] = "3", "4"
    return graph


@pytest.fixture(scope="module")
def base_url(tmp_path_factory):
    """A site in `open` mode with a hosted source and two graphs that the client uploaded."""
    from neuronpedia.np_graph_metadata import NPGraphMetadata
    from neuronpedia.requests.base_request import NPRequest

    assets = Settings().assets
    if not (assets / "manifest.json").exists():
        pytest.skip(f"{assets} is not built; run `make setup`")
    with (
        database.server() as url,
        socket.create_server(("127.0.0.1", 0)) as listening,
        pytest.MonkeyPatch.context() as patch,
    ):
        migrate(Settings(database_url=url))
        engine = create_engine(url)
        with transaction(session_factory(engine)) as session:
            hosted.host(session)
        engine.dispose()
        data = tmp_path_factory.mktemp("data")
        app = create_app(Settings(database_url=url, redis_url="", assets=assets, data=data))
        server = uvicorn.Server(uvicorn.Config(app, ws="none", log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        patch.setattr(NPRequest, "BASE_URL", f"{address}/api")
        patch.setenv("NEURONPEDIA_API_KEY", "any")
        NPGraphMetadata.upload(json.dumps(small()))
        file = Path(data, "dallas.json")
        file.write_text(json.dumps(graph_samples.large()))
        NPGraphMetadata.upload_file(str(file))
        yield address
        server.should_exit = True
        thread.join()


def node(page: Page, node_id: str):
    return page.locator(f'path.node[data-node="{node_id}"]')


def opened(page: Page) -> Page:
    """Once the graph is drawn and what is hosted of it is known."""
    expect(page.locator("[data-controller=graph][data-state=known]")).to_be_attached()
    return page


def press(page: Page, node_id: str, *, modifiers: tuple[str, ...] = ()) -> None:
    """Click where a node is drawn, whatever lies over it."""
    node(page, node_id).scroll_into_view_if_needed()
    box = node(page, node_id).bounding_box()
    assert box is not None
    for key in modifiers:
        page.keyboard.down(key)
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    for key in modifiers:
        page.keyboard.up(key)


def seen(page: Page) -> dict[str, object]:
    """What a reader of the page has before them, but for the search that the address is."""
    return {
        "pinned": [each.get_attribute("data-node") for each in page.locator("path.node.is-pinned").all()],
        "chosen": [each.get_attribute("data-node") for each in page.locator("path.node.is-clicked").all()],
        "boxes": [
            (each.get_attribute("data-box"), each.get_attribute("aria-label"), each.get_attribute("transform"))
            for each in page.locator("g.box").all()
        ],
        "shown": page.locator("path.node").count(),
        "counts": page.locator("[data-part=counts]").inner_text(),
        "pruning": page.get_by_role("slider").input_value(),
        "panel": page.locator("[data-part=panel]").inner_text(),
    }


def test_from_a_list_to_a_graph_whose_state_others_see_by_its_address(open_page):
    page = open_page("/graphs")
    page.get_by_role("link", name="<bos>a", exact=True).click()
    opened(page)
    expect(page.locator("path.node")).to_have_count(5)
    expect(page.locator("[data-part=counts]")).to_have_text("5 of 6 nodes, 5 of 6 links")

    node(page, HIGH).hover()
    expect(page.locator("[data-part=said]")).to_have_text('feature 2 · layer 3 · token 1 "a" · influence 0.55')
    expect(page.locator(".graph-chart .lit path.positive")).to_have_count(2)
    press(page, LOW)
    panel = page.locator("[data-part=panel]")
    expect(panel.get_by_role("link", name=f"{hosted.SOURCE}/{hosted.RICH}")).to_have_attribute(
        "href", f"/{hosted.MODEL}/{hosted.SOURCE}/{hosted.RICH}"
    )
    expect(panel.get_by_role("listitem")).to_have_count(4)
    assert [each.inner_text().split("\n")[-1] for each in panel.get_by_role("listitem").all()] == [
        "2.00", "−1.00", "4.00", "−2.50",
    ]  # fmt: skip
    panel.get_by_role("textbox", name="name").fill("says a, mostly")
    panel.get_by_role("button", name="Pin").click()
    press(page, HIGH, modifiers=("Shift",))
    press(page, OUT, modifiers=("Shift",))
    expect(page.locator("g.box")).to_have_count(3)
    page.locator(f'g.box[data-box="{LOW}"]').click()
    page.locator(f'g.box[data-box="{HIGH}"]').click()
    page.get_by_label("Chosen boxes as one group, named").fill("a chain")
    page.get_by_role("button", name="Group", exact=True).click()
    expect(page.locator("g.box.group")).to_have_attribute("aria-label", "a chain (2 nodes)")
    expect(page.locator(".graph-boxes .lit path")).to_have_count(1)

    group = page.locator("g.box.group")
    before = group.get_attribute("transform")
    group.hover()
    page.mouse.down()
    page.mouse.move(400, 600, steps=3)
    page.mouse.up()
    expect(group).not_to_have_attribute("transform", before)
    slider = page.get_by_role("slider")
    slider.focus()
    page.keyboard.press("Home")
    expect(page.locator("[data-part=counts]")).to_have_text("5 of 6 nodes, 5 of 6 links")
    page.keyboard.press("End")
    expect(page.locator("[data-part=counts]")).to_have_text("6 of 6 nodes, 6 of 6 links")
    page.mouse.move(2, 2)

    address = urlsplit(page.url)
    said = parse_qs(address.query)
    assert said["pinnedIds"] == [f"{LOW},{HIGH},{OUT}"]
    assert json.loads(said["supernodes"][0]) == [["a chain", LOW, HIGH]]
    assert (said["clickedId"], said["pruningThreshold"]) == ([LOW], ["1"])
    again = opened(open_page(f"{address.path}?{address.query}"))
    assert seen(again) == seen(page)
    theirs = opened(open_page(f"/{hosted.MODEL}/graph?slug=small&{address.query}"))
    assert urlsplit(theirs.url).path == SMALL
    assert seen(theirs) == seen(page)


def test_a_state_is_saved_and_shown_again(open_page):
    page = opened(open_page(f"{SMALL}?pinnedIds={LOW},{OUT}&supernodes=[[%22both%22,%22{LOW}%22,%22{OUT}%22]]"))
    expect(page.locator("g.box")).to_have_count(1)
    page.locator("#saved-name").fill("mine")
    page.get_by_role("button", name="Save what is pinned").click()
    saved = page.locator("[data-part=saved] li").filter(has_text="mine")
    expect(saved).to_have_count(1)
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("[data-part=subgraph]")).to_be_hidden()
    assert "pinnedIds" not in parse_qs(urlsplit(page.url).query)
    saved.get_by_role("button", name="Show").click()
    expect(page.locator("g.box.group")).to_have_attribute("aria-label", "both (2 nodes)")
    saved.get_by_role("button", name="Delete").click()
    expect(saved).to_have_count(0)


def test_a_graph_is_read_with_the_keyboard_alone(open_page):
    page = opened(open_page(SMALL))
    page.locator("summary").filter(has_text="as a list").focus()
    page.keyboard.press("Enter")
    page.get_by_label("find").fill("feature 2")
    expect(page.locator("[data-part=list] li")).to_have_count(1)
    page.locator("[data-part=list] li button").focus()
    page.keyboard.press("Enter")
    expect(node(page, HIGH)).to_have_class("node feature is-clicked is-at")
    page.locator(".graph-chart").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("p")
    expect(page.locator("g.box")).to_have_attribute("data-box", LOW)
    box = page.locator("g.box")
    before = box.get_attribute("transform")
    box.focus()
    page.keyboard.press("ArrowLeft")
    expect(box).not_to_have_attribute("transform", before)
    expect(box).to_be_focused()


def test_a_large_graph_is_drawn_pruned_and_fits_a_phone(open_page):
    page = opened(open_page("/gemma-2-2b/graph/dallas?pruningThreshold=1", width=390))
    expect(page.locator("path.node")).to_have_count(738)
    expect(page.locator("[data-part=counts]")).to_have_text("738 of 738 nodes, 15000 of 15000 links")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.get_by_role("slider").focus()
    page.keyboard.press("Home")
    kept = [each for each in graph_samples.large()["nodes"] if (each["influence"] or 0) <= 0.2]
    expect(page.locator("path.node")).to_have_count(len(kept))


def test_an_embedded_graph_has_nothing_around_it_and_nothing_that_writes(open_page):
    page = opened(open_page(f"{SMALL}?embed=true&clickedId={HIGH}"))
    assert page.locator("header.site, [data-part=saved], form[method=post]").count() == 0
    expect(node(page, HIGH)).to_have_class("node feature is-clicked is-at")
    press(page, LOW)
    page.wait_for_url("**embed=true&clickedId=2_**")


def test_without_scripts_a_graph_says_where_its_file_is(open_page):
    page = open_page(SMALL, scripts=False)
    expect(page.locator("noscript, .partial").get_by_role("link")).to_have_attribute(
        "href", f"/api/graph/{hosted.MODEL}/small/json"
    )
    expect(page.locator("[data-controller=graph]")).to_be_hidden()
