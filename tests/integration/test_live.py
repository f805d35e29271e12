"""Custom text on real Postgres, a real queue and a real live worker, through the web application."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from sqlalchemy import delete

from backend.cli import children
from backend.db import tables
from backend.db.session import transaction
from backend.formats import messages
from backend.services import given_catalog, inference
from backend.services.access import OPERATOR
from backend.settings import REPOSITORY
from backend.web import live_schemas, schemas
from backend.web.app import create_app
from tests import tiny
from tests.site import Site
from tests.site import site as site
from workers import runtime
from workers.compute import language_model

DEADLINE_S = 300
MODEL = "tiny-gpt2"
KINDS = ("jumprelu", "topk", "gated")
TEXT = "The cat sat in the thin rain"
TEXTS = [TEXT, "In the morning", "a", "moon over the quiet town, in"]


def until(is_reached: Callable[[], bool], site: Site) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_reached():
        log = site.folder / "live.log"
        assert time.monotonic() < deadline, log.read_text()[-4000:] if log.exists() else "no log"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def hosted(site: Site) -> Site:
    site.settings = site.settings.model_copy(update={"heartbeat_s": 2.0, "live_deadline_s": 60.0, "live_waiting": 8})
    for kind in KINDS:
        tiny.save_sae(site.folder / "sae" / kind, architecture=kind, d_sae=64)
        site.add(kind)
    tiny.save_sae(site.folder / "sae" / "bare", d_sae=64, metadata={"prepend_bos": False})
    site.add("bare")
    return site


@pytest.fixture(scope="module")
def client(hosted: Site) -> Iterator[TestClient]:
    (hosted.folder / "manifest.json").write_text("{}")
    app = create_app(hosted.settings.model_copy(update={"assets": hosted.folder}))
    with TestClient(app, base_url="http://localhost/api/") as client:
        yield client


@pytest.fixture(scope="module")
def worker(hosted: Site) -> Iterator[subprocess.Popen[bytes]]:
    environment = children.environment(hosted.settings.model_copy(update={"heartbeat_s": 0.3}))
    with (hosted.folder / "live.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "workers.live"],
            cwd=REPOSITORY,
            env=environment,
            stdout=log,
            stderr=log,
        )
    until(lambda: is_reported(hosted), hosted)
    yield process
    process.terminate()
    assert process.wait(20) == 0
    assert not is_reported(hosted), "a worker that ends says so"


def is_reported(site: Site) -> bool:
    with transaction(site.sessions) as session:
        return session.query(tables.WorkerReport).filter_by(kind="live").first() is not None


def ask(client: TestClient, source: str, index: int | str, text: str | list[str], **more: object):
    feature = {"modelId": MODEL, "source": source, "index": index}
    return client.post("activation/new", json={"feature": feature, "customText": text, **more})


def refused(response, status: int) -> str:
    body = schemas.Error.model_validate(response.json())
    assert response.status_code == status, body
    assert body.error == body.message
    return body.error


def computed(folder: Path, kind: str, text: str) -> tuple[list[str], np.ndarray]:
    """Tokens and (token, feature) values by the dashboards' own modules, without padding or batching."""
    loaded = runtime.load(str(folder / "tiny-gpt2"), [folder / "sae" / kind], runtime.Spec(corpus="", threads=1))
    (source,) = loaded.sources
    ids = [0, *loaded.model.tokenizer(text, add_special_tokens=False)["input_ids"]]
    x = language_model.residuals(loaded.model, source.capture, torch.tensor([ids]))[0]
    firings = source.encoder.encode(x)
    dense = np.zeros((len(ids), source.sae.d_sae), np.float32)
    dense[firings.row, firings.feature] = firings.value
    return [loaded.vocabulary[i] for i in ids[1:]], dense[1:]


def test_without_a_live_worker_the_answer_says_what_starts_one(hosted, client):
    """Runs first: the worker is started by the tests below."""
    text = refused(ask(client, "1-topk", 3, TEXT), 503)
    assert "No live worker runs" in text
    assert "eyepiece up" in text
    assert inference.connect(hosted.settings).llen(inference.REQUESTS) == 0


