"""Neuronpedia's routes as its documents have them: keys, types and status codes, of answers and of refusals.

What is expected here is written down from Neuronpedia's own code and documents (hijohnnylin/neuronpedia at ebb8426f:
`apps/webapp/prisma/schema.prisma`, `apps/webapp/lib/db/neuron.ts`, `apps/webapp/app/api`), not read off our schemas.
Routes of live inference are asked without a worker; what they answer with one is `test_live`'s and `test_search`'s.
"""

import json
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import update

from backend.db.tables import SourceSet
from backend.services import given_catalog
from backend.services.access import OPERATOR
from backend.web import middleware
from tests import hosted
from tests.hosted import MODEL, RICH, SOURCE

TEXT, NUMBER, FLAG, TEXTS, NUMBERS = str, (int, float), bool, [str], [(int, float)]
MAYBE_TEXT, MAYBE_NUMBER, MAYBE_OBJECT, OBJECTS = (str, None), (int, float, None), (dict, None), [dict]

MODEL_KEYS: dict[str, Any] = {
    "id": TEXT, "displayNameShort": TEXT, "displayName": TEXT, "creatorId": TEXT, "tlensId": MAYBE_TEXT,
    "dimension": MAYBE_NUMBER, "thinking": FLAG, "visibility": TEXT, "defaultSourceSetName": MAYBE_TEXT,
    "defaultSourceId": MAYBE_TEXT, "inferenceEnabled": FLAG, "instruct": FLAG, "layers": NUMBER,
    "neuronsPerLayer": NUMBER, "createdAt": TEXT, "owner": TEXT, "updatedAt": TEXT, "website": MAYBE_TEXT,
}  # fmt: skip
SOURCE_KEYS: dict[str, Any] = {
    "id": TEXT, "modelId": TEXT, "setName": TEXT, "hasDashboards": FLAG, "inferenceEnabled": FLAG, "saelensConfig": MAYBE_OBJECT,
    "saelensRelease": MAYBE_TEXT, "saelensSaeId": MAYBE_TEXT, "hfRepoId": MAYBE_TEXT, "hfFolderId": MAYBE_TEXT,
    "visibility": TEXT, "creatorId": TEXT, "hasUmap": FLAG, "hasUmapLogSparsity": FLAG, "hasUmapClusters": FLAG,
    "num_prompts": MAYBE_NUMBER, "num_tokens_in_prompt": MAYBE_NUMBER, "dataset": MAYBE_TEXT, "notes": MAYBE_TEXT,
    "cosSimMatchModelId": MAYBE_TEXT, "cosSimMatchSourceId": MAYBE_TEXT, "createdAt": TEXT,
}  # fmt: skip
SET_KEYS: dict[str, Any] = {
    "modelId": TEXT, "name": TEXT, "hasDashboards": FLAG, "allowInferenceSearch": FLAG, "visibility": TEXT,
    "description": TEXT, "type": TEXT, "creatorName": TEXT, "urls": TEXTS, "creatorEmail": MAYBE_TEXT, "creatorId": TEXT,
    "releaseName": MAYBE_TEXT, "defaultRange": NUMBER, "defaultShowBreaks": FLAG, "showDfa": FLAG, "showCorrelated": FLAG,
    "showHeadAttribution": FLAG, "showUmap": FLAG, "createdAt": TEXT,
}  # fmt: skip
RELEASE_KEYS: dict[str, Any] = {
    "name": TEXT, "visibility": TEXT, "isNewUi": FLAG, "featured": FLAG, "description": TEXT,
    "descriptionShort": MAYBE_TEXT, "urls": TEXTS, "creatorEmail": MAYBE_TEXT, "creatorName": TEXT,
    "creatorNameShort": MAYBE_TEXT, "creatorId": TEXT, "defaultSourceSetName": MAYBE_TEXT, "defaultSourceId": MAYBE_TEXT,
    "defaultUmapSourceIds": TEXTS, "createdAt": TEXT,
}  # fmt: skip
ACTIVATION_KEYS: dict[str, Any] = {
    "id": TEXT, "tokens": TEXTS, "dataIndex": MAYBE_TEXT, "index": TEXT, "layer": TEXT, "modelId": TEXT,
    "dataSource": MAYBE_TEXT, "maxValue": NUMBER, "maxValueTokenIndex": NUMBER, "minValue": NUMBER, "values": NUMBERS,
    "dfaValues": NUMBERS, "dfaTargetIndex": MAYBE_NUMBER, "dfaMaxValue": MAYBE_NUMBER, "zQIndices": NUMBERS,
    "zKIndices": NUMBERS, "zValues": NUMBERS, "creatorId": TEXT, "createdAt": TEXT, "lossValues": NUMBERS,
    "logitContributions": MAYBE_TEXT, "binMin": MAYBE_NUMBER, "binMax": MAYBE_NUMBER, "binContains": MAYBE_NUMBER,
    "qualifyingTokenIndex": MAYBE_NUMBER, "source": TEXT,
}  # fmt: skip
NEURON_KEYS: dict[str, Any] = {
    "modelId": TEXT, "layer": TEXT, "index": TEXT, "sourceSetName": MAYBE_TEXT, "creatorId": MAYBE_TEXT, "createdAt": TEXT,
    "maxActApprox": NUMBER, "hasVector": FLAG, "vector": NUMBERS, "vectorLabel": MAYBE_TEXT,
    "vectorDefaultSteerStrength": MAYBE_NUMBER, "hookName": MAYBE_TEXT, "topkCosSimIndices": NUMBERS,
    "topkCosSimValues": NUMBERS, "neuron_alignment_indices": NUMBERS, "neuron_alignment_values": NUMBERS,
    "neuron_alignment_l1": NUMBERS, "correlated_neurons_indices": NUMBERS, "correlated_neurons_pearson": NUMBERS,
    "correlated_neurons_l1": NUMBERS, "correlated_features_indices": NUMBERS, "correlated_features_pearson": NUMBERS,
    "correlated_features_l1": NUMBERS, "neg_str": TEXTS, "neg_values": NUMBERS, "pos_str": TEXTS, "pos_values": NUMBERS,
    "frac_nonzero": NUMBER, "freq_hist_data_bar_heights": NUMBERS, "freq_hist_data_bar_values": NUMBERS,
    "logits_hist_data_bar_heights": NUMBERS, "logits_hist_data_bar_values": NUMBERS, "decoder_weights_dist": NUMBERS,
    "umap_cluster": MAYBE_NUMBER, "umap_log_feature_sparsity": MAYBE_NUMBER, "umap_x": MAYBE_NUMBER,
    "umap_y": MAYBE_NUMBER,
}  # fmt: skip
LISTED_KEYS = NEURON_KEYS | {"activations": [ACTIVATION_KEYS], "explanations": OBJECTS, "model": MODEL_KEYS}
MODEL_IN_LIST = MODEL_KEYS | {"sourceSets": [SET_KEYS | {"sources": OBJECTS}]}
FEATURE = {"modelId": MODEL, "source": SOURCE, "index": str(RICH)}
LAYER = {"modelId": MODEL, "layer": SOURCE, "index": RICH}
NO_WORKER = 503


