"""What is kept of a dense source's values on a run of contexts: each context's extremes, and sums that merge.

A value at every token would be 4 bytes a token and feature. Kept are, for each feature, the largest and the smallest value
of each context and where they stand (12 bytes a context), the moments of each batch of contexts (`Moments`), counts of
values above and below zero, and a histogram that merges exactly (`power_grid`). Values themselves are computed again where
a context is shown (`dense_dashboards`).

Batches have one size and one place in the corpus (`activation_index`), and are put together in their order, so the numbers
are the same bits however a corpus is cut into shards and whoever computes them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32
from numpy.typing import NDArray

from backend.formats import array_file
from workers.compute import power_grid
from workers.compute.dense import DenseEncoder
from workers.compute.jit import compiled

MEAN, M2, M3, M4 = range(4)


@dataclass(frozen=True, slots=True)
class Extremes:
    """Of one run of contexts, feature by feature; arrays whose first axis is d_sae unless said otherwise."""

    first: NDArray[np.int64]
    """(1,): the first context."""
    high: NDArray[np.float32]
    """(d_sae, n_contexts): the largest value of a context; 0 where no token counts."""
    high_at: NDArray[np.uint16]
    """Its position, the first of several."""
    low: NDArray[np.float32]
    low_at: NDArray[np.uint16]
    n_tokens: NDArray[np.int64]
    """(n_batches,): tokens that count."""
    sums: NDArray[np.float64]
    """(d_sae, n_batches, 4): mean, and the sums of the second, third and fourth powers of distances from it."""
    ends: NDArray[np.float32]
    """(d_sae, 2): smallest and largest value; inf and -inf where no token counts."""
    signs: NDArray[np.int64]
    """(d_sae, 2): values above and below zero."""
    counts: NDArray[np.int64]
    """(d_sae, N_BINS): the histogram on the grid of `ends`."""

    @property
    def n_features(self) -> int:
        """Number of features."""
        return len(self.high)

    def write(self, path: Path, meta: dict[str, Any]) -> None:
        """Write the shard's file, atomically."""
        array_file.write(path, {name: getattr(self, name) for name in self.__slots__}, meta)

    def of(self, first: int, stop: int) -> "Extremes":
        """Features first:stop; reads no others where the file is mapped."""
        by_feature = {
            name: getattr(self, name)[first:stop] for name in self.__slots__ if name not in ("first", "n_tokens")
        }
        return Extremes(first=self.first, n_tokens=self.n_tokens, **by_feature)


def summarise(
    encoder: DenseEncoder,
    residuals: torch.Tensor,
    counts: Bool[np.ndarray, "n context_size"],
    first: int,
    n_contexts: int,
) -> Extremes:
    """Of one batch: residuals (n, context_size, d_in), of which the first `n_contexts` are contexts from `first` on."""
    values = encoder.values(residuals[:n_contexts].flatten(0, 1))
    return of_values(values, counts[:n_contexts], first)


def of_values(
    values: Float32[np.ndarray, "n_tokens d_sae"], counts: Bool[np.ndarray, "n context_size"], first: int
) -> Extremes:
    """As `summarise`, from the values; ties go to the earlier position. Values are finite."""
    n, size = counts.shape
    d_sae = values.shape[1]
    values = np.ascontiguousarray(values)
    high, low = np.zeros((n, d_sae), np.float32), np.zeros((n, d_sae), np.float32)
    high_at, low_at = np.zeros((n, d_sae), np.uint16), np.zeros((n, d_sae), np.uint16)
    sums, signs = np.zeros((4, d_sae)), np.zeros((2, d_sae), np.int64)
    counted = np.flatnonzero(counts)
    _extremes(values.reshape(n, size, d_sae), counts, high, high_at, low, low_at)
    _sums(values, counted, sums, signs)
    with_tokens = counts.any(axis=1)
    ends = np.empty((d_sae, 2), np.float32)
    ends[:, 0] = low[with_tokens].min(axis=0, initial=np.inf)
    ends[:, 1] = high[with_tokens].max(axis=0, initial=-np.inf)
    bins = np.zeros((d_sae, power_grid.N_BINS), np.int64)
    if len(counted):
        bins = power_grid.count_matrix(values, counted, power_grid.of_ends(ends))
    return Extremes(
        np.array([first]), high.T, high_at.T, low.T, low_at.T, np.array([len(counted)]),
        sums.T[:, None, :], ends, signs.T, bins,
    )  # fmt: skip


