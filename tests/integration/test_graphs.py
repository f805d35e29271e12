"""Attribution graphs: handed over, found, replaced, deleted, and nothing of them left behind."""

import gzip
import json
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from backend import storage
from backend.db.tables import Account, Graph, GraphUpload, Source, Subgraph
from backend.services import graphs
from backend.web.api import graphs as graphs_api
from tests import graph_samples, hosted
from tests.signing_in import person, program

SMALL = graph_samples.small()
ADDRESS = {"modelId": "tiny", "slug": "small"}
STATE = {
    "pinnedIds": ["0_3_1", "1_2_1"], "supernodes": [["both", "0_3_1", "1_2_1"]], "clerps": [["0_3_1", "a\u0101"]],
    "pruningThreshold": 0.5, "densityThreshold": None,
}  # fmt: skip


def begin(client, data: bytes) -> dict[str, str]:
    announced = {"filename": "small.json", "contentLength": len(data), "contentType": "application/json"}
    answer = client.post("/api/graph/signed-put", json=announced)
    assert answer.status_code == 200, answer.text
    return answer.json()


def put(client, given: dict[str, str], data: bytes):
    parts = urlsplit(given["url"])
    return client.put(f"{parts.path}?{parts.query}", content=data, headers={"content-encoding": "gzip"})


def upload(client, graph=SMALL, **asked):
    """Puts a graph there; the answer to saving it."""
    data = gzip.compress(json.dumps(graph).encode())
    given = begin(client, data)
    assert put(client, given, data).json() == {"putRequestId": given["putRequestId"], "contentLength": len(data)}
    return client.post("/api/graph/save-to-db", json={"putRequestId": given["putRequestId"], **asked})


def blobs(app) -> list[str]:
    return storage.store(app.state.settings).keys("graphs")


def staged(app) -> list[str]:
    folder = app.state.settings.data / "uploads"
    return [path.name for path in folder.rglob("*")] if folder.exists() else []


@pytest.fixture
def api(app):
    with TestClient(app, base_url="http://localhost") as client:
        yield client


@pytest.fixture
def people(site, session):
    """Programs of three people."""
    names = ("owner", "other")
    return {name: program(site, session, person(session, site.state.settings, name)) for name in names}


