"""Explanations over REST: written, voted on, searched, exported, and with the features they are of."""

import csv
import io
import json
from typing import Any

import orjson
import pytest
from sqlalchemy import insert, update

from backend.db.tables import Explanation, ExplanationScore, Source
from backend.formats import messages
from backend.services import explanation_files
from backend.web import explanation_schemas, live_schemas, schemas
from tests import hosted
from tests.database import statements
from tests.hosted import DEAD, MODEL, RICH, SINGLE, SOURCE
from tests.signing_in import browser, person, program
from tests.stand_in import redis_url as redis_url
from tests.stand_in import worker as worker

AT = {"modelId": MODEL, "source": SOURCE, "index": RICH}


@pytest.fixture(autouse=True)
def made(session):
    made = hosted.host(session)
    session.commit()
    return made


def answered(response, schema: type[schemas.Answer] | None = None) -> Any:
    assert response.status_code == 200, response.text
    body = response.json()
    if schema is not None:
        assert set(body) == set(schema.model_fields)
        schema.model_validate(body)
    return body


def refused(response, status: int) -> str:
    assert response.status_code == status, response.text
    return schemas.Error.model_validate(response.json()).error


def add(client, words: str = "cats", **given: Any) -> dict[str, Any]:
    response = client.post(client.base_url.join("/api/explanation/new"), json=AT | {"description": words} | given)
    return answered(response, explanation_schemas.ExplanationAnswer)["explanation"]


def test_an_explanation_is_added_read_edited_and_deleted(api):
    added = add(api, typeName="np_max-act", explanationModelName="gpt-4o")
    assert (added["modelId"], added["layer"], added["source"], added["index"]) == (MODEL, SOURCE, SOURCE, str(RICH))
    assert (added["typeName"], added["explanationModelName"], added["description"]) == ("np_max-act", "gpt-4o", "cats")
    assert (added["author"], added["authorId"], added["scoreV1"], added["votes"]) == ({"name": ""}, "", 0, [])
    path = f"explanation/{added['id']}"
    assert answered(api.get(path), explanation_schemas.ExplanationRow) == added
    edited = answered(api.patch(path, json={"description": "dogs"}))["explanation"]
    assert edited == added | {"description": "dogs", "updatedAt": edited["updatedAt"]}
    assert answered(api.post(f"{path}/delete")) == {"message": "Success"}
    assert "There is no explanation" in refused(api.get(path), 404)
    assert refused(api.delete(path), 404)
    assert answered(api.delete(f"explanation/{add(api)['id']}")) == {"message": "Success"}


@pytest.mark.parametrize(
    "given",
    [
        {"layer": SOURCE, "index": "1", "explanation": "cats"},
        {"saeId": SOURCE, "index": 1, "text": "cats", "unheardOf": [1]},
        {"source": SOURCE, "index": "1", "description": "cats", "typeName": None, "explanationType": "x"},
    ],
)
def test_every_name_of_a_key_is_understood(api, given):
    added = answered(api.post("explanation/new/", json={"modelId": MODEL} | given))["explanation"]
    assert (added["source"], added["index"], added["description"]) == (SOURCE, "1", "cats")


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"description": None}, 400), ({"description": "  "}, 400), ({"description": "x" * 4_001}, 400), ({"index": -1}, 400),
        ({"index": "x"}, 400), ({"source": None}, 400), ({"index": hosted.D_SAE}, 404), ({"modelId": "none"}, 404),
        ({"source": "9-none"}, 404), ({"description": "\ud800"}, 400),
    ],
)  # fmt: skip
def test_what_cannot_be_added_is_refused(api, given, status):
    body = json.dumps(AT | {"description": "cats"} | given)
    headers = {"content-type": "application/json"}
    assert refused(api.post("explanation/new", content=body, headers=headers), status)


def test_votes_are_counted_once_a_person(site, session):
    clients = [program(site, session, person(session, site.state.settings, name)) for name in ("anna", "bert")]
    mine = add(clients[0])
    assert mine["author"] == {"name": "anna"}
    path = f"/api/explanation/{mine['id']}"
    for client, n in ((clients[0], 1), (clients[0], 1), (clients[1], 2)):
        assert answered(client.post(f"{path}/vote")) == {"message": "Success", "votes": n}
    assert [each["voterId"] for each in answered(browser(site).get(path))["votes"]].count(mine["authorId"]) == 1
    assert answered(clients[0].post(f"{path}/unvote"))["votes"] == 1
    assert answered(clients[0].post(f"{path}/unvote"))["votes"] == 1


