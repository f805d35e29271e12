"""Comments on features and bookmarks over REST, and who is shown which."""

from typing import Any

import pytest
from sqlalchemy import update

from backend.db.tables import Source
from backend.web import list_schemas, schemas
from tests import hosted
from tests.hosted import MODEL, RICH, SINGLE, SOURCE
from tests.signing_in import ORIGIN, browser, person, program

FEATURE = {"modelId": MODEL, "layer": SOURCE, "index": str(RICH)}


@pytest.fixture(autouse=True)
def made(session):
    made = hosted.host(session)
    session.commit()
    return made


@pytest.fixture
def people(site, session):
    settings = site.state.settings
    people = {name: person(session, settings, name) for name in ("anna", "ben")}
    return {name: program(site, session, who) for name, who in people.items()} | {
        "nobody": browser(site),
        "admin": program(site, session, person(session, settings, "root", is_admin=True), "admin"),
    }


def post(client, path: str, given: Any = None):
    return client.post(client.base_url.join(f"/api/{path}"), json=given)


def said(client, feature: int = RICH) -> list[str]:
    return [each["text"] for each in comments(client, feature)]


def comments(client, feature: int = RICH) -> list[dict[str, Any]]:
    answer = client.get(client.base_url.join(f"/api/feature/{MODEL}/{SOURCE}/{feature}")).json()
    schemas.Feature.model_validate(answer)
    return answer["comments"]


def refused(response, status: int) -> str:
    told = schemas.Error.model_validate(response.json())
    assert response.status_code == status, told
    return told.error


def test_a_feature_is_commented_on(api):
    first = post(api, "comment/new", FEATURE | {"text": " Fires on brigades. "}).json()
    list_schemas.Comment.model_validate(first)
    assert (first["text"], first["index"], first["user"]) == ("Fires on brigades.", "1", {"name": ""})
    second = post(api, "comment/new", {"modelId": MODEL, "source": SOURCE, "index": RICH, "text": "x" * 1024}).json()
    assert comments(api) == [first, second]
    assert comments(api, SINGLE) == []
    assert post(api, "comment/delete", {"id": first["id"]}).json() == {"message": "ok"}
    refused(post(api, "comment/delete", {"id": first["id"]}), 404)
    assert comments(api) == [second]


@pytest.mark.parametrize("text", ["four", " four ", "x" * 1025, "", "a\0bcdef"])
def test_comments_have_a_length(api, text):
    refused(post(api, "comment/new", FEATURE | {"text": text}), 400)
    assert comments(api) == []


def test_only_what_is_hosted_is_commented_on_and_bookmarked(api):
    for wrong in ({"index": 6}, {"layer": "none"}, {"modelId": "none"}):
        for path in ("comment/new", "bookmark/add", "bookmark/delete"):
            refused(post(api, path, FEATURE | {"text": "hello"} | wrong), 404)


def test_a_comment_is_deleted_by_who_wrote_it(people):
    refused(post(people["nobody"], "comment/new", FEATURE | {"text": "hello"}), 401)
    found = post(people["anna"], "comment/new", FEATURE | {"text": "hello"}).json()
    assert (found["userId"], found["user"]) == ("anna", {"name": "anna"})
    assert said(people["nobody"]) == said(people["ben"]) == ["hello"]
    refused(post(people["ben"], "comment/delete", {"id": found["id"]}), 403)
    refused(post(people["nobody"], "comment/delete", {"id": found["id"]}), 401)
    assert post(people["admin"], "comment/delete", {"id": found["id"]}).status_code == 200
    assert said(people["anna"]) == []


def test_a_comment_on_a_hidden_source_is_hidden(people, session):
    found = post(people["anna"], "comment/new", FEATURE | {"text": "hello"}).json()
    session.execute(update(Source).values(visibility="private"))
    session.commit()
    for who in ("anna", "ben"):
        refused(post(people[who], "comment/delete", {"id": found["id"]}), 404)
        refused(post(people[who], "comment/new", FEATURE | {"text": "hello"}), 404)
    assert said(people["admin"]) == ["hello"]


def test_features_are_bookmarked(api):
    first = post(api, "bookmark/add", FEATURE).json()
    list_schemas.Bookmark.model_validate(first)
    assert post(api, "bookmark/add/", FEATURE).json() == first, "a second time changes nothing"
    second = post(api, "bookmark/add", FEATURE | {"index": SINGLE}).json()
    assert post(api, "user/bookmarks").json() == [second, first]
    assert post(api, "bookmark/delete", FEATURE).json() == {"count": 1}
    assert post(api, "bookmark/delete", FEATURE).json() == {"count": 0}
    assert post(api, "user/bookmarks", {}).json() == [second]


def test_bookmarks_are_nobody_elses(people, session):
    refused(post(people["nobody"], "bookmark/add", FEATURE), 401)
    refused(post(people["nobody"], "user/bookmarks"), 401)
    first = post(people["anna"], "bookmark/add", FEATURE).json()
    assert first["userId"] == "anna"
    assert post(people["ben"], "user/bookmarks").json() == post(people["admin"], "user/bookmarks").json() == []
    assert post(people["ben"], "bookmark/delete", FEATURE).json() == {"count": 0}
    session.execute(update(Source).values(visibility="unlisted"))
    session.commit()
    assert post(people["anna"], "user/bookmarks").json() == [first], "who made it has the address"
    session.execute(update(Source).values(visibility="private"))
    session.commit()
    assert post(people["anna"], "user/bookmarks").json() == []
    assert people["anna"].get(f"{ORIGIN}/api/feature/{MODEL}/{SOURCE}/{RICH}").status_code == 404
