"""The application over a real database: every page answers, errors are told, and only known callers get in."""

import logging

import pytest
from fastapi.testclient import TestClient

from backend import errors
from backend.services import jobs
from backend.settings import Settings
from backend.web import app as web
from backend.web import middleware
from tests import database, graph_samples, hosted
from tests.pages import dom

FEATURE = f"/{hosted.MODEL}/{hosted.SOURCE}/{hosted.RICH}"
SOURCE = f"/{hosted.MODEL}/{hosted.SOURCE}"
JSON = {"accept": "application/json"}
QUICK = f'[{{"modelId":"{hosted.MODEL}","layer":"{hosted.SOURCE}","index":"{hosted.RICH}"}}]'


@pytest.fixture
def app(assets, database_url, engine, sessions):
    app = web.create_app(Settings(database_url=database_url, assets=assets))
    app.state.engine.dispose()
    app.state.engine, app.state.sessions = engine, sessions
    return app


@pytest.fixture
def client(app):
    return TestClient(app, base_url="http://localhost:3000", follow_redirects=False)


@pytest.fixture
def site(session, client):
    """A hosted source, and one whose job is queued."""
    hosted.host(session)
    graph_samples.host(session, graph_samples.small(scan=hosted.MODEL))
    job_id = jobs.create(session, [hosted.add_source(session, source="3-tiny-sae")], {})
    session.commit()
    return job_id


PAGES = {
    "/": 7,
    f"/{hosted.MODEL}": 7,
    SOURCE: 7,
    f"{SOURCE}?sort=density&descending=1&token=%22": 7,
    f"/{hosted.MODEL}/3-tiny-sae": 10,
    f"/{hosted.MODEL}/search": 1,
    f"/{hosted.MODEL}/search?text=a+cat&source={hosted.SOURCE}&by=token": 1,
    FEATURE: 12,
    f"{FEATURE}?text=a+cat&text=the": 12,
    f"{SOURCE}/{hosted.DEAD}": 12,
    f"{SOURCE}/{hosted.SINGLE}": 11,
    f"{SOURCE}/{hosted.NO_LENS}": 12,
    f"{FEATURE}/scan": 8,
    f"/{hosted.MODEL}/steer": 8,
    f"/{hosted.MODEL}/steer?feature={hosted.SOURCE}/1:2.5&feature=9-none/1&through={hosted.SOURCE}&prompt=%22": 7,
    "/graphs": 1,
    f"/{hosted.MODEL}/graphs": 1,
    f"/{hosted.MODEL}/graph/small": 1,
    f"/{hosted.MODEL}/graph/small?embed=true&pinnedIds=0_3_1": 1,
    "/search-explanations": 2,
    f"/search-explanations?q=cats&modelId={hosted.MODEL}&sources={hosted.SOURCE}": 4,
    "/search-explanations?q=cats&releaseName=tiny-sae": 4,
    "/import": 1,
    "/jobs": 5,
    "/lists": 3,
    "/quick-list": 0,
    f"/quick-list?features={QUICK}": 5,
    f"{FEATURE}?embed=true": 7,
    "/definitions": 0,
}
"""And the SQL statements each costs."""


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("path", PAGES)
def test_pages_answer_and_cost_a_fixed_number_of_statements(client, connection, path):
    with database.statements(connection) as seen:
        answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert dom.parse(answer.text).one("h1")
    queries = [statement for statement in seen if "SAVEPOINT" not in statement]
    assert len(queries) == PAGES[path], queries


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    ("query", "target"),
    [
        ("?slug=small&pinnedIds=a%2Cb&supernodes=%5B%5D", "/graph/small?pinnedIds=a%2Cb&supernodes=%5B%5D"),
        ("?slug=small", "/graph/small"),
        ("", "/graphs"),
    ],
)
def test_neuronpedias_address_of_a_graph_leads_to_its_page(client, query, target):
    answer = client.get(f"/{hosted.MODEL}/graph{query}")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/{hosted.MODEL}{target}")


@pytest.mark.usefixtures("site")
def test_other_sites_may_show_an_embedded_graph_and_no_other_page(client):
    path = f"/{hosted.MODEL}/graph/small"
    policies = [client.get(path + query).headers["content-security-policy"] for query in ("", "?embed=true")]
    assert ["frame-ancestors *" in policy for policy in policies] == [False, True]
    assert policies[1].replace("frame-ancestors *", "frame-ancestors 'self'") == policies[0]


@pytest.mark.usefixtures("site")
def test_a_graph_is_deleted_on_its_page(client):
    path = f"/{hosted.MODEL}/graph/small"
    assert dom.parse(client.get(path).text).one("form", method="post")["action"] == f"{path}/delete"
    assert client.post(f"{path}/delete").headers["location"] == "/graphs"
    assert client.get(path).status_code == 404


