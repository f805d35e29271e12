import pytest

from backend import errors
from backend.formats import given_rows
from backend.web import schemas

SCHEMAS = {
    "model": schemas.Model, "source set": schemas.SourceSet, "source": schemas.Source, "release": schemas.Release,
}  # fmt: skip


@pytest.mark.parametrize("kind", given_rows.KEYS)
def test_every_key_that_is_served_has_a_type(kind):
    """Else a value of the wrong type would be served, and break the shape that clients rely on."""
    known = given_rows.KEYS[kind].keys() | given_rows.OURS | given_rows.IDENTITY[kind]
    assert SCHEMAS[kind].model_fields.keys() <= known


@pytest.mark.parametrize("kind", given_rows.KEYS)
def test_what_is_read_fits_the_schema(kind):
    fitting = {
        "a text": "x", "true or false": True, "a whole number from 0": 3, "a list of texts": ["x"], "an object": {"a": 1},
        "a time such as 2026-01-31T12:00:00.000Z": "2026-01-31T12:00:00.000Z",
    }  # fmt: skip
    row = {key: fitting[wanted] for key, wanted in given_rows.KEYS[kind].items()}
    assert given_rows.read(row, kind) == row
    own = {"id": "x", "name": "x", "modelId": "x", "setName": "x", "visibility": "PUBLIC", "hasDashboards": True}
    more = own | {"inferenceEnabled": True, "allowInferenceSearch": True}
    served = {key: value for key, value in (more | row).items() if key in SCHEMAS[kind].model_fields}
    SCHEMAS[kind].model_validate(served)
    assert given_rows.read(more | row, kind).keys() & (given_rows.OURS | given_rows.IDENTITY[kind]) == set()


@pytest.mark.parametrize(
    ("kind", "row", "says"),
    [
        ("model", {"owner": 7}, "owner is a text, not 7"),
        ("model", {"instruct": "yes"}, "instruct is true or false, not 'yes'"),
        ("model", {"layers": True}, "layers is a whole number from 0, not True"),
        ("model", {"layers": 2**31}, "layers is a whole number"),
        ("model", {"createdAt": "yesterday"}, "createdAt is a time"),
        ("model", {"createdAt": 5}, "createdAt is a time"),
        ("source set", {"urls": "https://a.example"}, "urls is a list of texts"),
        ("source set", {"urls": [1]}, "urls is a list of texts"),
        ("source", {"saelensConfig": []}, "saelensConfig is an object"),
        ("release", {"featured": 1, "description": []}, "description is a text, not \\[\\]; featured is true or false"),
    ],
)
def test_what_does_not_fit_is_refused_all_at_once(kind, row, says):
    with pytest.raises(errors.InvalidInputError, match=says):
        given_rows.read(row, kind)


def test_nothing_is_said_by_null_nor_by_sizes_of_0():
    assert given_rows.read({"owner": None, "layers": 0, "dimension": 0, "neuronsPerLayer": 0}, "model") == {}
    assert given_rows.read({"num_prompts": 0}, "source") == {"num_prompts": 0}


def test_keys_that_are_not_known_are_kept():
    assert given_rows.read({"inferenceHosts": [{"a": 1}]}, "source") == {"inferenceHosts": [{"a": 1}]}


def test_what_jsonb_cannot_hold_is_replaced():
    given = {"a\0": "b\0c", "d": ["\udc00", float("nan"), float("-inf"), 1.5, (True, None)]}
    assert given_rows.storable(given) == {"a ": "b c", "d": ["?", None, None, 1.5, [True, None]]}
