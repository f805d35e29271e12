"""Search by text on real Postgres, a real queue and a real live worker, against all features computed one by one."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import uvicorn
from fastapi.testclient import TestClient
from pydantic import BaseModel
from safetensors.torch import load_file
from sqlalchemy import update

from backend.cli import children
from backend.db import tables
from backend.db.session import transaction
from backend.settings import REPOSITORY, Access
from backend.web import live_schemas, schemas
from backend.web.api import search
from backend.web.app import create_app
from tests import signing_in, tiny
from tests.database import statements
from tests.site import DEADLINE_S, Site
from tests.site import site as site
from workers import runtime
from workers.compute import language_model

MODEL = "tiny-gpt2"
SOURCES = ("0-many", "1-many", "2-many")
D_SAE = {"0-many": 150, "1-many": 100, "2-many": 200}
BARE = "1-bare"
"""Trained without BOS, and without dashboards."""
TEXT = "The cat sat in the thin rain"
TEXTS = [TEXT, "In the morning", "a", f"moon over{tiny.SEPARATOR}the quiet town, in"]
CLOSE = 1e-4


@pytest.fixture(scope="module")
def hosted(site: Site) -> Iterator[Site]:
    """A live worker, and three ReLU SAEs with dashboards: activations are continuous, so rounding flips none that counts."""
    live_settings = site.settings.model_copy(update={"heartbeat_s": 20.0, "live_deadline_s": 60.0})
    with (site.folder / "live.log").open("ab") as log:
        command = [sys.executable, "-W", "ignore", "-m", "workers.live"]
        environment = children.environment(live_settings)
        live = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
    try:
        for seed, (source, d_sae) in enumerate(D_SAE.items()):
            metadata = {"hook_name": f"blocks.{source[0]}.hook_resid_post"}
            folder = site.folder / "sae" / source
            tiny.save_sae(folder, architecture="standard", d_sae=d_sae, seed=seed, metadata=metadata)
        job_id = site.add(*SOURCES, n_documents=60)
        worker = site.fork_worker()
        site.wake()
        assert site.wait(job_id, lambda view: view.state in ("done", "failed")).state == "done"
        worker.terminate()
        worker.wait(20)
        tiny.save_sae(site.folder / "sae" / BARE, architecture="standard", d_sae=40, metadata={"prepend_bos": False})
        site.add(BARE)
        deadline = time.monotonic() + DEADLINE_S
        while not is_reported(site):
            assert time.monotonic() < deadline, (site.folder / "live.log").read_text()[-4000:]
            time.sleep(0.05)
        site.settings = live_settings
        yield site
    finally:
        live.kill()
        live.wait()


def is_reported(site: Site) -> bool:
    with transaction(site.sessions) as session:
        return session.query(tables.WorkerReport).filter_by(kind="live").first() is not None


@pytest.fixture(scope="module")
def client(hosted: Site) -> Iterator[TestClient]:
    (hosted.folder / "manifest.json").write_text("{}")
    app = create_app(hosted.settings.model_copy(update={"assets": hosted.folder}))
    with TestClient(app, base_url="http://localhost/api/") as client:
        yield client


@dataclass(frozen=True)
class Brute:
    """Every feature on every token of a text, by the dashboards' own modules, without padding, batching or ranking."""

    tokens: list[str]
    values: dict[str, np.ndarray]
    """By source, (token, feature), the BOS included."""
    counts: np.ndarray
    """Tokens that dashboards count."""

    def ignoring_bos(self, source: str) -> np.ndarray:
        return np.where(self.counts[:, None], self.values[source], 0)

    def features(self, of: Callable[[str], np.ndarray], sources=SOURCES) -> dict[tuple[str, int], np.ndarray]:
        """A column for each feature."""
        return {(source, index): column for source in sources for index, column in enumerate(of(source).T)}