def test_a_graph_is_handed_over_found_and_deleted(api, app):
    saved = upload(api).json()
    assert saved == {
        "message": "Success", "url": "http://localhost/tiny/graph/small", "numNodes": 6, "numLinks": 6,
    }  # fmt: skip
    found = api.get("/api/graph/tiny/small").json()
    assert api.get("/api/graph/tiny/small/").json() == found
    assert api.post("/api/graph/list-owned").json() == [found]
    assert (found["promptTokens"], found["prompt"], found["titlePrefix"]) == (["<bos>", "a"], "<bos>a", "")
    assert (found["userId"], found["user"], found["isFeatured"], found["visibility"]) == (None, None, False, "public")
    assert found["url"] == "http://localhost/api/graph/tiny/small/json"
    file = api.get(found["url"])
    assert file.json() == SMALL
    assert (file.headers["content-encoding"], file.headers["access-control-allow-origin"]) == ("gzip", "*")
    assert api.get(found["url"], headers={"if-none-match": file.headers["etag"]}).status_code == 304
    plain = api.get(found["url"], headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.json() == SMALL
    assert len(blobs(app)) == 1
    assert staged(app) == []
    assert api.post("/api/graph/delete", json=ADDRESS).json() == {"message": "Success"}
    assert api.get("/api/graph/tiny/small").status_code == 404
    assert api.get(found["url"]).status_code == 404
    assert api.post("/api/graph/list-owned").json() == []
    assert blobs(app) == []


def test_a_file_that_is_not_gzipped_is_taken_too(api):
    data = json.dumps(SMALL).encode()
    given = begin(api, data)
    assert put(api, given, data).status_code == 200
    assert api.post("/api/graph/save-to-db", json={"putRequestId": given["putRequestId"]}).status_code == 200


def test_saving_twice_is_no_error_and_changes_nothing(api, app, session):
    data = gzip.compress(json.dumps(SMALL).encode())
    given = begin(api, data)
    put(api, given, data)
    first, second = (api.post("/api/graph/save-to-db", json=given) for _ in range(2))
    assert first.json() == second.json()
    assert session.scalar(select(func.count()).select_from(Graph)) == 1
    assert put(api, given, data).status_code == 404, "the address holds until the graph is saved"


def test_a_graph_at_the_same_address_replaces_ones_own_and_keeps_what_was_saved_of_it(api, app):
    first = upload(api).json()
    api.post("/api/graph/subgraph/save", json=ADDRESS | STATE)
    changed = graph_samples.small(prompt="other")
    del changed["links"][3:]
    assert upload(api, changed).json() == first | {"numLinks": 3}
    assert api.get("/api/graph/tiny/small").json()["prompt"] == "other"
    assert api.get("/api/graph/tiny/small/json").json() == changed
    assert len(api.post("/api/graph/subgraph/list", json=ADDRESS).json()["subgraphs"]) == 1
    assert len(blobs(app)) == 1


def test_what_is_wrong_with_a_file_is_told_and_nothing_of_it_stays(api, app, session):
    bad = graph_samples.small(slug="a b")
    bad["nodes"][0]["layer"] = None
    answer = upload(api, bad)
    assert answer.status_code == 422
    assert len(answer.json()["problems"]) == 2
    assert answer.json()["error"] == answer.json()["message"]
    assert session.scalar(select(Graph.id)) is None
    assert blobs(app) == []


def test_only_what_was_announced_is_taken(api, app):
    data = gzip.compress(json.dumps(SMALL).encode())
    given = begin(api, data)
    saving = {"putRequestId": given["putRequestId"]}
    assert api.post("/api/graph/save-to-db", json=saving).status_code == 409, "nothing has arrived"
    assert put(api, given, data + b"x").status_code == 400
    assert put(api, given, data[:-1]).json()["message"].startswith(f"{len(data) - 1:,} of {len(data):,} bytes came")
    assert put(api, {"url": given["url"].replace("token=", "token=x")}, data).status_code == 404
    assert api.post("/api/graph/save-to-db", json=saving).status_code == 409
    assert [name for name in staged(app) if name != given["putRequestId"]] == []
    assert put(api, given, data).status_code == 200
    assert api.post("/api/graph/save-to-db", json=saving).status_code == 200


def test_what_is_too_large_is_refused_before_and_after_it_is_unpacked(api, app):
    app.state.settings = app.state.settings.model_copy(update={"graph_mb": 0.002})
    announced = {"filename": "a.json", "contentLength": 2_001}
    answer = api.post("/api/graph/signed-put", json=announced)
    assert answer.status_code == 400
    assert "a graph may have 1 to 2,000" in answer.json()["message"]
    data = gzip.compress(b" " * 2_001)
    given = begin(api, data)
    put(api, given, data)
    answer = api.post("/api/graph/save-to-db", json={"putRequestId": given["putRequestId"]})
    assert (answer.status_code, "more than the 2,000 bytes" in answer.json()["message"]) == (400, True)


def test_what_is_never_saved_is_cleared_away(api, app, session):
    data = gzip.compress(json.dumps(SMALL).encode())
    given = begin(api, data)
    put(api, given, data)
    store = storage.store(app.state.settings)
    packed = app.state.settings.data / "half"
    packed.write_bytes(b"killed after the blob was stored")
    graphs.put_blob(store, given["putRequestId"], packed)
    assert graphs.clear_step(session, store) is None, "it has not expired"
    session.execute(update(GraphUpload).values(expires_at=func.now() - timedelta(seconds=1)))
    session.commit()
    assert put(api, given, data).status_code == 404
    assert api.post("/api/graph/save-to-db", json={"putRequestId": given["putRequestId"]}).status_code == 404
    upload(api)
    assert graphs.clear_step(session, store) is None
    assert session.scalar(select(func.count()).select_from(GraphUpload)) == 1
    assert given["key"] not in blobs(app)
    assert staged(app) == []


def test_a_worker_clears_away_what_was_deleted(api, app, session):
    upload(api)
    store = storage.store(app.state.settings)
    (key,) = blobs(app)
    graphs.delete(session, "tiny", "small")
    session.commit()
    assert blobs(app) == [key], "killed before the blob was deleted"
    cleared = graphs.clear_step(session, store)
    assert cleared is not None
    assert graphs.blob_key(cleared) == key
    assert graphs.clear_step(session, store) is None
    assert blobs(app) == []


def test_graphs_are_read_one_at_a_time(api, monkeypatch):
    monkeypatch.setattr(graphs_api, "PATIENCE_S", 0)
    with graphs_api._alone():
        answer = upload(api)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, str(graphs_api.RETRY_AFTER_S))
    assert upload(api).status_code == 200


def test_graphs_are_not_made_here_and_clients_hear_why(api):
    answer = api.post("/api/graph/generate", json={"modelId": "tiny", "prompt": "x", "slug": "y"})
    assert answer.status_code == 422
    assert answer.json()["error"] == answer.json()["message"]
    assert "does not compute" in answer.json()["message"]


