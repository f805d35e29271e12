"""Steering through the web application and a real live worker, against a hook by hand on the plain Hugging Face model."""

import json
from collections.abc import Iterator

import pytest
import torch
from fastapi.testclient import TestClient
from sqlalchemy import select
from transformers import AutoModelForCausalLM, AutoTokenizer

from backend.db.session import transaction
from backend.db.tables import Feature, Source
from backend.web import steer_schemas
from tests import hosted as rows
from tests import live, tiny
from tests.live import PATIENCE_S
from tests.site import Site
from tests.site import site as site

MODEL, SOURCE, LAYER = "tiny-gpt2", "1-topk", 1
PROMPT = "The cat"
N_TOKENS = 8
TEMPLATE = "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }};{% endfor %}{% if add_generation_prompt %}>{% endif %}"


@pytest.fixture(scope="module")
def hosted(site: Site) -> Site:
    """A model with a chat template, and a source whose feature 3 has a row with a largest activation of 2."""
    site.settings = site.settings.model_copy(
        update={"heartbeat_s": 2.0, "live_deadline_s": PATIENCE_S, "live_generation_s": PATIENCE_S}
    )
    (site.folder / "tiny-gpt2" / "chat_template.jinja").write_text(TEMPLATE)
    tiny.save_sae(site.folder / "sae" / "topk", architecture="topk", d_sae=64)
    site.add("topk")
    with transaction(site.sessions) as session:
        source_id = session.scalars(select(Source.id).where(Source.name == SOURCE)).one()
        corpus_id = rows.add_corpus(session, MODEL, rows.add_vocabulary(session, rows.TEXTS))
        revision_id = rows.add_revision(session, source_id, corpus_id)
        known = {"n_firings": 5, "density": 0.01, "fires_on": [], "promotes": [], "token_texts": ""}
        session.add(Feature(revision_id=revision_id, index=3, max_activation=2.0, **known))
    (site.folder / "manifest.json").write_text("{}")
    return site


@pytest.fixture(scope="module")
def client(hosted: Site) -> Iterator[TestClient]:
    """Of an application whose live worker answers."""
    with live.answering(hosted, MODEL) as client:
        yield client


def steer(client: TestClient, *features: dict, **given):
    whole = {"modelId": MODEL, "prompt": PROMPT, "features": list(features), "n_tokens": N_TOKENS, "temperature": 0}
    response = client.post("steer", json=whole | given)
    assert response.status_code == 200, response.text
    return response


def feature(**given) -> dict:
    return {"layer": SOURCE, "index": 3, "strength": 20} | given


def tokens(answer: dict, side: str) -> list[str]:
    return [each["token"] for each in answer[f"{side}LogProbs"]]


def by_hand(site: Site, shift: torch.Tensor | None) -> list[float]:
    """Log-probabilities of the likeliest tokens after the prompt, with `shift` added after the layer at every token."""
    model = AutoModelForCausalLM.from_pretrained(site.folder / "tiny-gpt2").eval()
    tokenizer = AutoTokenizer.from_pretrained(site.folder / "tiny-gpt2")
    ids = [0, *tokenizer(PROMPT, add_special_tokens=False)["input_ids"]]

    def push(module, inputs, output):
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = hidden if shift is None else hidden + shift
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    found = []
    with torch.no_grad():
        handle = model.transformer.h[LAYER].register_forward_hook(push)
        for _ in range(N_TOKENS):
            logprobs = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            if int(logprobs.argmax()) == 0:  # EOS
                break
            ids.append(int(logprobs.argmax()))
            found.append(float(logprobs.max()))
        handle.remove()
    return found


def test_a_feature_s_strength_is_that_of_its_unit_decoder_row(client, hosted):
    vector = client.post("vector/get", json={"modelId": MODEL, "source": SOURCE, "index": 3}).json()["vector"]
    v = torch.tensor(vector["vector"])
    assert float(v.norm()) == pytest.approx(1, rel=1e-5)
    assert (vector["hookName"], vector["vectorDefaultSteerStrength"]) == ("blocks.1.hook_resid_post", 2)
    answer = steer(client, feature(strength=5), strength_multiplier=4).json()
    for side, shift in (("steered", 20 * v), ("default", None)):
        logprobs = [each["logprob"] for each in answer[f"{side}LogProbs"]]
        assert logprobs == pytest.approx(by_hand(hosted, shift), rel=1e-3)
        assert all(each["topLogprobs"][0]["token"] == each["token"] for each in answer[f"{side}LogProbs"])
    assert answer["STEERED"] != answer["DEFAULT"]


