"""Packing against SAELens's own, and what a corpus counts."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backend import errors
from tests import tiny
from workers.compute import corpus as corpora
from workers.compute import language_model
from workers.compute.documents import Document


def sae_lens_pack(documents: list[list[int]], size: int, begin: int | None, separator: int | None) -> list[list[int]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sae_lens import tokenization_and_batching as oracle

        rows = oracle.concat_and_batch_sequences(
            (torch.tensor(document) for document in documents), size,
            begin_batch_token_id=begin, sequence_separator_token_id=separator,
        )  # fmt: skip
        return [row.tolist() for row in rows]


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=20), max_size=12),
    st.integers(2, 9), st.sampled_from([None, 0]), st.sampled_from([None, 0, 5]),
)  # fmt: skip
def test_packing_equals_sae_lens(
    documents: list[list[int]], size: int, begin: int | None, separator: int | None
) -> None:
    arrays = [np.array(document) for document in documents]
    found = [row.tolist() for row in corpora.pack(arrays, size, begin=begin, separator=separator)]
    assert found == sae_lens_pack(documents, size, begin, separator)


def build(folder: Path, text: str, **options: object) -> corpora.Corpus:
    model = language_model.load(str(folder), device=torch.device("cpu"), dtype=torch.float32)
    given = {
        "special_tokens": model.special_tokens,
        "n_vocabulary": model.d_vocab,
        "context_size": 16,
        "prepend_bos": True,
    }
    return corpora.from_documents(text.split(tiny.SEPARATOR), model.tokenizer, **(given | options))


def test_duplicates_are_dropped_and_special_tokens_masked(tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "m")
    once = build(folder, "abcdefghijklmno")
    twice = build(folder, "abcdefghijklmno" * 2)
    assert once.n_contexts == 1
    assert once.fingerprint() == twice.fingerprint()
    joined = build(folder, f"abcde{tiny.SEPARATOR}fghijklmnopq")
    assert joined.rows[0].tolist().count(0) == 2
    mask = joined.mask(0, 1)[0]
    assert mask.tolist() == [False, *[True] * 5, False, *[True] * 9]
    assert joined.n_tokens == 14


def test_a_limit_keeps_whole_contexts(tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "m")
    assert build(folder, tiny.text(), max_tokens=100).rows.shape == (6, 16)
    with pytest.raises(errors.InvalidInputError, match="less than one context"):
        build(folder, tiny.text(), max_tokens=10)


def test_text_that_fills_no_context_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidInputError, match="shorter than one context"):
        build(tiny.save_model(tmp_path / "m"), "short")


def test_each_context_knows_its_documents(tmp_path: Path) -> None:
    model = language_model.load(str(tiny.save_model(tmp_path / "m")), device=torch.device("cpu"), dtype=torch.float32)
    given: dict[str, Any] = {
        "special_tokens": (0,), "n_vocabulary": model.d_vocab, "context_size": 8, "prepend_bos": True,
    }  # fmt: skip
    texts = [
        Document("abcdefghij", "long"), Document("klm", "short"), Document("abcdefghij", "again"), Document("z" * 9, "é"),
    ]  # fmt: skip
    found = corpora.from_documents(texts, model.tokenizer, **given)
    assert found.starts is not None
    assert [found.starts.of(i) for i in range(found.n_contexts)] == [
        [(0, "long")],
        [(0, "long"), (4, "short")],
        # the third document's first context is the first one's again, and is dropped
        [(0, "again"), (4, "é")],
    ]
    found.starts.write(tmp_path / "starts")
    read = corpora.read_starts(tmp_path / "starts")
    assert [read.of(i) for i in range(found.n_contexts)] == [found.starts.of(i) for i in range(found.n_contexts)]
    apart = corpora.from_documents(texts, model.tokenizer, is_apart=True, **given)
    assert apart.starts is not None
    assert [apart.starts.of(i) for i in range(apart.n_contexts)] == [[(0, "long")], [(0, "é")]]
    with pytest.raises(errors.InvalidInputError, match="no document fills"):
        corpora.from_documents([Document("abc", "short")] * 9, model.tokenizer, is_apart=True, **given)


def test_rows_given_are_used_verbatim_and_checked(tmp_path: Path) -> None:
    rows = np.array([[0, 5, 6, 0], [0, 5, 6, 0]])
    np.save(tmp_path / "rows.npy", rows)
    given = {"special_tokens": (0,), "n_vocabulary": 10}
    found = corpora.from_rows(tmp_path / "rows.npy", **given)
    assert found.rows.tolist() == rows.tolist()
    assert found.n_tokens == 4
    assert corpora.from_rows(tmp_path / "rows.npy", **given, max_tokens=4).n_contexts == 1
    with pytest.raises(errors.InvalidInputError, match="ids from 0 to 6"):
        corpora.from_rows(tmp_path / "rows.npy", special_tokens=(0,), n_vocabulary=6)
    np.save(tmp_path / "flat.npy", np.zeros(4))
    with pytest.raises(errors.InvalidInputError, match="whole numbers"):
        corpora.from_rows(tmp_path / "flat.npy", **given)
    (tmp_path / "no.npy").write_text("no")
    with pytest.raises(errors.InvalidInputError, match=r"not a \.npy"):
        corpora.from_rows(tmp_path / "no.npy", **given)