@pytest.fixture(scope="module")
def brute(hosted: Site) -> Callable[[str], Brute]:
    folders = [hosted.folder / "sae" / source for source in SOURCES]
    loaded = runtime.load(str(hosted.folder / "tiny-gpt2"), folders, runtime.Spec(corpus="", threads=1))

    def compute(text: str) -> Brute:
        ids = [0, *loaded.model.tokenizer(text, add_special_tokens=False)["input_ids"]]
        values = {}
        for name, source in zip(SOURCES, loaded.sources, strict=True):
            found = source.encoder.encode(
                language_model.residuals(loaded.model, source.capture, torch.tensor([ids]))[0]
            )
            values[name] = np.zeros((len(ids), source.sae.d_sae), np.float32)
            values[name][found.row, found.feature] = found.value
        counts = np.array([i > 0 and token != 0 for i, token in enumerate(ids)])
        return Brute([loaded.vocabulary[i] for i in ids], values, counts)

    return compute


@pytest.fixture(scope="module")
def densities(client: TestClient) -> dict[tuple[str, int], float]:
    found = {}
    for source in SOURCES:
        rows = client.get(f"features/{MODEL}/{source}", params={"with_dead": True, "per_page": 200}).json()["rows"]
        found |= {(source, row["index"]): row["density"] for row in rows}
    assert len(found) == sum(D_SAE.values())
    return found


