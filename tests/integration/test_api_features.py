import pytest
from pydantic import TypeAdapter
from sqlalchemy import update

from backend.db.tables import Revision
from backend.names import FeatureRef
from backend.services import features
from backend.web import schemas
from tests import hosted
from tests.database import statements
from tests.hosted import DEAD, LAST, MODEL, NO_LENS, RICH, SINGLE, SOURCE, TEXTS

ADDRESS = {"modelId": MODEL, "source": SOURCE}


@pytest.fixture(autouse=True)
def made(session):
    made = hosted.host(session)
    session.commit()
    return made


def feature(api, index, **headers):
    response = api.get(f"feature/{MODEL}/{SOURCE}/{index}", headers=headers)
    assert response.status_code == 200
    return response.json()


@pytest.mark.parametrize("index", [DEAD, RICH, SINGLE, NO_LENS, LAST])
def test_a_feature_is_as_documented(api, index):
    TypeAdapter(schemas.Feature).validate_python(feature(api, index))


def test_a_feature_says_what_its_page_says(api, session):
    body, view = feature(api, RICH), features.get(session, FeatureRef(MODEL, SOURCE, RICH))
    assert (body["modelId"], body["layer"], body["index"]) == (MODEL, SOURCE, str(RICH))
    assert (body["maxActApprox"], body["frac_nonzero"]) == (view.max_value, pytest.approx(0.1))
    assert body["pos_str"] == [token for token, _ in view.logit_lens.top]
    assert body["topkCosSimIndices"] == [near.index for near in view.neighbours]
    assert sum(body["freq_hist_data_bar_heights"]) == sum(view.linear_histogram.counts)
    assert len(body["freq_hist_data_bar_values"]) == len(body["logits_hist_data_bar_values"]) == 50
    assert (body["hookName"], body["hasVector"], body["vector"]) == (hosted.HOOK_POINT, False, [])
    assert body["source"]["saelensConfig"] == {"k": 4, "hook_name": hosted.HOOK_POINT}
    assert (body["model"]["dimension"], body["sourceSet"]["name"]) == (16, "tiny-sae")


def test_activations_are_dense_without_the_leading_token_and_sorted(api):
    rows = feature(api, RICH)["activations"]
    assert len(rows) == 45
    assert [row["maxValue"] for row in rows] == sorted((row["maxValue"] for row in rows), reverse=True)
    for row in rows:
        assert len(row["tokens"]) == len(row["values"]) == 7
        assert TEXTS[0] not in row["tokens"]
        assert row["values"][row["maxValueTokenIndex"]] == max(row["values"]) == row["maxValue"]
    assert sum(row["binMin"] == -1 and row["binContains"] == -1 for row in rows) == 20
    assert {(row["binMin"], row["binMax"], row["binContains"]) for row in rows} == {
        (-1, 10, -1), (8, 10, 0.025), (6, 8, 0.1), (4, 6, 0.125), (2, 4, 0.25), (0, 2, 0.5),
    }  # fmt: skip


def test_numbers_come_as_shortest_decimals(api):
    response = api.get(f"feature/{MODEL}/{SOURCE}/{SINGLE}")
    assert b'"maxActApprox":0.1,' in response.content
    assert b'"values":[0.0,0.0,0.1,0.0,0.0,0.0,0.0]' in response.content


def test_two_reads_give_the_same_bytes(api):
    one, two = (api.get(f"feature/{MODEL}/{SOURCE}/{RICH}").content for _ in range(2))
    assert one == two


def test_only_a_caller_with_a_key_gets_fractions_neuronpedias_client_takes(api):
    response = api.get(f"feature/{MODEL}/{SOURCE}/{RICH}", headers={"X-Api-Key": "anything"})
    rows = response.json()["activations"]
    assert {row["binContains"] for row in rows} == {None, 0.025, 0.1, 0.125, 0.25, 0.5}
    assert sum(row["binMin"] == -1 for row in rows) == 20
    assert "X-Api-Key" in response.headers["Vary"]
    [plain] = [row for row in feature(api, RICH)["activations"] if row["id"] == rows[0]["id"]]
    assert rows[0] == plain | {"binContains": None}


def test_a_feature_costs_nine_statements(api, connection):
    feature(api, RICH)
    for index in (RICH, DEAD):
        with statements(connection) as seen:
            feature(api, index)
        assert len([statement for statement in seen if "SAVEPOINT" not in statement]) == 9


@pytest.mark.parametrize("index", ["6", "-1", "99999999999999999999", "x", "1.5"])
def test_an_index_that_is_not_there_is_not_found(api, index):
    response = api.get(f"feature/{MODEL}/{SOURCE}/{index}")
    assert response.status_code == 404
    TypeAdapter(schemas.Error).validate_python(response.json())


@pytest.mark.parametrize("path", [f"none/{SOURCE}/1", f"{MODEL}/none/1", f"{MODEL}/a%00b/1", f"{MODEL}/%E9/1"])
def test_what_is_not_hosted_is_not_found(api, path):
    response = api.get(f"feature/{path}")
    assert response.status_code == 404
    assert response.json()["error"] == response.json()["message"] != ""