def test_a_feature_carries_its_explanations(api, session):
    second, first = add(api, "second"), add(api, "first")
    answered(api.post(f"explanation/{first['id']}/vote"))
    score = {"id": "s", "value": 0.75, "type_name": "eleuther_fuzz", "model_name": "gpt-4o", "details": '{"a": 1}'}
    session.execute(insert(ExplanationScore).values(explanation_id=first["id"], **score))
    session.commit()
    body = answered(api.get(f"feature/{MODEL}/{SOURCE}/{RICH}"), schemas.Feature)
    assert [each["description"] for each in body["explanations"]] == ["first", "second"]
    shown, other = body["explanations"]
    assert set(shown) == set(schemas.Explanation.model_fields)
    assert (shown["modelId"], shown["source"], shown["index"], shown["id"]) == (MODEL, SOURCE, str(RICH), first["id"])
    assert [(s["value"], s["explanationScoreTypeName"], s["jsonDetails"]) for s in shown["scores"]] == [
        (0.75, "eleuther_fuzz", '{"a": 1}')
    ]
    assert [vote["voterId"] for vote in shown["votes"]] == [""]
    assert (other["id"], other["scores"], other["votes"]) == (second["id"], [], [])
    assert answered(api.get(f"feature/{MODEL}/{SOURCE}/{DEAD}"))["explanations"] == []


def test_lists_of_features_carry_them_in_one_statement(api, connection):
    body = {"modelId": MODEL, "layer": SOURCE, "offset": 0}
    answered(api.post("features-offset", json=body))
    with statements(connection) as seen:
        bare = answered(api.post("features-offset", json=body))
    add(api, "cats")
    add(api, "dogs", index=SINGLE)
    with statements(connection) as seen_again:
        found = answered(api.post("features-offset", json=body))
    assert len(seen) == len(seen_again)
    said = {int(row["index"]): [each["description"] for each in row["explanations"]] for row in found}
    assert said == {int(row["index"]): [] for row in bare} | {RICH: ["cats"], SINGLE: ["dogs"]}


def test_searches_by_text_carry_them(api, worker):
    add(api, "cats")
    add(api, "more cats")
    tokens, is_special = ("<|endoftext|>", " cat"), (True, False)
    fires = messages.TextSearch(tokens, (messages.Found(SOURCE, RICH, (0.0, 1.0)),), is_special)
    worker.script = lambda request: [messages.SearchReply(id="", texts=(fires,))]
    found = answered(api.post("search-all", json={"modelId": MODEL, "sourceSet": "tiny-sae", "text": " cat"}))
    live_schemas.ExpandedTextSearch.model_validate(found)
    assert [each["description"] for each in found["result"][0]["neuron"]["explanations"]] == ["more cats", "cats"]
    top = messages.TextTopByToken(tokens, is_special, ((), (RICH, SINGLE)), ((), (2.0, 1.0)))
    worker.script = lambda request: [messages.TopByTokenReply(id="", texts=(top,))]
    asked = {"modelId": MODEL, "source": SOURCE, "text": " cat"}
    found = answered(api.post("search-topk-by-token", json=asked))
    live_schemas.ExpandedTextTopByToken.model_validate(found)
    rich, single = (each["feature"] for each in found["results"][0]["topFeatures"])
    assert [each["description"] for each in rich["explanations"]] == ["more cats"]
    assert single["explanations"] == []


# --- search --------------------------------------------------------------------------------------------------------


def search(client, path: str = "search-all", **given: Any) -> dict[str, Any]:
    url = client.base_url.join(f"/api/explanation/{path}")
    return answered(client.post(url, json={"query": "cats"} | given), explanation_schemas.FoundExplanations)


SEARCHES = {
    "search": {"modelId": MODEL, "layers": [SOURCE]},
    "search-model": {"modelId": MODEL},
    "search-release": {"releaseName": "tiny-sae"},
    "search-all": {},
}


@pytest.mark.parametrize("path", SEARCHES)
def test_every_search_answers_in_one_shape(api, path):
    mine = add(api, "black cats")
    add(api, "cats and dogs", index=DEAD)
    add(api, "birds")
    found = search(api, path, query="a cat", **SEARCHES[path], page=1, pageSize=3)
    assert found["request"] == {"query": "a cat", "offset": 0} | SEARCHES[path]
    assert (found["resultsCount"], found["hasMore"], found["nextOffset"]) == (2, False, 2)
    first = found["results"][0]
    assert (first["description"], first["modelId"], first["layer"], first["index"]) == (
        "black cats",
        MODEL,
        SOURCE,
        "1",
    )
    assert (first["id"], first["typeName"], first["explanationModelName"]) == (mine["id"], None, None)
    assert 0 < found["results"][1]["cosine_similarity"] <= first["cosine_similarity"] < 1
    neuron = first["neuron"]
    assert {each["description"] for each in neuron["explanations"]} == {"black cats", "birds"}
    assert len(neuron["activations"]) == 3
    assert found["results"][1]["neuron"]["activations"] == []


def test_pages_of_a_search_follow_each_other(api, session, made):
    rows = [{"id": f"{k:02}", "index": k % 6, "description": "equal cats"} for k in range(25)]
    explanation_files.upsert_many(session, made.source_id, rows)
    session.commit()
    first = search(api)
    assert (first["resultsCount"], first["hasMore"], first["nextOffset"]) == (20, True, 20)
    second = search(api, offset=str(first["nextOffset"]))
    assert (second["resultsCount"], second["hasMore"], second["nextOffset"]) == (5, False, 25)
    assert [row["id"] for row in first["results"] + second["results"]] == [row["id"] for row in rows]


