"""Steering vectors of one's own over REST: added, read, steered with, listed and deleted."""

from typing import Any

import pytest
from sqlalchemy import func, select, update

from backend.db.tables import Account, Model, Source, Vector
from backend.formats import messages
from backend.formats.messages import Push
from backend.services import inference
from backend.web import schemas, steer_schemas
from tests import hosted, stand_in
from tests.hosted import DEAD, MODEL, RICH, SOURCE
from tests.signing_in import ORIGIN, browser, person, program
from tests.stand_in import redis_url as redis_url
from tests.stand_in import worker as worker

VALUES = [0.1, -1 / 3, 1e-30, *[float(i) for i in range(13)]]
"""Doubles that fp32 cannot hold."""


@pytest.fixture(autouse=True)
def made(session):
    made = hosted.host(session)
    session.commit()
    return made


def new(**given: Any) -> dict[str, Any]:
    whole = {
        "modelId": MODEL, "layerNumber": 2, "hookType": "hook_resid_post", "vector": VALUES,
        "vectorDefaultSteerStrength": 7.5, "vectorLabel": "mine",
    }  # fmt: skip
    return {key: value for key, value in (whole | given).items() if value is not ...}


def post(client, path: str, given: Any = None):
    """Whatever address the client starts from."""
    return client.post(client.base_url.join(f"/api/{path}"), json=given)


def add(client, **given: Any) -> dict[str, Any]:
    response = post(client, "vector/new", new(**given))
    assert response.status_code == 200, response.text
    return response.json()["vector"]


def address(vector: dict[str, Any]) -> dict[str, Any]:
    return {key: vector[key] for key in ("modelId", "source", "index")}


def refused(response, status: int) -> str:
    told = schemas.Error.model_validate(response.json())
    assert response.status_code == status, told
    return told.error


def test_a_vector_is_added_and_read_back_bit_by_bit(api):
    answer = api.post("vector/new", json=new()).json()
    steer_schemas.VectorAdded.model_validate(answer)
    added = answer["vector"]
    assert (added["modelId"], added["source"], added["label"]) == (MODEL, "2-neuronpedia-resid-post", "mine")
    assert added["hookName"] == "blocks.2.hook_resid_post"
    assert added["values"] == VALUES
    assert added["defaultSteerStrength"] == 7.5
    assert added["index"].isdigit()
    assert 8 <= len(added["index"]) <= 9
    assert answer["url"] == f"http://localhost/{MODEL}/steer?feature={added['source']}/{added['index']}"
    found = api.post("vector/get", json=address(added)).json()
    steer_schemas.VectorFound.model_validate(found)
    assert found["vector"] == {
        "modelId": MODEL, "layer": added["source"], "index": added["index"], "vectorLabel": "mine",
        "createdAt": added["createdAt"], "creatorId": "", "vectorDefaultSteerStrength": 7.5,
        "hookName": "blocks.2.hook_resid_post", "vector": VALUES,
    }  # fmt: skip


