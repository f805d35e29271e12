"""Handing over an SAE in a real browser: files dropped on the page, sent, checked, hosted, computed, read.

The site is whole: web server, database, queue and a worker, in processes of their own.
"""

import base64
import json
import threading
import time
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Page, expect

from backend.settings import Settings
from backend.web.app import create_app
from tests import tiny
from tests.browser.conftest import browser as browser
from tests.site import Site
from tests.site import site as site

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SAE = tiny.SHARED / "saes" / "tinystories-260k" / "batchtopk512"
MODEL = tiny.SHARED / "models" / "tinystories-260k"
CORPUS = tiny.SHARED / "corpora" / "tinystories-head.txt"
DROP = """
async ([target, name, files]) => {
  const transfer = new DataTransfer();
  for (const [file, text] of files) transfer.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], file));
  const how = { dataTransfer: transfer, bubbles: true, cancelable: true };
  for (const type of ["dragover", "drop"]) document.querySelector(target).dispatchEvent(new DragEvent(type, how));
}
"""


@pytest.fixture(scope="module")
def address(site: Site):
    assets = Settings().assets
    if not Path(assets, "manifest.json").exists():
        pytest.skip(f"{assets} is not built; run `make setup`")
    app = create_app(site.settings.model_copy(update={"assets": assets}))
    server = uvicorn.Server(uvicorn.Config(app, port=0, ws="none", log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def page(browser, address):
    """A page whose console stays silent."""
    said: list[str] = []
    context = browser.new_context(base_url=address, viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    context.close()
    assert [each for each in said if "Failed to load resource" not in each] == [], (
        "but for refusals and cuts on purpose"
    )


def choose_folder(page: Page, folder: Path) -> None:
    page.locator("[data-part=folder]").set_input_files(folder)


def choose_model(page: Page, weights: Path) -> None:
    page.get_by_label("It was trained on").select_option(label="another one")
    page.get_by_label("Hugging Face name, or folder of this host").fill(str(weights))


def choose_corpus(page: Page, path: Path) -> None:
    page.get_by_label("Corpus").select_option("path")
    page.get_by_label("File or folder").fill(str(path))


def test_a_dropped_sae_is_computed_and_read(site: Site, page: Page) -> None:
    if not SAE.is_dir():
        pytest.skip(f"the shared data is not at {tiny.SHARED}")
    site.start_worker(shard_tokens=0, finish_s=5.0)
    page.goto("/")
    page.get_by_role("navigation", name="Site").get_by_role("link", name="Add").click()
    choose_folder(page, SAE)
    expect(page.locator("[data-part=found]")).to_contain_text("64 × 512")
    expect(page.locator("[data-part=speed]")).to_have_text("all here, and checked")
    assert page.locator(".files progress").evaluate_all("bars => bars.every(bar => bar.value === bar.max)")
    choose_model(page, MODEL)
    choose_corpus(page, CORPUS)
    page.get_by_label("Use at most").fill("20,000")
    page.get_by_role("button", name="Compute dashboards").click()
    page.wait_for_url("**/jobs/*")
    expect(page.get_by_role("row", name="finish")).to_contain_text("512 of 512", timeout=300_000)
    page.get_by_role("heading", level=1).get_by_role("link").click()
    page.locator(".features tbody a").first.click()
    page.wait_for_url("**/tinystories-260k/2-batchtopk512/*")
    expect(page.locator("h1")).to_be_visible()


def test_files_dropped_by_themselves_are_one_sae_and_what_they_lack_can_be_said(
    site: Site, page: Page, tmp_path
) -> None:
    folder = tiny.save_sae(tmp_path / "topk8", d_sae=8, metadata={"hook_name": "nowhere"})
    page.goto("/add")
    files = [[file.name, base64.b64encode(file.read_bytes()).decode()] for file in folder.iterdir()]
    page.evaluate(DROP, ["[data-part=drop]", "topk8", files])
    problems = page.locator(".problems li")
    expect(problems).to_have_count(1)
    expect(problems).to_contain_text("nowhere")
    expect(page.get_by_role("button", name="Compute dashboards")).to_be_disabled()
    page.get_by_label("Hook point").fill("blocks.2.hook_resid_post")
    page.get_by_role("button", name="Check again").click()
    expect(page.locator("[data-part=found]")).to_contain_text("blocks.2.hook_resid_post")
    expect(problems).to_be_hidden()
    page.goto("/add")
    page.get_by_role("button", name="Use it").click()
    expect(page.locator("[data-part=found]")).to_contain_text("blocks.2.hook_resid_post")
    page.get_by_role("button", name="Delete").first.click()
    expect(page.locator(".pending li")).to_have_count(0)


def test_corrected_files_of_the_same_sizes_are_sent_again(page: Page, tmp_path) -> None:
    folder = tiny.save_sae(tmp_path / "corrected", architecture="standard", d_sae=8)
    config = folder / "cfg.json"
    right = config.read_text()
    wrong = json.dumps(json.loads(right) | {"d_sae": 9})
    config.write_text(wrong)
    page.goto("/add")
    choose_folder(page, folder)
    expect(page.locator(".problems li").first).to_contain_text("9")
    page.goto("/add")
    expect(page.locator(".pending li")).to_contain_text("has not passed the check")
    config.write_text(json.dumps(json.loads(right)))
    assert config.stat().st_size == len(wrong)
    choose_folder(page, folder)
    expect(page.locator("[data-part=found]")).to_contain_text("× 8")
    page.goto("/add")
    expect(page.locator(".pending li")).to_have_count(1)
    page.get_by_role("button", name="Delete").click()
    expect(page.locator(".pending li")).to_have_count(0)


def test_a_number_that_is_none_is_said_by_its_label(page: Page, tmp_path) -> None:
    folder = tiny.save_sae(tmp_path / "numbers", architecture="standard", d_sae=8)
    page.goto("/add")
    expect(page.get_by_text("The files come first.")).to_be_visible()
    choose_folder(page, folder)
    expect(page.get_by_role("button", name="Compute dashboards")).to_be_enabled()
    expect(page.get_by_text("The files come first.")).to_be_hidden()
    choose_corpus(page, CORPUS)
    page.get_by_label("Use at most").fill("lots")
    page.get_by_role("button", name="Compute dashboards").click()
    expect(page.locator("[data-part=refusal]")).to_contain_text('Use at most, tokens: "lots" is not a whole number')
    page.goto("/add")
    page.get_by_role("button", name="Delete").click()
    expect(page.locator(".pending li")).to_have_count(0)


def test_an_upload_goes_on_after_a_lost_connection_a_pause_and_a_reload(page: Page, tmp_path) -> None:
    folder = tiny.save_sae(tmp_path / "standard", architecture="standard", d_sae=50_000)  # some megabytes
    page.goto("/add")
    n_sent = 0

    def cut(route):
        nonlocal n_sent
        n_sent += 1
        route.abort() if n_sent in (2, 4) else route.continue_()

    page.route("**/api/uploads/*/files/**", cut)
    choose_folder(page, folder)
    expect(page.locator("[data-part=speed]")).to_have_text("no connection; trying again")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("[data-part=speed]")).to_have_text("paused")
    page.goto("/add")
    expect(page.locator(".pending li")).to_contain_text("choose the same files to go on")
    already = n_sent
    choose_folder(page, folder)
    expect(page.locator("[data-part=found]")).to_contain_text("50,000", timeout=30_000)
    assert n_sent > already
    page.goto("/add")
    expect(page.locator(".pending li")).to_have_count(1)
    page.get_by_role("button", name="Delete").click()
    expect(page.locator(".pending li")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_fits_its_window(browser, address, width, scheme) -> None:
    context = browser.new_context(base_url=address, viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.goto("/add")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    context.close()


def test_neurons_are_named_in_place_of_files(site: Site, page: Page) -> None:
    page.goto("/add")
    button = page.get_by_role("button", name="Compute dashboards")
    expect(button).to_be_disabled()
    page.get_by_label("Or neurons of the model").fill("blocks.1.mlp.hook_post")
    expect(button).to_be_enabled()
    page.get_by_label("Or neurons of the model").fill("")
    expect(button).to_be_disabled()
    page.get_by_label("Or an SAE of the hub").fill("/none")
    choose_model(page, site.folder / "tiny-gpt2")
    choose_corpus(page, Path(__file__))
    button.click()
    expect(page.locator("[data-part=refusal]")).to_contain_text("'/none' is no folder of the host")
    page.get_by_label("Or an SAE of the hub").fill("")
    page.get_by_label("Or neurons of the model").fill("blocks.1.mlp.hook_post")
    button.click()
    page.wait_for_url("**/jobs/*")
    expect(page.locator("main")).to_contain_text("1-mlp-neurons")
