"""Lists of features over REST: made, filled, read, changed, exported and deleted; who may do which."""

import csv
import io
import json
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import func, select, update

from backend.db.tables import Account, FeatureList, FeatureListItem, Source
from backend.services import access, comments, feature_lists, removal, visibility
from backend.web import list_schemas, schemas
from tests import hosted
from tests.hosted import DEAD, MODEL, RICH, SINGLE, SOURCE
from tests.signing_in import ORIGIN, browser, person, program


@pytest.fixture(autouse=True)
def made(session):
    made = hosted.host(session)
    session.commit()
    return made


def post(client, path: str, given: Any = None):
    """Whatever address the client starts from."""
    return client.post(client.base_url.join(f"/api/{path}"), json=given)


def feature(index: int | str = RICH, **given: Any) -> dict[str, Any]:
    return {"modelId": MODEL, "layer": SOURCE, "index": index} | given


def new(client, *indexes: int, **given: Any) -> str:
    body = {"name": "mine", "features": [feature(index) for index in indexes]} | given
    answer = post(client, "list/new-with-features", body)
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def read(client, list_id: str) -> dict[str, Any]:
    answer = post(client, "list/get", {"listId": list_id})
    assert answer.status_code == 200, answer.text
    list_schemas.FeatureListWithItems.model_validate(answer.json())
    return answer.json()


def indexes(client, list_id: str) -> list[str]:
    return [each["index"] for each in read(client, list_id)["neurons"]]


def refused(response, status: int) -> str:
    told = schemas.Error.model_validate(response.json())
    assert response.status_code == status, told
    return told.error


def test_a_list_is_made_and_read(api):
    answer = api.post("list/new/", json={"name": " Brigades ", "description": "a\r\nb", "testText": "The cat"}).json()
    list_schemas.NewFeatureList.model_validate(answer)
    assert (answer["name"], answer["description"], answer["defaultTestText"]) == ("Brigades", "a\nb", "The cat")
    assert (answer["userId"], answer["user"], answer["visibility"]) == ("", {"name": ""}, "UNLISTED")
    assert answer["url"] == f"http://localhost/list/{answer['id']}"
    found = read(api, answer["id"])
    assert (found["neurons"], found["activations"], found["comments"]) == ([], [], [])
    assert {key: found[key] for key in answer if key != "url"} == {key: answer[key] for key in answer if key != "url"}


def test_features_are_added_in_their_order_and_read_with_their_strongest_activations(api):
    list_id = new(api)
    asked = [feature("2", description="once"), feature(RICH), feature(DEAD)]
    answer = api.post("list/add-features", json={"listId": list_id, "featuresToAdd": asked})
    assert [each["index"] for each in answer.json()] == ["2", "1", "0"]
    list_schemas.ListItem.model_validate(answer.json()[0])
    found = read(api, list_id)["neurons"]
    assert [(each["index"], each["description"]) for each in found] == [("2", "once"), ("1", ""), ("0", "")]
    assert [[row["maxValue"] for row in each["neuron"]["activations"]] for each in found] == [
        [0.1],
        [10, 9.75, 9.5],
        [],
    ]
    assert found[1]["neuron"]["modelId"] == MODEL


def test_a_feature_that_is_in_a_list_keeps_its_place_and_is_described_anew(api):
    list_id = new(api, SINGLE, RICH)
    again = [feature(SINGLE, description="again"), feature(SINGLE)]
    answer = api.post("list/add-features", json={"listId": list_id, "featuresToAdd": again}).json()
    assert [each["description"] for each in answer] == [""], "the last of the same feature counts"
    described = {"listId": list_id, "featuresToAdd": [feature(SINGLE, description="again")]}
    assert api.post("list/add-features", json=described).json()[0]["description"] == "again"
    assert (
        api.post("list/add-features", json={"listId": list_id, "featuresToAdd": [feature(SINGLE)]}).status_code == 200
    )
    assert [(each["index"], each["description"]) for each in read(api, list_id)["neurons"]] == [
        ("2", "again"),
        ("1", ""),
    ]


def test_features_that_are_not_hosted_are_left_out_of_a_new_list_and_refused_by_one_that_is_there(api, session):
    absent = [feature(6), feature(modelId="none"), feature(layer="none"), feature(99)]
    list_id = new(api, features=[absent[0], feature(RICH), *absent[1:]])
    assert indexes(api, list_id) == ["1"]
    for each in absent:
        body = {"listId": list_id, "featuresToAdd": [feature(SINGLE), each]}
        assert "There is no feature" in refused(api.post("list/add-features", json=body), 404)
    assert indexes(api, list_id) == ["1"]


