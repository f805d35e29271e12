"""Joining shards: canonical order, any grouping, any range of features."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.compute import activation_index, merge
from workers.compute.activation_index import Postings


def shards(n_features: int, n: int = 4) -> list[Postings]:
    """Consecutive shards of random firings; one of them has none."""
    rng = np.random.default_rng(0)
    parts = []
    for i in range(n):
        size = 50 if i != 1 else 0
        feature = rng.integers(0, n_features, size).astype(np.uint32)
        context = np.sort(rng.integers(0, 1000, size)).astype(np.uint32) + 1000 * i
        position, value = rng.integers(0, 9, size).astype(np.uint16), rng.random(size, np.float32)
        parts.append(activation_index.transpose(n_features, [feature], [context], [position], [value]))
    return parts


def as_list(postings: Postings) -> list[list[tuple[int, int, float]]]:
    rows = list(zip(postings.context.tolist(), postings.position.tolist(), postings.value.tolist(), strict=True))
    return [rows[postings.offset[f] : postings.offset[f + 1]] for f in range(postings.n_features)]


def test_join_is_associative_and_keeps_order() -> None:
    parts = shards(70_001)
    left = merge.join([merge.join(parts[:2]), merge.join(parts[2:])])
    whole = merge.join(parts)
    for name in ("offset", "context", "position", "value"):
        assert np.array_equal(getattr(left, name), getattr(whole, name))
    for f in range(whole.n_features):
        assert (np.diff(whole.context[whole.offset[f] : whole.offset[f + 1]].astype(int)) >= 0).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 7), st.integers(0, 7))
def test_a_range_is_that_part_of_the_whole(a: int, b: int) -> None:
    parts, (first, stop) = shards(7), sorted((a, b))
    expected = [[row for part in parts for row in as_list(part)[f]] for f in range(first, stop)]
    assert as_list(merge.join(parts, first, stop)) == expected
    assert merge.counts(parts, first, stop).tolist() == [len(rows) for rows in expected]