def test_a_worker_not_heard_from_for_long_does_not_count(hosted, client):
    with transaction(hosted.sessions) as session:
        row = tables.WorkerReport(name="old", kind="live", device="cpu", doing=None)
        session.add(row)
        session.flush()
        session.query(tables.WorkerReport).update({"seen_at": "2020-01-01T00:00:00Z"})
    refused(ask(client, "1-topk", 3, TEXT), 503)
    with transaction(hosted.sessions) as session:
        session.execute(delete(tables.WorkerReport))


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_the_dashboards_are_computed_from(hosted, client, kind):
    tokens, dense = computed(hosted.folder, kind, TEXT)
    fires = np.flatnonzero(dense.max(axis=0))
    assert len(fires) > 5
    for index in (int(fires[0]), int(fires[-1]), 0):
        body = ask(client, f"1-{kind}", index, TEXT).json()
        live_schemas.NewActivation.model_validate(body)
        assert body["tokens"] == tokens
        np.testing.assert_allclose(body["values"], dense[:, index], atol=1e-4)
        assert body["maxValue"] == max(body["values"]) == body["values"][body["maxValueTokenIndex"]]
        assert (body["modelId"], body["layer"], body["index"]) == (MODEL, f"1-{kind}", str(index))


@pytest.mark.usefixtures("worker")
def test_an_import_whose_weights_are_attached_answers_at_once(hosted, client):
    with transaction(hosted.sessions) as session:
        given_catalog.put_source(session, OPERATOR, {"modelId": MODEL, "id": "1-imported"})
    assert "No weights of" in refused(ask(client, "1-imported", 3, TEXT), 422)
    weights = str(hosted.folder / "sae" / "topk")
    wish = {"model": MODEL, "weights": weights, "source": "1-imported", "compute": False}
    assert client.post("sources", json=wish).json()["job"] is None
    _, dense = computed(hosted.folder, "topk", TEXT)
    index = int(dense.max(axis=0).argmax())
    np.testing.assert_allclose(ask(client, "1-imported", index, TEXT).json()["values"], dense[:, index], atol=1e-4)


@pytest.mark.usefixtures("worker")
def test_several_texts_equal_each_alone(hosted, client):
    _, dense = computed(hosted.folder, "topk", TEXT)
    index = int(dense.max(axis=0).argmax())
    together = ask(client, "1-topk", index, TEXTS).json()
    assert max(text["maxValue"] for text in together) > 0
    for text, found in zip(TEXTS, together, strict=True):
        alone = ask(client, "1-topk", str(index), text).json()
        assert alone["tokens"] == found["tokens"]
        assert "".join(alone["tokens"]) == text
        np.testing.assert_allclose(alone["values"], found["values"], atol=1e-4)


@pytest.mark.usefixtures("worker")
def test_other_names_of_the_same_request(client):
    body = {"neuron": {"modelId": MODEL, "layer": "1-topk", "index": "0"}, "customText": TEXT}
    response = client.post("activation/new/", json=body)
    assert response.status_code == 200, response.text
    found, expected = response.json(), ask(client, "1-topk", 0, TEXT).json()
    assert {**found, "createdAt": ""} == {**expected, "createdAt": ""}


@pytest.mark.usefixtures("worker")
def test_special_tokens_are_shown_as_zero_and_a_leading_one_left_out_on_request(client):
    text = f"{tiny.SEPARATOR}in{tiny.SEPARATOR}a"
    assert ask(client, "1-topk", 3, text).json()["tokens"] == ["in", tiny.SEPARATOR, "a"], "BOS is not doubled"
    bare = ask(client, "1-bare", 3, text).json()
    assert bare["tokens"] == [tiny.SEPARATOR, "in", tiny.SEPARATOR, "a"]
    assert (bare["values"][0], bare["values"][2]) == (0, 0)
    dropped = ask(client, "1-bare", 3, text, ignoreBos=True).json()
    assert (dropped["tokens"], dropped["values"]) == (bare["tokens"][1:], bare["values"][1:])
    assert dropped["maxValueTokenIndex"] == int(np.argmax(dropped["values"]))


@pytest.mark.usefixtures("worker")
def test_a_text_is_cut_into_tokens(client):
    found = client.post("tokenize", json={"prompt": TEXT, "modelId": MODEL}).json()
    assert found["prependBos"] is True
    assert found["tokens"][0] == 0
    assert "".join(found["tokenStrings"]) == tiny.SEPARATOR + TEXT
    bare = client.post("tokenize", json={"prompt": TEXT, "modelId": MODEL, "prependBos": False}).json()
    assert (bare["tokens"], bare["tokenStrings"]) == (found["tokens"][1:], found["tokenStrings"][1:])


