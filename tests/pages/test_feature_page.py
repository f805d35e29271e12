import gzip

import pytest

from backend import errors, names
from backend.formats.dashboards import Moments
from backend.services.features import HistogramView
from backend.web import definitions, links
from backend.web.pages import features
from tests.pages import dom, samples
from tests.pages.conftest import Rendered

BUDGET_BYTES = 150 * 1024


@pytest.fixture
def page(rendered: Rendered) -> dom.Element:
    return rendered("feature")


def test_the_head_names_the_feature_and_its_numbers(page):
    assert page.one("head").all("title")[0].text == "gpt2-small/6-res-jb/12345 · Eyepiece"
    assert page.one("h1").text.split() == ["feature", "12345"]
    numbers = {div.one("dt").text: div.one("dd").text for div in page.one("dl", "numbers").all("div")}
    assert numbers["density"] == "0.190%"
    assert numbers["firings"] == "1,204"
    assert numbers["max"] == "14.21"
    assert numbers["mean ± sd"] == "2.81 ± 2.44"
    assert numbers["kurtosis"] == "5.9"


def test_words_carry_their_definition(page):
    density = next(a for a in page.all("a", "term") if a.text == "density")
    assert density["title"] == definitions.get("density").short
    assert density["href"] == links.definition_url("density")


def test_ways_on_are_links_with_keys(page):
    steps = {a["data-key"]: a["href"] for a in page.one("nav", "steps").all("a")}
    base = names.source_url(samples.MODEL, samples.SOURCE)
    assert steps == {"k": f"{base}/12344", "r": f"{base}/random", "j": f"{base}/12347"}
    assert page.one("link", rel="next")["href"] == steps["j"]
    assert page.one("link", rel="alternate")["href"] == "/api/feature/gpt2-small/6-res-jb/12345"


def test_the_first_and_last_feature_say_so(renderer):
    context = features.context(samples.feature(previous_index=None, next_index=None))
    page = dom.parse(renderer.html("pages/feature.html", context))
    assert [span.text for span in page.one("nav", "steps").all("span", "none")] == ["first", "last"]
    assert not page.all("link", rel="prev")


def test_examples_come_in_groups_the_top_first(page):
    groups = page.all("section", "group")
    assert [len(group.all("li")) for group in groups] == [20, 5, 5, 5, 5, 5]
    headings = [" ".join(group.one("h3").text.split()) for group in groups]
    assert headings[0] == "Top contexts 11.00 to 14.21"
    assert headings[1] == "11.37 to 14.21 0.80% of firings"
    assert headings[-1] == "0.00 to 2.84 74% of firings"
    assert [s.classes for s in groups[1].one("span", "pair").all("span")] == [["a9"], ["a10"]]
    assert [s.classes for s in groups[-1].one("span", "pair").all("span")] == [["a1"], ["a2"]]


def test_every_line_has_its_value_and_begins_its_right_half_with_the_strongest_firing(page):
    for line in page.all("summary"):
        (value,) = line.all("span", "value")
        hit = line.one("span", "after").children[0]
        assert isinstance(hit, dom.Element)
        assert hit.tag == "mark"
        assert float(value.text) == pytest.approx(float(hit["title"]), abs=0.01)
        assert "\n" not in line.text


def test_an_open_line_shows_the_whole_context(page):
    details = page.all("details")[2]
    text = details.one("p", "full").text
    assert text.startswith("The general")
    assert text.rstrip().endswith("another .")
    assert "<b> the battalion & the regiment" in text


def test_promoted_and_suppressed_tokens_have_bars_on_one_scale(page):
    promoted, suppressed = page.all("table", "lens-tokens")
    assert promoted.one("caption").text.strip() == "promotes"
    rows = [(r.one("span", "token").text, r.one("td", "number").text) for r in promoted.all("tr")]
    assert rows[0] == ("·Brigade", "+3.75")
    assert rows[8] == ("↵↵", "+1.15")
    assert promoted.all("rect", "promoted")[0]["width"] == "100.0%"
    assert suppressed.all("rect", "suppressed")[0]["width"] == f"{100 * 0.71 / 3.75:.1f}%"
    assert suppressed.all("tr")[0].one("td", "number").text == "−0.71"


def test_neighbours_link_to_their_pages(page):
    rows = page.one("table", "neighbours").all("tr")[1:]
    assert len(rows) == 10
    assert rows[1].one("a")["href"] == "/gpt2-small/6-res-jb/937"
    assert rows[1].one("td", "measure").text == "0.77"
    assert "dead" in rows[0].text


def test_a_dead_feature_is_told_calmly_with_what_its_weights_say(rendered):
    page = rendered("dead")
    assert "stayed at zero on all 635,000 tokens" in page.one("section", "examples").text
    assert page.all("table", "lens-tokens")
    assert page.all("table", "neighbours")
    assert not page.all("summary") + page.all("input", type="radio") + page.all("dl", "numbers")


def test_without_a_path_to_the_output_the_panel_says_so(rendered):
    page = rendered("no-lens")
    assert "no direct path from blocks.6.hook_resid_pre" in page.one("section", "lens").text
    assert not page.all("table")


def test_a_single_firing_is_no_histogram(renderer):
    value = float("nan")
    once = samples.feature(
        n_firings=1, log_histogram=HistogramView((1.0, 1.0), (1,)), moments=Moments(1, 0, value, value)
    )
    page = dom.parse(renderer.html("pages/feature.html", features.context(once)))
    assert not page.all("input", type="radio")
    assert "–" in page.one("dl", "numbers").text


def test_the_page_is_within_its_budget(html):
    assert len(gzip.compress(html("feature").encode(), 6)) < BUDGET_BYTES / 3


@pytest.mark.skipif(not samples.GENUINE.exists(), reason=f"{samples.GENUINE} is not there")
def test_genuine_dashboards_render(rendered):
    page = rendered("genuine")
    assert page.all("summary")[0].one("span", "after").text.startswith(" brigade. Namely")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("12", "/gpt2-small/6-res-jb/12"),
        (" 12 ", "/gpt2-small/6-res-jb/12"),
        ("gpt2-small/6-res-jb/9", "/gpt2-small/6-res-jb/9"),
        (" cat", "/gpt2-small/6-res-jb?token=+cat"),
        ("", "/gpt2-small/6-res-jb"),
        ("²", "/gpt2-small/6-res-jb?token=%C2%B2"),
    ],
)
def test_the_box_finds_an_index_or_a_token(text, url):
    assert features.found_url(samples.source(), text) == url


def test_the_box_refuses_an_index_the_source_does_not_have():
    with pytest.raises(errors.NotFoundError, match="0 to 24575"):
        features.found_url(samples.source(), "24576")
