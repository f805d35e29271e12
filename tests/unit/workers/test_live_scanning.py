"""A scan as it is asked for: what it says, and everything that is refused, on a real tiny model and SAE."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend import errors
from backend.formats import messages
from backend.formats.messages import Push, ScanReply, ScanRequest
from tests import tiny
from workers import runtime
from workers.compute import language_model
from workers.live import scanning

TEXT = "the cat in a hat"
N_TOKENS = 13
"""BOS, “the”, “ ”, “c”, “a”, “t”, “ ”, “in”, “ a”, “ ”, “h”, “a”, “t”."""
Loaded = runtime.Loaded


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scanning")
    tiny.save_model(folder / "model")
    tiny.save_sae(folder / "sae")
    tiny.save_sae(folder / "bare", metadata={"prepend_bos": False})
    return folder


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Loaded:
    return runtime.load(str(folder / "model"), [folder / "sae", folder / "bare"], runtime.Spec(corpus="", threads=1))


def request(**changes: Any) -> ScanRequest:
    asked = ScanRequest(
        id="a", reply_to="r", deadline_at=math.inf, model="m", text=TEXT, push=Push(source="1-x", index=3), token="a",
        n_coefficients=5,
    )  # fmt: skip
    return dataclasses.replace(asked, **changes)


def answer(loaded: Loaded, asked: ScanRequest, *, source: int | None = 0) -> ScanReply:
    at = None if source is None else loaded.sources[source]
    reply = scanning.answer(loaded.model, loaded.vocabulary, at, asked)
    read = messages.read_reply(messages.write_reply(reply))
    assert isinstance(read, ScanReply)
    return read


def test_the_reply_says_what_was_read_and_its_parts_sum(loaded: Loaded) -> None:
    reply = answer(loaded, request(minus_token=" the"))
    assert reply.tokens == (tiny.SEPARATOR, "the", " ", "c", "a", "t", " ", "in", " a", " ", "h", "a", "t")
    assert (reply.position, reply.hook_point) == (N_TOKENS - 1, "blocks.1.hook_resid_post")
    assert (reply.token, reply.minus_token, reply.direction) == ("a", " the", "“a” − “ the”")
    assert reply.coefficients == (-10.0, -5.0, 0.0, 5.0, 10.0)
    names = [component.name for component in reply.components]
    assert names == [
        "embedding",
        "injected",
        *(f"{i}.{part}" for i in range(3) for part in ("attention", "mlp")),
        "rest",
    ]
    summed = np.sum([component.values for component in reply.components], axis=0)
    np.testing.assert_allclose(summed, reply.total, rtol=1e-4, atol=1e-5)
    clusters = {component.cluster for component in reply.components}
    assert clusters == {-1, 0, 1, 2, 3}, "four shapes, and a constant rest"


def test_the_decoder_row_is_added_at_unit_norm(loaded: Loaded) -> None:
    reply = answer(loaded, request())
    row = loaded.sources[0].sae.directions()[3]
    assert float(row.norm()) == pytest.approx(1, rel=1e-5)
    column = language_model.unembedding(loaded.model)[:, loaded.vocabulary.index("a")]
    injected = next(component for component in reply.components if component.name == "injected")
    expected = np.array(reply.coefficients) * float(row @ column) / np.array(reply.scale)
    np.testing.assert_allclose(injected.values, expected, rtol=1e-4, atol=1e-6)


def test_a_vector_of_ones_own_is_the_same_as_the_feature_it_copies(loaded: Loaded) -> None:
    vector = tuple(loaded.sources[0].sae.directions()[3].tolist())
    push = Push(hook_point="blocks.1.hook_resid_post", vector=vector)
    expected, found = answer(loaded, request()), answer(loaded, request(push=push), source=None)
    for mine, other in zip(found.components, expected.components, strict=True):
        np.testing.assert_allclose(mine.values, other.values, rtol=1e-5, atol=1e-6)


def test_a_neuron_gets_more_of_its_value(loaded: Loaded) -> None:
    neurons = runtime.source_at(loaded.model, runtime.SaeFiles("neurons:blocks.1.mlp.hook_post"))
    reply = scanning.answer(loaded.model, loaded.vocabulary, neurons, request(push=Push(source="1-n", index=2)))
    W_out = loaded.model.model.transformer.h[1].mlp.c_proj.weight[2]
    per_unit = float(W_out @ language_model.unembedding(loaded.model)[:, loaded.vocabulary.index("a")])
    injected = next(component for component in reply.components if component.name == "injected")
    np.testing.assert_allclose(
        injected.values, np.array(reply.coefficients) * per_unit / np.array(reply.scale), rtol=1e-4
    )


def test_a_labelled_vector_is_added_at_unit_norm(loaded: Loaded, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(3, loaded.model.d_model)).astype(np.float32)
    np.savez(tmp_path / "probes.npz", vectors=vectors)
    files = runtime.SaeFiles(str(tmp_path / "probes.npz"))
    source = runtime.source_at(loaded.model, files, "blocks.1.hook_resid_post")
    found = scanning.answer(loaded.model, loaded.vocabulary, source, request(push=Push(source="1-p", index=2)))
    unit = vectors[2] / np.linalg.norm(vectors[2])
    push = Push(hook_point="blocks.1.hook_resid_post", vector=tuple(unit.tolist()))
    expected = scanning.answer(loaded.model, loaded.vocabulary, None, request(push=push))
    np.testing.assert_allclose(found.total, expected.total, rtol=1e-5, atol=1e-6)


def test_the_text_is_opened_as_the_source_was_trained(loaded: Loaded) -> None:
    assert answer(loaded, request()).tokens[0] == tiny.SEPARATOR
    assert answer(loaded, request(), source=1).tokens[0] == "the"


@pytest.mark.parametrize(("asked", "found"), [(-1, 12), (0, 0), (-13, 0), (5, 5)])
def test_positions_count_from_both_ends(loaded: Loaded, asked: int, found: int) -> None:
    assert answer(loaded, request(position=asked)).position == found


@pytest.mark.parametrize(
    ("text", "token"), [("the", "the"), (" the", " the"), ("in", "in"), ("\n", "\n"), (tiny.SEPARATOR, tiny.SEPARATOR)]
)
def test_a_token_is_taken_as_it_is_written(loaded: Loaded, text: str, token: str) -> None:
    assert answer(loaded, request(token=text)).token == token


def test_a_token_there_is_only_after_a_space_is_said_so(loaded: Loaded) -> None:
    vocabulary = ["…" if text == "the" else text for text in loaded.vocabulary]
    reply = scanning.answer(loaded.model, vocabulary, loaded.sources[0], request(token="the"))
    assert (reply.token, reply.direction) == (" the", "“ the”")


def test_a_tokenizer_that_opens_texts_with_a_space_still_has_the_token_without() -> None:
    folder = tiny.SHARED / "models" / "tinystories-260k"
    if not folder.is_dir():
        pytest.skip(f"the shared data is not at {folder}")
    model = language_model.load(str(folder), device=torch.device("cpu"), dtype=torch.float32)
    vocabulary = language_model.vocabulary(model)
    for text in ("er", " the"):
        reply = scanning.answer(
            model, vocabulary, None,
            request(push=Push(hook_point="blocks.1.hook_resid_pre", vector=(1.0,) * model.d_model), token=text),
        )  # fmt: skip
        assert reply.token == text


def test_one_coefficient_is_the_lowest(loaded: Loaded) -> None:
    reply = answer(loaded, request(n_coefficients=1, lowest=2.5, highest=2.5))
    assert reply.coefficients == (2.5,)
    assert {component.cluster for component in reply.components} == {-1}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"text": ""}, "no tokens"),
    ({"text": "word " * 30}, r"Text too long: \d+ tokens, max is 32"),
    ({"token": ""}, "token is empty"),
    ({"token": "cat"}, "“cat” is not one token of this model: it is cut into “c”, “a”, “t”"),
    ({"minus_token": "in the"}, "“in the” is not one token of this model: it is cut into “in”, “ the”"),
    ({"minus_token": "a"}, "“a” less itself is nothing"),
    ({"position": 13}, "Token 13 is outside the text, which has 13 tokens"),
    ({"position": -14}, "Token -14 is outside the text"),
    ({"n_coefficients": 0}, "0 coefficients were asked for. Ask for 1 to 512"),
    ({"n_coefficients": 513}, "513 coefficients"),
    ({"n_clusters": 0}, "0 clusters"),
    ({"lowest": -math.inf}, "range of coefficients is not finite"),
    ({"highest": math.nan}, "range of coefficients is not finite"),
    ({"lowest": 3.0, "highest": 3.0}, "from 3 to 3"),
    ({"push": Push(source="1-x", index=3, method="ablate")}, "'ablate' was asked for"),
    ({"push": Push(source="1-x", index=40)}, "There is no feature 40. It has 40"),
    ({"highest": 1e30}, "beyond what numbers hold"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_cannot_be_asked(loaded: Loaded, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.SiteError, match=message):
        answer(loaded, request(**changes))


VECTORS: list[tuple[Push, str]] = [
    (Push(hook_point="blocks.1.hook_resid_post", vector=(1.0,) * 15), "has 15 numbers; .* of this model has 16"),
    (Push(hook_point="blocks.1.hook_resid_post", vector=(math.nan,) * 16), "NaN or infinity"),
    (Push(hook_point="nowhere", vector=(1.0,) * 16), "'nowhere' is not a hook point"),
    (Push(hook_point="blocks.9.hook_resid_post", vector=(1.0,) * 16), "outside the model"),
    (Push(hook_point="blocks.1.ln2.hook_in", vector=(1.0,) * 16), "cannot be replaced there"),
]


@pytest.mark.parametrize(("push", "message"), VECTORS, ids=[message for _, message in VECTORS])
def test_vectors_that_cannot_be_added(loaded: Loaded, push: Push, message: str) -> None:
    with pytest.raises(errors.SiteError, match=message):
        answer(loaded, request(push=push), source=None)


def test_it_stops_where_its_caller_waits_no_longer(loaded: Loaded) -> None:
    with pytest.raises(errors.TimedOutError, match="took too long"):
        answer(loaded, request(deadline_at=0.0))