def test_features_from_an_offset_are_as_documented(api):
    rows = api.post("features-offset", json={"modelId": MODEL, "layer": SOURCE, "offset": 1}).json()
    TypeAdapter(list[schemas.FeatureInList]).validate_python(rows)
    assert [row["index"] for row in rows] == ["2", "3", "5"]
    alone = feature(api, NO_LENS)
    assert rows[1] == {key: alone[key] for key in rows[1]}


@pytest.mark.parametrize("offset", [{}, {"offset": None}, {"offset": "0"}])
def test_an_offset_left_out_is_the_start(api, offset):
    rows = api.post("features-offset", json={"modelId": MODEL, "layer": SOURCE} | offset).json()
    assert [row["index"] for row in rows] == ["1", "2", "3", "5"]


def test_past_the_last_feature_the_list_is_empty(api):
    assert api.post("features-offset", json={"modelId": MODEL, "layer": SOURCE, "offset": 2**31 - 1}).json() == []


@pytest.mark.parametrize("index", [RICH, str(RICH)])
def test_activations_of_a_feature_take_its_index_as_number_or_text(api, index):
    response = api.post("activation/get", json=ADDRESS | {"index": index})
    TypeAdapter(list[schemas.Activation]).validate_python(response.json())
    assert response.json() == feature(api, RICH)["activations"]


def test_a_dead_feature_has_no_activations(api):
    assert api.post("activation/get", json=ADDRESS | {"index": 0}).json() == []


@pytest.mark.parametrize(
    "body", [{}, {"modelId": MODEL}, ADDRESS, ADDRESS | {"index": "x"}, ADDRESS | {"index": -1}, [], None, "text"]
)
def test_a_malformed_body_is_refused_in_the_usual_shape(api, body):
    response = api.post("activation/get", json=body)
    assert response.status_code == 400
    TypeAdapter(schemas.Error).validate_python(response.json())


@pytest.mark.parametrize("text", [b"{", b"\xff", b'{"modelId": "\\ud800", "source": "a", "index": 1}'])
def test_a_body_that_is_not_json_is_refused_in_the_usual_shape(api, text):
    response = api.post("activation/get", content=text, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    TypeAdapter(schemas.Error).validate_python(response.json())


def test_a_trailing_slash_changes_nothing(api):
    assert api.get(f"feature/{MODEL}/{SOURCE}/{RICH}/").json() == feature(api, RICH)
    assert api.post("activation/get/", json=ADDRESS | {"index": 1}).status_code == 200


def test_a_feature_is_compressed_for_callers_who_take_it(api):
    response = api.get(f"feature/{MODEL}/{SOURCE}/{RICH}", headers={"Accept-Encoding": "gzip"})
    assert response.headers["Content-Encoding"] == "gzip"
    assert int(response.headers["Content-Length"]) < len(response.content) / 5


# The table


def table(api, **query):
    response = api.get(f"features/{MODEL}/{SOURCE}", params=query)
    assert response.status_code == 200, response.text
    return TypeAdapter(schemas.FeatureTable).validate_python(response.json())


def test_the_table_is_the_pages(api, session):
    body = table(api, sort="logit_kurtosis", descending=1, with_dead="true", per_page=4)
    query = features.FeatureQuery(sort="logit_kurtosis", is_descending=True, with_dead=True, per_page=4)
    page = features.browse(session, MODEL, SOURCE, query)
    assert [row.index for row in body.rows] == [row.index for row in page.rows] == [5, 0, 1, 2]
    assert (body.n_total, body.page, body.per_page) == (6, 1, 4)
    assert body.rows[0].fires_on == list(page.rows[0].fires_on)


def test_the_table_filters(api):
    assert [row.index for row in table(api, min_density="0.1", max_density="0.2").rows] == [1, 3]
    assert [row.index for row in table(api, token='"').rows] == [1, 2, 5]
    assert [row.index for row in table(api, min_activation="", min_kurtosis="", token="").rows] == [1, 2, 3, 5]


@pytest.mark.parametrize(
    "query", [{"sort": "name"}, {"page": 0}, {"per_page": 1000}, {"min_density": "x"}, {"max_density": "nan"}]
)
def test_a_table_that_cannot_be_is_refused(api, query):
    response = api.get(f"features/{MODEL}/{SOURCE}", params=query)
    assert response.status_code == 400
    [name] = query
    assert name in response.json()["message"]


def test_a_table_before_the_first_computation_is_not_found(api, session):
    hosted.add_source(session, source="3-tiny-sae")
    session.commit()
    response = api.get(f"features/{MODEL}/3-tiny-sae")
    assert response.status_code == 404
    assert "not computed" in response.json()["message"]


def test_an_unknown_kurtosis_is_null(api):
    assert [row.logit_kurtosis for row in table(api).rows] == [2.5, 2.5, None, 4.5]


def test_the_revision_readers_see_is_the_only_one(api, session, made):
    session.execute(update(Revision).values(n_alive=0))
    new = hosted.add_revision(session, made.source_id, made.corpus_id)
    hosted.add_feature(session, new, next(d for d in hosted.every_kind() if d.index == SINGLE))
    session.commit()
    assert [row.index for row in table(api).rows] == [SINGLE]
    assert feature(api, SINGLE)["topkCosSimIndices"] == []
    assert api.get(f"feature/{MODEL}/{SOURCE}/{RICH}").status_code == 404