@dataclass(frozen=True)
class Route:
    """How a route is asked, and what it answers."""

    path: str
    body: Any = None
    shape: Any = None
    """Keys and types that must be there: a list of one is the shape of each item."""
    status: int = 200
    required: tuple[str, ...] = ()
    """Keys of the body without which there is a 400."""
    is_empty_for_nothing: bool = False

    @property
    def verb(self) -> str:
        return "get" if self.body is None else "post"


LIVE: dict[str, Any] = {"status": NO_WORKER, "shape": {"error": TEXT, "message": TEXT}}
ROUTES = [
    Route(
        f"feature/{MODEL}/{SOURCE}/{RICH}",
        shape=LISTED_KEYS
        | {
            "source": SOURCE_KEYS, "sourceSet": SET_KEYS, "creator": {"name": TEXT}, "lists": OBJECTS, "comments": OBJECTS,
        },
    ),
    Route("features", [LAYER], [LISTED_KEYS], required=("modelId", "layer", "index"), is_empty_for_nothing=True),
    Route("features-offset", {"modelId": MODEL, "layer": SOURCE, "offset": 0}, [LISTED_KEYS], required=("modelId", "layer")),
    Route("activation/get", FEATURE, [ACTIVATION_KEYS], required=("modelId", "source", "index")),
    Route("umap", {"modelId": MODEL, "layers": [SOURCE]}, {SOURCE: OBJECTS}, required=("modelId",)),
    Route("global", {}, {
        "models": [MODEL_IN_LIST], "explanationTypes": OBJECTS, "explanationModels": OBJECTS, "releases": [RELEASE_KEYS],
        "explanationScoreTypes": OBJECTS, "explanationScoreModelTypes": OBJECTS,
    }),
    Route("model/list", {}, [MODEL_IN_LIST]),
    Route("model/get", {"id": MODEL}, MODEL_IN_LIST | {"sources": [SOURCE_KEYS]}, required=("id",)),
    Route("model/new", {"id": "a-new-model", "layers": 2}, MODEL_KEYS, required=("id", "layers")),
    Route(f"source-set/{MODEL}/tiny-sae", shape=SET_KEYS | {"sources": [SOURCE_KEYS]}),
    Route(
        "source-set/new", {"modelId": MODEL, "name": "new"}, SET_KEYS | {"sources": [SOURCE_KEYS], "model": MODEL_KEYS},
        required=("modelId", "name"),
    ),
    Route("test", {"apiKey": "any"}, {}),
    Route("steer/presets", {"modelId": MODEL}, {
        "model": MODEL_KEYS, "defaultPrompt": TEXT, "promptPresets": [{"name": TEXT, "prompt": TEXT}],
        "featurePresets": OBJECTS, "defaultSelectedFeatures": list,
    }, required=("modelId",)),
    Route("vector/list-owned", {}, {"vectors": OBJECTS}),
    Route(
        "vector/new",
        {
            "modelId": MODEL, "layerNumber": 1, "hookType": "hook_resid_pre", "vector": [0.5] * 16,
            "vectorDefaultSteerStrength": 3, "vectorLabel": "mine",
        },
        {"message": TEXT, "url": TEXT, "vector": {
            "modelId": TEXT, "source": TEXT, "index": TEXT, "label": TEXT, "hookName": TEXT, "values": NUMBERS,
            "defaultSteerStrength": NUMBER, "createdAt": TEXT,
        }},
        required=("modelId", "layerNumber", "hookType", "vector"),
    ),
    Route("activation/new", {"feature": LAYER, "customText": "a cat"}, required=("feature", "customText"), **LIVE),
    Route(
        "activation/source", {"modelId": MODEL, "source": SOURCE, "customText": ["a cat"]},
        required=("modelId", "source", "customText"), **LIVE,
    ),
    Route(
        "search-all", {"modelId": MODEL, "sourceSet": "tiny-sae", "text": "a cat", "selectedLayers": [], "sortIndexes": []},
        required=("modelId", "text"), **LIVE,
    ),
    Route(
        "search-topk-by-token", {"modelId": MODEL, "source": SOURCE, "text": "a cat", "numResults": 3},
        required=("modelId", "source", "text"), **LIVE,
    ),
    Route("cossim", FEATURE, required=("modelId", "source", "index"), **LIVE),
    Route("tokenize", {"modelId": MODEL, "prompt": "a cat"}, required=("modelId", "prompt"), **LIVE),
    Route(
        "steer", {"modelId": MODEL, "prompt": "a cat", "features": [LAYER | {"strength": 2}], "temperature": 0, "n_tokens": 2},
        required=("modelId", "prompt"), **LIVE,
    ),
    Route(
        "steer-chat",
        {
            "modelId": MODEL, "defaultChatMessages": [{"role": "user", "content": "x"}], "steer_special_tokens": False,
            "steeredChatMessages": [{"role": "user", "content": "x"}], "features": [LAYER | {"strength": 2}],
        },
        required=("modelId",), **LIVE,
    ),
]  # fmt: skip
POSTS = [route for route in ROUTES if route.body is not None]
WITH_INDEX = [route for route in POSTS if "'index'" in repr(route.body)]
WITH_MODEL = [route for route in POSTS if MODEL in repr(route.body)]
NO_INDEX = [-1, 2**31, 10**400, 1.5, "x", "", "1e3", "-1", [], {}, None]
NO_TEXT = ["a\0b", "\ud800", 7, [], {}, True]


