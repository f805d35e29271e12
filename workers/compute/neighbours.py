"""The features nearest to each by the cosine of their decoder rows; fp32, ties by index, itself left out.

Cosines exist for one tile at a time, small enough for the cache, and each row keeps its best so far. Tiles have one
size and place, counted from the first feature, so a feature meets the same arithmetic whatever range is asked for.
"""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from workers.compute import statistics

ROWS, COLUMNS = 256, 2048


def nearest(
    directions: Float[Tensor, "d_sae d_in"], first: int, stop: int, *, n: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """For features first:stop, the `n` others nearest by cosine, nearest first: indexes and cosines (stop - first, n).

    Fewer where there are not so many others. `directions` have unit norm (or are zero).
    """
    n = min(n, len(directions) - 1)
    indexes, cosines = np.empty((stop - first, n), np.int32), np.empty((stop - first, n), np.float32)
    for start in range(first // ROWS * ROWS, stop, ROWS):
        ranking = _nearest_to_tile(directions, start, n)
        low, high = max(first, start), min(stop, start + ROWS)
        indexes[low - first : high - first] = ranking.index[low - start : high - start]
        cosines[low - first : high - first] = ranking.value[low - start : high - start]
    return indexes, cosines


def _nearest_to_tile(directions: Tensor, start: int, n: int) -> statistics.Ranking:
    tile = directions[start : start + ROWS]
    ranking = statistics.Ranking(len(tile), n)
    for column in range(0, len(directions), COLUMNS):
        cosines = tile @ directions[column : column + COLUMNS].T
        if column <= start < column + COLUMNS:  # a tile's own columns never straddle two: ROWS divides COLUMNS
            cosines[:, start - column :].fill_diagonal_(-torch.inf)
        ranking.offer(cosines.cpu().numpy(), first_column=column)
    return ranking
