"""Decoder rows nearest in direction to a vector."""

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from backend import errors


def nearest(
    directions: Float[Tensor, "d_sae d_out"], vector: Float[Tensor, " d"], n: int, *, leaving_out: int | None = None
) -> tuple[Int64[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """Indices and cosines of the `n` rows with the greatest cosine, greatest first; ties go to the lower index.

    Args:
        directions: At unit norm; a row of zeros has cosine 0 with everything.
        vector: Of any norm.
        n: At most so many are returned.
        leaving_out: The feature the vector is of, which would be the first.

    Raises:
        InvalidInputError: The vector is of another width.
    """
    if directions.shape[1] != len(vector):
        raise errors.InvalidInputError(
            f"the vector has {len(vector)} numbers; the decoder's rows have {directions.shape[1]}.",
            hint="Compare features that write to places of the same width.",
        )
    unit = vector.to(directions) / vector.norm().clamp(min=1e-30)
    cosines = (directions @ unit).cpu()
    kept = torch.arange(len(cosines))
    if leaving_out is not None:
        kept = kept[kept != leaving_out]
    order = kept[torch.argsort(cosines[kept], descending=True, stable=True)[:n]]
    return order.numpy(), cosines[order].numpy()
