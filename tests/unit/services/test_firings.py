import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from backend.services import firings

ascending = st.lists(st.integers(0, 30), max_size=40).map(sorted).map(lambda found: np.array(found, np.int64))


@given(ascending, ascending)
def test_numbers_among_others_are_found_with_repeats_on_either_side(one, other):
    assert firings.is_in(one, other).tolist() == [number in other.tolist() for number in one.tolist()]


@given(ascending)
def test_distinct_numbers_are_counted(numbers):
    assert firings.n_distinct(numbers) == len(set(numbers.tolist()))
