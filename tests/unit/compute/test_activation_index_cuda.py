"""The GPU's way from residuals to postings, run on a CPU, against the CPU's own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from workers.compute import (
    activation_index,
    activation_index_cuda,
    corpus,
    encoder,
    encoder_cuda,
    language_model,
    merge,
    sae,
)

CPU = torch.device("cpu")
CONTEXT_SIZE = 16


@pytest.fixture
def rows() -> corpus.Corpus:
    tokens = np.random.default_rng(0).integers(1, 250, (150, CONTEXT_SIZE), np.int32)
    tokens[::7, 5:] = 0  # special
    return corpus.Corpus(tokens, (0,), is_first_masked=True)


@pytest.fixture
def dictionaries(tmp_path: Path) -> list[sae.Sae]:
    names = ("jumprelu", "topk")
    return [sae.load(tiny.save_sae(tmp_path / name, architecture=name), device=CPU) for name in names]


def residuals_of(size: int) -> Any:
    table = torch.randn(300, CONTEXT_SIZE, 16, generator=torch.Generator().manual_seed(1))

    def read(start: int, stop: int) -> list[torch.Tensor]:
        x = torch.zeros(size, CONTEXT_SIZE, 16)
        x[: stop - start] = table[start:stop]
        return [x, x * 2]

    return read


def joined(parts: Iterator[tuple[int, activation_index.Postings]]) -> list[activation_index.Postings]:
    by_place: dict[int, list[activation_index.Postings]] = {}
    for place, part in parts:
        by_place.setdefault(place, []).append(part)
    return [merge.join(by_place[place]) for place in sorted(by_place)]


def assert_same(found: activation_index.Postings, expected: activation_index.Postings) -> None:
    for name in ("offset", "context", "position", "value"):
        one, other = getattr(found, name), getattr(expected, name)
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


@pytest.mark.parametrize("max_firings", [None, lambda: 500])
def test_postings_are_those_of_the_cpu(rows: corpus.Corpus, dictionaries: list[sae.Sae], max_firings: Any) -> None:
    """Other batches, other parts and two shards: joined, the same bytes."""
    expected = joined(
        activation_index.index_residuals(
            residuals_of(32), [encoder.Encoder(each) for each in dictionaries], rows, first_context=0, n_contexts=150
        )
    )
    encoders = [encoder_cuda.CudaEncoder(each) for each in dictionaries]
    shards: list[list[activation_index.Postings]] = []
    n_tokens = []
    for first, n in activation_index.shards(150, n_shards=2, size=50):
        shards.append(
            joined(
                activation_index_cuda.index_residuals(
                    residuals_of(50), encoders, rows, first_context=first, n_contexts=n, batch_contexts=50,
                    max_firings=max_firings, on_batch=n_tokens.append,
                )
            )
        )  # fmt: skip
    assert len(shards) == 2
    assert sum(n_tokens) == rows.rows.size
    for place, whole in enumerate(expected):
        assert len(whole.value) > 1000
        assert_same(merge.join([shard[place] for shard in shards]), whole)


def test_a_model_is_run_on_whole_batches(tmp_path: Path, rows: corpus.Corpus, dictionaries: list[sae.Sae]) -> None:
    model = language_model.load(str(tiny.save_model(tmp_path / "model")), device=CPU, dtype=torch.float32)
    capture = language_model.resolve(model, dictionaries[0].description.hook_point)
    expected = joined(
        activation_index.index_shard(
            model, [(capture, encoder.Encoder(dictionaries[0]))], rows, first_context=64, n_contexts=86
        )
    )
    found = joined(
        activation_index_cuda.index_shard(
            model, [(capture, encoder_cuda.CudaEncoder(dictionaries[0]))], rows, first_context=64, n_contexts=86,
            batch_contexts=32,
        )
    )  # fmt: skip
    assert_same(found[0], expected[0])


def test_what_stops_a_batch_is_raised_where_parts_are_taken(rows: corpus.Corpus, dictionaries: list[sae.Sae]) -> None:
    def stop(n_tokens: int) -> None:
        raise KeyError("stop")

    parts = activation_index_cuda.index_residuals(
        residuals_of(50), [encoder_cuda.CudaEncoder(each) for each in dictionaries], rows,
        first_context=0, n_contexts=150, batch_contexts=50, on_batch=stop,
    )  # fmt: skip
    with pytest.raises(KeyError, match="stop"):
        next(parts)


def test_batches_are_larger_on_a_gpu_and_fixed_in_tokens() -> None:
    cuda = torch.device("cuda")
    assert activation_index.batch_contexts(CPU, 128) == 32
    assert activation_index.batch_contexts(cuda, 128) == 256
    assert activation_index.batch_contexts(cuda, 1024) == 32
    assert activation_index.batch_contexts(cuda, 100_000) == 1
