import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.formats import bit_packing
from tests import reference


def array(data: bytes, padding: int = 0) -> np.ndarray:
    return np.frombuffer(data + bytes(padding), np.uint8)


widths = st.integers(0, bit_packing.MAX_WIDTH)
limits = st.one_of(
    st.integers(1, 60), st.integers(1, 2**40), st.sampled_from([2**k + d for k in range(45) for d in (0, 1)])
)


@given(st.data(), widths)
def test_fields_come_back_all_and_one_by_one(data, width):
    numbers = data.draw(st.lists(st.integers(0, 2**width - 1), max_size=40))
    packed = reference.packed_fields(numbers, width)
    assert len(packed) == bit_packing.n_bytes(len(numbers) * width)
    assert bit_packing.fields(array(packed), len(numbers), width).tolist() == numbers
    at = np.array(data.draw(st.permutations(range(len(numbers)))), np.int64)
    found = bit_packing.fields_at(array(packed, bit_packing.PADDING), at, width)
    assert found.tolist() == [numbers[i] for i in at]


@given(st.data(), limits)
def test_ascending_numbers_come_back(data, limit):
    numbers = sorted(data.draw(st.sets(st.integers(0, limit - 1), max_size=min(limit, 50))))
    upper, lower, width = reference.packed_ascending(numbers, limit)
    assert width == bit_packing.low_width(len(numbers), limit)
    assert len(upper) == bit_packing.n_bytes(bit_packing.upper_bits(len(numbers), limit, width))
    assert bit_packing.ascending(array(upper), array(lower), len(numbers), width).tolist() == numbers


@pytest.mark.parametrize("n", [1, 7, 1000])
def test_ascending_numbers_take_little_more_than_they_must(n):
    """At most 3 bits more than log2(limit / n) each."""
    limit = 3_000_000
    width = bit_packing.low_width(n, limit)
    assert bit_packing.upper_bits(n, limit, width) + n * width <= n * (np.log2(limit / n) + 3)


def test_bits_that_are_not_as_many_as_the_numbers_are_an_error():
    upper, lower, width = reference.packed_ascending([1, 5, 9], 10)
    with pytest.raises(ValueError, match="3 bits are set where 2"):
        bit_packing.ascending(array(upper), array(lower), 2, width)
    with pytest.raises(ValueError, match="fields of 57 bits"):
        bit_packing.fields(array(bytes(9)), 1, 57)
