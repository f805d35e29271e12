"""Which pre-activations could fire: a fast matrix product and a proven bound on how far it may be off.

A screen never decides that a feature fires, only that it cannot. For one row x and one feature (w, b, θ) firing means
x·w > θ - b, so a pair may be dropped where product + margin ≤ θ - b. Two screens have the same interface:

fp32   The product of the BLAS. |fl(x·w) - x·w| ≤ γ_d·‖x‖·‖w‖, γ_d = d·u / (1 - d·u), for any order of summation
       (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., §3.1), and Cauchy-Schwarz.
int8   With x - μ = σ·q + e and w = τ·p + f, q and p in int8, x·w = στ·(q·p) + σq·f + e·w + μ·w. The integer product is
       exact, so the rest is at most ‖σq‖·‖f‖ + ‖e‖·‖w‖, whose norms are known. μ is any vector; the mean of some rows
       makes the rest small. Both sides are first turned by one orthogonal matrix (random signs, then Walsh-Hadamard in
       blocks), which leaves products as they are and spreads a residual's few huge coordinates over all of them, so
       that eight bits suffice (as in QuaRot, Ashkboos et al. 2024, arXiv:2404.00456, §3).

Both give, per row, (gain, a, b) and, per feature, (spread, cut), and a pair survives unless
    product·gain + (a + b·spread) ≤ cut
evaluated in fp32; roundings of that line itself are paid for by rounding `cut` down and `a`, `b` up by `SLACK`.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray

from workers.compute.jit import compiled

SLACK = 2.0**-18
"""Relative; the few operations of the test, in fp32, err by less than 2⁻²¹ of their largest term."""
_UNDERFLOW = 2.0**-100
"""What products that underflow, or a unit that flushes denormals, could lose; absolute, for the fp32 screen."""
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a batch as a screen wants them: the left side of its product, and the margins."""

    left: torch.Tensor
    """(n, d): fp32 or int8."""
    gain: NDArray[np.float32]
    a: NDArray[np.float32]
    b: NDArray[np.float32]
    norm: NDArray[np.float64]
    """‖x‖ for fp32, at least ‖x - μ‖ for int8."""

    def take(self, rows: NDArray[np.intp]) -> "Rows":
        """Some of the rows."""
        return Rows(self.left[torch.from_numpy(rows)], self.gain[rows], self.a[rows], self.b[rows], self.norm[rows])


class Float32Screen:
    """The BLAS's fp32 product."""

    name = "fp32"
    dtype = torch.float32

    def __init__(self, weights: torch.Tensor) -> None:
        """`weights`: (d_sae, d) fp32."""
        self._weights = weights
        n_features, d = weights.shape
        self.spread = round_up(row_norms(weights.numpy()))
        self.scale = np.ones(n_features)
        self.offset = np.zeros(n_features)
        unit = d * 2.0**-24
        self._gamma = unit / (1 - unit)
        self.order = np.arange(n_features, dtype=np.uint32)

    def rows(self, x: Float32[np.ndarray, "n d"]) -> Rows:
        """γ‖x‖ beside the rows themselves."""
        n, norm = len(x), row_norms(x)
        gain, a = np.ones(n, np.float32), np.full(n, _UNDERFLOW, np.float32)
        return Rows(torch.from_numpy(x), gain, a, round_up(norm * self._gamma), norm)

    def reorder(self, order: NDArray[np.intp]) -> None:
        """Take the features in this order; needs a second copy of the weights."""
        self.order, self.spread = self.order[order], self.spread[order]
        self._weights = self._weights[torch.from_numpy(order)]

    def product(self, left: torch.Tensor, first: int, stop: int, out: torch.Tensor) -> None:
        """fp32."""
        torch.mm(left, self._weights[first:stop].T, out=out)

    def cuts(self, limit: NDArray[np.float64]) -> NDArray[np.float32]:
        """The limits themselves."""
        return round_down(limit[self.order])


class Int8Screen:
    """Eight-bit integers on both sides; the product in int32."""

    name = "int8"
    dtype = torch.int32

    def __init__(self, weights: torch.Tensor, mean: NDArray[np.float64]) -> None:
        """`weights`: (d_sae, d) fp32; `mean`: (d,), any vector near the rows to come."""
        w = weights.numpy()
        n_features, d = w.shape
        self._mean = mean
        self._signs = np.random.default_rng(0).choice(np.array([-1.0, 1.0]), d)
        self._block = d & -d  # the largest power of two that divides d
        quantised = np.zeros((n_features, _padded(d)), np.int8)
        step, kept, lost = np.empty(n_features), np.empty(n_features), np.empty(n_features)
        quantise(w, np.zeros(d), self._signs, self._block, quantised, step, kept, lost)
        self._weights = torch.from_numpy(quantised)
        norm = row_norms(w)
        self.scale = step
        self.spread = round_up(norm / step)
        self._lost = round_up(np.array([np.max(lost / step, initial=0.0)]))[0]
        self.offset = w @ mean if n_features else np.zeros(0)
        self._offset_error = float(np.linalg.norm(mean)) * d * 2.0**-52  # of μ·w in fp64, over ‖w‖
        self.order = np.arange(n_features, dtype=np.uint32)

    def rows(self, x: Float32[np.ndarray, "n d"]) -> Rows:
        """Turned, quantised rows with the norms of what was kept and what was lost."""
        n, d = x.shape
        left = np.zeros((n, _padded(d)), np.int8)
        step, kept, lost = np.empty(n), np.empty(n), np.empty(n)
        quantise(x, self._mean, self._signs, self._block, left, step, kept, lost)
        lost += self._offset_error
        a, b = round_up(kept * float(self._lost)), round_up(lost)
        return Rows(torch.from_numpy(left), step.astype(np.float32), a, b, kept + lost)

    def reorder(self, order: NDArray[np.intp]) -> None:
        """Take the features in this order."""
        self.order, self.spread = self.order[order], self.spread[order]
        self._weights = self._weights[torch.from_numpy(order)]

    def product(self, left: torch.Tensor, first: int, stop: int, out: torch.Tensor) -> None:
        """int32, exact: |q·p| ≤ 127²·d."""
        torch._int_mm(left, self._weights[first:stop].T, out=out)

    def cuts(self, limit: NDArray[np.float64]) -> NDArray[np.float32]:
        """Less μ·w, in steps of each feature."""
        return round_down(((limit - self.offset) / self.scale)[self.order])


