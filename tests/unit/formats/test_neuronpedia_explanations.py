"""Reading rows of files, with every trap of theirs."""

import math
from datetime import UTC, datetime

import pytest

from backend import errors
from backend.formats import neuronpedia_explanations


def read(**given: object):
    return neuronpedia_explanations.read({"id": "a", "index": 1, "description": "cats"} | given)


@pytest.mark.parametrize(("given", "index"), [(0, 0), ("0", 0), ("12345", 12345), (2**31 - 1, 2**31 - 1)])
def test_an_index_is_a_number_or_its_digits(given, index):
    assert read(index=given).index == index


@pytest.mark.parametrize("given", [None, -1, "-1", 1.5, "", "x", "١", True, 2**31, [1]])
def test_anything_else_is_no_index(given):
    with pytest.raises(errors.InvalidInputError, match=r"as its index\. It must be a whole number"):
        read(index=given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([0.5, 1], (0.5, 1.0)), ("[0.5, 1]", (0.5, 1.0)), (None, None), ("", None), ([], None), ("[]", None), ("null", None),
    ],
)  # fmt: skip
def test_an_embedding_is_a_list_or_its_text(given, expected):
    assert read(embedding=given).embedding == expected


@pytest.mark.parametrize(
    "given",
    ["[0.5", "x", "{}", 3, {"a": 1}, ["a"], [None], [True], "[NaN]", [math.inf], [1e300], [10**400]],
)
def test_anything_else_is_no_embedding(given):
    with pytest.raises(errors.InvalidInputError, match="as its embedding"):
        read(embedding=given)


def test_what_is_left_out_is_not_known():
    found = neuronpedia_explanations.read({"index": "3", "description": "cats", "unheardOf": 1})
    assert (found.author, found.type_name, found.model_name, found.notes, found.embedding) == (
        "",
        None,
        None,
        None,
        None,
    )
    assert (found.score_v1, found.umap_x, found.umap_cluster, found.created_at) == (None, None, None, None)
    assert found.id == neuronpedia_explanations.read({"index": 3, "description": "cats"}).id
    assert found.id != neuronpedia_explanations.read({"index": 4, "description": "cats"}).id


@pytest.mark.parametrize("given", ["a/b", "a b", "", None, "é", "x" * 201])
def test_an_id_that_no_address_holds_is_replaced_by_another(given):
    found = read(id=given).id
    assert found == read(id=given).id != given
    assert (found == read(id=given, description="dogs").id) == bool(given)
    assert found.startswith("x")
    assert len(found) == 33
    assert read(id="clkht01d4-_.~").id == "clkht01d4-_.~"


def test_text_that_postgres_cannot_hold_is_replaced():
    assert read(description="a\0b\ud800").description == "a␀b?"


def test_numbers_that_are_none_are_not_known():
    found = read(umap_x=math.nan, umap_y=math.inf, scoreV1=0, umap_cluster=2.0)
    assert (found.umap_x, found.umap_y, found.score_v1, found.umap_cluster) == (None, None, 0.0, 2)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"description": ""}, "has '' as its description"),
        ({"description": 3}, "has 3 as its description. It must be a text"),
        ({"description": "x" * 100_001}, "at most 100,000 characters"),
        ({"scoreV1": "high"}, "has 'high' as its scoreV1. It must be a number"),
        ({"umap_cluster": 1e12}, "as its umap_cluster"),
        ({"createdAt": "yesterday"}, "has 'yesterday' as its createdAt"),
    ],
)
def test_what_is_wrong_is_said(given, said):
    with pytest.raises(errors.InvalidInputError) as raised:
        read(**given)
    assert str(raised.value).startswith("The explanation 'a' has ")
    assert said in str(raised.value)


@pytest.mark.parametrize(
    "text", ["2024-09-18T20:48:56.632Z", "2024-09-18 20:48:56.632", "2024-09-18T22:48:56.632+02:00"]
)
def test_times_without_a_zone_are_utc(text):
    assert read(createdAt=text).created_at == datetime(2024, 9, 18, 20, 48, 56, 632_000, UTC)