def middle(densities: dict[tuple[str, int], float]) -> float:
    """Some features that fire are denser, others are not."""
    levels = sorted({density for density in densities.values() if density > 0})
    assert len(levels) >= 4
    return levels[len(levels) // 2 - 1]


def asked(client: TestClient, text: str | list[str] = TEXT, **more: object) -> dict:
    """A search of the whole set, without dashboards."""
    body = {"modelId": MODEL, "sourceSet": "many", "text": text, "numResults": 100, "expand": False}
    return answered(client, "search-all", {**body, **more})


def by_token(client: TestClient, text: str | list[str] = TEXT, **more: object) -> dict:
    body = {"modelId": MODEL, "source": "1-many", "text": text, "expand": False, "densityThreshold": -1}
    return answered(client, "search-topk-by-token", {**body, **more})


def answered(client: TestClient, route: str, body: dict) -> dict:
    response = client.post(route, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def refused(response, status: int) -> str:
    body = schemas.Error.model_validate(response.json())
    assert response.status_code == status, body
    assert body.error == body.message
    return body.error


def fits(schema: type[BaseModel], body: object) -> None:
    schema.model_validate(body)


def check_ranked(found: dict, columns: dict[tuple[str, int], np.ndarray], score: Callable, n: int) -> None:
    """Values are those of the columns, and no other n features have greater scores."""
    for row in found["result"]:
        np.testing.assert_allclose(row["values"], columns[row["layer"], int(row["index"])], atol=CLOSE)
    scores = sorted((float(score(column)) for column in columns.values()), reverse=True)
    expected = [each for each in scores if each > CLOSE][:n]
    np.testing.assert_allclose([score(np.array(row["values"])) for row in found["result"]], expected, atol=CLOSE)
    assert len({(row["layer"], row["index"]) for row in found["result"]}) == len(expected)


# --- search-all ----------------------------------------------------------------------------------------------------


def test_the_features_found_are_those_that_fire_most_of_all(client, brute):
    expected, found = brute(TEXT), asked(client)
    fits(live_schemas.TextSearch, found)
    assert found["tokens"] == expected.tokens
    assert (found["tokens"][0], "".join(found["tokens"][1:])) == (tiny.SEPARATOR, TEXT)
    assert (len(found["result"]), found["sortIndexes"]) == (100, [])
    check_ranked(found, expected.features(expected.ignoring_bos), np.max, 100)
    assert {row["layer"] for row in found["result"]} == set(SOURCES)
    for row in found["result"]:
        assert row["modelId"] == MODEL
        assert row["maxValue"] == max(row["values"]) == row["values"][row["maxValueIndex"]]
        assert row["values"][0] == 0
    seven = [row["maxValue"] for row in asked(client, numResults=7)["result"]]
    np.testing.assert_allclose(seven, [row["maxValue"] for row in found["result"][:7]], atol=CLOSE)


def test_values_have_the_digits_of_fp32(client):
    for row in asked(client)["result"]:
        assert [float(np.format_float_positional(np.float32(value))) for value in row["values"]] == row["values"]


def test_chosen_tokens_rank_by_the_sum_of_the_activations_on_them(client, brute):
    expected = brute(TEXT)
    columns = expected.features(expected.ignoring_bos)
    for positions in ([3], [5, 2]):
        found = asked(client, sortIndexes=positions, numResults=20)
        assert found["sortIndexes"] == sorted(positions)
        check_ranked(found, columns, lambda column, at=positions: column[at].sum(), 20)


def test_bos_counts_if_it_is_not_ignored(client, brute):
    expected, found = brute(TEXT), asked(client, ignoreBos=False, sortIndexes=[0])
    check_ranked(found, expected.features(expected.values.__getitem__), lambda column: column[0], 100)
    assert found["result"][0]["values"][0] > 0


def test_selected_layers_only_are_searched(client, brute):
    expected = brute(TEXT)
    for layers in (["1-many"], ["2-many", "0-many"]):
        found = asked(client, selectedLayers=layers)
        check_ranked(found, expected.features(expected.ignoring_bos, layers), np.max, 100)
    whole = asked(client)
    for same in ({"selectedLayers": []}, {"selectedLayers": list(SOURCES)}, {"selectedLayers": None}):
        assert asked(client, **same)["result"] == whole["result"]


def test_features_denser_than_the_threshold_are_left_out(client, brute, densities):
    expected = brute(TEXT)
    columns = expected.features(expected.ignoring_bos)
    densest = middle(densities)
    sparse = {key: column for key, column in columns.items() if densities[key] <= densest}
    check_ranked(asked(client, densityThreshold=densest), sparse, np.max, 100)
    assert 0 < len(sparse) < len(columns)
    for none in (-1, 0, 1):
        check_ranked(asked(client, densityThreshold=none), columns, np.max, 100)


def test_a_list_of_texts_is_each_alone(client):
    found = asked(client, TEXTS, sortIndexes=[1])
    fits(live_schemas.TextSearches, found)
    assert len(found["results"]) == len(TEXTS)
    for text, together in zip(TEXTS, found["results"], strict=True):
        alone = asked(client, text, sortIndexes=[1])
        assert alone["tokens"] == together["tokens"]
        assert len(alone["result"]) == len(together["result"])
        values = {(row["layer"], row["index"]): row["values"] for row in together["result"]}
        for row in alone["result"]:
            np.testing.assert_allclose(values[row["layer"], row["index"]], row["values"], atol=CLOSE)
    assert "neuron" not in asked(client, [TEXT], expand=True)["results"][0]["result"][0]


def test_features_come_with_what_their_dashboards_say(client):
    found = asked(client, expand=True)
    fits(live_schemas.ExpandedTextSearch, found)
    bare = asked(client)
    assert [{key: row[key] for key in row if key != "neuron"} for row in found["result"]] == bare["result"]
    for row in found["result"][::9]:
        alone = client.get(f"feature/{MODEL}/{row['layer']}/{row['index']}").json()
        alone["activations"] = alone["activations"][:1]
        assert row["neuron"] == {key: alone[key] for key in schemas.FeatureInList.model_fields}
        assert len(row["neuron"]["activations"]) == 1


def test_features_without_dashboards_come_without(client):
    found = answered(client, "search-all", {"modelId": MODEL, "sourceSet": "bare", "text": TEXT})
    fits(live_schemas.ExpandedTextSearch, found)
    assert "".join(found["tokens"]) == TEXT, "its SAE was trained without BOS"
    assert {row["neuron"] for row in found["result"]} == {None}
    assert found["result"]
    both = answered(client, "search-all", {"modelId": MODEL, "selectedLayers": ["1-many", BARE], "text": TEXT})
    assert {(row["layer"], row["neuron"] is None) for row in both["result"]} == {("1-many", False), (BARE, True)}


def test_a_hundred_features_cost_as_many_statements_as_one(client):
    asked(client, expand=True)
    few, many, none = (
        n_statements(client, **case)
        for case in (
            {"expand": True, "numResults": 1, "selectedLayers": ["2-many"]},
            {"expand": True, "numResults": 100},
            {},
        )
    )
    assert (few, many, none) == (7, 7, 1)


def n_statements(client: TestClient, **search: object) -> int:
    """Of one search; whether a worker lives is looked at now and then, and not counted."""
    with statements(client.app.state.engine) as seen:
        asked(client, **search)
    return len([statement for statement in seen if "worker_report" not in statement])


# --- search-topk-by-token ------------------------------------------------------------------------------------------


def check_by_token(rows: list[dict], expected: np.ndarray, tokens: list[str], n: int) -> None:
    for row in rows:
        column = expected[row["position"]]
        assert row["token"] == tokens[row["position"]]
        values = [top["activationValue"] for top in row["topFeatures"]]
        np.testing.assert_allclose(values, [each for each in -np.sort(-column) if each > CLOSE][:n], atol=CLOSE)
        for top in row["topFeatures"]:
            assert top["activationValue"] == pytest.approx(column[top["featureIndex"]], abs=CLOSE)


@pytest.mark.parametrize("text", [TEXT, TEXTS[3]])
def test_the_features_of_each_token_are_those_that_fire_most_there(client, brute, text):
    expected, found = brute(text), by_token(client, text)
    fits(live_schemas.TextTopByToken, found)
    assert found["source"] == "1-many"
    shown = [i for i, token in enumerate(expected.tokens) if token != tiny.SEPARATOR]
    assert [row["position"] for row in found["results"]] == shown, "special tokens are left out"
    assert not any(row["isSpecial"] for row in found["results"])
    check_by_token(found["results"], expected.ignoring_bos("1-many"), expected.tokens, 10)
    with_bos = by_token(client, text, ignoreBos=False, numResults=3)
    assert [row["isSpecial"] for row in with_bos["results"]] == [t == tiny.SEPARATOR for t in expected.tokens]
    assert with_bos["results"][0]["topFeatures"]
    check_by_token(with_bos["results"], expected.values["1-many"], expected.tokens, 3)


def test_by_token_too_features_denser_than_the_threshold_are_left_out(client, brute, densities):
    densest = middle({key: density for key, density in densities.items() if key[0] == "1-many"})
    is_sparse = [densities["1-many", index] <= densest for index in range(D_SAE["1-many"])]
    expected = brute(TEXT)
    found = by_token(client, densityThreshold=densest)
    check_by_token(found["results"], np.where(is_sparse, expected.ignoring_bos("1-many"), 0), expected.tokens, 10)
    usual = by_token(client, densityThreshold=None)
    assert usual["results"] == by_token(client, densityThreshold=0.01)["results"] != by_token(client)["results"]


def test_by_token_too_a_list_of_texts_is_each_alone(client):
    found = by_token(client, TEXTS)
    fits(live_schemas.TextsTopByToken, found)
    for text, together in zip(TEXTS, found["results"], strict=True):
        assert together["results"][0]["isSpecial"], "as in Neuronpedia, a list of texts keeps special tokens"
        assert together["results"][0]["topFeatures"] == []
        alone, rest = by_token(client, text)["results"], [row for row in together["results"] if not row["isSpecial"]]
        assert [(row["position"], row["token"]) for row in alone] == [(row["position"], row["token"]) for row in rest]
        for one, other in zip(alone, rest, strict=True):
            values, others = ([top["activationValue"] for top in row["topFeatures"]] for row in (one, other))
            np.testing.assert_allclose(values, others, atol=CLOSE)


def test_by_token_too_features_come_with_what_their_dashboards_say(client):
    found = by_token(client, expand=True)
    fits(live_schemas.ExpandedTextTopByToken, found)
    bare = by_token(client)
    tops = [top for row in found["results"] for top in row["topFeatures"]]
    for top, expected in zip(tops, (top for row in bare["results"] for top in row["topFeatures"]), strict=True):
        assert {key: top[key] for key in top if key != "feature"} == expected
    for top in tops[::7]:
        alone = client.get(f"feature/{MODEL}/1-many/{top['featureIndex']}").json()
        assert top["feature"] == {key: alone[key] for key in live_schemas.ExplainedNeuron.model_fields}
    bare = by_token(client, source=BARE, expand=True)
    assert {top["feature"] for row in bare["results"] for top in row["topFeatures"]} == {None}


def test_of_too_many_firings_the_strongest_come_with_their_features(client, monkeypatch):
    monkeypatch.setattr(search, "MOST_EXPANDED", 5)
    found = by_token(client, expand=True)
    fits(live_schemas.ExpandedTextTopByToken, found)
    tops = [top for row in found["results"] for top in row["topFeatures"]]
    tops.sort(key=lambda top: -top["activationValue"])
    assert [top["feature"] is None for top in tops] == [False] * 5 + [True] * (len(tops) - 5)


# --- activation/source, cossim -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [TEXT, [TEXTS[3]], TEXTS])
def test_all_firings_of_a_source_are_told(client, brute, text):
    found = answered(client, "activation/source", {"modelId": MODEL, "source": "2-many", "customText": text})
    fits(live_schemas.SourceActivations, found)
    texts = [text] if isinstance(text, str) else text
    for one, result in zip(texts, found["results"], strict=True):
        expected = brute(one)
        assert result["tokens"] == expected.tokens
        values = np.zeros_like(expected.values["2-many"])
        assert list(result["activeFeatures"]) == sorted(result["activeFeatures"], key=int)
        for feature, firings in result["activeFeatures"].items():
            assert firings
            for position, value in firings:
                values[position, int(feature)] = value
        np.testing.assert_allclose(values, expected.ignoring_bos("2-many"), atol=CLOSE)


@pytest.mark.parametrize("target", ["1-many", "2-many"])
def test_the_nearest_directions_are_told(hosted, client, target):
    rows = {
        source: load_file(hosted.folder / "sae" / source / "sae_weights.safetensors")["W_dec"].numpy()
        for source in (target, "1-many")
    }
    unit = {source: each / np.linalg.norm(each, axis=1, keepdims=True) for source, each in rows.items()}
    cosines = unit[target] @ unit["1-many"][7]
    if target == "1-many":
        cosines[7] = -np.inf
    body = {"modelId": MODEL, "source": "1-many", "index": 7, "targetModelId": MODEL, "targetSourceId": target}
    found = answered(client, "cossim", body)
    fits(live_schemas.Cosines, found)
    assert found["feature"] == {"model": MODEL, "source": "1-many", "index": 7}
    near = found["topkDecoderCossimFeatures"]
    assert [each["feature"]["index"] for each in near] == np.argsort(-cosines)[:10].tolist()
    assert {(each["feature"]["model"], each["feature"]["source"]) for each in near} == {(MODEL, target)}
    np.testing.assert_allclose([each["cosineSimilarity"] for each in near], -np.sort(-cosines)[:10], atol=1e-5)
    if target == "1-many":
        assert answered(client, "cossim", {"modelId": MODEL, "layer": "1-many", "index": "7"}) == found


# --- what is taken, and what is not --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["source", "layer", "sourceId", "saeId"])
@pytest.mark.parametrize("index", [5, "5"])
def test_a_source_may_be_called_by_any_of_its_names(client, name, index):
    feature = {"modelId": MODEL, name: "1-many", "index": index}
    for key in ("feature", "neuron"):
        found = answered(client, "activation/new/", {key: feature, "customText": TEXT})
        assert (found["layer"], found["index"]) == ("1-many", "5")
    assert answered(client, "cossim/", feature)["feature"]["index"] == 5
    text = {"modelId": MODEL, name: "1-many"}
    assert answered(client, "search-topk-by-token/", {**text, "text": TEXT})["source"] == "1-many"
    assert answered(client, "activation/source/", {**text, "customText": TEXT})["results"]


def test_most_of_a_search_may_be_left_out(client):
    least = answered(client, "search-all/", {"modelId": MODEL, "sourceSet": "many", "text": TEXT})
    assert len(least["result"]) == 50
    full = {
        "modelId": MODEL, "sourceSet": "many", "text": TEXT, "selectedLayers": [], "sortIndexes": [], "ignoreBos": True,
        "densityThreshold": -1, "numResults": 50, "expand": True,
    }  # fmt: skip
    assert answered(client, "search-all", full) == least
    required = ("modelId", "sourceSet", "text")
    nulls = {key: value if key in required else None for key, value in full.items()}
    assert answered(client, "search-all", {**nulls, "unknown": 1}) == least
    suffixed = {**full, "sourceSet": "many__l0-71", "selectedLayers": list(SOURCES)}
    assert answered(client, "search-all", suffixed) == least
    del suffixed["sourceSet"]
    assert answered(client, "search-all", suffixed) == least


def test_what_cannot_be_searched_is_refused(client):
    n = len(answered(client, "tokenize", {"prompt": "cat " * 20, "modelId": MODEL})["tokens"])
    too_long = f"Text too long: {n} tokens, max is {tiny.N_CONTEXT}"
    search_all = {"modelId": MODEL, "sourceSet": "many", "text": TEXT}
    top_by_token = {"modelId": MODEL, "source": "1-many", "text": TEXT}
    all_firings = {"modelId": MODEL, "source": "1-many", "customText": TEXT}
    near = {"modelId": MODEL, "source": "1-many", "index": 1}
    for route, body, key in (
        ("search-all", search_all, "text"),
        ("search-topk-by-token", top_by_token, "text"),
        ("activation/source", all_firings, "customText"),
    ):
        for long in ("cat " * 20, ["a", "cat " * 20]):
            assert refused(client.post(route, json={**body, key: long}), 400) == too_long
        for none in ("", [], [""], ["a"] * 101, 5, None):
            refused(client.post(route, json={**body, key: none}), 400)
        refused(client.post(route, json={**body, "modelId": "none"}), 404)
        refused(client.post(route, json={**body, "modelId": "n\0ne"}), 400)
        refused(client.post(route, json={}), 400)
    assert "'none'" in refused(client.post("search-all", json={**search_all, "sourceSet": "none"}), 404)
    assert "'0-none'" in refused(client.post("search-all", json={**search_all, "selectedLayers": ["0-none"]}), 404)
    of_another = refused(client.post("search-all", json={**search_all, "selectedLayers": ["1-many", BARE]}), 400)
    assert "'1-bare' is of the source set 'bare', not of 'many'" in of_another
    assert "sourceSet" in refused(client.post("search-all", json={"modelId": MODEL, "text": TEXT}), 400)
    n_tokens = len(asked(client)["tokens"])
    beyond = {**search_all, "sortIndexes": [1, n_tokens]}
    assert f"There are 0 to {n_tokens - 1}" in refused(client.post("search-all", json=beyond), 400)
    for wrong in ({"numResults": 0}, {"numResults": 101}, {"sortIndexes": [-1]}, {"densityThreshold": "x"}):
        refused(client.post("search-all", json={**search_all, **wrong}), 400)
    refused(client.post("search-topk-by-token", json={**top_by_token, "numResults": 21}), 400)
    for route, body in (("search-topk-by-token", top_by_token), ("activation/source", all_firings), ("cossim", near)):
        refused(client.post(route, json={**body, "source": "1-none"}), 404)
    assert "0 to 99" in refused(client.post("cossim", json={**near, "index": 100}), 404)
    refused(client.post("cossim", json={**near, "targetSourceId": "1-none"}), 404)
    assert "two models" in refused(client.post("cossim", json={**near, "targetModelId": "other"}), 400)


@pytest.fixture
def with_accounts(hosted: Site) -> Iterator[TestClient]:
    """Nobody's browser at the same site with accounts."""
    changed = {"assets": hosted.folder, "access": Access.ACCOUNTS, "public_url": signing_in.ORIGIN}
    app = create_app(hosted.settings.model_copy(update=changed))
    with TestClient(app, base_url=f"{signing_in.ORIGIN}/api/", headers={"origin": signing_in.ORIGIN}) as client:
        yield client


@pytest.mark.parametrize("visibility", ["private", "unlisted"])
def test_a_set_has_the_sources_its_reader_sees_and_others_are_found_by_name_or_not(
    hosted, client, with_accounts, visibility
):
    def set_visibility(value: str) -> None:
        with transaction(hosted.sessions) as session:
            session.execute(update(tables.Source).where(tables.Source.name == "2-many").values(visibility=value))

    named = {"modelId": MODEL, "selectedLayers": ["2-many"], "text": TEXT}
    set_visibility(visibility)
    try:
        assert {row["layer"] for row in asked(with_accounts)["result"]} == {"0-many", "1-many"}
        assert {row["layer"] for row in asked(client)["result"]} == set(SOURCES)
        response = with_accounts.post("search-all", json=named)
        if visibility == "private":
            assert "'2-many'" in refused(response, 404)
        else:
            assert all(row["neuron"]["layer"] == "2-many" for row in response.json()["result"])
    finally:
        set_visibility("public")


# --- Neuronpedia's own Python client -------------------------------------------------------------------------------


@pytest.fixture
def published(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neuronpedia's client (PyPI: neuronpedia), unchanged, talks to our server."""
    pytest.importorskip("neuronpedia", reason="Neuronpedia's client is not installed")
    from neuronpedia.requests.base_request import NPRequest

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(client.app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        monkeypatch.setattr(NPRequest, "BASE_URL", f"http://127.0.0.1:{listener.getsockname()[1]}/api")
        monkeypatch.setenv("NEURONPEDIA_API_KEY", "any")
        while not server.started:
            time.sleep(0.01)
        yield
        server.should_exit = True
        thread.join()


@pytest.mark.usefixtures("published")
def test_the_published_client_finds_the_top_features_of_texts(client):
    from neuronpedia.requests.source_activation_request import SourceActivationRequest

    asking, layers = SourceActivationRequest(), ["1-many", "2-many"]
    found = asking.compute_top_features_for_text(MODEL, layers, TEXT)
    expected = asked(client, selectedLayers=layers, numResults=20)
    shown = [(row["layer"], row["index"], row["values"]) for row in expected["result"]]
    assert [(each.source, each.index, each.values) for each in found] == shown
    assert all(each.tokens == expected["tokens"] for each in found)
    several = asking.compute_top_features_for_texts(MODEL, "1-many", TEXTS[:2], num_results=5)
    assert [len(each) for each in several] == [5, 5]
    ranked = asking.compute_top_features_for_text(
        MODEL, "1-many", TEXT, ignore_bos=False, sort_results_by_activations_at_token_indexes=[3, 1], num_results=3
    )
    assert len(ranked) == 3


@pytest.mark.usefixtures("published")
@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`:DeprecationWarning")  # its own
def test_the_published_client_finds_the_top_features_of_tokens(client):
    from neuronpedia.requests.topk_by_token_request import TopKByTokenRequest

    found = TopKByTokenRequest().compute_top_features_by_token_for_text(MODEL, "1-many", TEXT)
    expected = by_token(client, numResults=5)["results"]
    assert [(each.position, each.token) for each in found] == [(row["position"], row["token"]) for row in expected]
    assert [[(top.feature.index, top.activationValue) for top in each.topFeatures] for each in found] == [
        [(top["featureIndex"], top["activationValue"]) for top in row["topFeatures"]] for row in expected
    ]
    several = TopKByTokenRequest().compute_top_features_by_token_for_texts(MODEL, "1-many", TEXTS)
    assert [each[0].token for each in several] == [tiny.SEPARATOR] * len(TEXTS)


@pytest.mark.usefixtures("published")
def test_the_published_client_computes_activations(client, brute):
    from neuronpedia.requests.activation_request import ActivationRequest

    expected, asking = brute(TEXT), ActivationRequest()
    index = int(expected.ignoring_bos("1-many").max(axis=0).argmax())
    found = asking.compute_activation_for_text(MODEL, "1-many", str(index), TEXT)
    assert found.tokens == expected.tokens[1:]
    np.testing.assert_allclose(found.values, expected.values["1-many"][1:, index], atol=CLOSE)
    several = asking.compute_activation_for_texts(MODEL, "1-many", str(index), TEXTS)
    assert several[0].tokens == found.tokens
    assert [each.source for each in several] == ["1-many"] * len(TEXTS)
    results = asking.compute_all_source_activations_for_text(MODEL, "1-many", TEXT)
    expected_firings = answered(client, "activation/source", {"modelId": MODEL, "source": "1-many", "customText": TEXT})
    assert results == expected_firings["results"]
