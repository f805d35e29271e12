"""Pages of what was imported, or only named: nothing is offered that needs weights, and how to attach them is said."""

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from backend.db.tables import Source
from backend.services import given_catalog
from backend.services.access import OPERATOR
from backend.settings import Settings
from backend.web import app as web
from tests import hosted
from tests.pages import dom

MODEL = f"/{hosted.MODEL}"
SOURCE = f"{MODEL}/{hosted.SOURCE}"
FEATURE = f"{SOURCE}/{hosted.RICH}"


@pytest.fixture
def client(assets, database_url, engine, sessions, session):
    """An imported source, and a model and a source that were only named."""
    made = hosted.host(session)
    unknown = {"weights": None, "hook_point": "", "architecture": "", "d_in": 0}
    session.execute(update(Source).where(Source.id == made.source_id).values(**unknown))
    given_catalog.put_model(session, OPERATOR, {"id": "named", "displayName": "Named"})
    given_catalog.put_source(session, OPERATOR, {"modelId": "named", "id": "0-mine"})
    session.commit()
    app = web.create_app(Settings(database_url=database_url, assets=assets))
    app.state.engine.dispose()
    app.state.engine, app.state.sessions = engine, sessions
    return TestClient(app, base_url="http://localhost:3000", follow_redirects=False)


def links_of(page: dom.Element) -> set[str]:
    return {str(a["href"]) for a in page.all("a") if a.get("href")}


@pytest.mark.parametrize(
    "path",
    [
        "/", MODEL, SOURCE, FEATURE, f"{SOURCE}/{hosted.DEAD}", f"{SOURCE}/{hosted.NO_LENS}", f"{MODEL}/search",
        f"{MODEL}/steer", "/named", "/named/0-mine", "/named/steer", "/named/search", f"{SOURCE}/delete", "/add", "/admin",
        "/steer",
    ],
)  # fmt: skip
def test_every_page_answers(client, path):
    answer = client.get(path)
    assert answer.status_code in (200, 303), answer.text
    if answer.status_code == 200:
        assert dom.parse(answer.text).one("h1")


def test_a_source_says_how_to_attach_its_weights(client):
    page = dom.parse(client.get(SOURCE).text)
    assert "No weights are known" in page.one("div", id="attach").text
    command = page.one("code", id="command").text
    assert command.endswith(
        f"add path/to/model --model-id {hosted.MODEL} --sae path/to/sae --source {hosted.SOURCE} --no-compute"
    )
    assert f"{SOURCE}/rerun" not in links_of(page)
    assert "hook point" not in {dt.text for dt in page.all("dt")}
    assert FEATURE in links_of(page), "its features are listed"


def test_a_feature_offers_nothing_that_needs_weights(client):
    page = dom.parse(client.get(FEATURE).text)
    assert not [link for link in links_of(page) if "/steer?" in link or link.endswith("/scan")]
    assert not page.all("form", "asking")
    assert "texts of your own cannot be tried" in page.one("section", "examples").text


def test_models_offer_nothing_that_needs_weights(client):
    assert f"{MODEL}/search" not in links_of(dom.parse(client.get(MODEL).text))
    assert f"{MODEL}/search" not in links_of(dom.parse(client.get("/").text))
    assert not page_of_steering(client, "/named/steer").all("option")


def test_steering_says_what_has_no_weights(client):
    page = page_of_steering(client, f"{MODEL}/steer?feature={hosted.SOURCE}/1")
    assert f"No weights of '{hosted.SOURCE}' are known" in page.one("div", "problem").text
    assert hosted.SOURCE not in {option.text for option in page.one("select", id="from").all("option")}


def page_of_steering(client, path: str) -> dom.Element:
    return dom.parse(client.get(path).text)


@pytest.mark.parametrize(
    "path", [f"{FEATURE}/scan", f"{FEATURE}/try?text=a", f"{MODEL}/search/results?text=a&source={hosted.SOURCE}"]
)
def test_pages_that_would_run_it_say_why_they_do_not(client, path):
    answer = client.get(path)
    assert answer.status_code == 422
    assert f"No weights of '{hosted.MODEL}/{hosted.SOURCE}' are known" in dom.parse(answer.text).text


def test_computing_it_again_is_refused(client):
    asked = {"sources": [f"{hosted.MODEL}/{hosted.SOURCE}"], "corpus_path": __file__}
    answer = client.post("/api/jobs", json=asked)
    assert (answer.status_code, "no weights of" in answer.json()["error"]) == (422, True)
