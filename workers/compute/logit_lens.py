"""What each feature's direction adds to the logits: `direction @ W_U`, its extremes, histogram and moments.

The direction is the unit decoder row, taken into the residual stream; W_U has the final norm's gain folded in and is
centred (`language_model.unembedding`). Product in fp32; moments in float64 over the whole vocabulary. It leaves out
the norm's division by the residual's scale, so logits compare between tokens and features, not with real logits.
Source: nostalgebraist, "interpreting GPT: the logit lens" (2020); the folding is TransformerLens's.
"""

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from backend.formats import dashboards
from workers.compute import statistics


def of_directions(
    directions: Float[Tensor, "n d_in"], W_U: Float[Tensor, "d_in d_vocab"] | None
) -> list[dashboards.LogitLens | None]:
    """One lens per direction; None for each where there is no path to the logits."""
    if W_U is None:
        return [None] * len(directions)
    logits = (directions @ W_U).cpu().numpy()
    return [_of_logits(row) for row in logits]


def _of_logits(logits: NDArray[np.float32]) -> dashboards.LogitLens:
    n = dashboards.N_LOGIT_TOKENS
    top, bottom = (statistics.largest(sign * logits, n).astype(np.int32) for sign in (1, -1))
    return dashboards.LogitLens(
        top_tokens=top,
        top_logits=logits[top],
        bottom_tokens=bottom,
        bottom_logits=logits[bottom],
        histogram=statistics.linear_histogram(logits, dashboards.N_LOGIT_BINS),
        low=float(logits.min()),
        high=float(logits.max()),
        moments=statistics.moments(logits),
    )