@pytest.mark.usefixtures("site")
def test_steering_begins_with_the_first_model_there_is(client):
    answer = client.get("/steer")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/{hosted.MODEL}/steer")


def test_without_a_model_there_is_nothing_to_steer(client):
    answer = client.get("/steer")
    assert answer.status_code == 404
    assert "No model with features is hosted yet" in answer.text


@pytest.mark.usefixtures("site")
def test_the_page_of_steering_shows_the_features_its_address_names(client):
    url = (
        f"/{hosted.MODEL}/steer?feature={hosted.SOURCE}/{hosted.RICH}&feature={hosted.SOURCE}/6&feature=3-tiny-sae/2:7"
    )
    page = dom.parse(client.get(url).text)
    rich, uncomputed = page.all("li", "push")
    assert (rich["data-push"], uncomputed["data-push"]) == (f"{hosted.SOURCE}/{hosted.RICH}", "3-tiny-sae/2")
    assert [float(e["value"]) for e in page.all("input", type="number") if e.get("data-strength") is not None] == [
        30,
        7,
    ]
    assert "has no feature 6: it has 0 to 5" in page.one("div", "problem").text


def test_pages_of_a_job(client, site):
    for path in (f"/jobs/{site}", f"/jobs/{site}/progress"):
        assert dom.parse(client.get(path).text).one("section", "progress")["data-state"] == "queued"


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    ("path", "target"),
    [(f"{SOURCE}/find?q=3", f"{SOURCE}/3"), (f"{SOURCE}/find?q=cat", f"{SOURCE}?token=cat")],
)
def test_the_box_leads_on(client, path, target):
    answer = client.get(path)
    assert (answer.status_code, answer.headers["location"]) == (303, target)


@pytest.mark.usefixtures("site")
def test_a_random_feature_is_one_that_fires_and_is_never_cached(client):
    answer = client.get(f"{SOURCE}/random")
    assert answer.headers["location"] in {f"{SOURCE}/{index}" for index in (1, 2, 3, 5)}
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    "path",
    [
        "/nope", "/nope/nope", f"{SOURCE}/6", f"{SOURCE}/99999999999999999999", f"/{hosted.MODEL}/3-tiny-sae/1",
        "/jobs/0", "/jobs/99999999999", f"{FEATURE}/x", "/static/none.js", f"{SOURCE}/find?q=77",
        "/nope/steer", f"/nope/steer?feature={hosted.SOURCE}/1&through=x", "/steer/nope", "/steer/%00",
        "/list/nope", "/list/%00", f"{SOURCE}/99/card.png", "/oembed?url=http://localhost:3000/nope/nope/1",
        "/oembed?url=https://elsewhere.example/x",
    ],
)  # fmt: skip
def test_what_is_not_there_is_a_page_of_its_own(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert dom.parse(answer.text).one("h1").text == "Not found"


@pytest.mark.usefixtures("site")
def test_errors_are_told_in_the_same_words_as_json_and_as_a_page(client):
    page = client.get("/nope")
    body = client.get("/nope", headers=JSON).json()
    assert body == {"error": body["message"], "message": body["message"]}
    assert body["message"] == "No model 'nope' is hosted. The home page lists those that are."
    assert all(sentence in page.text for sentence in ("No model &#39;nope&#39; is hosted.", "The home page lists"))


def test_below_api_every_answer_is_json(client):
    for method, path in (("GET", "/api/nope"), ("POST", "/api/nope/nope"), ("DELETE", "/api")):
        answer = client.request(method, path, headers={"accept": "text/html"})
        assert answer.status_code in (404, 405)
        assert answer.json()["error"] == answer.json()["message"]


@pytest.mark.usefixtures("site")
def test_a_trailing_slash_means_nothing(client):
    assert client.get("/api/jobs/").json() == client.get("/api/jobs").json()
    assert client.get(f"/{hosted.MODEL}/").status_code == 200
    assert client.get("//").status_code == 200


def test_malformed_bodies_are_told_where(client):
    answer = client.post("/api/features-offset", json={"offset": "x"})
    assert answer.status_code == 400
    assert "modelId: Field required" in answer.json()["message"]


def test_a_query_that_cannot_be_read_is_refused(client, site):
    answer = client.get(f"{SOURCE}?min_density=much&page=0")
    assert answer.status_code == 400
    assert "min_density must be a number" in answer.text


def test_every_answer_has_the_strict_headers(client, site):
    for path in ("/", "/nope", "/api/jobs", "/static/main-1.js"):
        headers = client.get(path).headers
        assert headers["content-security-policy"] == middleware.CONTENT_SECURITY_POLICY
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
    assert "unsafe" not in middleware.CONTENT_SECURITY_POLICY


def test_other_sites_may_read_the_api_only(client, site):
    origin = {"origin": "https://elsewhere.example"}
    assert client.get("/api/jobs", headers=origin).headers["access-control-allow-origin"] == "*"
    assert client.get("/api/nope", headers=origin).headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-origin" not in client.get("/", headers=origin).headers
    assert "access-control-allow-origin" not in client.post(f"/api/jobs/{site}/cancel", headers=origin).headers


@pytest.mark.parametrize("host", ["localhost", "localhost:3000", "127.0.0.1:9", "[::1]:3000", "LOCALHOST"])
def test_names_of_this_machine_are_answered(client, host):
    assert client.get("/definitions", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "localhost@evil.example", "[", "192.168.0.7"]
)
def test_other_names_are_refused_because_they_may_have_been_made_to_point_here(client, host):
    assert client.get("/definitions", headers={"host": host}).status_code == 400


