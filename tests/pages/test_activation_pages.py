from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi.testclient import TestClient

from backend import names, storage
from backend.services.activation_index import ActivationQuery, CofiringQuery, PairQuery
from backend.settings import Settings
from backend.web import links, numerals
from backend.web.app import create_app
from backend.web.pages import activations
from tests import hosted, kept
from tests.hosted import MODEL, SOURCE
from tests.pages import dom, preview, samples

BASE = f"/{samples.MODEL}/{samples.SOURCE}"


def words(element):
    return " ".join(element.text.split())


def test_every_bar_leads_to_its_firings(rendered):
    page = rendered("activations")
    bars = [a for a in page.all("a") if a.all("g", "bin")]
    ends = samples.activations().bin_ends
    shown = [end for end, n in zip(ends, samples.activations().histogram.counts, strict=True) if n]
    assert [parse_qs(urlsplit(a["href"]).query) for a in bars] == [
        {"low": [repr(low)], "high": [repr(high)]} for low, high in shown
    ]
    assert all(urlsplit(a["href"]).path == f"{BASE}/12345/activations" for a in bars)


def test_bars_outside_the_range_are_faded_and_the_form_keeps_the_range(rendered):
    page = rendered("range")
    rects = [g.all("rect")[1] for g in page.all("g", "bin")]
    chosen = [low >= 2.5 and high <= 5 for low, high in samples.activations().bin_ends]
    assert ["activation" in rect.classes for rect in rects] == chosen
    assert sum(chosen) > 2
    form = page.one("form", "filters")
    assert {e["name"]: e["value"] for e in form.all("input")} == {"low": "2.5", "high": "5"}
    assert form["action"] == f"{BASE}/12345/activations"


def test_a_line_has_its_own_firing_in_the_middle(rendered):
    page = rendered("activations")
    lines = page.one("ol", "lines").all("li")
    for row, line in zip(samples.activations().rows, lines, strict=True):
        assert line.one("span", "value").text == numerals.fixed(row.value)
        first = line.one("span", "after").all("mark")[0]
        assert first.text.replace("\n", "") == row.example.tokens[row.position].replace("\n", "")


def test_a_weaker_firing_of_a_context_can_stand_in_the_middle():
    view = samples.example(3)
    weaker = next(p for p in view.positions if p != view.max_position and view.tokens[p].strip() == "brigade")
    row = samples.activations().rows[0]
    value = view.values[view.positions.index(weaker)]
    changed = type(row)(3, weaker, value, view)
    context = activations.activations_context(samples.activations(rows=(changed,)))
    assert context.lines[0].value == numerals.fixed(value)
    assert str(context.lines[0].after).startswith('<mark class="a')
    assert "brigade" in str(context.lines[0].after)[:60]


def test_pages_are_counted_and_linked(rendered):
    page = rendered("range")
    pagers = page.all("nav", "pager")
    assert len(pagers) == 2
    query = ActivationQuery(2.5, 5.0)
    assert {a["rel"]: a["href"] for a in pagers[0].all("a")} == {
        "prev": links.activations_url(samples.MODEL, samples.SOURCE, 12_345, query),
        "next": links.activations_url(samples.MODEL, samples.SOURCE, 12_345, ActivationQuery(2.5, 5.0, page=3)),
    }
    assert words(pagers[0].one("span")) == "51 to 100"
    assert page.one("link", rel="alternate")["href"] == f"/api/index{BASE}/12345/activations?low=2.5&high=5.0&page=2"


def test_quantiles_are_shown(rendered):
    numbers = {d.one("dt").text: d.one("dd").text for d in rendered("activations").one("dl", "numbers").all("div")}
    assert list(numbers) == ["1%", "5%", "25%", "50%", "75%", "95%", "99%"]
    assert (numbers["1%"], numbers["50%"]) == ("0.0381", "2.31")


def test_nothing_found_says_what_to_do(rendered):
    assert "No firing lies in this range. Show all firings." in words(rendered("empty-range").one("main"))
    assert "it never fired" in words(rendered("dead-activations").one("main"))
    assert "There is no such context." in words(rendered("no-pair").one("main"))
    assert "No feature fires with it on 5 or more tokens." in words(rendered("none-cofiring").one("main"))


def test_features_that_fire_together_lead_on(rendered):
    page = rendered("cofiring")
    row = page.one("section", "cofiring").all("tr")[2]
    feature, both, lift, correlation, share, other, _ = row.all("td")
    assert feature.one("a")["href"] == names.feature_url(samples.MODEL, samples.SOURCE, 307)
    assert both.one("a")["href"] == f"{BASE}/12345/pair/307"
    assert [e.text for e in (both, lift, correlation, share, other)] == ["1,184", "206", "0.300", "98%", "45%"]
    always = page.one("section", "cofiring").all("tr")[1]
    assert always.all("td")[3].text == "–"


def test_the_order_is_kept_by_the_form_and_a_sample_is_named(rendered):
    page = rendered("sampled")
    form = page.one("form", "filters")
    assert {e["name"]: e["value"] for e in form.all("input")} == {"sort": "lift", "min_count": "2"}
    [header] = [th for th in page.all("th") if th.get("aria-sort")]
    assert words(header).startswith("lift")
    assert "scaled up from 8,192 of 40,312 firings" in words(page.one("main"))
    assert "scaled up" not in words(rendered("cofiring").one("main"))
    query = CofiringQuery("lift", 2, 4)
    assert page.all("a", rel="next")[0]["href"] == links.cofiring_url(samples.MODEL, samples.SOURCE, 12_345, query)


