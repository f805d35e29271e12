import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from workers.compute.long_contexts import LongContexts

documents = st.lists(st.lists(st.integers(1, 9), max_size=30).map(lambda ids: np.array(ids, np.int64)), max_size=20)


def sample(found: list[np.ndarray], *, size: int = 5, n_kept: int = 4, begin: int | None = 0, seed: int = 0):
    kept = LongContexts(size, n_kept=n_kept, begin=begin, seed=seed)
    for document in found:
        kept.add(document)
    return [tuple(row) for row in kept.rows().tolist()]


def stretches(found: list[np.ndarray], size: int, begin: int | None) -> set[tuple[int, ...]]:
    """Every stretch there is, by plain slicing."""
    step = size if begin is None else size - 1
    lead = () if begin is None else (begin,)
    cut = [(*lead, *document.tolist()[i : i + step]) for document in found for i in range(0, len(document), step)]
    return {row for row in cut if len(row) == size}


@given(documents, st.sampled_from([None, 0]), st.integers(1, 6))
def test_rows_are_different_stretches_of_single_documents_as_many_as_asked_for(found, begin, n_kept):
    rows = sample(found, n_kept=n_kept, begin=begin)
    every = stretches(found, 5, begin)
    assert set(rows) <= every
    assert len(rows) == len(set(rows)) == min(n_kept, len(every))


@given(documents, st.randoms(use_true_random=False), st.integers(-5, 5))
def test_order_and_repeats_of_documents_change_nothing(found, random, seed):
    shuffled = [*found, *found[:3]]
    random.shuffle(shuffled)
    assert sample(found, seed=seed) == sample(shuffled, seed=seed)


def test_every_stretch_is_as_likely_and_the_seed_decides():
    found = [np.arange(4 * i + 1, 4 * i + 5) for i in range(20)]
    chosen = np.zeros(20)
    for seed in range(600):
        for row in sample(found, seed=seed):
            chosen[row[1] // 4] += 1
    assert chosen.sum() == 4 * 600
    assert abs(chosen - 120).max() < 5 * (120 * 0.8) ** 0.5


def test_nothing_long_enough_gives_no_rows():
    kept = LongContexts(5, n_kept=4, begin=0, seed=0)
    kept.add(np.arange(3))
    assert kept.rows().shape == (0, 5)
