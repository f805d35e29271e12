"""Which pre-activations could fire, asked of a GPU's bf16 tensor cores, and how far their answer may be off.

The same promise as `screens`: a pair is dropped only where it provably cannot fire. With x - μ = x̂ + e, w = ŵ + f and x̂,
ŵ in bf16,
    x·w = x̂·ŵ + μ·w + e·w + x̂·f,   so   |x·w - x̂·ŵ - μ·w| ≤ ‖e‖·‖w‖ + ‖x̂‖·‖f‖   (Cauchy-Schwarz),
and all four norms are computed in fp64 from the numbers themselves. μ is any vector; the mean of some rows takes off
the few huge coordinates of a residual stream, which would make ‖e‖ large.

The product x̂·ŵ itself is accumulated by hardware that does not follow IEEE 754. Products of two bf16 numbers are exact
in it; for blocks of N of them it aligns the products and the accumulator to the largest, keeps at least 24 bits of
each and cuts off the rest, adds, and cuts off again (Fasi et al. 2021, PeerJ CS 7:e330, §4, for V100, T4 and A100: N = 4
to 8; Khattak and Mikaitis 2025, arXiv:2512.07004, for H100 and B200, which keep more). With S = Σ|x̂ᵢ·ŵᵢ| a block loses at
most (N + 3)·2⁻²³·S, d/N blocks at most 3.5·d·2⁻²⁴·S for N ≥ 4. `_ACCUMULATION` = 4 takes in the growth of the partial
sums, and S ≤ ‖x̂‖·‖ŵ‖. fp32 units that round each operation err by a quarter of that, so the bound holds for any
device's matrix product of these numbers in fp32, TF32 included.

A kernel evaluates ((product + shift) + (lost·norm + kept·rest))·unit in fp32; its roundings are paid for by `_ROOM` in
`rest` and in `shift`. Numbers below 2⁻⁶³ are rounded to zero, so that no product is denormal.
"""

from dataclasses import dataclass

import torch
from jaxtyping import BFloat16, Bool, Float32, Float64, Int32
from torch import Tensor

from workers.compute.exact import FLOAT64_STEP

WIDTH_STEP = 64
"""Rows are padded with zeros to a multiple of this: a kernel's step along them, without a mask."""
UNDERFLOW = 2.0**-100
"""Absolute; far above what fp32 could lose to denormals, far below any pre-activation that matters."""
_ACCUMULATION = 4
_ROOM = 2.0**-20
_SMALLEST = 2.0**-63
_LARGEST = 2.0**126
_SUMS = 2.0**-40
"""Relative; fp64 roundings of sums over a row."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of x as a kernel wants them."""

    left: BFloat16[Tensor, "n width"]
    lost: Float32[Tensor, " n"]
    """At least ‖x - μ - left‖."""
    kept: Float32[Tensor, " n"]
    """At least ‖left‖; infinite where a product could overflow, so that all its pairs survive."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Features as a kernel wants them."""

    right: BFloat16[Tensor, "d_sae width"]
    norm: Float32[Tensor, " d_sae"]
    """At least ‖w‖."""
    rest: Float32[Tensor, " d_sae"]
    """At least ‖w - right‖, plus what accumulation may lose, over ‖left‖."""
    lower: Float32[Tensor, " d_sae"]
    upper: Float32[Tensor, " d_sae"]
    """Bounds on bias - threshold + μ·w, what is added to a product; -inf for features that nothing fires."""
    unit: Float32[Tensor, " d_sae"]
    """What values are ranked by; 1 except for some top-k SAEs."""


@dataclass(frozen=True, slots=True)
class Survivors:
    """Pairs a kernel found, in no particular order."""

    row: Int32[Tensor, " room"]
    feature: Int32[Tensor, " room"]
    count: Int32[Tensor, ""]
    """How many were found; more than there was room for means that some are missing."""


def room(n: int, device: torch.device) -> Survivors:
    """Room for `n` pairs."""
    row, feature = (torch.empty(n, dtype=torch.int32, device=device) for _ in range(2))
    return Survivors(row, feature, torch.zeros((), dtype=torch.int32, device=device))


class Bf16Screen:
    """The weights rounded, and the bounds, on one device."""

    def __init__(
        self,
        weights: Float32[Tensor, "d_sae d"],
        bias: Float32[Tensor, " d_sae"],
        threshold: Float32[Tensor, " d_sae"],
        unit: Float32[Tensor, " d_sae"],
        mean: Float64[Tensor, " d"],
    ) -> None:
        """`mean`: any vector near the rows to come."""
        d = weights.shape[1]
        self._mean = mean
        right = torch.zeros(len(weights), _padded(d), dtype=torch.bfloat16, device=weights.device)
        norm, kept, lost, offset = (torch.empty_like(bias, dtype=torch.float64) for _ in range(4))
        for start in range(0, len(weights), 4096):  # fp64 copies of a few features at a time
            w, part = weights[start : start + 4096].double(), slice(start, start + 4096)
            right[part, :d] = _rounded(w)
            held = right[part, :d].double()
            norm[part], kept[part], lost[part] = (m.norm(dim=1) for m in (w, held, w - held))
            offset[part] = w @ mean
        gamma = _ACCUMULATION * d * 2.0**-24
        self._longest = float(kept.max()) if len(weights) else 0.0
        self.columns = Columns(
            right=right, norm=_up(norm * (1 + _ROOM)),
            rest=_up((lost + kept * (gamma / (1 - gamma) + _ROOM)) * (1 + _ROOM)),
            **_shifts(bias.double() - threshold.double(), offset, float(mean.norm()) * norm * (d * FLOAT64_STEP), norm == 0),
            unit=unit,
        )  # fmt: skip

    def rows(self, x: Float32[Tensor, "n d"]) -> Rows:
        """Rows less the mean, rounded, with the norms of what was kept and what was lost."""
        centred = x.double() - self._mean
        left = torch.zeros(len(x), _padded(x.shape[1]), dtype=torch.bfloat16, device=x.device)
        left[:, : x.shape[1]] = _rounded(centred)
        held = left[:, : x.shape[1]].double()
        kept, lost = held.norm(dim=1), (centred - held).norm(dim=1)
        lost += (kept + lost) * _SUMS
        kept = torch.where(kept * self._longest < _LARGEST, kept, torch.inf)
        return Rows(left, _up(lost * (1 + _ROOM)), _up(kept * (1 + _ROOM)))


def _shifts(
    shift: Float64[Tensor, " n"],
    offset: Float64[Tensor, " n"],
    error: Float64[Tensor, " n"],
    is_zero: Bool[Tensor, " n"],
) -> dict[str, Tensor]:
    """Shift + offset from below and above; `error` is that of offset, `is_zero` says where weights are."""
    total = shift + offset
    room = total.abs() * _ROOM + (shift.abs() + offset.abs()) * (4 * FLOAT64_STEP) + error + UNDERFLOW
    is_dead = is_zero & (shift <= 0)
    return {
        "lower": torch.where(is_dead, -torch.inf, -_up(room - total)),
        "upper": torch.where(is_dead, -torch.inf, _up(total + room)),
    }


def _rounded(x: Float64[Tensor, "n d"]) -> BFloat16[Tensor, "n d"]:
    return torch.where(x.abs() < _SMALLEST, 0.0, x).to(torch.bfloat16)


def _up(bound: Float64[Tensor, " n"]) -> Float32[Tensor, " n"]:
    """The fp32 number above."""
    return torch.nextafter(bound.float(), torch.tensor(torch.inf, device=bound.device))


def _padded(d: int) -> int:
    return -(-d // WIDTH_STEP) * WIDTH_STEP