def test_a_put_request_is_its_owners(people):
    data = gzip.compress(json.dumps(SMALL).encode())
    given = begin(people["owner"], data)
    assert put(people["other"], given, data).status_code == 200, "who has the address may put"
    saving = {"putRequestId": given["putRequestId"]}
    assert people["other"].post("/api/graph/save-to-db", json=saving).status_code == 404
    assert people["owner"].post("/api/graph/save-to-db", json=saving).status_code == 200
    assert people["other"].post("/api/graph/save-to-db", json=saving).status_code == 404


def test_an_address_that_somebody_else_has_is_refused(people):
    assert upload(people["owner"]).status_code == 200
    answer = upload(people["other"])
    assert (answer.status_code, "somebody else's" in answer.json()["message"]) == (409, True)
    assert people["other"].post("/api/graph/delete", json=ADDRESS).status_code == 403
    assert people["other"].post("/api/graph/list-owned").json() == []
    found = people["owner"].get("/api/graph/tiny/small").json()
    assert found["user"] == {"id": found["userId"], "name": "owner"}
    assert people["other"].get("/api/graph/tiny/small").json() == found | {"user": None}


@pytest.mark.parametrize(("visibility", "status"), [("private", 404), ("unlisted", 200)])
def test_a_graph_that_is_not_public_is_in_nobody_elses_lists(people, visibility, status):
    upload(people["owner"], visibility=visibility)
    for path in ("/api/graph/tiny/small", "/api/graph/tiny/small/json", "/tiny/graph/small"):
        assert people["other"].get(path).status_code == status
        assert people["owner"].get(path).status_code == 200
    for path in ("/graphs", "/tiny/graphs"):
        assert "/tiny/graph/small" not in people["other"].get(path).text
        assert "/tiny/graph/small" in people["owner"].get(path).text


def test_graphs_count_as_what_their_owner_stores(people, session):
    upload(people["owner"])
    stored = session.scalar(select(Graph.n_bytes))
    session.execute(update(Account).where(Account.name == "owner").values(quota_bytes=stored + 10))
    session.commit()
    answer = people["owner"].post("/api/graph/signed-put", json={"filename": "a", "contentLength": 11})
    assert (answer.status_code, "more would be too much" in answer.json()["message"]) == (403, True)


def test_states_are_saved_replaced_listed_and_deleted_by_their_owner(people, session):
    upload(people["owner"])
    one = people["owner"].post("/api/graph/subgraph/save", json=ADDRESS | STATE | {"displayName": "mine"})
    first = one.json()["subgraphId"]
    people["other"].post("/api/graph/subgraph/save", json=ADDRESS | {"pinnedIds": ["0_3_1"], "unknown": 1})

    def listed(who):
        return people[who].post("/api/graph/subgraph/list", json=ADDRESS).json()["subgraphs"]

    (found,) = listed("owner")
    assert {key: found[key] for key in STATE} == STATE
    assert (found["id"], found["displayName"]) == (first, "mine")
    (others,) = listed("other")
    assert (others["pinnedIds"], others["supernodes"], others["pruningThreshold"]) == (["0_3_1"], [], None)
    again = ADDRESS | STATE | {"displayName": "renamed", "overwriteId": first}
    assert people["other"].post("/api/graph/subgraph/save", json=again).status_code == 404
    assert people["owner"].post("/api/graph/subgraph/save", json=again).json() == {"subgraphId": first}
    assert [each["displayName"] for each in listed("owner")] == ["renamed"]
    assert people["other"].post("/api/graph/subgraph/delete", json={"subgraphId": first}).status_code == 404
    assert people["owner"].post("/api/graph/subgraph/delete", json={"subgraphId": first}).status_code == 200
    assert listed("owner") == []
    people["owner"].post("/api/graph/delete", json=ADDRESS)
    assert session.scalar(select(Subgraph.id)) is None, "they go with the graph"


def test_features_are_told_of_where_their_source_is_hosted_and_seen_in_lists(site, people, session):
    hosted.host(session)
    session.commit()
    place = {"model": hosted.MODEL, "set": "tiny-sae"}
    details = {"neuronpedia_source_set": place["set"]}
    upload(people["owner"], graph_samples.small(scan=place["model"], feature_details=details))
    asked = [{"layer": 2, "index": hosted.RICH}, {"layer": "2", "index": "99"}, {"layer": 9, "index": 1}]
    body = {"modelId": place["model"], "slug": "small", "features": asked}
    (found,) = people["other"].post("/api/graph/features", json=body).json()["features"]
    assert (found["source"], found["index"], found["layer"]) == (hosted.SOURCE, hosted.RICH, 2)
    assert found["url"] == f"/{hosted.MODEL}/{hosted.SOURCE}/{hosted.RICH}"
    assert found["density"] == pytest.approx(0.1)
    session.execute(update(Source).values(visibility="unlisted"))
    session.commit()
    assert people["other"].post("/api/graph/features", json=body).json() == {"features": []}