def test_a_vector_of_one_s_own_steers_as_the_feature_it_was_taken_from(client):
    row = client.post("vector/get", json={"modelId": MODEL, "source": SOURCE, "index": 3}).json()["vector"]["vector"]
    new = {"modelId": MODEL, "layerNumber": LAYER, "hookType": "hook_resid_post", "vector": row, "vectorLabel": "copy"}
    added = client.post("vector/new", json=new).json()["vector"]
    expected = steer(client, feature()).json()
    found = steer(client, {"layer": added["source"], "index": added["index"], "strength": 20}).json()
    assert (found["STEERED"], found["DEFAULT"]) == (expected["STEERED"], expected["DEFAULT"])


def test_without_strength_both_texts_are_the_same_and_a_seed_decides(client):
    given = {"temperature": 1.5, "n_tokens": 16}
    answers = [steer(client, feature(strength=0), seed=seed, **given).json() for seed in range(4)]
    assert all(answer["STEERED"] == answer["DEFAULT"] for answer in answers)
    assert len({answer["DEFAULT"] for answer in answers}) > 1


def test_a_stream_ends_in_the_answer_given_at_once(client):
    whole = steer(client, feature(), temperature=1, seed=5).json()
    assert steer(client, feature(), temperature=1, seed=5).json() == whole
    assert client.delete(f"steer/{whole['id']}").status_code == 200
    stream = steer(client, feature(), temperature=1, seed=5, stream=True).text
    events = [json.loads(event.removeprefix("data: ")) for event in stream.split("\n\n")[:-1]]
    for event in events:
        steer_schemas.SteeredCompletion.model_validate(event)
    last = events[-1]
    assert (last["STEERED"], last["DEFAULT"]) == (whole["STEERED"], whole["DEFAULT"])
    assert tokens(last, "steered") == tokens(whole, "steered")
    assert tokens(last, "default") == tokens(whole, "default")
    assert last["id"] != whole["id"]


@pytest.mark.parametrize("method", ["ORTHOGONAL_DECOMP", "PROJECTION_CAP", "ABLATE", "CLAMP", "RECONSTRUCT"])
def test_every_method_is_done(client, method):
    """What each computes is the worker's tests'; here it is understood, and pushes something."""
    answer = steer(client, feature(strength=-9 if method == "PROJECTION_CAP" else 9), steer_method=method).json()
    steered, default = ([each["logprob"] for each in answer[f"{side}LogProbs"]] for side in ("steered", "default"))
    is_idle = method == "ABLATE" and steered == pytest.approx(default)  # the feature may not fire on this text
    assert is_idle or steered[:1] != pytest.approx(default[:1], rel=1e-4)


def test_a_penalty_is_applied(client):
    plain, penalised = (
        steer(client, n_tokens=20, freq_penalty=penalty).json() for penalty in (0, 2)
    )  # fmt: skip
    assert len(set(tokens(penalised, "default"))) > len(set(tokens(plain, "default")))


def test_a_chat_is_put_into_the_model_s_template(client):
    chat = [{"role": "user", "content": "in"}, {"role": "model", "content": "a"}, {"role": "user", "content": "the"}]
    given = {"modelId": MODEL, "features": [feature()], "n_tokens": 4, "temperature": 0, "defaultChatMessages": chat}
    answer = client.post("steer-chat", json=given).json()
    steer_schemas.SteeredChat.model_validate(answer)
    said = answer["STEERED"]["chatTemplate"][-1]
    assert answer["STEERED"]["raw"] == f"u:in;a:a;u:the;>{said['content']}"
    assert said["role"] == "model"


def test_what_is_longer_than_the_context_is_refused(client):
    n = tiny.N_CONTEXT
    for given in ({"n_tokens": n}, {"prompt": "cat " * n}, {"n_tokens": 2**31 - 1}, {"n_tokens": n, "stream": True}):
        whole = {"modelId": MODEL, "prompt": PROMPT, "features": [feature()], **given}
        response = client.post("steer", json=whole)
        assert response.status_code == 400, response.text
        assert str(n) in response.json()["error"]


def test_what_the_worker_cannot_push_with_is_refused(client):
    new = {"modelId": MODEL, "layerNumber": LAYER, "hookType": "hook_resid_post", "vector": [1e200] * 16}
    added = client.post("vector/new", json=new).json()["vector"]
    pushed = {"layer": added["source"], "index": added["index"], "strength": 1}
    response = client.post("steer", json={"modelId": MODEL, "prompt": PROMPT, "features": [pushed], "n_tokens": 4})
    assert response.status_code == 400
    assert "no direction" in response.json()["error"]
