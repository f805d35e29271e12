"""Many requests answered together: each gets its own answer or its own refusal."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from backend import errors
from backend.formats import messages
from backend.services.inference import Place
from tests import tiny
from workers import runtime
from workers.compute import language_model
from workers.live import answers
from workers.live.resident import LoadedModel, LoadedSource, Ready

D_SAE = 48


def place(name: str, d_sae: int) -> Place:
    return Place(
        id=1, name=name, set_name="x", layer=1, hook_point="", d_in=16, d_sae=d_sae, weights="", declared={},
        dtype="float32", revision_id=None, model_weights="", written_at=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Ready:
    folder = tmp_path_factory.mktemp("answers")
    tiny.save_model(folder / "model")
    tiny.save_sae(folder / "sae", d_sae=D_SAE)
    model = language_model.load(str(folder / "model"), device=torch.device("cpu"), dtype=torch.float32)
    sources = {}
    for name, path in (("1-x", folder / "sae"), ("1-mlp", Path("neurons:blocks.1.mlp.hook_post"))):
        loaded = runtime.source_at(model, runtime.SaeFiles(str(path)), screen="fp32")
        sources[name] = LoadedSource(("source", name), place(name, loaded.sae.d_sae), loaded)
    return Ready(LoadedModel(("model",), model, language_model.vocabulary(model)), sources)


def head(name: str) -> dict[str, Any]:
    return {"id": name, "reply_to": "r", "deadline_at": 2e9, "model": "m"}


def answered(
    ready: Ready, *asked: answers.TextsRequest, densities: np.ndarray | None = None
) -> dict[str, messages.Reply | Exception]:
    found: dict[str, messages.Reply | Exception] = {}

    def keep(request: messages.Request, answer: messages.Reply | Exception) -> None:
        assert request.id not in found, "one answer each"
        found[request.id] = answer

    residents: Any = SimpleNamespace(densities=lambda _: densities)
    answers.on_texts([(request, ready) for request in asked], residents, keep, keep, lambda _: True)
    return found


def test_what_is_wrong_with_one_request_is_told_to_its_caller_alone(ready: Ready) -> None:
    found = answered(
        ready,
        messages.ActivationsRequest(**head("good"), source="1-x", index=3, texts=("the cat", "in")),
        messages.ActivationsRequest(**head("index"), source="1-x", index=D_SAE, texts=("the cat",)),
        messages.FiringsRequest(**head("long"), source="1-x", texts=("a", "cat " * 40)),
        messages.SearchRequest(**head("search"), sources=("1-x", "1-mlp"), texts=("the thin cat",), n_results=5),
    )
    good, search = found["good"], found["search"]
    assert isinstance(good, messages.ActivationsReply)
    assert ["".join(text.tokens) for text in good.texts] == ["the cat", "in"]
    assert isinstance(found["index"], errors.NotFoundError)
    assert isinstance(found["long"], errors.InvalidInputError)
    assert "max is 32" in str(found["long"])
    assert isinstance(search, messages.SearchReply)
    assert len(search.texts[0].found) == 5
    assert search.texts[0].tokens[0] == tiny.SEPARATOR


def test_features_denser_than_asked_for_are_left_out_where_densities_are_known(ready: Ready) -> None:
    densities = np.linspace(0, 1, D_SAE, dtype=np.float32)
    request = messages.SearchRequest(
        **head("a"), sources=("1-x",), texts=("the thin cat sat",), densest=0.5, n_results=D_SAE
    )
    every, sparse = (answered(ready, request, densities=known)["a"] for known in (None, densities))
    assert isinstance(every, messages.SearchReply)
    assert isinstance(sparse, messages.SearchReply)
    expected = [each.index for each in every.texts[0].found if densities[each.index] <= 0.5]
    assert 0 < len(expected) < len(every.texts[0].found)
    assert [each.index for each in sparse.texts[0].found] == expected


def test_bos_counts_only_where_asked_for(ready: Ready) -> None:
    found = answered(
        ready,
        messages.TopByTokenRequest(**head("with"), source="1-x", texts=("the cat",), is_bos_ignored=False),
        messages.TopByTokenRequest(**head("without"), source="1-x", texts=("the cat",)),
    )
    for name, is_there in (("with", True), ("without", False)):
        reply = found[name]
        assert isinstance(reply, messages.TopByTokenReply)
        (text,) = reply.texts
        assert text.is_special[0]
        assert bool(len(text.features[0])) is is_there
        assert all(len(features) for features in text.features[1:])


def test_a_neuron_writes_where_its_row_of_the_output_weights_is_added(ready: Ready) -> None:
    reply = answers.direction(messages.DirectionRequest(**head("a"), source="1-mlp", index=2), ready)
    assert reply.hook_point == "blocks.1.hook_mlp_out"
    assert len(reply.vector) == 16
    own = answers.direction(messages.DirectionRequest(**head("a"), source="1-x", index=2), ready)
    assert own.hook_point == "blocks.1.hook_resid_post"
    np.testing.assert_allclose(np.linalg.norm(own.vector), 1, rtol=1e-5)
    with pytest.raises(errors.NotFoundError):
        answers.direction(messages.DirectionRequest(**head("a"), source="1-x", index=D_SAE), ready)