def test_the_host_that_was_set_is_answered(assets):
    settings = Settings(database_url="postgresql+psycopg2://x@localhost/x", assets=assets, host="127.0.0.2")
    client = TestClient(web.create_app(settings), base_url="http://127.0.0.2:3000")
    assert client.get("/definitions").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:4000"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_other_sites_cannot_write(client, site, headers):
    assert client.post(f"/jobs/{site}/cancel", headers=headers).status_code == 403
    assert client.post(f"/api/jobs/{site}/cancel", headers=headers).json()["error"].startswith("Only Eyepiece's own")
    assert client.get(f"/api/jobs/{site}").json()["state"] == "queued"


@pytest.mark.parametrize("headers", [{}, {"origin": "http://localhost:3000"}, {"sec-fetch-site": "same-origin"}])
def test_our_pages_and_programs_can(client, site, headers):
    answer = client.post(f"/jobs/{site}/cancel", headers=headers)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/jobs/{site}")
    assert client.get(f"/api/jobs/{site}").json()["state"] == "cancelled"
    assert client.post(f"/jobs/{site}/retry", headers=headers).status_code == 303
    assert client.get(f"/api/jobs/{site}").json()["state"] == "queued"


def test_what_a_failed_handler_wrote_is_not_kept(client, site):
    assert client.post(f"/jobs/{site}/retry").status_code == 409
    assert client.get(f"/api/jobs/{site}").json()["state"] == "queued"


def test_an_unexpected_error_tells_only_a_number_that_the_log_knows(client, monkeypatch, caplog):
    def broken(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(jobs, "latest", broken)
    with caplog.at_level(logging.ERROR):
        answer = client.get("/jobs")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    (record,) = caplog.records
    assert record.fields["request_id"] in answer.text
    assert (record.getMessage(), record.fields["route"]) == ("request.failed", "/jobs")
    assert client.get("/jobs", headers=JSON).json()["message"] == "Something went wrong inside Eyepiece."


def test_a_database_that_is_away_is_said_to_be(assets):
    settings = Settings(database_url="postgresql+psycopg2://x@127.0.0.1:1/x", assets=assets)
    answer = TestClient(web.create_app(settings), base_url="http://localhost").get("/jobs")
    assert answer.status_code == 503
    assert "The database does not answer" in answer.text


def test_assets_are_kept_for_ever_and_pages_are_not(client, site):
    assert client.get("/static/main-1.js").headers["cache-control"] == web.FOR_EVER
    assert client.get("/").headers["cache-control"] == "no-cache"


def test_pages_are_compressed(client, site):
    assert client.get(FEATURE).headers["content-encoding"] == "gzip"


@pytest.mark.parametrize(("cookie", "theme"), [("dark", "dark"), ("light", "light"), ('"><script>', None), ("", None)])
def test_the_theme_is_the_readers(client, cookie, theme):
    page = dom.parse(client.get("/definitions", headers={"cookie": f"theme={cookie}"}).text)
    assert page.one("html").get("data-theme") == theme


def test_the_engine_is_closed_with_the_application(assets, monkeypatch):
    app = web.create_app(Settings(database_url="postgresql+psycopg2://x@localhost/x", assets=assets))
    closed = []
    monkeypatch.setattr(app.state.engine, "dispose", lambda: closed.append(True))
    with TestClient(app, base_url="http://localhost"):
        assert not closed
    assert closed


def test_without_assets_or_database_it_refuses_to_start_in_one_line(tmp_path, assets, monkeypatch):
    with pytest.raises(errors.UnavailableError, match="make setup"):
        web.create_app(Settings(database_url="postgresql+psycopg2://x@localhost/x", assets=tmp_path))
    monkeypatch.setenv("EYEPIECE_ASSETS", str(assets))
    monkeypatch.setenv("EYEPIECE_DATABASE_URL", "")
    monkeypatch.setattr(web.logs, "configure", lambda level: None)
    with pytest.raises(SystemExit, match=r"^eyepiece: No database is named\."):
        web.create_app()
    monkeypatch.setenv("EYEPIECE_DATABASE_URL", "postgresql+psycopg2://x@localhost/x")
    assert web.create_app().state.settings.assets == assets
