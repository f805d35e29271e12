import pytest
from pydantic import TypeAdapter

from backend.services import catalog, ingest
from backend.web import schemas
from backend.web.api.looks import SourceLook
from tests import hosted
from tests.database import statements
from tests.hosted import MODEL, SOURCE


@pytest.fixture(autouse=True)
def made(session):
    made = hosted.host(session)
    hosted.add_source(session, source="3-tiny-sae")
    hosted.add_source(session, source="3-not-computed")
    catalog.add_model(session, "bare", "/models/bare")
    session.commit()
    return made


def test_the_list_of_models_is_as_documented(api, connection):
    with statements(connection) as seen:
        models = api.post("model/list", json={}).json()
    TypeAdapter(list[schemas.ModelInList]).validate_python(models)
    assert [model["id"] for model in models] == ["bare", MODEL]
    assert len([statement for statement in seen if "SAVEPOINT" not in statement]) == 3


def test_the_list_of_models_names_sources_with_dashboards(api):
    bare, model = api.post("model/list", json={}).json()
    assert bare["sourceSets"] == []
    [source_set] = model["sourceSets"]
    assert source_set["name"] == "tiny-sae"
    assert [(source["id"], source["setName"]) for source in source_set["sources"]] == [(SOURCE, "tiny-sae")]
    assert source_set["sources"][0]["num_tokens_in_prompt"] == 8
    assert (model["layers"], model["dimension"], model["displayName"]) == (4, 16, "A tiny model")


def test_the_list_of_models_needs_no_body(api):
    assert len(api.post("model/list").json()) == 2


def test_a_source_set_is_as_documented_with_all_its_sources(api):
    body = api.get(f"source-set/{MODEL}/tiny-sae").json()
    TypeAdapter(schemas.SourceSetWithRelations).validate_python(body)
    assert [(s["id"], s["modelId"], s["hasDashboards"]) for s in body["sources"]] == [
        (SOURCE, MODEL, True),
        ("3-tiny-sae", MODEL, False),
    ]
    assert (body["hasDashboards"], body["urls"], body["releases"], body["model"]["id"]) == (True, [], None, MODEL)
    assert api.get(f"source-set/{MODEL}/not-computed").json()["hasDashboards"] is False


@pytest.mark.parametrize("path", [f"{MODEL}/none", "none/tiny-sae", f"{MODEL}/%00"])
def test_a_source_set_that_is_not_there_is_null(api, path):
    response = api.get(f"source-set/{path}")
    assert (response.status_code, response.content) == (200, b"null")


def test_a_source_has_its_facts_and_the_densities_of_its_features(api):
    body = api.get(f"source/{MODEL}/{SOURCE}").json()
    TypeAdapter(schemas.SourceFacts).validate_python(body)
    assert (body["hook_point"], body["d_sae"], body["n_alive"], body["mean_l0"]) == (hosted.HOOK_POINT, 6, 4, 0.5)
    assert (body["mean_l1"], body["n_dense"]) == (1.5, 3)
    assert (body["density_low"], body["density_high"], body["density_counts"]) == (-4.0, 0.0, [1, 0, 3, 0])


def test_a_source_not_computed_has_facts_only(api):
    body = api.get(f"source/{MODEL}/3-not-computed").json()
    assert (body["revision_id"], body["computed_at"], body["density_counts"], body["corpus"]) == (None, None, [], "")


def test_the_quality_of_a_source_is_sent_by_position(api, session, made):
    ingest.store_quality(session, made.revision_id, hosted.some_quality(longer=16))
    session.commit()
    body = api.get(f"source/{MODEL}/{SOURCE}/quality").json()
    TypeAdapter(schemas.SourceQuality).validate_python(body)
    assert body["corpus"]["metrics"]["loss_recovered_zero"] == {
        "value": 9.25, "standard_error": 0.125, "by_position": [None, *(9 + p / 100 for p in range(1, 8))],
    }  # fmt: skip
    assert len(body["longer"]["metrics"]["mse"]["by_position"]) == body["longer"]["context_size"] == 16


@pytest.mark.parametrize(("source", "says"), [(SOURCE, "not measured"), ("none", "No source 'none'")])
def test_quality_that_was_not_measured_is_not_found(api, source, says):
    response = api.get(f"source/{MODEL}/{source}/quality")
    assert response.status_code == 404
    assert says in response.json()["error"]


def test_the_look_at_a_source_is_sent_as_found(api, session, made):
    ingest.store_look(session, made.source_id, hosted.some_look())
    session.commit()
    body = api.get(f"source/{MODEL}/{SOURCE}/look").json()
    TypeAdapter(SourceLook).validate_python(body)
    assert body["fit"] == {"explained_variance": 0.5, "l0": 6.0}
    assert body["candidates"][0] == {
        "kind": "place", "what": "at blocks.2.hook_resid_post", "is_better": True,
        "fit": {"explained_variance": 0.875, "l0": 4.0},
    }  # fmt: skip
    assert [finding["severity"] for finding in body["findings"]] == ["fatal", "warning", "note"]


@pytest.mark.parametrize(("source", "says"), [(SOURCE, "No job has looked"), ("none", "No source 'none'")])
def test_a_look_nobody_took_is_not_found(api, source, says):
    response = api.get(f"source/{MODEL}/{source}/look")
    assert response.status_code == 404
    assert says in response.json()["error"]


def test_a_source_that_is_not_there_is_not_found(api):
    response = api.get(f"source/{MODEL}/none")
    assert response.status_code == 404
    TypeAdapter(schemas.Error).validate_python(response.json())
