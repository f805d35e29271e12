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
from backend.formats.dashboards import LogitLens, Moments
from workers.compute import statistics

_CACHED_LOGITS = 2**19
"""Logits summed up together: several passes go over them, so they should stay in a core's cache."""


def of_directions(
    directions: Float[Tensor, "n d_in"], W_U: Float[Tensor, "d_in d_vocab"] | None
) -> list[LogitLens | None]:
    """One lens per direction; None for each where there is no path to the logits."""
    if W_U is None:
        return [None] * len(directions)
    logits = (directions @ W_U).cpu().numpy()
    n_rows = max(1, _CACHED_LOGITS // logits.shape[1])
    return [lens for start in range(0, len(logits), n_rows) for lens in _of_rows(logits[start : start + n_rows])]


def _of_rows(logits: NDArray[np.float32]) -> list[LogitLens]:
    n_rows, d_vocab = logits.shape
    top, bottom = (statistics.Ranking(n_rows, min(dashboards.N_LOGIT_TOKENS, d_vocab)) for _ in range(2))
    top.offer(logits)
    bottom.offer(-logits)
    offset, column = np.arange(n_rows + 1) * d_vocab, logits.reshape(-1)
    ends = statistics.extremes(offset, column)
    histograms = statistics.linear_histogram(offset, column, ends, dashboards.N_LOGIT_BINS)
    moments = statistics.moments(offset, column, ends).tolist()
    return [
        LogitLens(
            top_tokens=top.index[i], top_logits=top.value[i],
            bottom_tokens=bottom.index[i], bottom_logits=-bottom.value[i],
            histogram=histograms[i], low=low, high=high, moments=Moments(*moments[i]),
        )
        for i, (low, high) in enumerate(ends.tolist())
    ]  # fmt: skip