def name(route: Route) -> str:
    return f"{route.verb} {route.path}"


@pytest.fixture(autouse=True)
def made(session):
    hosted.host(session)
    given_catalog.put_release(session, OPERATOR, {"name": "a-release", "description": "Some release"})
    session.execute(update(SourceSet).values(release_name="a-release"))
    session.commit()


def ask(api, route: Route, body: Any = ..., **changed: Any):
    asked = route.body if body is ... else body
    return api.request(route.verb, changed.pop("path", route.path), json=asked, **changed)


def check(value: Any, shape: Any, where: str) -> None:
    """The value has the keys of the shape, each of its type."""
    match shape:
        case dict():
            assert isinstance(value, dict), f"{where} is {value!r}"
            assert shape.keys() <= value.keys(), f"{where} lacks {sorted(shape.keys() - value.keys())}"
            for key, of_key in shape.items():
                check(value[key], of_key, f"{where}.{key}")
        case [of_item]:
            assert isinstance(value, list), f"{where} is {value!r}"
            for each in value:
                check(each, of_item, f"{where}[]")
        case tuple() if None in shape:
            assert value is None or isinstance(value, tuple(of for of in shape if of)), f"{where} is {value!r}"
        case _:
            assert isinstance(value, shape), f"{where} is {value!r}"
            assert shape is bool or not isinstance(value, bool), f"{where} is {value!r}"