def test_a_feature_that_is_not_computed_yet_is_in_the_list_without_its_dashboard(api, session):
    hosted.add_source(session, source="3-tiny-sae")
    session.commit()
    list_id = new(api, features=[feature(5, layer="3-tiny-sae")])
    (found,) = read(api, list_id)["neurons"]
    assert (found["layer"], found["neuron"]) == ("3-tiny-sae", None)


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("new", {}, "name"),
        ("new", {"name": " "}, "name of the list has 0 characters"),
        ("new", {"name": "x" * 201}, "name of the list has 201"),
        ("new", {"name": "a\0"}, "U+0000"),
        ("new", {"name": "x", "testText": "x" * 501}, "test text has 501"),
        ("new", {"name": "x", "visibility": "none"}, "visibility"),
        ("new-with-features", {"name": "x", "features": [{"modelId": MODEL}]}, "features.0.source"),
        ("add-features", {"listId": "x", "featuresToAdd": [feature()] * 101}, "featuresToAdd"),
        ("add-features", {"listId": "x"}, "featuresToAdd"),
        ("get", {}, "listId"),
        ("get", {"listId": "a\0"}, "listId"),
    ],
)
def test_what_is_malformed_is_refused_by_name(api, session, path, body, told):
    assert told in refused(api.post(f"list/{path}", json=body), 400)
    assert session.scalar(select(func.count()).select_from(FeatureList)) == 0


def test_lists_are_listed_the_oldest_first_with_or_without_a_body(api):
    first, second = new(api, name="first"), new(api, name="second")
    answers = [api.post("list/list"), api.post("list/list/", json={})]
    for answer in answers:
        assert [(each["id"], each["name"]) for each in answer.json()] == [(first, "first"), (second, "second")]


def test_a_list_is_changed_and_deleted(api):
    list_id = new(api, RICH, SINGLE)
    api.post("list/comment/new", json={"listId": list_id, "text": "nice"})
    before = read(api, list_id)
    body = {"listId": list_id, "name": "other", "description": "d", "defaultTestText": "t", "visibility": "PUBLIC"}
    answer = api.post("list/update", json=body).json()
    list_schemas.FeatureList.model_validate(answer)
    assert (answer["name"], answer["description"], answer["defaultTestText"]) == ("other", "d", "t")
    assert answer["visibility"] == "PUBLIC"
    assert datetime.fromisoformat(answer["updatedAt"]) > datetime.fromisoformat(before["updatedAt"])
    kept = api.post("list/update", json={"listId": list_id, "name": "other"}).json()
    assert (kept["defaultTestText"], kept["visibility"]) == (None, "PUBLIC")
    edited = api.post("list/edit-feature", json=feature(RICH, listId=list_id, description="why")).json()
    assert (edited["index"], edited["description"]) == ("1", "why")
    removed = api.post("list/remove", json=feature(str(RICH), listId=list_id)).json()
    assert (removed["index"], removed["description"]) == ("1", "why")
    refused(api.post("list/remove", json=feature(RICH, listId=list_id)), 404)
    refused(api.post("list/edit-feature", json=feature(RICH, listId=list_id, description="x")), 404)
    assert indexes(api, list_id) == ["2"]
    assert api.post("list/delete", json={"listId": list_id}).json() is True
    for path in ("get", "delete"):
        refused(api.post(f"list/{path}", json={"listId": list_id}), 404)


def test_a_long_list_is_sent_in_part_and_exported_whole(api, monkeypatch):
    monkeypatch.setattr(list_schemas, "MOST_SHOWN", 2)
    list_id = new(api, RICH, DEAD, SINGLE)
    assert indexes(api, list_id) == ["1", "0"]
    assert len(api.get(f"list/{list_id}/export").json()) == 3


def test_a_list_that_is_full_takes_no_more(api, monkeypatch):
    monkeypatch.setattr(feature_lists, "MOST_ITEMS", 2)
    list_id = new(api, RICH, DEAD)
    body = {"listId": list_id, "featuresToAdd": [feature(SINGLE)]}
    assert "at most 2 features" in refused(api.post("list/add-features", json=body), 409)
    assert indexes(api, list_id) == ["1", "0"]


