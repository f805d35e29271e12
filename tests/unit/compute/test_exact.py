"""Inner products rounded once, against fractions."""

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference
from workers.compute import exact


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), d=st.integers(1, 40), spread=st.sampled_from([0, 3, 15]), cancels=st.booleans())
def test_an_inner_product_is_its_definition(seed: int, d: int, spread: int, cancels: bool) -> None:
    rng = np.random.default_rng(seed)
    x, w = (
        (rng.standard_normal(d) * 10.0 ** rng.integers(-spread, spread + 1, d)).astype(np.float32) for _ in range(2)
    )
    if cancels:
        x[d // 2 :], w[d // 2 :] = -x[: d - d // 2], w[: d - d // 2]
    bias = np.float32(rng.standard_normal())
    np.testing.assert_equal(exact.inner_product(x, w, float(bias)), reference.pre_activation(x, w, bias))


def test_ties_and_what_lies_just_beside_them() -> None:
    """Halfway between two fp32 numbers, and as little beside it as fp64 cannot see."""
    half = np.float32(2.0**-24)
    for nudge, expected in ((0.0, 1.0), (2.0**-120, 1.0 + 2.0**-23), (-(2.0**-120), 1.0)):
        x = np.array([1, half, nudge], np.float32)
        found = exact.inner_product(x, np.ones(3, np.float32), 0.0)
        assert float(found) == expected
        assert found == exact.nearest_float32(sum(map(Fraction, x.tolist()), Fraction(0)))


def test_beyond_fp32_it_is_infinite_and_nothing_is_plus_zero() -> None:
    big = np.full(2, 3e38, np.float32)
    assert exact.inner_product(big, np.ones(2, np.float32), 0.0) == np.inf
    assert exact.inner_product(big, -np.ones(2, np.float32), 0.0) == -np.inf
    zero = exact.inner_product(np.zeros(2, np.float32), -big, -0.0)
    assert zero == 0
    assert not np.signbit(zero)
