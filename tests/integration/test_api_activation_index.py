import math

import pytest
from pydantic import TypeAdapter

from backend import storage
from backend.services import activation_index
from backend.services.activation_index import ActivationQuery, CofiringQuery, PairQuery
from backend.settings import Settings
from backend.web import schemas
from tests import hosted, kept
from tests.hosted import MODEL, SOURCE
from tests.kept import DEAD, ref

FOUND = kept.random()
A, B = sorted(range(3, kept.D_SAE), key=lambda i: -len(FOUND[i]))[3:5]


@pytest.fixture
def mirror(tmp_path):
    return storage.mirror(Settings(data=tmp_path / "data"))


@pytest.fixture
def made(session, mirror, tmp_path):
    made = kept.keep(session, mirror, tmp_path, FOUND)
    session.commit()
    return made


def get(api, path, schema, status=200, **query):
    response = api.get(f"index/{MODEL}/{SOURCE}{path}", params=query)
    assert response.status_code == status, response.text
    TypeAdapter(schema if status == 200 else schemas.Error).validate_python(response.json())
    return response.json()


def test_the_index_says_its_size_and_how_exact_it_is(api, session, made):
    facts = get(api, "", schemas.IndexFacts)
    n_firings = sum(map(len, FOUND))
    assert (facts["model"], facts["source"], facts["n_firings"]) == (MODEL, SOURCE, n_firings)
    assert facts["bytes_per_firing"] == facts["n_bytes"] / n_firings
    assert facts["n_bytes"] == api.get(f"source/{MODEL}/{SOURCE}").json()["index_bytes"]
    assert facts["max_value_error"] == 1 / 256


def test_activations_are_the_services(api, session, mirror, made):
    body = get(api, f"/{A}/activations", schemas.Firings, low=1, high=4.5, page=2, per_page=3)
    query = ActivationQuery(low=1, high=4.5, page=2, per_page=3)
    page = activation_index.activations(session, mirror, ref(A), query)
    assert (body["n_total"], body["page"], body["per_page"]) == (page.n_total, 2, 3)
    assert len(body["rows"]) == 3
    for row, view in zip(body["rows"], page.rows, strict=True):
        assert (row["context"], row["position"], row["value"]) == (view.context, view.position, view.value)
        assert row["values"][row["positions"].index(row["position"])] == row["value"]
        assert row["tokens"] == list(view.example.tokens)
    assert body["histogram"]["counts"] == list(page.histogram.counts)


def test_ends_left_empty_are_no_ends(api, made):
    body = get(api, f"/{A}/activations", schemas.Firings, low="", high="")
    assert body["n_total"] == len(FOUND[A])


def test_quantiles_are_the_services(api, session, mirror, made):
    body = get(api, f"/{A}/quantiles", list[schemas.Quantile], share=[0.5, 0.9])
    expected = activation_index.quantiles(session, mirror, ref(A), [0.5, 0.9])
    assert [(each["share"], each["value"]) for each in body] == list(expected)
    usual = get(api, f"/{A}/quantiles", list[schemas.Quantile])
    assert [each["share"] for each in usual] == list(activation_index.QUANTILES)
    assert get(api, f"/{DEAD}/quantiles", list[schemas.Quantile]) == []


@pytest.mark.parametrize("sort", ["count", "lift", "correlation"])
def test_cofiring_is_the_services(api, session, mirror, made, sort):
    body = get(api, f"/{A}/cofiring", schemas.Cofirings, sort=sort, min_count=2, page=2, per_page=4)
    page = activation_index.cofiring(session, mirror, ref(A), CofiringQuery(sort, 2, 2, 4))
    assert [row["index"] for row in body["rows"]] == [row.feature.index for row in page.rows]
    assert [row["lift"] for row in body["rows"]] == [row.lift for row in page.rows]
    assert (body["n_firings"], body["n_looked_at"]) == (len(FOUND[A]),) * 2


@pytest.mark.parametrize("where", ["together", "without"])
def test_pairs_are_the_services(api, session, mirror, made, where):
    body = get(api, f"/{A}/pair/{B}", schemas.Pair, where=where, scope="context", per_page=4)
    page = activation_index.pair(session, mirror, ref(A), B, PairQuery(where, "context", 1, 4))
    assert [row["context"] for row in body["rows"]] == [row.context for row in page.rows]
    assert all(bool(row["other_positions"]) == (where == "together") for row in body["rows"])
    assert (body["lift"], body["n_total"], body["n_firings_other"]) == (page.lift, page.n_total, len(FOUND[B]))
    assert -1 <= body["value_correlation"] <= 1
    assert math.isclose(body["correlation"], page.correlation)


def test_numbers_that_are_not_are_null(api, made):
    body = get(api, f"/{DEAD}/pair/{B}", schemas.Pair)
    assert (body["lift"], body["correlation"], body["value_correlation"], body["rows"]) == (None, None, None, [])


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        (f"/{A}/activations", {"low": "x"}, 400),
        (f"/{A}/activations", {"low": "nan"}, 400),
        (f"/{A}/activations", {"per_page": 201}, 400),
        (f"/{A}/quantiles", {"share": 2}, 400),
        (f"/{A}/quantiles", {"share": "nan"}, 400),
        (f"/{A}/cofiring", {"sort": "name"}, 400),
        (f"/{A}/pair/{B}", {"where": "nowhere"}, 400),
        (f"/{A}/pair/{kept.D_SAE}", {}, 404),
        (f"/{kept.D_SAE}/activations", {}, 404),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_shape(api, made, path, query, status):
    get(api, path, None, status, **query)


def test_a_source_that_keeps_no_index_says_what_to_do(api, session):
    hosted.host(session)
    session.commit()
    for path in ("", "/1/activations", "/1/quantiles", "/1/cofiring", "/1/pair/2"):
        body = get(api, path, None, 404)
        assert "No activation index" in body["message"]
        assert "--keep-index" in body["message"]


def test_the_document_has_examples(app):
    found = app.openapi()["components"]["schemas"]
    for schema in (schemas.IndexFacts, schemas.Firing, schemas.Cofiring):
        [example] = found[schema.__name__]["examples"]
        schema.model_validate(example)
