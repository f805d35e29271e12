"""Features on texts: one pass for many, ranked as plain loops over dense activations rank them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backend import errors
from tests import tiny
from workers import runtime
from workers.compute import cosines, language_model, text_activations
from workers.compute.text_activations import TextFirings

KINDS = ("jumprelu", "topk", "gated")
TEXTS = [[0, 5, 9, 3], [0], [0, 7, 7, 7, 7, 7, 100, 2], [0, 200, 3], [5, 0, 6]]


@dataclass
class Loaded:
    model: language_model.LanguageModel
    sources: dict[str, runtime.LoadedSource]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("texts")
    tiny.save_model(folder / "model")
    saes = []
    for layer, kind in enumerate(KINDS):
        metadata = {"hook_name": f"blocks.{layer}.hook_resid_post"}
        saes.append(tiny.save_sae(folder / kind, architecture=kind, seed=layer, d_sae=48, metadata=metadata))
    found = runtime.load(str(folder / "model"), saes, runtime.Spec(corpus="", threads=1))
    return Loaded(found.model, dict(zip(KINDS, found.sources, strict=True)))


def dense(loaded: Loaded, kind: str, ids: list[int]) -> np.ndarray:
    """(token, feature) activations of one text alone."""
    source = loaded.sources[kind]
    found = source.encoder.encode(language_model.residuals(loaded.model, source.capture, torch.tensor([ids]))[0])
    values = np.zeros((len(ids), 48), np.float32)
    values[found.row, found.feature] = found.value
    return values


def as_dense(found: TextFirings, n_tokens: int) -> np.ndarray:
    values = np.zeros((n_tokens, 48), np.float32)
    values[found.position, found.feature] = found.value
    return values


def test_many_texts_and_sources_in_one_pass_equal_each_alone(loaded):
    asked = [KINDS, KINDS[:1], KINDS[1:], ("gated", "jumprelu"), ()]
    found = text_activations.firings(loaded.model, loaded.sources, TEXTS, asked)
    assert [set(each) for each in found] == [set(each) for each in asked]
    n_firing = 0
    for ids, each in zip(TEXTS, found, strict=True):
        for kind, firings in each.items():
            expected = dense(loaded, kind, ids)
            np.testing.assert_allclose(as_dense(firings, len(ids)), expected, atol=1e-4)
            n_firing += int((expected > 0).sum())
            for feature in (0, 7, 47):
                np.testing.assert_array_equal(firings.of(feature, len(ids)), as_dense(firings, len(ids))[:, feature])
    assert n_firing > 100


def test_special_tokens_and_the_first_position_do_not_count():
    assert text_activations.counts([5, 0, 6, 9], (0, 9)).tolist() == [False, False, True, False]
    found = TextFirings(np.array([0, 2, 3]), np.array([1, 1, 4]), np.array([1, 2, 3], np.float32))
    kept = found.at(np.array([False, False, True, False]))
    assert (kept.position.tolist(), kept.feature.tolist(), kept.value.tolist()) == ([2], [1], [2.0])


@dataclass
class Text:
    ids: list[int]


def test_batches_are_of_like_length_and_none_is_too_large():
    rng = np.random.default_rng(0)
    texts = [Text([1] * int(n)) for n in [*rng.integers(1, 3000, 60), 20_000]]
    batches = list(text_activations.batches(texts))
    assert sorted(map(id, (text for batch in batches for text in batch))) == sorted(map(id, texts))
    for batch in batches:
        longest = max(len(text.ids) for text in batch)
        assert len(batch) == 1 or longest * len(batch) <= text_activations.BATCH_TOKENS
    assert len(batches) < len(texts) / 2


numbers = st.sampled_from([0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 2.5, -1.0])
matrices = st.lists(st.lists(st.lists(numbers, min_size=5, max_size=5), min_size=4, max_size=4), min_size=1, max_size=3)


@given(matrices, st.lists(st.integers(0, 3), max_size=3), st.integers(1, 12))
def test_a_ranking_is_that_of_plain_loops(values, sort_positions, n_results):
    """`values[source][token][feature]`; many ties."""
    found = []
    for matrix in np.array(values, np.float32):
        row, feature = np.nonzero(matrix)
        order = np.random.default_rng(0).permutation(len(row))
        found.append(TextFirings(row[order], feature[order], matrix[row, feature][order]))
    expected = []
    for source, matrix in enumerate(np.array(values, np.float32)):
        for feature in range(5):
            column = matrix[:, feature]
            score = sum(float(column[p]) for p in set(sort_positions)) if sort_positions else float(column.max())
            if score > 0:
                expected.append((-score, source, feature, column.tolist()))
    expected = sorted(expected)[:n_results]
    ranked = text_activations.rank(found, 4, sort_positions=sort_positions, n_results=n_results)
    shown = zip(ranked.source.tolist(), ranked.feature.tolist(), ranked.values.tolist(), strict=True)
    assert list(shown) == [(source, feature, column) for _, source, feature, column in expected]


@given(matrices, st.integers(1, 6))
def test_the_top_features_of_each_token_are_those_of_plain_loops(values, n_results):
    matrix = np.array(values[0], np.float32)
    row, feature = np.nonzero(matrix)
    found = TextFirings(row[::-1], feature[::-1], matrix[row, feature][::-1])
    top = text_activations.top_by_token(found, 4, n_results)
    for token, (features, shown) in zip(matrix, top, strict=True):
        expected = sorted((-value, i) for i, value in enumerate(token.tolist()) if value > 0)[:n_results]
        assert list(zip((-shown).tolist(), features.tolist(), strict=True)) == expected


def test_a_text_on_which_nothing_fires_ranks_nothing():
    nothing = TextFirings(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    assert len(text_activations.rank([nothing, nothing], 3, sort_positions=(), n_results=5).feature) == 0
    assert [len(features) for features, _ in text_activations.top_by_token(nothing, 3, 5)] == [0, 0, 0]


def test_nearest_rows_are_those_of_greatest_cosine(loaded):
    directions = loaded.sources["topk"].sae.directions()
    features, found = cosines.nearest(directions, 3.5 * directions[7], 5, leaving_out=7)
    all_cosines = (directions @ directions[7]).numpy()
    all_cosines[7] = -2
    assert features.tolist() == np.argsort(-all_cosines, kind="stable")[:5].tolist()
    np.testing.assert_allclose(found, all_cosines[features], atol=1e-6)
    assert cosines.nearest(directions, directions[7], 1)[0].tolist() == [7]
    assert len(cosines.nearest(directions, directions[7], 1000)[0]) == 48
    with pytest.raises(errors.InvalidInputError, match="16"):
        cosines.nearest(directions, torch.ones(3), 5)


def test_a_text_is_opened_once(tmp_path: Path):
    tiny.save_model(tmp_path)
    tokenizer = language_model.load(str(tmp_path), device=torch.device("cpu"), dtype=torch.float32).tokenizer
    bare = text_activations.tokenise("the cat", tokenizer, prepend_bos=False)
    assert text_activations.tokenise("the cat", tokenizer, prepend_bos=True) == [0, *bare]
    opened = text_activations.tokenise(f"{tiny.SEPARATOR}the cat", tokenizer, prepend_bos=True)
    assert opened == [0, *bare]