@functools.cache
def is_int8_exact(d: int) -> bool:
    """Whether this machine's int8 product is the integer one at this width.

    Processors without VNNI may saturate on the way, and PyTorch 2.13's product is wrong where rows have one element.
    """
    generator = np.random.default_rng(0)
    left, right = (generator.choice(np.array([-127, -126, 3, 127], np.int8), (64, _padded(d))) for _ in range(2))
    left[0], right[0], right[1] = -127, 127, -127
    try:
        found = torch._int_mm(torch.from_numpy(left), torch.from_numpy(right).T)
    except RuntimeError:
        return False
    return np.array_equal(found.numpy(), left.astype(np.int64) @ right.T.astype(np.int64))


def _padded(d: int) -> int:
    """Rows of whole eights; the rest is zero."""
    return -(-d // 8) * 8


Screen = Float32Screen | Int8Screen
"""Both have, by column of the product, `order` (its feature) and `spread`; by feature, `scale` (what one unit of
product·gain is worth) and `offset` (μ·w, the part of x·w the product leaves out); and the same methods."""


def round_up(bound: NDArray[np.float64]) -> NDArray[np.float32]:
    """A bound ≥ 0 as fp32, larger by `SLACK`."""
    with np.errstate(over="ignore"):
        return np.nextafter((bound * (1 + SLACK)).astype(np.float32), np.float32(np.inf))


def round_down(cut: NDArray[np.float64]) -> NDArray[np.float32]:
    """A cut as fp32, lower by `SLACK` of its size; never +inf, so that an overflowing product survives."""
    with np.errstate(over="ignore"):
        low = np.minimum(cut - np.abs(cut) * SLACK, _FLOAT32_MAX).astype(np.float32)
    return np.nextafter(low, np.float32(-np.inf))


def units(unit: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What one unit of a product is worth, and 1 / that, at most fp32's largest; `unit` is ≥ 0."""
    with np.errstate(divide="ignore"):
        return unit.astype(np.float32), np.minimum(1 / unit, _FLOAT32_MAX).astype(np.float32)


@compiled
def row_norms(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """‖x‖ of each row, fp64."""
    norms = np.empty(x.shape[0])
    for row in range(x.shape[0]):
        total = 0.0
        for i in range(x.shape[1]):
            total += np.float64(x[row, i]) * np.float64(x[row, i])
        norms[row] = np.sqrt(total)
    return norms


@compiled
def quantise(
    x: NDArray[np.float32],
    mean: NDArray[np.float64],
    signs: NDArray[np.float64],
    block: int,
    out: NDArray[np.int8],
    step: NDArray[np.float64],
    kept: NDArray[np.float64],
    lost: NDArray[np.float64],
) -> None:
    """Turn x - mean and round it to `step`·int8; norms of the rounded row and of what rounding lost, each a bound."""
    n, d = x.shape
    turned = np.empty(d)
    for row in range(n):
        for i in range(d):
            turned[i] = (np.float64(x[row, i]) - mean[i]) * signs[i]
        _walsh_hadamard(turned, block)
        largest, total = 0.0, 0.0
        for i in range(d):
            largest = max(largest, abs(turned[i]))
            total += turned[i] * turned[i]
        # a step that fp32 holds exactly, so that the rows' gain is this very number
        unit = np.float64(np.float32(max(largest / 127.0, 2.0**-120)))
        inverse = 1.0 / unit
        kept_square, lost_square = 0.0, 0.0
        for i in range(d):
            q = min(max(np.rint(turned[i] * inverse), -127.0), 127.0)
            out[row, i] = np.int8(q)
            rest = turned[i] - q * unit
            kept_square += q * q
            lost_square += rest * rest
        step[row] = unit
        kept[row] = np.sqrt(kept_square) * unit
        # fp64 roundings of the turning and of these sums: far below 2⁻⁴⁰ of the row's norm
        lost[row] = np.sqrt(lost_square) + np.sqrt(total) * 2.0**-40


@compiled
def _walsh_hadamard(x: NDArray[np.float64], block: int) -> None:
    """The orthonormal Walsh-Hadamard transform of each run of `block` numbers, in place."""
    half = 1
    while half < block:
        for start in range(0, x.shape[0], 2 * half):
            for i in range(start, start + half):
                low, high = x[i], x[i + half]
                x[i], x[i + half] = low + high, low - high
        half *= 2
    scale = 1.0 / np.sqrt(float(block))
    for i in range(x.shape[0]):
        x[i] *= scale
