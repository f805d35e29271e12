"""The features nearest to each by the cosine of their decoder rows; fp32, ties by index, itself left out."""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from workers.compute import statistics


def nearest(
    directions: Float[Tensor, "d_sae d_in"], first: int, stop: int, *, n: int
) -> tuple[list[NDArray[np.int32]], list[NDArray[np.float32]]]:
    """For features first:stop, up to `n` others by cosine, nearest first. `directions` have unit norm (or are zero)."""
    cosines = directions[first:stop] @ directions.T
    own = torch.arange(first, stop, device=directions.device)
    cosines[own - first, own] = -torch.inf
    n = min(n, len(directions) - 1)
    rows = cosines.cpu().numpy()
    indexes = [statistics.largest(row, n).astype(np.int32) for row in rows]
    return indexes, [row[index] for row, index in zip(rows, indexes, strict=True)]