def join(parts: list[Extremes]) -> Extremes:
    """Consecutive parts as one. Associative, to the bit."""
    merged, *others = parts
    if not others:
        return _owned(merged)
    ends = np.stack(
        [np.min([p.ends[:, 0] for p in parts], axis=0), np.max([p.ends[:, 1] for p in parts], axis=0)], axis=1
    )  # fmt: skip
    counts = np.zeros((merged.n_features, power_grid.N_BINS), np.int64)
    filled = [part for part in parts if part.n_tokens.sum()]
    for part in filled:
        power_grid.pour(part.counts, power_grid.of_ends(part.ends), into=counts, wider=power_grid.of_ends(ends))

    def beside(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts], axis=1)

    signs = np.sum([part.signs for part in parts], axis=0)
    return Extremes(
        merged.first, beside("high"), beside("high_at"), beside("low"), beside("low_at"),
        np.concatenate([part.n_tokens for part in parts]), beside("sums"), ends, signs, counts,
    )  # fmt: skip


def moments(of: Extremes) -> NDArray[np.float64]:
    """(d_sae, 4): mean, population standard deviation, skewness and kurtosis over all tokens that count.

    Batches are put together in their order. NaN as in `statistics.moments`. Source: Pébay, "Formulas for Robust, One-Pass
    Parallel Computation of Covariances and Arbitrary-Order Statistical Moments" (SAND2008-6212), equations 2.1 and 3.1.
    """
    n, total = 0, np.zeros((of.n_features, 4))
    for batch, m in enumerate(of.n_tokens.tolist()):
        if m:
            total = of.sums[:, batch] if n == 0 else _put_together(n, total, m, of.sums[:, batch])
            n += m
    found = np.full((of.n_features, 4), np.nan)
    if n == 0:
        return found
    is_spread = of.ends[:, 0] < of.ends[:, 1]
    m2, m3, m4 = (total[is_spread, 1:] / n).T
    found[is_spread] = np.stack([total[is_spread, MEAN], np.sqrt(m2), m3 / m2**1.5, m4 / m2**2], axis=1)
    found[~is_spread, 0], found[~is_spread, 1] = of.ends[~is_spread, 0], 0.0
    return found


def _put_together(n: int, a: NDArray[np.float64], m: int, b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sums of n values and of m more, as one's."""
    t = n + m
    d = b[:, MEAN] - a[:, MEAN]
    m2 = a[:, M2] + b[:, M2] + d**2 * (n * m / t)
    m3 = a[:, M3] + b[:, M3] + d**3 * (n * m * (n - m) / t**2) + 3 * d * (n * b[:, M2] - m * a[:, M2]) / t
    m4 = (
        a[:, M4] + b[:, M4] + d**4 * (n * m * (n**2 - n * m + m**2) / t**3)
        + 6 * d**2 * (n**2 * b[:, M2] + m**2 * a[:, M2]) / t**2 + 4 * d * (n * b[:, M3] - m * a[:, M3]) / t
    )  # fmt: skip
    return np.stack([a[:, MEAN] + d * (m / t), m2, m3, m4], axis=1)


def _owned(of: Extremes) -> Extremes:
    return Extremes(**{name: np.array(getattr(of, name)) for name in of.__slots__})


@compiled
def _extremes(
    values: NDArray[np.float32],
    counts: NDArray[np.bool_],
    high: NDArray[np.float32],
    high_at: NDArray[np.uint16],
    low: NDArray[np.float32],
    low_at: NDArray[np.uint16],
) -> None:
    for context in range(values.shape[0]):
        is_first = True
        for position in range(values.shape[1]):
            if not counts[context, position]:
                continue
            x = values[context, position]
            for f in range(len(x)):
                if is_first or x[f] > high[context, f]:
                    high[context, f], high_at[context, f] = x[f], position
                if is_first or x[f] < low[context, f]:
                    low[context, f], low_at[context, f] = x[f], position
            is_first = False


@compiled
def _sums(
    values: NDArray[np.float32], counted: NDArray[np.int64], sums: NDArray[np.float64], signs: NDArray[np.int64]
) -> None:
    """Mean and central sums in two passes, token after token; signs beside."""
    if len(counted) == 0:
        return
    for row in counted:
        x = values[row]
        for f in range(len(x)):
            sums[0, f] += x[f]
            signs[0, f] += x[f] > 0
            signs[1, f] += x[f] < 0
    for f in range(values.shape[1]):
        sums[0, f] /= len(counted)
    for row in counted:
        x = values[row]
        for f in range(len(x)):
            d = x[f] - sums[0, f]
            square = d * d
            sums[1, f] += square
            sums[2, f] += square * d
            sums[3, f] += square * square
