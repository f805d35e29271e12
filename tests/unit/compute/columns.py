"""Columns of fp32 numbers that are hard on summaries: ties, denormals, huge values, one value, none."""

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

DENORMAL, LARGEST = 2.0**-149, float(np.finfo(np.float32).max)

_ordinary = st.floats(0.0009765625, 100, width=32)
_tied = st.sampled_from([0.5, 1.0, 1.5, 2.0])
_extreme = st.sampled_from([DENORMAL, 2.0**-140, 2.0**-126, 1e-20, 1.0, 1.0 + 2.0**-23, 1e20, LARGEST / 2, LARGEST])
values = st.one_of(*(st.lists(each, max_size=70) for each in (_ordinary, _tied, _extreme)))
columns = st.lists(values, max_size=5)


def joined(columns: list[list[float]]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Offsets and values."""
    offset = np.cumsum([0, *map(len, columns)], dtype=np.int64)
    return offset, np.array([x for column in columns for x in column], np.float32)
