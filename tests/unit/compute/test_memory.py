"""A budget of memory, measured on this very process."""

import resource

import numpy as np
import pytest

from backend import errors
from workers.compute import memory


def test_what_is_taken_is_seen_and_leaves_less_for_firings() -> None:
    budget = memory.Budget(600 * 2**20)
    before, free = memory.taken(), budget.firings(24)
    held = np.ones(200 * 2**20, np.uint8)
    assert memory.taken() - before == pytest.approx(held.nbytes, rel=0.1)
    assert free - budget.firings(24) == pytest.approx(held.nbytes / 24, rel=0.1)
    assert free * 24 == pytest.approx(budget.limit, rel=0.1)


def test_too_small_a_budget_says_what_is_taken_and_what_to_give() -> None:
    budget = memory.Budget(40 * 2**20)
    held = np.ones(100 * 2**20, np.uint8)
    with pytest.raises(errors.InvalidInputError, match=r"40 MB is too little.*one batch take 1\d\d MB") as caught:
        budget.firings(24)
    assert "--memory" in str(caught.value)
    del held


def test_unset_it_is_half_of_what_is_free() -> None:
    assert 2**28 < memory.Budget().limit < 2**45


def test_pages_that_are_kept_are_not_faulted_in_again() -> None:
    memory.keep_freed()
    size = 48 * 2**20
    np.ones(size, np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        np.ones(size, np.uint8)
    # without it each of the four is mapped anew: 12,288 pages of 4 KB, or 24 of 2 MB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 24
