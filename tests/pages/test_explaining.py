"""The panel of explanations and the search by their words: what readers see, and what forms do without scripts."""

from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi.testclient import TestClient

from backend import names
from backend.names import FeatureRef
from backend.services import explanation_files, explanations
from backend.settings import Settings
from backend.web import app as web
from backend.web.pages import explanation_search
from backend.web.pages.explanation_search import ExplanationQuery
from backend.web.text_query import TextQuery
from tests import hosted
from tests.database import statements
from tests.hosted import DEAD, MODEL, RICH, SOURCE
from tests.pages import asking_samples, dom, explaining_samples, preview

REF = FeatureRef(MODEL, SOURCE, RICH)
FEATURE = f"/{MODEL}/{SOURCE}/{RICH}"


@pytest.fixture
def client(assets, database_url, sessions):
    app = web.create_app(Settings(database_url=database_url, assets=assets))
    app.state.sessions = sessions
    return TestClient(app, base_url="http://localhost:3000", follow_redirects=False)


@pytest.fixture
def made(session):
    made = hosted.host(session)
    session.commit()
    return made


def import_some(session, made, rows) -> None:
    explanation_files.upsert_many(session, made.source_id, rows)
    session.commit()


def page_of(client, path: str, status: int = 200) -> dom.Element:
    answer = client.get(path)
    assert answer.status_code == status
    return dom.parse(answer.text)


def post(client, form: dom.Element, **fields: str) -> None:
    answer = client.post(form["action"], data=fields)
    assert (answer.status_code, answer.headers["location"]) == (303, FEATURE)


def words(page: dom.Element) -> list[str]:
    return [each.text for each in page.one("section", "explanations").all("p", "words")]


def cards_of(page: dom.Element) -> list[dom.Element]:
    return [li for li in page.one("section", "cards").all("li") if li.all("h2")]


# --- a feature's page ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("made")
def test_forms_explain_vote_edit_and_delete(client):
    page = page_of(client, FEATURE)
    assert words(page) == []
    assert "Nobody has said yet" in page.one("section", "explanations").text
    assert page.one("p", "headline").get("hidden") is not None
    for text in ("cats", "dogs <b>"):
        post(client, page.one("form", data_form="add"), description=text)
    page = page_of(client, FEATURE)
    assert words(page) == ["dogs <b>", "cats"]
    assert page.one("p", "headline").text == "dogs <b>"
    assert page.one("head").all("title")[0].text == f"dogs <b> · {MODEL}/{SOURCE}/{RICH} · Eyepiece"
    (cats,) = [li for li in page.all("li") if li.get("data-explanation") and li.one("p", "words").text == "cats"]
    vote, edit, delete = cats.all("form")
    assert vote.one("button")["aria-label"] == "0 votes: vote for it"
    post(client, vote)
    page = page_of(client, FEATURE)
    assert words(page) == ["cats", "dogs <b>"]
    button = page.all("button", "vote")[0]
    assert (button["aria-label"], button["aria-pressed"]) == ("1 vote: take yours back", "true")
    post(client, page.one("form", data_form=f"vote-{cats['data-explanation']}"))
    assert words(page_of(client, FEATURE)) == ["dogs <b>", "cats"]
    post(client, edit, description="birds")
    assert words(page_of(client, FEATURE)) == ["dogs <b>", "birds"]
    post(client, delete)
    assert words(page_of(client, FEATURE)) == ["dogs <b>"]
    assert client.post(delete["action"]).status_code == 404


@pytest.mark.usefixtures("made")
def test_an_empty_explanation_is_refused_on_a_page(client):
    answer = client.post(f"{FEATURE}/explanations", data={"description": " "})
    assert answer.status_code == 400
    assert "The explanation is empty." in answer.text


def test_who_made_an_explanation_is_told(rendered):
    said = [p.text for p in rendered("explained").one("section", "explanations").all("p", "small")]
    assert said[0].startswith("anna, 21 Nov 2025")
    assert said[1].startswith("oai_token-act-pair · gpt-4o-mini, 20 Nov 2025")
    assert said[1].endswith("eleuther_fuzz 0.812")
    assert said[2].startswith("imported, 19 Nov 2025")
    assert said[3].startswith("written here, 18 Nov 2025")