@pytest.mark.usefixtures("worker")
def test_what_cannot_be_run_is_refused(client):
    n = len(client.post("tokenize", json={"prompt": "cat " * 20, "modelId": MODEL}).json()["tokens"])
    expected = f"Text too long: {n} tokens, max is {tiny.N_CONTEXT}"
    assert refused(ask(client, "1-topk", 3, "cat " * 20), 400) == expected
    assert refused(ask(client, "1-topk", 3, ["a", "cat " * 20]), 400) == expected
    refused(ask(client, "1-none", 3, TEXT), 404)
    assert "0 to 63" in refused(ask(client, "1-topk", 64, TEXT), 404)
    refused(client.post("tokenize", json={"prompt": "a", "modelId": "none"}), 404)
    for text in ("", [], [""], ["a"] * 101, 5, None):
        refused(ask(client, "1-topk", 3, text), 400)
    for index in (-1, "x", 2**40, None):
        refused(ask(client, "1-topk", index, TEXT), 400)
    refused(client.post("activation/new", json={"customText": TEXT}), 400)
    refused(client.post("activation/new", json={"feature": {"modelId": MODEL, "index": 1}, "customText": TEXT}), 400)
    packed = b'{"feature": {"modelId": "tiny-gpt2", "source": "1-topk", "index": 1}, "customText": "\\ud800"}'
    refused(client.post("activation/new", content=packed, headers={"Content-Type": "application/json"}), 400)
    refused(client.post("tokenize", json={"prompt": "x" * 10_001, "modelId": MODEL}), 400)


@pytest.mark.usefixtures("worker")
def test_what_nobody_waits_for_is_dropped_and_what_cannot_be_read_harms_nobody(hosted, client):
    queue = inference.connect(hosted.settings)
    late = messages.ActivationsRequest(
        id="late", reply_to="eyepiece:live:replies:late", deadline_at=time.time() - 1, model=MODEL, source="1-topk",
        index=3, texts=(TEXT,),
    )  # fmt: skip
    queue.rpush(inference.REQUESTS, messages.write_request(late), b"{not json")
    assert ask(client, "1-topk", 3, "a text of this test").status_code == 200
    assert "live.dropped" in (hosted.folder / "live.log").read_text()
    assert not queue.exists(late.reply_to)


def test_broken_weights_are_refused_with_why_and_the_next_request_is_answered(hosted, client, worker):
    weights = hosted.folder / "sae" / "gated" / "sae_weights.safetensors"
    packed = weights.read_bytes()
    weights.write_bytes(packed[:-8])
    assert ask(client, "1-gated", 3, TEXT).status_code in (400, 422)
    weights.write_bytes(packed)
    assert ask(client, "1-gated", 3, TEXT).status_code == 200
    assert worker.poll() is None


def test_a_full_list_is_refused_and_an_unanswered_request_is_taken_back(hosted, client, worker):
    """The worker is stopped, not dead, so that what is queued stays."""
    queue = inference.connect(hosted.settings)
    impatient = create_app(hosted.settings.model_copy(update={"assets": hosted.folder, "live_deadline_s": 0.3}))
    worker.send_signal(signal.SIGSTOP)
    try:
        queue.rpush(inference.REQUESTS, b"{}", b"{}")  # its BLPOP may be given one even so
        with TestClient(impatient, base_url="http://localhost/api/") as hurried:
            assert "did not answer in time" in refused(ask(hurried, "1-topk", 3, "nobody asked this"), 504)
            until(lambda: all(each == b"{}" for each in queue.lrange(inference.REQUESTS, 0, -1)), hosted)
        queue.rpush(inference.REQUESTS, *[b"{}"] * 8)
        response = ask(client, "1-topk", 3, "nor this")
        assert "requests wait" in refused(response, 429)
        assert int(response.headers["Retry-After"]) >= 1
    finally:
        queue.delete(inference.REQUESTS)
        worker.send_signal(signal.SIGCONT)
    assert ask(client, "1-topk", 3, TEXT).status_code == 200


def test_the_same_question_is_answered_from_memory_until_the_source_changes(hosted, client, worker):
    first = ask(client, "1-topk", 3, "a text asked twice").json()
    worker.send_signal(signal.SIGSTOP)
    try:
        again = ask(client, "1-topk", 3, "a text asked twice").json()
    finally:
        worker.send_signal(signal.SIGCONT)
    assert {**again, "createdAt": ""} == {**first, "createdAt": ""}
    with transaction(hosted.sessions) as session:
        session.query(tables.Source).filter_by(name="1-topk").update(
            {"declared": {"hook_point": "blocks.0.hook_resid_pre"}}
        )
    other = ask(client, "1-topk", 3, "a text asked twice")
    with transaction(hosted.sessions) as session:
        session.query(tables.Source).filter_by(name="1-topk").update({"declared": {}})
    assert other.status_code == 200
