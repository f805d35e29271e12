"""The features nearest to each by the cosine of their decoder rows; ties by index, itself left out.

A cosine is the product of two unit rows in fp32, exact and rounded once (`exact`). As in the encoder, a fast product
with a proven bound (`screens`) leaves few candidates for each feature, and only those are computed: so the answer is
the same to the bit whatever range is asked for and whatever the machine.
"""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from workers.compute import exact, firing_kernels, screens
from workers.compute.jit import compiled

ROWS, COLUMNS = 256, 1024
"""A tile's product is 1 MB and stays in cache."""


class Neighbours:
    """All directions, prepared once."""

    def __init__(self, directions: Float[Tensor, "d_sae d_in"]) -> None:
        """`directions` have unit norm, or are zero."""
        weights = directions.float().cpu().contiguous()
        self._directions = weights.numpy()
        n_features, d_in = weights.shape
        is_int8 = screens.is_int8_exact(d_in)
        self._screen = screens.Int8Screen(weights, np.zeros(d_in)) if is_int8 else screens.Float32Screen(weights)
        self._norm = screens.row_norms(self._directions)
        self._zeros, self._ones = np.zeros(n_features, np.float32), np.ones(n_features, np.float32)
        self._unit, self._inverse = screens.units(self._screen.scale)

    def nearest(self, first: int, stop: int, *, n: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """For features first:stop, the `n` others nearest, nearest first: indexes and cosines (stop - first, n).

        Fewer columns where there are not so many others.
        """
        n = min(n, len(self._directions) - 1)
        index, cosine = np.zeros((stop - first, n), np.int32), np.full((stop - first, n), -np.inf, np.float32)
        found = firing_kernels.Candidates(min(ROWS, stop - first), len(self._directions))
        for low in range(first, stop, ROWS) if n else ():
            high = min(low + ROWS, stop)
            row, feature, value = self._candidates(low, high, n + 1, found)  # one more, for itself
            _keep_largest(
                row, feature, value, low, index[low - first : high - first], cosine[low - first : high - first]
            )
        return index, cosine

    def _candidates(
        self, low: int, high: int, k: int, found: firing_kernels.Candidates
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.float32]]:
        """(row, feature, cosine) of all that may be among the `k` nearest of low:high; by row, then feature."""
        screen, x = self._screen, self._directions[low:high]
        rows, counts = screen.rows(x), np.ones(len(x), np.bool_)
        error = self._norm[low:high] * (x.shape[1] + 2) * exact.FLOAT64_STEP
        product = torch.empty((len(x), COLUMNS), dtype=screen.dtype)
        found.clear(k, np.full(len(x), -np.inf, np.float32))  # unlike firings, cosines may be negative
        found.n[len(x) :] = 0
        for first in range(0, len(self._directions), COLUMNS):
            stop = min(first + COLUMNS, len(self._directions))
            tile = product.flatten()[: len(x) * (stop - first)].view(len(x), stop - first)
            screen.product(rows.left, first, stop, tile)
            firing_kernels.collect(
                tile.numpy(), counts, rows.gain, rows.a, rows.b, screen.spread[first:stop], self._zeros[first:stop],
                self._unit[first:stop], self._inverse[first:stop], first, k,
                found.floor, found.n, found.trigger, found.feature, found.low, found.high,
            )  # fmt: skip
        row, feature, value = firing_kernels.rescore(
            x, error, self._directions, self._zeros, self._norm, self._ones, found.floor,
            found.n[: len(x)], found.feature, found.low, found.high, k,
        )  # fmt: skip
        for i in np.flatnonzero(np.isnan(value)):
            value[i] = exact.inner_product(x[row[i]], self._directions[feature[i]], 0.0)
        return row, feature, value


@compiled
def _keep_largest(
    row: NDArray[np.uint32],
    feature: NDArray[np.uint32],
    value: NDArray[np.float32],
    first: int,
    index: NDArray[np.int32],
    cosine: NDArray[np.float32],
) -> None:
    """The largest of each row that are not the row's own feature, first + row; features ascend, so ties keep the lower."""
    n = index.shape[1]
    for i in range(len(row)):
        r, x = row[i], value[i]
        if feature[i] != first + r and x > cosine[r, n - 1]:
            place = n - 1
            while place > 0 and x > cosine[r, place - 1]:
                cosine[r, place], index[r, place] = cosine[r, place - 1], index[r, place - 1]
                place -= 1
            cosine[r, place], index[r, place] = x, feature[i]