def test_readers_see_the_forms_they_may_use(renderer):
    pages = explaining_samples.pages()

    def forms(name: str) -> list[str]:
        html = renderer.html(*pages[name], visitor=preview.VISITORS.get(name, preview.Visitor()))
        panel = dom.parse(html).one("section", "explanations")
        return [form["data-form"].split("-")[0] for form in panel.all("form")]

    assert forms("explained") == ["vote", "edit", "delete"] * 4 + ["add"]
    assert forms("explained-mine") == ["vote", "edit", "delete", "vote", "vote", "vote", "add"]
    assert forms("explained-stranger") == forms("unexplained-stranger") == []
    html = renderer.html(*pages["explained-stranger"], visitor=preview.VISITORS["explained-stranger"])
    panel = dom.parse(html).one("section", "explanations")
    assert [span.text for span in panel.all("span", "small")] == ["3 votes", "2 votes", "1 vote"]
    assert panel.all("a")[-1].text == "Sign in"


def test_neighbours_and_tables_say_what_features_stand_for(rendered):
    cells = [row.all("td")[2].text for row in rendered("explained").one("table", "neighbours").all("tr")[1:]]
    assert cells[0] == explaining_samples.WORDS[2]
    assert cells[2] == explaining_samples.WORDS[0]
    assert " brig" in cells[1].replace("·", " ")
    table = rendered("explained-table").one("section", "features")
    assert [th.text for th in table.all("th")][4:] == ["explanation", "fires on", "promotes"]
    assert table.all("tr")[2].all("td")[4].text == explaining_samples.WORDS[2]
    assert {a.text for a in rendered("explained-table").all("a") if "/api/explanation/export?" in (a.get("href") or "")} == {
        "CSV", "JSONL"
    }  # fmt: skip
    assert "explanation" not in [th.text for th in rendered("source").one("section", "features").all("th")]


def test_lists_of_features_that_fire_on_a_text_say_what_they_stand_for(renderer):
    page = asking_samples.searched(TextQuery(text=asking_samples.TEXT))
    group = page.found.groups[0]
    first = group.features[0]
    named = replace(first, summary=replace(first.summary, explanation="cats & dogs"))
    found = replace(page.found, groups=(replace(group, features=(named, group.features[1])),))
    lines = dom.parse(renderer.html("pages/text_search.html", replace(page, found=found))).all("div", "which")
    assert lines[0].one("span", "named").text == "cats & dogs"
    assert not lines[1].all("span", "named")


def test_a_source_s_table_names_its_features(client, session, made):
    import_some(session, made, [{"id": "a", "index": RICH, "description": "cats"}])
    rows = page_of(client, f"/{MODEL}/{SOURCE}").one("section", "features").all("tr")
    assert [row.all("td")[4].text for row in rows[1:] if row.all("td")[0].text == str(RICH)] == ["cats"]


# --- search --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("a", "b", "a"), ("a", "b")), (("a,b",), ("a", "b")), (('["a", "b"]',), ("a", "b")), (("[a, b]",), ("a", "b")),
        (("",), ()), (("[]",), ()), ((" a , ",), ("a",)), (("[1]",), ("1",)),
    ],
)  # fmt: skip
def test_sources_are_named_in_every_way(given, expected):
    assert explanation_search.read(sources=given).sources == expected


def test_addresses_hold_the_search():
    query = ExplanationQuery("cats & dogs", "m", ("1-a", "2-b"), "r", 20)
    parts = urlsplit(query.url)
    assert parts.path == "/search-explanations"
    assert parse_qs(parts.query) == {
        "q": ["cats & dogs"], "modelId": ["m"], "sources": ["1-a,2-b"], "releaseName": ["r"], "offset": ["20"]
    }  # fmt: skip
    assert ExplanationQuery().url == names.explanations_url() == "/search-explanations"


def test_results_are_cards_with_their_strongest_contexts(client, session, made):
    import_some(session, made, [
        {"id": "a", "index": RICH, "description": "black cats", "explanationModelName": "gpt-4o"},
        {"id": "b", "index": DEAD, "description": "cats & dogs"},
    ])  # fmt: skip
    page = page_of(client, "/search-explanations?q=cat")
    cards = cards_of(page)
    assert [card.one("h2").text for card in cards] == ["black cats", "cats & dogs"]
    assert cards[0].one("a")["href"] == FEATURE
    assert len(cards[0].one("ol", "lines").all("li")) == explanation_search.N_EXAMPLES
    assert not cards[1].all("ol")
    assert [card.all("p", "small")[0].text.split(", ")[:2] for card in cards] == [
        [f"{MODEL}/{SOURCE}/{RICH}", "gpt-4o"], [f"{MODEL}/{SOURCE}/{DEAD}", "written here"],
    ]  # fmt: skip
    assert "dead on its corpus" in cards[1].text


