"""An injection scan through the web application and a real live worker, against a hook by hand on the plain model."""

import csv
import io
from collections.abc import Iterator

import pytest
import torch
from fastapi.testclient import TestClient
from transformers import AutoModelForCausalLM, AutoTokenizer

from backend.web.scan_schemas import InjectionScan
from tests import live, tiny
from tests.live import PATIENCE_S
from tests.site import Site
from tests.site import site as site
from workers.compute import sae

MODEL, SOURCE, LAYER, INDEX = "tiny-gpt2", "1-topk", 1, 3
TEXT, TOKEN, MINUS = "The cat sat in the thin rain", " a", " the"
ASKED = {
    "model": MODEL, "source": SOURCE, "index": INDEX, "text": TEXT, "token": TOKEN, "minus_token": MINUS,
    "lowest": -8, "highest": 8, "n_coefficients": 5,
}  # fmt: skip


@pytest.fixture(scope="module")
def hosted(site: Site) -> Site:
    site.settings = site.settings.model_copy(update={"heartbeat_s": 2.0, "live_deadline_s": PATIENCE_S})
    tiny.save_sae(site.folder / "sae" / "topk", architecture="topk", d_sae=64)
    site.add("topk")
    (site.folder / "manifest.json").write_text("{}")
    return site


@pytest.fixture(scope="module")
def client(hosted: Site) -> Iterator[TestClient]:
    """Of an application whose live worker answers."""
    with live.answering(hosted, MODEL) as client:
        yield client


def scan(client: TestClient, **changes: object) -> InjectionScan:
    response = client.post("injection-scan", json=ASKED | changes)
    assert response.status_code == 200, response.text
    return InjectionScan.model_validate(response.json())


def by_hand(site: Site, coefficient: float) -> float:
    """The difference of the two logits at the last token, the decoder row added after the block at every token."""
    model = AutoModelForCausalLM.from_pretrained(site.folder / "tiny-gpt2").eval()
    tokenizer = AutoTokenizer.from_pretrained(site.folder / "tiny-gpt2")
    ids = [0, *tokenizer(TEXT, add_special_tokens=False)["input_ids"]]
    read, less = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (TOKEN, MINUS))
    row = sae.load(site.folder / "sae" / "topk", device=torch.device("cpu")).W_dec[INDEX]

    def push(module, inputs, output):
        shift = coefficient * row / row.norm()
        return (output[0] + shift, *output[1:]) if isinstance(output, tuple) else output + shift

    model.transformer.h[LAYER].register_forward_hook(push)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
    assert (len(read), len(less)) == (1, 1)
    return float(logits[read[0]] - logits[less[0]])


def test_the_components_sum_to_the_logits_of_a_hook_on_the_plain_model(hosted, client):
    found = scan(client)
    assert found.coefficients == [-8, -4, 0, 4, 8]
    assert found.tokens[0] == tiny.SEPARATOR
    assert "".join(found.tokens[1:]) == TEXT
    assert (found.token, found.minus_token, found.hook_point) == (TOKEN, MINUS, "blocks.1.hook_resid_post")
    expected = [by_hand(hosted, coefficient) for coefficient in found.coefficients]
    assert found.total == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert max(expected) - min(expected) > 0.01
    summed = [sum(values) for values in zip(*(each.values for each in found.components), strict=True)]
    assert summed == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_as_csv_it_says_the_same(client):
    found = scan(client, heads_apart=True)
    answer = client.post("injection-scan?format=csv", json=ASKED | {"heads_apart": True})
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == len(found.components) * len(found.coefficients)
    assert {row["component"] for row in rows} == {each.name for each in found.components}
    assert [float(row["attribution"]) for row in rows] == [v for each in found.components for v in each.values]
    assert sum("head" in each.name for each in found.components) == 6


def test_a_vector_of_ones_own_asks_the_model_alone(hosted, client):
    row = sae.load(hosted.folder / "sae" / "topk", device=torch.device("cpu")).W_dec[INDEX]
    mine = {"hook_point": "blocks.1.hook_resid_post", "vector": (row / row.norm()).tolist()}
    asked = {key: value for key, value in ASKED.items() if key not in ("source", "index")}
    answer = client.post("injection-scan", json=asked | mine)
    assert answer.status_code == 200, answer.text
    assert answer.json()["total"] == pytest.approx(scan(client).total, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"token": "cat"}, "“cat” is not one token of this model: it is cut into “c”, “a”, “t”."),
        ({"position": 99}, "Token 99 is outside the text"),
        ({"text": "word " * 40}, "Text too long"),
    ],
)
def test_what_the_worker_refuses_reaches_the_caller_in_its_words(client, changes, words):
    answer = client.post("injection-scan", json=ASKED | changes)
    assert answer.status_code == 400
    assert words in answer.json()["message"]