def test_a_source_without_dashboards_is_found_without_a_feature(api, session):
    hosted.add_source(session, source="3-bare")
    session.commit()
    add(api, source="3-bare")
    (row,) = search(api)["results"]
    assert (row["layer"], row["neuron"]) == ("3-bare", None)


def test_searching_costs_as_many_statements_for_many_results_as_for_one(api, connection):
    add(api)

    def n_statements() -> int:
        with statements(connection) as seen:
            search(api)
        return len(seen)

    n_statements()
    one = n_statements()
    for index in range(hosted.D_SAE):
        add(api, index=index)
    assert n_statements() == one


@pytest.mark.parametrize(
    ("path", "given", "status"),
    [
        ("search-all", {"query": "ab"}, 400), ("search-all", {"query": None}, 400), ("search-all", {"query": "x" * 1_001}, 400),
        ("search-all", {"query": "cats", "offset": -1}, 400), ("search-model", {"query": "cats"}, 400),
        ("search-model", {"query": "cats", "modelId": "none"}, 404),
        ("search", {"query": "cats", "modelId": MODEL, "layers": ["9-none"]}, 404),
        ("search-release", {"query": "cats", "releaseName": "none"}, 404),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused(api, path, given, status):
    assert refused(api.post(f"explanation/{path}", json=given), status)


def test_searches_say_nothing_of_hidden_sources(site, session, made):
    owner = person(session, site.state.settings, "owner")
    mine = add(program(site, session, owner))
    session.execute(update(Source).where(Source.id == made.source_id).values(visibility="private", owner_id=owner.id))
    session.commit()
    for client, n in ((browser(site), 0), (browser(site, owner), 1)):
        assert search(client)["resultsCount"] == n
        assert client.get(f"/api/explanation/{mine['id']}").status_code == (200 if n else 404)
        assert client.get(f"/api/feature/{MODEL}/{SOURCE}/{RICH}").status_code == (200 if n else 404)


# --- export --------------------------------------------------------------------------------------------------------


def test_the_export_is_one_flat_list_by_feature(api, session, made, monkeypatch):
    monkeypatch.setattr(explanation_files, "N_PER_READ", 2)
    rows = [
        {"id": f"{k}", "index": k % 3, "description": words, "typeName": "np_max-act", "explanationModelName": "gpt-4o"}
        for k, words in enumerate(("cats, dogs", 'a "word"', "two\nlines", "é", "x"))
    ]
    explanation_files.upsert_many(session, made.source_id, rows)
    session.commit()
    url = f"explanation/export?modelId={MODEL}&saeId={SOURCE}"
    whole = answered(api.get(url))
    assert [(row["index"], row["description"]) for row in whole] == [
        ("0", "cats, dogs"), ("0", "é"), ("1", 'a "word"'), ("1", "x"), ("2", "two\nlines"),
    ]  # fmt: skip
    for row in whole:
        explanation_schemas.ExportedExplanation.model_validate(row)
    assert whole[0] == {
        "modelId": MODEL, "layer": SOURCE, "index": "0", "description": "cats, dogs", "typeName": "np_max-act",
        "explanationModelName": "gpt-4o",
    }  # fmt: skip
    lines = api.get(f"{url}&format=jsonl")
    assert [orjson.loads(line) for line in lines.text.splitlines()] == whole
    table = api.get(f"{url}&format=csv")
    assert list(csv.DictReader(io.StringIO(table.text))) == whole
    assert table.headers["content-type"] == "text/csv; charset=utf-8"
    assert f"{MODEL}-{SOURCE}-explanations.csv" in table.headers["content-disposition"]


def test_the_export_of_a_source_without_explanations_is_empty(api):
    url = f"explanation/export/?modelId={MODEL}&saeId={SOURCE}"
    assert answered(api.get(url)) == []
    assert api.get(f"{url}&format=jsonl").text == ""
    assert api.get(f"{url}&format=csv").text.strip() == "modelId,layer,index,description,typeName,explanationModelName"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 400),
        (f"modelId={MODEL}", 400),
        (f"modelId={MODEL}&saeId=9-none", 404),
        (f"modelId={MODEL}&saeId={SOURCE}&format=x", 400),
    ],
)
def test_what_cannot_be_exported_is_refused(api, query, status):
    assert refused(api.get(f"explanation/export?{query}"), status)


def test_explanations_of_a_deleted_source_are_gone(api, session):
    mine = add(api)
    answered(api.delete(f"source/{MODEL}/{SOURCE}"))
    assert refused(api.get(f"explanation/{mine['id']}"), 404)
    assert search(api)["resultsCount"] == 0
    assert session.get(Explanation, mine["id"]) is not None, "workers clear it away"