def check_refused(answer, *statuses: int) -> None:
    assert answer.status_code in statuses, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body.keys() - {"problems"} == {"error", "message"}
    assert body["error"] == body["message"]
    assert body["error"]


@pytest.mark.parametrize("route", ROUTES, ids=name)
def test_an_answer_has_the_documented_keys_and_types(api, route):
    answer = ask(api, route)
    assert answer.status_code == route.status, answer.text
    assert answer.headers["content-type"] == "application/json"
    check(answer.json(), route.shape, route.path)
    assert answer.json() or route.shape == {}, "an empty answer shows nothing"


@pytest.mark.parametrize("route", [route for route in ROUTES if not route.path.endswith("new")], ids=name)
def test_a_trailing_slash_changes_nothing(api, route):
    assert ask(api, route, path=route.path + "/").json() == ask(api, route).json()


@pytest.mark.parametrize("route", WITH_INDEX, ids=name)
def test_an_index_is_a_number_or_its_digits(api, route):
    answers = [ask(api, route, changed(route.body, "index", index)) for index in (RICH, str(RICH))]
    assert answers[0].json() == answers[1].json()
    assert [answer.status_code for answer in answers] == [route.status] * 2


@pytest.mark.parametrize("route", WITH_INDEX, ids=name)
def test_no_index_is_refused(api, route):
    for index in NO_INDEX:
        check_refused(ask_raw(api, route, changed(route.body, "index", index)), 400)


@pytest.mark.parametrize("route", [route for route in POSTS if route.required], ids=name)
def test_what_is_missing_is_named(api, route):
    for key in route.required:
        answer = ask(api, route, without(route.body, key))
        check_refused(answer, 400)
        assert key in answer.json()["error"] or "source" in answer.json()["error"], key
    check_refused(ask(api, route, [{}] if isinstance(route.body, list) else {}), 400)


@pytest.mark.parametrize("route", WITH_MODEL, ids=name)
def test_an_unknown_model_is_not_found(api, route):
    answer = ask(api, route, changed(route.body, "modelId", "none") if route.path != "model/get" else {"id": "none"})
    if route.is_empty_for_nothing:
        assert (answer.status_code, answer.json()) == (200, [])
    else:
        check_refused(answer, 404)


@pytest.mark.parametrize("route", WITH_MODEL, ids=name)
def test_a_name_that_can_be_none_is_refused(api, route):
    for text in NO_TEXT:
        body = changed(route.body, "modelId", text) if route.path != "model/get" else {"id": text}
        check_refused(ask_raw(api, route, body), 400)


@pytest.mark.parametrize("route", [route for route in POSTS if route.required], ids=name)
def test_no_body_and_no_json_are_refused(api, route):
    headers = {"content-type": "application/json"}
    for content in (b"", b"{", b"\xff", b"null", b"7", b'"x"', b"[" * 5000, b'{"a": ' * 5000):
        check_refused(api.request(route.verb, route.path, content=content, headers=headers), 400)
    check_refused(api.request(route.verb, route.path), 400)


