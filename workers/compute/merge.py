"""Postings of consecutive runs of contexts, joined for a range of features.

Reads only the range's part of each file and copies every firing once, so the memory is that of the result.
"""

import numpy as np
from numpy.typing import NDArray

from workers.compute.activation_index import Postings
from workers.compute.jit import compiled


def counts(parts: list[Postings], first: int, stop: int) -> NDArray[np.int64]:
    """Number of firings of each of the features first:stop over all parts."""
    total = np.zeros(stop - first, np.int64)
    for part in parts:
        total += np.diff(part.offset[first : stop + 1])
    return total


def join(parts: list[Postings], first: int = 0, stop: int | None = None) -> Postings:
    """Postings of features first:stop (all, if not given) over all parts, in order of context. Associative."""
    stop = parts[0].n_features if stop is None else stop
    offset = np.zeros(stop - first + 1, np.int64)
    np.cumsum(counts(parts, first, stop), out=offset[1:])
    n = int(offset[-1])
    joined = Postings(offset, np.empty(n, np.uint32), np.empty(n, np.uint16), np.empty(n, np.float32))
    free = offset[:-1].copy()
    for part in parts:
        low, high = int(part.offset[first]), int(part.offset[stop])
        _append(
            part.offset[first : stop + 1] - low,
            np.asarray(part.context[low:high]), np.asarray(part.position[low:high]), np.asarray(part.value[low:high]),
            free, joined.context, joined.position, joined.value,
        )  # fmt: skip
    return joined


@compiled
def _append(
    offset: NDArray[np.int64],
    context: NDArray[np.uint32],
    position: NDArray[np.uint16],
    value: NDArray[np.float32],
    free: NDArray[np.int64],
    to_context: NDArray[np.uint32],
    to_position: NDArray[np.uint16],
    to_value: NDArray[np.float32],
) -> None:
    """Copy each feature's firings to its next free place, and move that place on."""
    for feature in range(len(offset) - 1):
        low, n, at = offset[feature], offset[feature + 1] - offset[feature], free[feature]
        to_context[at : at + n] = context[low : low + n]
        to_position[at : at + n] = position[low : low + n]
        to_value[at : at + n] = value[low : low + n]
        free[feature] = at + n