@pytest.mark.parametrize("format", ["json", "jsonl", "csv"])
def test_a_list_is_exported(api, format):
    said = 'two\nlines, "quoted" — Émile'
    list_id = new(api, features=[feature(RICH, description=said), feature(DEAD)])
    answer = api.get(f"list/{list_id}/export?format={format}")
    if format == "json":
        rows = answer.json()
    elif format == "jsonl":
        rows = [json.loads(line) for line in answer.text.split("\n")[:-1]]
    else:
        rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert [(row["modelId"], row["layer"], row["index"], row["description"]) for row in rows] == [
        (MODEL, SOURCE, "1", said),
        (MODEL, SOURCE, "0", ""),
    ]
    assert rows[0]["url"] == f"http://localhost/{MODEL}/{SOURCE}/1"
    list_schemas.ExportedItem.model_validate(rows[0], strict=False)
    attached = answer.headers.get("content-disposition", "")
    assert attached == ("" if format == "json" else f'attachment; filename="list-{list_id}.{format}"')


def test_an_unknown_format_or_list_is_refused(api):
    assert "format" in refused(api.get(f"list/{new(api)}/export?format=xml"), 400)
    refused(api.get("list/none/export"), 404)


def test_the_feature_says_which_lists_have_it(api):
    named = [new(api, RICH, name="a"), new(api, RICH, SINGLE, name="b")]
    new(api, SINGLE)
    found = api.get(f"feature/{MODEL}/{SOURCE}/{RICH}").json()
    schemas.Feature.model_validate(found)
    assert [each["listId"] for each in found["lists"]] == named[::-1]
    each = found["lists"][0]
    list_schemas.FeatureList.model_validate(each.pop("list"))
    list_schemas.ListItem.model_validate(each)


# --- comments on lists ---------------------------------------------------------------------------------------------


def test_a_list_is_commented_on(api):
    list_id = new(api)
    first = api.post("list/comment/new", json={"listId": list_id, "text": " ok "}).json()
    second = api.post("list/comment/new", json={"listId": list_id, "text": "x" * 1024}).json()
    list_schemas.ListCommentRow.model_validate(first)
    assert (first["text"], first["listId"]) == ("ok", list_id)
    assert read(api, list_id)["comments"] == [first, second]
    assert api.post("list/comment/delete", json={"commentId": first["id"]}).json() == {"count": 1}
    refused(api.post("list/comment/delete", json={"commentId": first["id"]}), 404)
    assert read(api, list_id)["comments"] == [second]
    assert "2 to 1,024" in refused(api.post("list/comment/new", json={"listId": list_id, "text": "x "}), 400)
    assert "2 to 1,024" in refused(api.post("list/comment/new", json={"listId": list_id, "text": "x" * 1025}), 400)


def test_of_many_comments_the_newest_are_shown(api, monkeypatch):
    monkeypatch.setattr(comments, "MOST_SHOWN", 2)
    list_id = new(api)
    for text in ("first", "second", "third"):
        api.post("list/comment/new", json={"listId": list_id, "text": text})
    assert [each["text"] for each in read(api, list_id)["comments"]] == ["second", "third"]


# --- with accounts -------------------------------------------------------------------------------------------------


@pytest.fixture
def people(site, session):
    settings = site.state.settings
    people = {name: person(session, settings, name) for name in ("anna", "ben")}
    return {name: program(site, session, who) for name, who in people.items()} | {
        "nobody": browser(site),
        "admin": program(site, session, person(session, settings, "root", is_admin=True), "admin"),
    }


def test_a_list_belongs_to_who_made_it(people):
    anna, ben, admin = people["anna"], people["ben"], people["admin"]
    list_id = new(anna, RICH)
    found = read(ben, list_id)
    assert (found["userId"], found["user"], found["neurons"][0]["userId"]) == ("anna", {"name": "anna"}, "anna")
    assert [each["id"] for each in post(anna, "list/list").json()] == [list_id]
    assert post(ben, "list/list").json() == post(admin, "list/list").json() == []
    changes = [
        ("list/update", {"listId": list_id, "name": "x"}),
        ("list/add-features", {"listId": list_id, "featuresToAdd": [feature(SINGLE)]}),
        ("list/edit-feature", feature(RICH, listId=list_id, description="x")),
        ("list/remove", feature(RICH, listId=list_id)),
        ("list/delete", {"listId": list_id}),
    ]
    for path, body in changes:
        refused(post(ben, path, body), 403)
        refused(post(people["nobody"], path, body), 401)
        assert post(admin, path, body).status_code == 200
    assert post(anna, "list/list").json() == []


