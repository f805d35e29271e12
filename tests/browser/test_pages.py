"""Every page at both widths and in both schemes; tables that filter; progress that moves."""

import gzip
from pathlib import Path

import pytest
from playwright.sync_api import expect

from backend.settings import Settings
from tests.browser.conftest import FEATURE, SOURCE
from tests.pages import samples

pytestmark = pytest.mark.browser

BUDGET_BYTES = 150 * 1024
UNCOMPUTED = f"/{samples.MODEL}/7-res-jb"
SEARCH = f"/{samples.MODEL}/search"
PATHS = [
    "/", f"/{samples.MODEL}", SEARCH, SOURCE, UNCOMPUTED, FEATURE, f"{SOURCE}/77", f"{FEATURE}/scan",
    f"{FEATURE}/scan?text=a&token=b", "/jobs", "/jobs/7", "/definitions",
]  # fmt: skip


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_pages_fit_their_window_and_break_no_rule(open_page, width, scheme):
    page = open_page("/", width=width, scheme=scheme)
    for path in PATHS:
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, path
        assert page.evaluate("document.styleSheets.length") == 1, path


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_shifts_while_a_feature_loads(open_page, width):
    page = open_page("/definitions", width=width)
    page.add_init_script(
        "window.shift = 0; new PerformanceObserver(list => list.getEntries().forEach(e => window.shift += e.value))"
        ".observe({ type: 'layout-shift', buffered: true })"
    )
    page.goto(FEATURE)
    page.wait_for_timeout(300)
    assert page.evaluate("window.shift") == 0


def test_a_feature_page_with_everything_it_needs_is_within_its_budget(open_page):
    page = open_page("/definitions")
    answer = page.goto(FEATURE)
    assert answer is not None
    assert answer.header_value("content-encoding") == "gzip"
    assets = [path for path in Settings().assets.iterdir() if path.suffix in (".js", ".css", ".svg")]
    assert len(assets) == len(page.locator("link[rel=stylesheet], link[rel=icon], script").all())
    assert sum(len(gzip.compress(data, 6)) for data in (answer.body(), *map(Path.read_bytes, assets))) < BUDGET_BYTES


def test_filters_go_into_the_address_and_come_back_from_it(open_page):
    page = open_page(f"{SOURCE}?sort=density&descending=1")
    page.get_by_label("density from").fill("0.1%")
    page.get_by_label("fires on or promotes").fill(" brig")
    page.get_by_label("dead ones too").check()
    page.get_by_role("button", name="Show").click()
    page.wait_for_url("**min_density**")
    assert "sort=density" in page.url
    assert "descending=1" in page.url
    assert page.get_by_label("density from").input_value() == "0.1%"
    assert page.get_by_label("fires on or promotes").input_value() == " brig"
    assert page.get_by_label("dead ones too").is_checked()
    page.get_by_role("link", name="max", exact=True).click()
    page.wait_for_url("**sort=max_activation**")
    assert page.get_by_label("density from").input_value() == "0.1%"
    expect(page.get_by_role("columnheader", name="max")).to_have_attribute("aria-sort", "descending")


def test_a_bar_of_the_histogram_filters_by_its_densities(open_page):
    page = open_page(SOURCE)
    bar = page.locator(".plot a").nth(15)
    title = bar.get_attribute("aria-label") or ""
    bar.locator(".target").click()
    page.wait_for_url("**min_density=**max_density=**")
    low = page.get_by_label("density from").input_value()
    assert low.removesuffix("%")[:4] in title or low[:5] in title
    assert page.locator(".plot .faded").count() > page.locator(".plot .plain").count()


def test_progress_moves_and_the_page_is_loaded_anew_when_the_job_ends(open_page, work):
    page = open_page(UNCOMPUTED)
    expect(page.locator(".gist")).to_contain_text("43%")
    work.job = samples.job(fraction=0.61, seconds_left=40.0)
    expect(page.locator(".gist")).to_contain_text("61%")
    expect(page.locator(".gist")).to_contain_text("40 s left")
    work.job = samples.job(state="done", fraction=1.0)
    expect(page.get_by_text("No dashboards yet")).to_be_visible()


def test_a_job_that_waits_shows_when_it_starts(open_page, work):
    work.job = samples.job(state="queued", fraction=0.0, stages=())
    page = open_page("/jobs/7")
    expect(page.locator(".gist")).to_contain_text("waits for a worker")
    work.job = samples.job()
    expect(page.locator(".gist")).to_contain_text("running")
    work.job = samples.job(state="failed", error="Out of memory.")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()


def test_the_printed_address_of_an_error_has_a_way_home(open_page):
    page = open_page("/definitions#density")
    expect(page.locator("#density")).to_be_in_viewport()
    page.get_by_role("link", name="Eyepiece").click()
    page.wait_for_url("**/")