def test_what_is_left_out_has_a_default(api):
    added = add(api, vectorDefaultSteerStrength=None, vectorLabel=..., hookType="hook_resid_pre", layerNumber="0")
    assert (added["source"], added["hookName"]) == ("0-neuronpedia-resid-pre", "blocks.0.hook_resid_pre")
    assert (added["defaultSteerStrength"], added["label"]) == (10, "")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"vector": VALUES[:-1]}, "15 numbers; the residual stream of 'tiny-model' has 16"),
        ({"vector": []}, "vector"),
        ({"vector": [0] * 16}, "zero"),
        ({"vector": ["nan"] * 16}, "vector.0"),
        ({"vector": ["inf"] * 16}, "vector.0"),
        ({"layerNumber": 4}, "0 to 3"),
        ({"layerNumber": -1}, "layerNumber"),
        ({"hookType": "hook_mlp_out"}, "hookType"),
        ({"vectorLabel": "a\0"}, "vectorLabel"),
        ({"vectorLabel": "a" * 501}, "vectorLabel"),
        ({"vectorDefaultSteerStrength": "inf"}, "vectorDefaultSteerStrength"),
        ({"modelId": ...}, "modelId"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(api, session, wrong, told):
    assert told in refused(api.post("vector/new", json=new(**wrong)), 400)
    assert session.scalar(select(func.count()).select_from(Vector)) == 0


def test_a_model_that_was_never_loaded_takes_any_length(api, session):
    """The worker then says what does not fit."""
    session.execute(update(Model).values(d_model=None, n_layers=None))
    session.commit()
    assert add(api, vector=[1.0, 2.0], layerNumber=99)["values"] == [1, 2]


def test_an_unknown_model_or_vector_is_not_found(api):
    refused(api.post("vector/new", json=new(modelId="none")), 404)
    added = add(api)
    for wrong in ({"index": 5}, {"source": "2-neuronpedia-resid-pre"}, {"modelId": "none"}):
        refused(api.post("vector/get", json=address(added) | wrong), 404)
        refused(api.post("vector/delete", json=address(added) | wrong), 404)


def test_an_index_that_is_taken_is_drawn_again(api, monkeypatch):
    drawn = iter([1, 1, 1, 2])
    monkeypatch.setattr("secrets.randbelow", lambda n: next(drawn))
    assert [add(api)["index"] for _ in range(2)] == ["10000001", "10000002"]


def test_vectors_are_listed_newest_first_and_deleted(api):
    assert api.post("vector/list-owned").json() == {"vectors": []}
    first, second = add(api, vectorLabel="first"), add(api, vectorLabel="second")
    listed = api.post("vector/list-owned/").json()
    steer_schemas.VectorsOwned.model_validate(listed)
    assert [each["vectorLabel"] for each in listed["vectors"]] == ["second", "first"]
    assert api.post("vector/list-owned", json={}).json() == listed
    assert api.post("vector/delete", json=address(first)).json() == {"message": "Success"}
    assert [each["index"] for each in api.post("vector/list-owned").json()["vectors"]] == [second["index"]]
    refused(api.post("vector/get", json=address(first)), 404)
    refused(api.post("vector/delete", json=address(first)), 404)


# --- steering with them --------------------------------------------------------------------------------------------


def steer(client, features: list[dict[str, Any]], **given: Any):
    return post(client, "steer", {"modelId": MODEL, "prompt": "x", "features": features} | given)


def feature(vector: dict[str, Any], **given: Any) -> dict[str, Any]:
    return {"modelId": MODEL, "layer": vector["source"], "index": vector["index"]} | given


def test_vectors_and_features_steer_together(api, worker):
    added = add(api)
    features = [
        feature(added, strength=3),
        {"layer": SOURCE, "index": RICH, "strength": 2},
        feature(added, method="ABLATE"),
    ]
    assert steer(api, features, strength_multiplier=2).status_code == 200
    (asked,) = worker.steered
    place = {"hook_point": "blocks.2.hook_resid_post", "vector": tuple(VALUES)}
    assert asked.pushes == (
        Push(method="add", strength=6, **place),
        Push(method="add", strength=4, source=SOURCE, index=RICH),
        Push(method="ablate", strength=15, **place),
    )
    assert asked.versions.keys() == {"", SOURCE}


def test_a_vector_has_a_strength_of_its_own(api, worker):
    assert steer(api, [feature(add(api), strength=None)]).status_code == 200
    assert worker.steered[0].pushes[0].strength == 7.5


@pytest.mark.parametrize("method", ["CLAMP", "RECONSTRUCT"])
def test_what_needs_an_sae_is_refused(api, worker, method):
    assert "is a vector" in refused(steer(api, [feature(add(api), strength=1, method=method)]), 422)
    assert not worker.asked


def test_a_deleted_vector_steers_no_more_and_its_runs_stay(api, worker):
    added = add(api)
    run = steer(api, [feature(added, strength=1)]).json()
    api.post("vector/delete", json=address(added))
    refused(steer(api, [feature(added, strength=1)]), 404)
    assert api.post("steer-load", json={"steerOutputId": run["id"]}).json()["features"][0]["index"] == added["index"]


# --- features as vectors -------------------------------------------------------------------------------------------


def test_a_feature_s_vector_is_its_decoder_row(api, worker):
    direction = messages.DirectionReply(id="", hook_point="blocks.2.hook_resid_post", vector=(0.6, -0.8))
    worker.script = lambda request: [direction]
    found = api.post("vector/get", json={"modelId": MODEL, "layer": SOURCE, "index": str(RICH)}).json()
    steer_schemas.VectorFound.model_validate(found)
    assert found["vector"] == {
        "modelId": MODEL, "layer": SOURCE, "index": str(RICH), "vectorLabel": None, "createdAt": None, "creatorId": "",
        "vectorDefaultSteerStrength": 10, "hookName": "blocks.2.hook_resid_post", "vector": [0.6, -0.8],
    }  # fmt: skip
    (asked,) = worker.asked
    assert isinstance(asked, messages.DirectionRequest)
    assert (asked.source, asked.index) == (SOURCE, RICH)


def test_a_feature_s_strength_is_its_largest_activation_if_it_has_one(api, worker, session):
    direction = messages.DirectionReply(id="", hook_point="blocks.2.hook_resid_post", vector=(1.0,))
    worker.script = lambda request: [direction]
    strengths = {}
    hosted.add_source(session, source="3-bare")
    session.commit()
    for source, index in ((SOURCE, 2), (SOURCE, DEAD), ("3-bare", 1)):
        found = api.post("vector/get", json={"modelId": MODEL, "source": source, "index": index}).json()
        strengths[source, index] = found["vector"]["vectorDefaultSteerStrength"]
    assert strengths == {(SOURCE, 2): pytest.approx(0.1), (SOURCE, DEAD): 10, ("3-bare", 1): 10}


def test_without_a_live_worker_only_features_are_not_found_out(api):
    assert api.post("vector/get", json=address(add(api))).status_code == 200
    refused(api.post("vector/get", json={"modelId": MODEL, "source": SOURCE, "index": RICH}), 503)
    assert "0 to 5" in refused(api.post("vector/get", json={"modelId": MODEL, "source": SOURCE, "index": 6}), 404)


# --- with accounts -------------------------------------------------------------------------------------------------


@pytest.fixture
def people(site, session):
    """Browsers of an owner, another and an admin."""
    settings = site.state.settings
    return [
        browser(site, person(session, settings, name, is_admin=name == "admin")) for name in ("owner", "other", "admin")
    ]


def test_vectors_are_listed_to_their_owner_and_read_by_whoever_has_the_address(site, people):
    owner, other, admin = people
    nobody = browser(site)
    refused(nobody.post("/api/vector/new", json=new()), 401)
    refused(nobody.post("/api/vector/list-owned"), 401)
    answer = owner.post("/api/vector/new", json=new()).json()
    assert answer["url"].startswith(f"{ORIGIN}/{MODEL}/steer?")
    added = answer["vector"]
    assert [len(who.post("/api/vector/list-owned").json()["vectors"]) for who in people] == [1, 0, 0]
    for who in (owner, other, admin, nobody):
        assert who.post("/api/vector/get", json=address(added)).json()["vector"]["vector"] == VALUES
    refused(nobody.post("/api/vector/delete", json=address(added)), 401)
    refused(other.post("/api/vector/delete", json=address(added)), 403)
    assert admin.post("/api/vector/delete", json=address(added)).status_code == 200
    assert owner.post("/api/vector/list-owned").json() == {"vectors": []}


def test_a_vector_hides_with_its_model(site, people, session):
    owner, other, _ = people
    added = add(owner)
    session.execute(update(Source).values(visibility="private"))
    session.commit()
    for client in (owner, other):
        refused(client.post("/api/vector/get", json=address(added)), 404)
        refused(steer(client, [feature(added, strength=1)]), 404)
        refused(client.post("/api/vector/new", json=new()), 404)
    assert owner.post("/api/vector/list-owned").json() == {"vectors": []}


def test_others_steer_with_a_vector_by_its_address(site, people, session, redis_url, monkeypatch):
    monkeypatch.setattr(inference, "READ_S", stand_in.POLL_S)
    added = add(people[0])
    with stand_in.answering(site, session, redis_url) as worker:
        assert steer(browser(site), [feature(added, strength=1)]).status_code == 200
        assert worker.steered[0].pushes[0].vector == tuple(VALUES)


def test_a_key_that_may_only_read_adds_nothing(site, session):
    client = program(site, session, person(session, site.state.settings, "reader"), "read")
    refused(client.post("/api/vector/new", json=new()), 403)
    assert client.post("/api/vector/list-owned").json() == {"vectors": []}


def test_vectors_count_as_what_their_owner_stores(site, session):
    owner = person(session, site.state.settings, "owner")
    session.execute(update(Account).where(Account.id == owner.id).values(quota_bytes=200))
    session.commit()
    client = browser(site, owner)
    add(client)
    assert "would be too much" in refused(client.post("/api/vector/new", json=new()), 403)