def test_many_cards_cost_as_many_statements_as_one(client, session, connection, made):
    def n_statements() -> int:
        with statements(connection) as seen:
            page_of(client, "/search-explanations?q=cats")
        return len(seen)

    import_some(session, made, [{"id": "a", "index": RICH, "description": "cats"}])
    n_statements()
    one = n_statements()
    import_some(session, made, [{"id": f"{k}", "index": k % 6, "description": f"cats {k}"} for k in range(30)])
    assert n_statements() == one


def test_pages_lead_on_and_back(client, session, made):
    import_some(session, made, [{"id": f"{k:02}", "index": k % 6, "description": "cats"} for k in range(45)])
    path, seen = f"/search-explanations?q=cats&modelId={MODEL}", []
    while path:
        page = page_of(client, path)
        seen.append((page.one("section", "cards").one("div", "above").one("p").text, len(cards_of(page))))
        following = page.all("a", rel="next")
        path = following[0]["href"] if following else ""
    assert seen == [("1 to 20, the best first", 20), ("21 to 40, the best first", 20), ("41 to 45, the best first", 5)]
    assert parse_qs(urlsplit(page.all("a", rel="prev")[0]["href"]).query)["offset"] == ["20"]
    past = page_of(client, "/search-explanations?q=cats&offset=100")
    assert "no further explanations" in past.one("p", role="status").text


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("q=ab", 400, "The query has 2 characters."),
        ("q=cats&modelId=none", 404, "No model 'none' is hosted."),
        (f"q=cats&modelId={MODEL}&sources=9-none", 404, "No source '9-none'"),
        ("q=cats&sources=9-none", 400, "Sources are named without their model."),
        ("q=cats&releaseName=none", 404, "No release 'none' is hosted."),
        ("q=xyz", 200, "No explanation has these words."),
    ],
)
def test_what_is_not_found_is_said_in_place(client, query, status, said):
    page = page_of(client, f"/search-explanations?{query}", status)
    assert said in page.one("p", role="status").text
    assert page.one("input", id="q")["value"]


def test_an_offset_that_is_none_is_refused(client):
    assert client.get("/search-explanations?q=cats&offset=x").status_code == 400


def test_tabs_say_where(rendered):
    nav = rendered("explanations-in-sources").one("nav", aria_label="Where to search")
    tabs = {a.text: (parse_qs(urlsplit(a["href"]).query), a.get("aria-current")) for a in nav.all("a")}
    assert tabs == {
        "everywhere": ({"q": ["brigade"]}, None),
        "gpt2-small": ({"q": ["brigade"], "modelId": ["gpt2-small"]}, None),
        "pythia-70m": ({"q": ["brigade"], "modelId": ["pythia-70m"]}, None),
        "6-res-jb": ({"q": ["brigade"], "modelId": ["gpt2-small"], "sources": ["6-res-jb"]}, "page"),
    }
    chips = rendered("explanations-in-sources").all("input", type="checkbox", name="sources")
    assert {chip["value"]: chip.get("checked") is not None for chip in chips} == {
        "6-res-jb": True, "7-res-jb": False, "6-mlp-topk": False
    }  # fmt: skip
    assert rendered("explanations-none").one("a", aria_current="page").text == "release res-jb"


@pytest.mark.usefixtures("made")
def test_the_header_and_pages_of_models_and_sources_lead_to_the_search(client):
    assert page_of(client, "/").one("nav", aria_label="Site").all("a", href="/search-explanations")
    assert page_of(client, f"/{MODEL}").all("a", href=f"/search-explanations?modelId={MODEL}")
    assert page_of(client, f"/{MODEL}/{SOURCE}").all("a", href=f"/search-explanations?modelId={MODEL}&sources={SOURCE}")


def test_explanations_outlive_a_new_computation(client, session, made):
    explanations.add(session, REF, explanations.NewExplanation(description="cats"))
    revision_id = hosted.add_revision(session, made.source_id, made.corpus_id)
    for each in hosted.every_kind():
        hosted.add_feature(session, revision_id, each)
    session.commit()
    assert words(page_of(client, FEATURE)) == ["cats"]
