"""The pages that ask the live worker, over a real database: what they ask, and what they make of each answer."""

from collections.abc import Callable
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from fastapi.testclient import TestClient

from backend import errors
from backend.formats import messages
from backend.formats.messages import ActivationsRequest, Found, SearchRequest, TextActivations, TextSearch
from backend.services import catalog
from backend.settings import Settings
from backend.web import app as web
from tests import hosted
from tests.hosted import DEAD, MODEL, RICH, SINGLE, SOURCE
from tests.pages import dom

FEATURE = f"/{MODEL}/{SOURCE}/{RICH}"
SEARCH = f"/{MODEL}/search"
RESULTS = f"{SEARCH}/results"
TOKENS = ("<|endoftext|>", "a", " cat", "\n", " the")


class Worker:
    """Stands in for `inference.Client`: answers as it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[messages.Request] = []
        self.answer: Callable[[messages.Request], object] = lambda question: None
        self.is_running = True

    def check_worker(self, session: object) -> None:
        if not self.is_running:
            raise errors.UnavailableError("No live worker runs.", hint="`eyepiece up` starts one.")

    def header(self, found: object) -> dict[str, object]:
        return {"id": "1", "reply_to": "me", "deadline_at": 0.0, "model": MODEL}

    async def ask(self, question: messages.Request, *, has_left: object = None) -> object:
        self.asked.append(question)
        return self.answer(question)


@pytest.fixture
def worker():
    return Worker()


@pytest.fixture
def client(assets, database_url, engine, sessions, session, worker):
    hosted.host(session)
    hosted.add_source(session, source="3-other-sae")
    session.commit()
    app = web.create_app(Settings(database_url=database_url, assets=assets))
    app.state.engine.dispose()
    app.state.engine, app.state.sessions, app.state.live = engine, sessions, worker
    return TestClient(app, base_url="http://localhost:3000", follow_redirects=False)


def get(client, path: str, *, status: int = 200, **query: object) -> dom.Element:
    answer = client.get(f"{path}?{urlencode(query, doseq=True)}" if query else path)
    assert answer.status_code == status, answer.text
    return dom.parse(answer.text)


def firing(*values: float) -> Callable[[ActivationsRequest], messages.ActivationsReply]:
    def answer(question: ActivationsRequest) -> messages.ActivationsReply:
        texts = tuple(TextActivations(TOKENS[1:], values) for _ in question.texts)
        return messages.ActivationsReply(id="1", texts=texts)

    return answer


# A feature's page


def test_the_page_has_room_for_the_texts_of_its_address_and_asks_nobody(client, worker):
    worker.is_running = False
    rows = get(client, FEATURE, text=["a cat", "<b>\r\nx", "a cat"]).one("ol", "own").all("li")
    assert [row["data-text"] for row in rows] == ["a cat", "<b>\nx"]
    assert all(row["aria-busy"] == "true" for row in rows)
    assert worker.asked == []


def test_its_form_leads_to_the_answer_where_there_are_no_scripts(client, worker):
    page = get(client, FEATURE, text="a cat")
    form = page.one("form", "asking")
    assert (form["method"], form["action"]) == ("get", f"{FEATURE}/try")
    assert page.one("p", "without-script").one("a")["href"] == f"{FEATURE}/try?text=a+cat"
    assert page.one("a", "copies")["href"] == f"{FEATURE}?text=a+cat"


def test_a_text_is_a_line_like_an_example_shaded_against_the_feature(client, worker):
    worker.answer = firing(0.0, 5.0, 0.0, 10.0)
    page = get(client, f"{FEATURE}/try", text="a cat\n the")
    (question,) = worker.asked
    assert (question.source, question.index, question.texts) == (SOURCE, RICH, ("a cat\n the",))
    (row,) = page.one("ol", "own").all("li")
    assert row["data-text"] == "a cat\n the"
    assert row.one("span", "value").text == "10.00"
    assert row.one("span", "after").one("mark").text == " the"
    assert [(mark.text, mark.classes) for mark in row.one("p", "full").all("mark")] == [
        (" cat", ["a5"]), (" the", ["a10"]),
    ]  # fmt: skip
    assert row["data-said"] == "10.00 on “·the” at most; it fires on 2 of 4 tokens."
    assert page.one("section", "examples")["data-maximum"] == "10.0"


def test_each_text_is_a_question_of_its_own(client, worker):
    worker.answer = firing(1.0, 0.0, 0.0, 0.0)
    rows = get(client, f"{FEATURE}/try", text=["one", "two"]).one("ol", "own").all("li")
    assert [row["data-text"] for row in rows] == ["one", "two"]
    assert [question.texts for question in worker.asked] == [("one",), ("two",)]


def test_a_text_that_fires_nowhere_says_so(client, worker):
    worker.answer = firing(0.0, 0.0, 0.0, 0.0)
    (row,) = get(client, f"{FEATURE}/try", text="x").one("ol", "own").all("li")
    assert row.classes == ["silent"]
    assert row["data-said"] == "It fires on none of the 4 tokens."
    assert (row.one("span", "before").text, row.one("span", "after").text) == ("a cat", "↵ the")
    assert not row.all("mark")


def test_a_dead_feature_may_fire_after_all_shaded_by_its_own_largest(client, worker):
    worker.answer = firing(0.0, 0.25, 0.5, 0.0)
    page = get(client, f"/{MODEL}/{SOURCE}/{DEAD}/try", text="x")
    assert [mark.classes for mark in page.one("p", "full").all("mark")] == [["a5"], ["a10"]]
    assert not page.all("svg", "legend")
    assert get(client, f"/{MODEL}/{SOURCE}/{DEAD}").one("form", "asking")["action"].endswith(f"/{DEAD}/try")


def test_one_text_that_is_refused_does_not_harm_the_others(client, worker):
    def answer(question):
        if question.texts == ("long",):
            raise errors.InvalidInputError("Text too long: 9 tokens, max is 8")
        return firing(0.0, 5.0, 0.0, 0.0)(question)

    worker.answer = answer
    rows = get(client, f"{FEATURE}/try", text=["long", "x"]).one("ol", "own").all("li")
    assert rows[0].one("span", "why").one("span").text == "Text too long: 9 tokens, max is 8"
    assert rows[1].one("span", "value").text == "5.00"
    get(client, f"{FEATURE}/try", status=400, text="long")


def test_without_a_live_worker_the_row_says_what_starts_one(client, worker):
    worker.is_running = False
    rows = get(client, f"{FEATURE}/try", status=503, text=["a", "b"]).one("ol", "own").all("li")
    assert {row["data-said"] for row in rows} == {"No live worker runs. `eyepiece up` starts one."}
    assert worker.asked == []


@pytest.mark.parametrize(
    "path",
    [
        f"/nope/{SOURCE}/1/try",
        f"/{MODEL}/nope/1/try",
        f"/{MODEL}/{SOURCE}/6/try",
        f"/{MODEL}/3-other-sae/1/try",
        f"/{MODEL}/{SOURCE}/{10**30}/try",
    ],
)
def test_what_has_no_page_has_no_answers(client, worker, path):
    get(client, path, status=404, text="x")
    assert worker.asked == []


def test_more_texts_than_a_page_holds_are_refused(client):
    get(client, FEATURE, status=400, text=[str(i) for i in range(51)])


# Search by text


def found(*features: tuple[int, tuple[float, ...]]) -> TextSearch:
    return TextSearch(TOKENS, tuple(Found(SOURCE, index, values) for index, values in features), (True, *[False] * 4))


def searching(*features: tuple[int, tuple[float, ...]], dense: tuple[int, ...] = ()):
    def answer(question: SearchRequest) -> messages.SearchReply:
        kept = [each for each in features if question.densest is None or each[0] not in dense]
        return messages.SearchReply(id="1", texts=(found(*kept),))

    return answer


TWO = ((RICH, (0.0, 1.0, 5.0, 0.0, 0.0)), (SINGLE, (0.0, 0.0, 0.0, 0.0, 4.0)))


def rows(page: dom.Element) -> list[str]:
    return [link["href"].rpartition("/")[2] for link in page.all("a", "ref") if "/3-" not in link["href"]]


def test_the_page_is_there_without_its_results_and_asks_nobody(client, worker):
    worker.is_running = False
    page = get(client, SEARCH, text="a <b>\ncat", source=SOURCE, sort=["3", "1"], bos="1", by="token")
    assert page.one("textarea").text == "a <b>\ncat"
    assert page.one("form", "asking")["action"] == RESULTS
    again = page.one("a", "without-script")["href"]
    assert parse_qs(urlsplit(again).query) == {
        "text": ["a <b>\ncat"], "source": [SOURCE], "sort": ["1", "3"], "bos": ["1"], "by": ["token"],
    }  # fmt: skip
    assert worker.asked == []


def test_a_text_that_begins_with_a_line_break_keeps_it(client):
    """HTML drops the first line break of a text area."""
    assert get(client, SEARCH, text="\nx").one("textarea").text == "\n\nx"


def test_features_are_listed_with_what_they_fire_on_their_shades_and_their_pages(client, worker):
    worker.answer = searching(*TWO)
    page = get(client, RESULTS, text="a cat\n the")
    first, second = page.one("ol", "found").all("li")
    assert first.one("a", "ref")["href"] == FEATURE
    assert first.one("span", "tokens").all("span", "token")
    assert first.one("span", "value").text == "5.00"
    assert [(mark.text, mark.classes) for mark in first.one("p", "full").all("mark")] == [
        ("a", ["a1"]), (" cat", ["a5"]),
    ]  # fmt: skip
    assert first.one("p", "full").text.startswith("a cat"), "without the BOS that was put there"
    assert (first["data-maximum"], first.one("div", "best")["data-example"]) == ("10.0", FEATURE)
    assert second.one("span", "after").one("mark").text == " the"
    assert page.one("div", "results")["data-said"] == "2 features, the strongest first"


def test_the_question_is_what_the_form_says(client, worker):
    worker.answer = searching()
    get(client, RESULTS, text="x", sort=["4", "2"], bos="1", dense="")
    (question,) = worker.asked
    assert question.sources == (SOURCE,), "the one with dashboards"
    assert (question.sort_positions, question.is_bos_ignored, question.densest) == ((2, 4), False, None)
    assert (question.best_of, question.n_results) == ("text", 50)


@pytest.mark.parametrize(("by", "best_of"), [("layer", "source"), ("token", "token")])
def test_other_lists_are_other_questions(client, worker, by, best_of):
    worker.answer = searching(*TWO)
    page = get(client, RESULTS, text="x", by=by, dense="100%")
    (question,) = worker.asked
    assert question.best_of == best_of
    headings = [" ".join(h.text.split()) for h in page.all("h3")]
    assert headings == (
        ["2-tiny-sae blocks.2.hook_resid_post"] if by == "layer" else ["a token 1", "·cat token 2", "·the token 4"]
    )


def test_dense_features_are_asked_for_too_and_folded_away(client, worker):
    worker.answer = searching(*TWO, dense=(RICH,))
    page = get(client, RESULTS, text="x", dense="2%")
    assert [question.densest for question in worker.asked] == [0.02, None]
    lists = page.all("ol", "found")
    assert [rows(each) for each in lists] == [[str(SINGLE)], [str(RICH)]]
    folded = page.one("details", "dense")
    assert folded.all("summary")[0].text.startswith("1 dense feature that fires")
    assert "more than 2% of the corpus" in folded.text


def test_chosen_tokens_are_pressed_underlined_and_added_up(client, worker):
    worker.answer = searching(*TWO)
    page = get(client, RESULTS, text="x", sort=["1", "2"])
    buttons = page.one("div", role="toolbar").all("button")
    assert [(b["value"], b["aria-pressed"]) for b in buttons] == [
        ("1", "true"), ("2", "true"), ("3", "false"), ("4", "false"),
    ]  # fmt: skip
    first = page.one("ol", "found").all("li")[0]
    assert first.one("span", "value").text == "6.00"
    assert [u.text for u in first.one("p", "full").all("u")] == ["a", " cat"]
    assert "by their sum on 2 chosen tokens" in page.one("div", "results")["data-said"]


def test_without_scripts_a_token_is_a_button_of_a_form_that_keeps_the_rest(client, worker):
    worker.answer = searching(*TWO)
    form = get(client, RESULTS, text="x", sort="1", by="layer").one("form", "chosen-tokens")
    kept = [(field["name"], field["value"]) for field in form.all("input", type="hidden")]
    assert kept == [("text", "x"), ("sort", "1"), ("by", "layer")]
    worker.asked.clear()
    get(client, f"{RESULTS}?{urlencode([*kept, ('toggle', '4')])}")
    assert worker.asked[0].sort_positions == (1, 4)
    worker.asked.clear()
    get(client, f"{RESULTS}?{urlencode([*kept, ('toggle', '1')])}")
    assert worker.asked[0].sort_positions == ()


def test_the_bos_is_shown_where_it_counts(client, worker):
    worker.answer = searching((RICH, (9.0, 0.0, 5.0, 0.0, 0.0)))
    page = get(client, RESULTS, text="x", bos="1")
    assert page.one("div", role="toolbar").all("button")[0].text == "<|endoftext|>"
    assert page.one("ol", "found").one("span", "after").all("mark")[0].text == "<|endoftext|>"


def test_where_nothing_fires_the_page_says_so(client, worker):
    worker.answer = searching()
    assert get(client, RESULTS, text="x").one("div", "results")["data-said"] == "Nothing fires on the text."
    assert get(client, RESULTS, text="x", sort="1").one("div", "results")["data-said"].endswith("the chosen tokens.")


def test_why_there_is_no_answer_stands_in_its_place(client, worker):
    worker.is_running = False
    page = get(client, RESULTS, status=503, text="x")
    assert page.one("p", "problem").text == "No live worker runs. `eyepiece up` starts one."
    assert page.one("div", "results").all("a")[0].text == "Ask again"
    assert page.one("textarea").text == "x"


def test_without_a_text_nobody_is_asked(client, worker):
    assert get(client, RESULTS).one("p", "waiting")
    assert worker.asked == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nope/search", 404), (f"{SEARCH}?source=nope", 404), (f"{SEARCH}?source=3-other-sae", 404),
        (f"{SEARCH}?set=nope", 404), (f"{RESULTS}?set=nope&text=x", 404), (f"{SEARCH}?sort=x", 400),
        (f"{SEARCH}?dense=2", 400), (f"{SEARCH}?by=vote", 400),
        (f"{SEARCH}?{urlencode([('sort', i) for i in range(1001)])}", 400),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused(client, worker, path, status):
    get(client, path, status=status)
    assert worker.asked == []


def test_a_model_without_dashboards_says_so(client, session):
    catalog.add_model(session, "bare", "/models/bare")
    hosted.add_source(session, model="bare")
    session.commit()
    assert "has dashboards yet" in get(client, "/bare/search").one("main").text


def test_an_address_of_neuronpedia_leads_to_the_same_search(client):
    query = {
        "sourceSet": "tiny-sae",
        "selectedLayers": f'["{SOURCE}"]',
        "sortIndexes": "[2,1]",
        "ignoreBos": "false",
        "q": "a cat",
    }
    answer = client.get(f"/{MODEL}/?{urlencode(query)}")
    assert answer.status_code == 303
    assert answer.headers["location"] == f"{SEARCH}?text=a+cat&set=tiny-sae&source={SOURCE}&sort=1&sort=2&bos=1"
    assert client.get(f"/{MODEL}?q=x").headers["location"] == f"{SEARCH}?text=x"
    assert client.get(f"/{MODEL}?q=x&sortIndexes=first").status_code == 400
