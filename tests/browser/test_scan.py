"""An injection scan: from a feature to its curves, and values by slider, keyboard, mouse and finger."""

from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, expect

from backend.web import scan_results
from tests.browser.conftest import FEATURE, Open
from tests.pages import scan_samples

pytestmark = pytest.mark.browser

SCAN = f"{FEATURE}/scan?text=a&token=b"
REPLY = scan_samples.reply()
N = len(REPLY.coefficients)


@pytest.fixture
def page(open_page: Open) -> Page:
    return open_page(SCAN)


def shown(page: Page) -> dict[str, float]:
    """What the table says at the chosen coefficient, by component."""
    rows = page.locator("tr[data-values]").all()
    names = [row.locator("th").inner_text().removesuffix(" before").strip() for row in rows]
    values = [row.locator("[data-value]").inner_text().replace("−", "-") for row in rows]
    return dict(zip(names, map(float, values), strict=True))


def expected(at: int) -> dict[str, float]:
    found = {scan_results.name_of(each): each.values[at] for each in REPLY.components}
    return found | {"logit": REPLY.total[at], "norm’s scale": REPLY.scale[at]}


def rules(page: Page) -> set[str | None]:
    return {rule.get_attribute("x1") for rule in page.locator("svg.curves .reading").all()}


def test_from_a_feature_to_a_scan_and_the_address_says_it(open_page):
    page = open_page(FEATURE)
    page.get_by_role("link", name="injection scan").click()
    expect(page.locator("h2#ask")).to_be_visible()
    assert page.locator("svg.curves").count() == 0
    page.get_by_label("text", exact=True).fill("one\ntwo")
    page.get_by_label("logit of the token").fill(" brig")
    page.get_by_label("heads apart").check()
    page.get_by_role("button", name="Scan").click()
    expect(page.locator("svg.curves").first).to_be_visible()
    address = urlsplit(page.url)
    asked = parse_qs(address.query)
    assert address.fragment == "scan", "what was found is in view, on a phone too"
    assert (asked["token"], asked["heads_apart"], asked["n_coefficients"]) == ([" brig"], ["1"], ["128"])
    again = open_page(f"{address.path}?{address.query}")
    assert again.get_by_label("text", exact=True).input_value() == "one\ntwo"
    expect(again.get_by_label("heads apart")).to_be_checked()
    expect(again.locator("svg.curves")).to_have_count(4)


def test_the_slider_chooses_a_coefficient_with_the_keyboard(page):
    slider = page.get_by_role("slider", name="coefficient")
    assert shown(page) == pytest.approx(expected(20), abs=0.006), "the unmodified model, at first"
    slider.focus()
    for key, at in (("ArrowRight", 21), ("End", N - 1), ("ArrowLeft", N - 2), ("Home", 0)):
        page.keyboard.press(key)
        assert shown(page) == pytest.approx(expected(at), abs=0.006)
        assert rules(page) == {f"{100 * at / (N - 1):g}%"}
    assert slider.get_attribute("aria-valuetext") == f"coefficient −10.00, logit {REPLY.total[0]:.2f}"
    assert page.locator("[data-at]").inner_text() == "−10.00"


@pytest.mark.parametrize("chart", [0, 2])
def test_pointing_into_any_chart_reads_all_of_them_there(page, chart):
    plot = page.locator("svg.curves").nth(chart)
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + box["height"] / 2)
    assert rules(page) == {"75%"}
    assert shown(page) == pytest.approx(expected(30), abs=0.006)
    expect(page.locator(".slider output")).to_have_text(f"5.00: logit {REPLY.total[30]:.2f}")
    assert page.locator("svg.curves title").count() == 0, "no tooltip over the curves"


def test_pointing_at_a_row_lifts_its_lines_out(page):
    row = page.locator("tr[data-values]").filter(has_text="MLP 3")
    row.hover()
    lifted = page.locator("path.is-lifted")
    expect(lifted).to_have_count(2)
    assert {line.get_attribute("data-part") for line in lifted.all()} == {row.get_attribute("data-part")}
    page.mouse.move(2, 2)
    expect(lifted).to_have_count(0)


def test_the_slider_stays_in_view_while_the_table_is_read_on_a_phone(open_page):
    page = open_page(SCAN, width=390)
    page.locator("tr[data-values]").last.scroll_into_view_if_needed()
    expect(page.get_by_role("slider")).to_be_in_viewport()


def test_a_token_of_the_text_leads_to_the_scan_read_there(page):
    page.locator(".read-text a").nth(3).click()
    page.wait_for_url("**position=3**")
    assert page.get_by_label("read at token").input_value() == "3"


def test_without_scripts_charts_tables_and_file_are_there(open_page):
    page = open_page(SCAN, scripts=False)
    assert page.locator("svg.curves title").count() > 4
    expect(page.get_by_role("slider")).to_be_hidden()
    assert shown(page) == pytest.approx(expected(20), abs=0.006)
    expect(page.get_by_role("link", name="CSV")).to_have_attribute("href", f"{FEATURE}/scan.csv?text=a&token=b")


def test_the_file_is_downloaded(page):
    with page.expect_download() as started:
        page.get_by_role("link", name="CSV").click()
    assert started.value.suggested_filename == "injection-scan.csv"
    assert started.value.path().read_text().startswith("coefficient,component,")
