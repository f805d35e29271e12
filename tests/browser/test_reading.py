"""Reading a feature: values by mouse and keyboard, contexts, keys, switches."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import FEATURE, SOURCE, Open

pytestmark = pytest.mark.browser


@pytest.fixture
def page(open_page: Open) -> Page:
    return open_page(FEATURE)


def readout(page: Page) -> str:
    return page.locator("[data-readout]").inner_text()


def test_pointing_at_a_token_shows_its_value_there_and_on_the_scale(page):
    hit = page.locator("summary .after mark").first
    hit.hover()
    assert readout(page) == "14.213 100% of max ·brigade"
    tip = page.locator(".tip")
    expect(tip).to_be_visible()
    expect(tip).to_have_text("14.213")
    token, shown = hit.bounding_box(), tip.bounding_box()
    assert token is not None
    assert shown is not None
    assert shown["y"] + shown["height"] <= token["y"]
    assert abs(shown["x"] - token["x"]) < 2
    assert page.locator(".caret").get_attribute("transform") == "translate(240 0)"
    page.mouse.move(5, 5)
    expect(tip).to_be_hidden()
    assert readout(page) == ""


def test_the_keyboard_walks_through_firing_tokens_and_lines(page):
    page.locator("summary").nth(1).focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    assert readout(page).startswith("14.044 99% of max ·brigade")
    seen = []
    for key in ("ArrowLeft", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
        seen.append(readout(page))
    assert seen[0].endswith("·the")
    assert seen[1].endswith("·brigade")
    assert seen[2].endswith("·,")
    assert page.locator("mark.is-read").count() == 1
    page.keyboard.press("ArrowDown")
    expect(page.locator("summary").nth(2)).to_be_focused()
    assert readout(page).startswith("13.875")


def test_what_the_readout_says_is_announced(page):
    assert page.locator("[data-readout]").get_attribute("aria-live") == "polite"


def test_an_open_line_is_walked_from_its_first_firing(page):
    page.locator("summary").nth(3).focus()
    page.keyboard.press("Enter")
    full = page.locator("details").nth(3).locator(".full")
    expect(full).to_be_visible()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(full.locator("mark.is-read")).to_have_count(1)


def test_the_firing_tokens_stand_in_one_column(page):
    hits = page.locator("summary .after mark:first-child")
    lefts = hits.evaluate_all("hits => hits.map(hit => hit.getBoundingClientRect().left)")
    assert len(lefts) == 45
    assert max(lefts) - min(lefts) < 0.1


@pytest.mark.parametrize(("key", "path"), [("j", f"{SOURCE}/12347"), ("k", f"{SOURCE}/12344"), ("r", f"{SOURCE}/4242")])
def test_keys_lead_to_other_features(page, key, path):
    page.keyboard.press(key)
    page.wait_for_url(f"**{path}")


def test_slash_goes_to_the_box_and_its_text_leads_on(page):
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("jk 7")
    assert page.get_by_role("searchbox").input_value() == "jk 7"
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("512")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{SOURCE}/512")


def test_the_question_mark_lists_the_keys(page):
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keys")
    expect(dialog).to_be_visible()
    page.keyboard.press("j")
    assert page.url.endswith(FEATURE)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.get_by_role("button", name="Keys").click()
    expect(dialog).to_be_visible()
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()


def test_keys_with_modifiers_are_the_browsers(page):
    page.keyboard.press("Control+j")
    page.keyboard.press("Alt+s")
    assert page.url.endswith(FEATURE)
    assert not page.get_by_label("spaces").is_checked()


def test_spaces_can_be_shown_and_hidden_without_moving_anything(page):
    line = page.locator("summary").nth(4)
    before, box = line.inner_text(), line.locator("mark").first.bounding_box()
    page.keyboard.press("s")
    assert "·brigade" in line.inner_text()
    assert line.locator("mark").first.bounding_box() == box
    page.reload()
    assert page.get_by_label("spaces").is_checked()
    assert "·brigade" in page.locator("summary").nth(4).inner_text()
    page.get_by_label("spaces").uncheck()
    assert page.locator("summary").nth(4).inner_text() == before


def test_the_axis_of_activations_can_be_linear(page):
    log, linear = (page.locator(f".panel .{kind}") for kind in ("log", "linear"))
    expect(log).to_be_visible()
    expect(linear).to_be_hidden()
    page.get_by_label("linear").check()
    expect(linear).to_be_visible()
    expect(log).to_be_hidden()


def test_without_scripts_values_are_titles_and_lines_still_open(open_page):
    page = open_page(FEATURE, scripts=False)
    assert page.locator("summary .after mark").first.get_attribute("title") == "14.213"
    page.locator("summary").first.click()
    expect(page.locator(".full").first).to_be_visible()
    expect(page.get_by_label("spaces")).to_be_hidden()
    page.get_by_label("linear").check()
    expect(page.locator(".panel .linear")).to_be_visible()


def test_the_theme_is_switched_at_once_and_kept(page):
    def paper() -> str:
        return str(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))

    light = paper()
    page.get_by_role("button", name="Switch between light and dark").click()
    dark = paper()
    assert dark != light
    page.reload()
    assert page.locator("html").get_attribute("data-theme") == "dark"
    assert paper() == dark
    page.get_by_role("button", name="Switch between light and dark").click()
    assert paper() == light


def test_the_command_can_be_copied(open_page):
    page = open_page("/")
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert re.search(r"eyepiece add .* --sae ", page.evaluate("navigator.clipboard.readText()"))
