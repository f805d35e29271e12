"""Slow, obvious twins of what the product computes fast: plain loops over dense activations."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass
class ReferenceFeature:
    n_firings: int
    max: float
    top: list[tuple[int, float]]
    """(context, maximum), best first."""
    interval_firings: list[int]
    interval_candidates: list[set[int]]
    """Contexts whose maximum lies in each interval and which are not in the top."""
    mean: float
    std: float
    skewness: float
    kurtosis: float


def feature(dense: NDArray[np.float32], counts: NDArray[np.bool_], n_top: int = 20) -> ReferenceFeature:
    """From one feature's dense activations (n_contexts, context_size) and the mask of tokens that count."""
    firings: list[float] = []
    maxima: list[tuple[float, int]] = []
    for context in range(dense.shape[0]):
        values = [
            float(dense[context, p]) for p in range(dense.shape[1]) if counts[context, p] and dense[context, p] != 0
        ]
        firings += values
        if values:
            maxima.append((max(values), context))
    maxima.sort(key=lambda item: (-item[0], item[1]))
    top = [(context, value) for value, context in maxima[:n_top]]
    maximum = max(firings, default=0.0)
    edges = [maximum * i / 5 for i in range(6)]
    interval_firings = [
        sum(edges[i] < v <= edges[i + 1] or (i == 4 and v > edges[5]) for v in firings) for i in range(5)
    ]
    rest = maxima[n_top:]
    candidates = [{c for v, c in rest if edges[i] < v <= edges[i + 1]} for i in range(5)]
    n = len(firings)
    mean = math.fsum(firings) / n if n else math.nan
    m2, m3, m4 = (math.fsum((v - mean) ** p for v in firings) / n if n else math.nan for p in (2, 3, 4))
    is_spread = n > 0 and max(firings) > min(firings)
    return ReferenceFeature(
        n, maximum, top, interval_firings, candidates, mean, math.sqrt(m2) if n else math.nan,
        m3 / m2**1.5 if is_spread else math.nan, m4 / m2**2 if is_spread else math.nan,
    )  # fmt: skip
