"""The choice of examples against sorting everything: ties, duplicates, one context, features that always fire."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference
from workers.compute import examples, statistics
from workers.compute.activation_index import Postings

N_CONTEXTS, CONTEXT_SIZE = 120, 4


def postings(features: list[list[tuple[int, int, float]]]) -> Postings:
    """From (context, position, value) of each feature, in any order; a place twice counts once."""
    columns = [sorted({place[:2]: place for place in firings}.values()) for firings in features]
    flat = [firing for column in columns for firing in column]
    contexts, positions, values = zip(*flat, strict=True) if flat else ((), (), ())
    return Postings(
        np.cumsum([0, *map(len, columns)], dtype=np.int64),
        np.array(contexts, np.uint32), np.array(positions, np.uint16), np.array(values, np.float32),
    )  # fmt: skip


def choose(block: Postings, *, first_feature: int = 0, seed: int = 0) -> examples.Chosen:
    ends = statistics.extremes(block.offset, block.value)
    return examples.choose(block, statistics.interval_edges(ends[:, 1], 5), first_feature=first_feature, seed=seed)


def check(block: Postings, rows: np.ndarray, *, first_feature: int, seed: int) -> None:
    chosen = choose(block, first_feature=first_feature, seed=seed)
    offset, position, value = examples.firings(block, chosen)
    tokens = examples.top_tokens(block, chosen, rows)
    for f in range(block.n_features):
        of = slice(block.offset[f], block.offset[f + 1])
        contexts, positions, values = block.context[of], block.position[of], block.value[of]
        expected = reference.examples(contexts.tolist(), values.tolist(), feature=first_feature + f, seed=seed)
        n = int(chosen.count[f])
        shown = block.context[chosen.run[f, :n, examples.START]].tolist()
        assert list(zip(chosen.group[f, :n].tolist(), shown, strict=True)) == expected
        assert chosen.n_contexts[f] == len(set(contexts.tolist()))
        assert chosen.n_top[f] == sum(group == 0 for group, _ in expected)
        tops = []
        for i, (group, context) in enumerate(expected):
            at, here = slice(offset[f, i], offset[f, i + 1]), contexts == context
            assert position[at].tolist() == positions[here].tolist()
            assert value[at].tolist() == values[here].tolist()
            if group == 0:
                peak = int(positions[here][values[here].argmax()])
                tops.append((int(rows[context, peak]), float(values[here].max())))
        assert tokens[f].tolist() == reference.top_tokens(tops)


def rows() -> np.ndarray:
    """A few tokens only, so that many contexts share one."""
    return np.random.default_rng(0).integers(0, 15, (N_CONTEXTS, CONTEXT_SIZE)).astype(np.uint16)


_values = st.one_of(
    st.sampled_from([1.0, 2.0]), st.sampled_from([2.0**-149, 2.0**-126, 1.0, 3.0e38]), st.floats(0.125, 8, width=32)
)
_firings = st.lists(st.tuples(st.integers(0, N_CONTEXTS - 1), st.integers(0, CONTEXT_SIZE - 1), _values), max_size=200)


@settings(deadline=None, max_examples=100)
@given(st.lists(_firings, min_size=1, max_size=4), st.integers(0, 2**32 - 10), st.integers(-(2**63), 2**64 - 1))
def test_the_choice_equals_sorting_everything(
    features: list[list[tuple[int, int, float]]], first_feature: int, seed: int
) -> None:
    block = postings(features)
    check(block, rows(), first_feature=first_feature, seed=seed)


def test_features_that_always_fire_on_many_contexts() -> None:
    """All equal, rising, falling, and random: where every context pushes another out and where none does."""
    n = N_CONTEXTS * CONTEXT_SIZE
    rng = np.random.default_rng(0)
    values = np.stack([np.ones(n), np.arange(1, n + 1), np.arange(n, 0, -1), rng.random(n) + 0.5]).astype(np.float32)
    places = [divmod(i, CONTEXT_SIZE) for i in range(n)]
    block = postings([[(*place, x) for place, x in zip(places, row.tolist(), strict=True)] for row in values])
    assert choose(block).count.tolist() == [25, 44, 44, 30]  # 24 contexts lie in an interval of those that rise or fall
    check(block, rows(), first_feature=3, seed=7)


def test_ties_rank_the_earlier_context_first() -> None:
    chosen = choose(block := postings([[(context, 1, 2.0) for context in range(30)]]))
    shown = block.context[chosen.run[0, :25, examples.START]].tolist()
    assert shown[:20] == list(range(20))
    assert chosen.group[0, 20:25].tolist() == [5] * 5
    assert set(shown[20:]) <= set(range(20, 30))


def test_a_dead_feature_has_none() -> None:
    block = postings([[], []])
    check(block, rows(), first_feature=0, seed=0)
    assert choose(block).count.tolist() == [0, 0]
