"""How jobs are cut, and the measurement that decides it."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from workers import runtime, sharding
from workers.compute import activation_index


@given(st.integers(1, 3000), st.floats(1, 1e7), st.integers(0, 100_000))
def test_encode_shards_cover_the_corpus_in_whole_batches(n_contexts: int, speed: float, shard_tokens: int) -> None:
    cuts = sharding.encode_shards(n_contexts, 16, batch_contexts=32, tokens_per_s=speed, shard_tokens=shard_tokens)
    assert [first for first, _ in cuts] == [0, *np.cumsum([n for _, n in cuts])[:-1].tolist()]
    assert sum(n for _, n in cuts) == n_contexts
    assert all(first % 32 == 0 for first, _ in cuts)


def test_an_encode_shard_is_half_a_minute() -> None:
    cuts = sharding.encode_shards(32_000, 128, batch_contexts=32, tokens_per_s=10_000, shard_tokens=0)
    seconds = [n * 128 / 10_000 for _, n in cuts]
    assert 20 <= min(seconds) <= max(seconds) <= 40


@given(st.integers(1, 20_000), st.integers(0, 10**8), st.floats(0.01, 60))
def test_finish_shards_cover_the_features_in_whole_tiles(d_sae: int, most: int, seconds: float) -> None:
    n_tiles = -(-d_sae // sharding.TILE)
    n_firings = np.random.default_rng(0).integers(0, most + 1, n_tiles)
    cuts = sharding.finish_shards(n_firings, d_in=64, d_sae=d_sae, n_vocabulary=1000, seconds=seconds)
    assert sum(n for _, n in cuts) == d_sae
    assert [first for first, _ in cuts] == [0, *np.cumsum([n for _, n in cuts])[:-1].tolist()]
    assert all(first % sharding.TILE == 0 and 0 < n <= sharding.MAX_FEATURES for first, n in cuts)


def test_many_firings_make_a_range_shorter() -> None:
    few, many = (
        sharding.finish_shards([n] * 64, d_in=64, d_sae=64 * sharding.TILE, n_vocabulary=1000, seconds=15.0)
        for n in (0, 10**8)
    )
    assert len(many) == 64 > len(few)


def test_firings_are_counted_by_tile() -> None:
    offset = np.arange(0, 3 * 601, 3, dtype=np.int64)
    none = np.zeros(0)
    postings = activation_index.Postings(
        offset, none.astype(np.uint32), none.astype(np.uint16), none.astype(np.float32)
    )
    assert sharding.count_tiles(postings).tolist() == [768, 768, 264]


def test_the_measured_speed_is_that_of_encoding_all_sources(tmp_path: Path) -> None:
    saes = [tiny.save_sae(tmp_path / name, seed=i) for i, name in enumerate(("a", "b"))]
    (tmp_path / "text.txt").write_text(tiny.text(40))
    spec = runtime.Spec(corpus=str(tmp_path / "text.txt"), threads=1)
    loaded = runtime.load(str(tiny.save_model(tmp_path / "m")), saes, spec)
    rows, _ = runtime.build_corpus(loaded, spec)
    assert runtime.measure(loaded, rows, batch_contexts=32) > 0