@pytest.mark.parametrize("route", [route for route in POSTS if route.required], ids=name)
def test_what_only_reads_takes_json_by_any_name(api, route):
    """Scripts leave the Content-Type out; who may write by that could be a page of another site."""
    content = json.dumps(route.body)
    for headers in ({}, {"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}):
        answer = api.request(route.verb, route.path, content=content, headers=headers)
        if f"/api/{route.path}" in middleware.READING:
            assert answer.status_code == route.status, answer.text
        else:
            check_refused(answer, 400)
            assert "Content-Type application/json" in answer.json()["error"]


@pytest.mark.parametrize("route", [route for route in POSTS if not route.required and route.path != "test"], ids=name)
def test_a_body_that_says_nothing_may_be_left_out(api, route):
    answer = api.request(route.verb, route.path)
    assert answer.status_code == route.status
    check(answer.json(), route.shape, route.path)


@pytest.mark.parametrize("route", POSTS, ids=name)
def test_keys_we_do_not_know_are_ignored(api, route):
    body = [each | {"page": 2} for each in route.body] if isinstance(route.body, list) else route.body | {"page": 2}
    assert ask(api, route, body).status_code == route.status


@pytest.mark.parametrize("path", ["none", "feature", "feature/a/b", "v1/x", "explanations"])
def test_an_address_that_is_not_there_is_not_found(api, path):
    for verb in ("get", "post"):
        check_refused(api.request(verb, path), 404)


@pytest.mark.parametrize("route", ROUTES, ids=name)
def test_another_method_is_told_which_there_are(api, route):
    other = "delete" if route.body is None else "put"
    answer = api.request(other, route.path)
    check_refused(answer, 405)
    assert route.verb.upper() in answer.headers["allow"].split(", ")


def test_a_feature_is_compressed_where_that_is_wanted(api):
    path = f"feature/{MODEL}/{SOURCE}/{RICH}"
    assert api.get(path, headers={"accept-encoding": "gzip"}).headers["content-encoding"] == "gzip"
    assert "content-encoding" not in api.get(path, headers={"accept-encoding": "identity"}).headers


def test_several_features_come_in_the_order_they_are_asked_for(api):
    asked = [LAYER | {"index": index} for index in (5, 99, 1, 3)]
    assert [row["index"] for row in api.post("features", json=asked).json()] == ["5", "1", "3"]
    few = api.post("features", json=[LAYER | {"maxActsToReturn": 2}]).json()
    assert len(few[0]["activations"]) == 2
    assert api.post("features", json=[]).json() == []
    check_refused(api.post("features", json=[LAYER] * 151), 400)


def test_what_was_given_of_a_row_is_served(api, session):
    given_catalog.put_model(session, OPERATOR, {"id": MODEL, "owner": "Somebody", "instruct": True})
    given_catalog.put_source(session, OPERATOR, {"modelId": MODEL, "id": SOURCE, "hfRepoId": "a/b", "notes": "Some"})
    session.commit()
    found = api.get(f"feature/{MODEL}/{SOURCE}/{RICH}").json()
    assert (found["model"]["owner"], found["model"]["instruct"]) == ("Somebody", True)
    assert (found["source"]["hfRepoId"], found["source"]["notes"]) == ("a/b", "Some")
    body = api.get(f"source-set/{MODEL}/tiny-sae").json()
    assert (body["releaseName"], body["releases"]["description"]) == ("a-release", "Some release")
    assert body["allowInferenceSearch"] is True


def changed(body: Any, key: str, value: Any) -> Any:
    """The body with another value wherever it has that key."""
    if isinstance(body, list):
        return [changed(each, key, value) for each in body]
    if isinstance(body, dict):
        return {each: value if each == key else changed(of, key, value) for each, of in body.items()}
    return body


def without(body: Any, key: str) -> Any:
    if isinstance(body, list):
        return [without(each, key) for each in body]
    return {each: value for each, value in body.items() if each != key}


def ask_raw(api, route: Route, body: Any):
    """Half of a surrogate pair can be written in JSON, but not by the client."""
    return api.request(route.verb, route.path, content=json.dumps(body), headers={"content-type": "application/json"})