def test_two_features_have_four_questions_and_a_reverse(rendered):
    page = rendered("pair")
    links_ = {words(a): a for a in page.one("nav", "chosen").all("a")}
    base = f"{BASE}/12345/pair/20112"
    assert {text: a["href"] for text, a in links_.items()} == {
        "on a token with 20112": base,
        "on a token without 20112": f"{base}?where=without",
        "and 20112 does somewhere": f"{base}?scope=context",
        "and 20112 does nowhere": f"{base}?where=without&scope=context",
        "the other way round": f"{BASE}/20112/pair/12345",
    }
    assert [text for text, a in links_.items() if a.get("aria-current")] == ["on a token with 20112"]


def test_the_other_feature_is_underlined(rendered):
    lines = rendered("pair").one("ol", "lines").all("li")
    for row, line in zip(samples.pair().rows, lines, strict=True):
        assert len(line.one("p", "full").all("u")) == len(row.other_positions)
    assert [u.text for u in lines[2].one("span", "after").all("u")] == [" Brigade"]


def test_numbers_that_are_none_are_dashes(rendered):
    numbers = {d.one("dt").text: d.one("dd").text for d in rendered("no-pair").one("dl", "numbers").all("div")}
    assert (numbers["lift"], numbers["correlation"], numbers["of values"]) == ("–", "–", "–")


def test_a_source_shows_the_size_of_its_index_and_where_to_look_things_up(rendered):
    page = rendered("source")
    numbers = {d.one("dt").text: words(d.one("dd")) for d in page.one("dl", "numbers").all("div")}
    assert numbers["activation index"] == "159 MB"
    assert page.one("form", "lookup")["action"] == f"{BASE}/index"
    without = rendered("no-index")
    assert {d.one("dt").text: words(d.one("dd")) for d in without.one("dl", "numbers").all("div")}[
        "activation index"
    ] == "not kept"
    assert not without.all("form", "lookup")


def test_a_feature_leads_to_its_activations_only_where_they_are_kept(rendered, renderer):
    views = rendered("feature").one("nav", "views")
    assert [a["href"] for a in views.all("a")] == [
        f"{BASE}/12345", f"{BASE}/12345/activations", f"{BASE}/12345/cofiring", f"{BASE}/12345/scan",
    ]  # fmt: skip
    bare = preview.features.context(samples.feature(source=samples.source(index_bytes=None)))
    views = dom.parse(renderer.html("pages/feature.html", bare)).one("nav", "views")
    assert [a["href"] for a in views.all("a")] == [f"{BASE}/12345", f"{BASE}/12345/scan"]


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(0, "0 bytes"), (999, "999 bytes"), (159_321_500, "159 MB"), (1_230_000_000, "1.23 GB")]
)
def test_sizes_are_written_with_three_digits(n_bytes, text):
    assert numerals.size(n_bytes) == text


# With a database


@pytest.fixture
def client(database_url, sessions, session, assets, tmp_path):
    settings = Settings(database_url=database_url, redis_url="", assets=assets, data=tmp_path / "data")
    app = create_app(settings)
    app.state.sessions = sessions
    kept.keep(session, storage.mirror(settings), tmp_path, kept.random())
    session.commit()
    with TestClient(app, base_url="http://localhost", follow_redirects=False) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("activations", {"low": "", "high": "2.5"}),
        ("activations", {"page": "99"}),
        ("cofiring", {"sort": "correlation", "min_count": "1"}),
        ("pair/5", {"where": "without", "scope": "context"}),
    ],
)
def test_pages_answer(client, path, query):
    for index in (kept.DEAD, kept.ALWAYS, 7):
        response = client.get(f"/{MODEL}/{SOURCE}/{index}/{path}", params=query)
        assert response.status_code == 200, response.text
        assert f"{index}" in dom.parse(response.text).one("h1").text


def test_the_form_leads_to_one_feature_or_two(client):
    url = f"/{MODEL}/{SOURCE}/index"
    assert client.get(url, params={"feature": "7", "other": ""}).headers["location"] == (
        f"/{MODEL}/{SOURCE}/7/activations"
    )
    both = client.get(url, params={"feature": f"{MODEL}/{SOURCE}/7", "other": " 9 "})
    assert (both.status_code, both.headers["location"]) == (303, links.pair_url(MODEL, SOURCE, 7, 9, PairQuery()))
    for wrong in ({}, {"feature": "x"}, {"feature": "1", "other": "-2"}):
        assert client.get(url, params=wrong).status_code == 400


def test_a_source_without_an_index_says_so(client, session):
    hosted.host(session, source="3-none")
    session.commit()
    for path in ("index?feature=1", "1/activations", "1/cofiring", "1/pair/2"):
        response = client.get(f"/{MODEL}/3-none/{path}", headers={"Accept": "text/html"})
        assert response.status_code == 404
        assert "No activation index" in response.text