@pytest.mark.parametrize(
    ("visibility", "by_address", "listed"),
    [("private", False, False), ("unlisted", True, False), ("public", True, True)],
)
def test_a_list_says_who_sees_it(people, visibility, by_address, listed):
    list_id = new(people["anna"], RICH, visibility=visibility)
    for who in ("ben", "nobody"):
        answer = post(people[who], "list/get", {"listId": list_id})
        assert (answer.status_code == 200) == by_address
        page = people[who].get(f"{ORIGIN}/api/feature/{MODEL}/{SOURCE}/{RICH}").json()
        assert bool(page["lists"]) == listed
    for who in ("anna", "admin"):
        assert indexes(people[who], list_id) == ["1"]
    own = people["anna"].get(f"{ORIGIN}/api/feature/{MODEL}/{SOURCE}/{RICH}").json()
    assert [each["listId"] for each in own["lists"]] == [list_id]


@pytest.mark.parametrize(
    ("of_list", "of_source", "sees"),
    [
        ("unlisted", "public", True), ("unlisted", "unlisted", True), ("unlisted", "private", False),
        ("public", "public", True), ("public", "unlisted", False), ("public", "private", False),
    ],
)  # fmt: skip
def test_an_item_is_there_for_those_who_see_its_source(people, session, of_list, of_source, sees):
    """A public list tells nobody of an unlisted source; an unlisted one's address is as good as the source's."""
    list_id = new(people["anna"], RICH, visibility=of_list)
    owner = session.scalar(select(Account.id).where(Account.name == "anna"))
    session.execute(update(Source).values(visibility=of_source, owner_id=owner))
    session.commit()
    for who in ("ben", "nobody"):
        assert bool(indexes(people[who], list_id)) == sees
        assert bool(people[who].get(f"{ORIGIN}/api/list/{list_id}/export").json()) == sees
    for who in ("anna", "admin"):
        assert indexes(people[who], list_id) == ["1"]


def test_a_list_counts_what_its_reader_sees(site, session, people):
    list_id = new(people["anna"], RICH, SINGLE, visibility="public")
    session.execute(update(Source).values(visibility="private"))
    session.commit()
    counts = {}
    for who, viewer in (("nobody", access.NOBODY), ("operator", access.OPERATOR)):
        visibility.see_as(session, viewer)
        counts[who] = [(view.id, view.n_items) for view in feature_lists.public(session, n=10)]
    assert counts == {"nobody": [(list_id, 0)], "operator": [(list_id, 2)]}


def test_comments_are_deleted_by_who_wrote_them_or_whose_list_it_is(people):
    list_id = new(people["anna"])
    refused(post(people["nobody"], "list/comment/new", {"listId": list_id, "text": "hello"}), 401)

    def said(who: str) -> str:
        return post(people[who], "list/comment/new", {"listId": list_id, "text": "hello"}).json()["id"]

    anna_s = said("anna")
    for deleting in ("ben", "anna", "admin"):
        assert post(people[deleting], "list/comment/delete", {"commentId": said("ben")}).json() == {"count": 1}
    refused(post(people["ben"], "list/comment/delete", {"commentId": anna_s}), 403)
    refused(post(people["nobody"], "list/comment/delete", {"commentId": anna_s}), 401)
    assert [each["user"]["name"] for each in read(people["nobody"], list_id)["comments"]] == ["anna"]


def test_an_account_has_so_many_lists_and_no_more(people, monkeypatch):
    monkeypatch.setattr(feature_lists, "MOST_LISTS", 1)
    new(people["anna"])
    assert "You have 1 lists" in refused(post(people["anna"], "list/new", {"name": "x"}), 409)
    new(people["ben"])


def test_a_deleted_source_leaves_its_lists(api, session):
    list_id = new(api, RICH)
    removal.remove(session, MODEL, SOURCE)
    session.commit()
    assert indexes(api, list_id) == []
    assert session.scalar(select(func.count()).select_from(FeatureListItem)) == 1, (
        "until a worker clears the source away"
    )
