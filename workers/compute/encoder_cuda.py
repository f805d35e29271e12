"""An SAE's encoder on a GPU: `encoder`'s twin, with the same answer to the bit.

1. `bf16_screen` says which pairs of token and feature could fire; a kernel appends them to a buffer. Where the buffer
   was too small, the rows are taken again in halves.
2. The sum of each surviving pair in fp64 with a bound on its error; where both ends round to the same fp32 number, that
   is the pre-activation. The few others (two in 10⁴ at width 2,304) are summed again in pairs of fp64 numbers,
   and what even that leaves open (ties, about one in 10⁸) in integers on the host.
3. Threshold, gate, or the k largest; then the scale, as on a CPU.
Top-k needs a floor under each token's k-th largest value first: the k-th largest among the largest lower bounds of
groups of features, a second pass of the same product.

The kernels are Triton's on a GPU, and plain torch elsewhere (`torch_kernels`), so all of this runs on a CPU too.
Written against Triton's interpreter and its compiler; what was not run on a GPU is in docs/decisions/0007-gpu.md.
"""

import contextlib
import importlib.util
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int32
from torch import Tensor

from workers.compute import abs_top_k, bf16_screen, exact, torch_kernels
from workers.compute.bf16_screen import Columns, Rows, Survivors
from workers.compute.encoder import Firings, normalise
from workers.compute.sae import Sae

MAX_ROWS = 1 << 15
MAX_SURVIVORS = 1 << 27
_SAMPLE_ROWS = 512
_SURVIVOR_BYTES = 128
"""Of a pair, with the temporaries of rounding it."""
_ROW_BYTES = 48
"""Of one number of a row, with its fp64 temporaries."""
_CPU_BYTES = 1 << 28
_PAIRS_TOGETHER = 1 << 13
"""Summed a second time side by side."""


@runtime_checkable
class Kernels(Protocol):
    """What `torch_kernels` and `triton_kernels` have."""

    def survivors(self, rows: Rows, columns: Columns, floor: Float32[Tensor, " n"], out: Survivors) -> None:
        """Append the pairs that could fire."""

    def group_lows(self, rows: Rows, columns: Columns, group: int) -> Float32[Tensor, "n n_groups"]:
        """The largest lower bound of each group of features."""

    def totals(
        self,
        x: Float32[Tensor, "n d"],
        weights: Float32[Tensor, "d_sae d"],
        row: Int32[Tensor, " n_pairs"],
        feature: Int32[Tensor, " n_pairs"],
    ) -> Float64[Tensor, " n_pairs"]:
        """Sums of pairs in fp64."""


@dataclass(frozen=True, slots=True)
class DeviceFirings:
    """As `encoder.Firings`, on the encoder's device and in no particular order."""

    row: Int32[Tensor, " n"]
    feature: Int32[Tensor, " n"]
    value: Float32[Tensor, " n"]


@dataclass(frozen=True, slots=True)
class _Path:
    """Weights that make one number of a feature."""

    weights: Float32[Tensor, "d_sae d"]
    bias: Float32[Tensor, " d_sae"]
    norm: Float64[Tensor, " d_sae"]
    """‖w‖"""


@dataclass(slots=True)
class _Plan:
    """What depends on the first rows and on the memory that was free then."""

    screen: bf16_screen.Bf16Screen
    n_rows: int
    """Rows screened at once; halved when they have more survivors than there is room for."""
    n_survivors: int


class CudaEncoder:
    """One SAE's encoder on the device its weights are on, prepared once. Calls from several threads are safe."""

    screen = "bf16"

    def __init__(self, sae: Sae, *, memory_bytes: int = 0, kernels: Kernels | None = None) -> None:
        """`memory_bytes`: for buffers, beside the weights; 0: a quarter of what is free when the first rows come."""
        self.sae = sae
        sae = self._dictionary = abs_top_k.as_top_k(sae)
        self.device = sae.W_enc.device
        self._kernels = kernels or kernels_for(self.device)
        self._memory_bytes = memory_bytes
        self._path = _path(sae.W_enc, sae.b_enc if sae.b_gate is None else sae.b_gate)
        gain = sae.magnitude_gain
        self._magnitude = None if gain is None else _path(sae.W_enc * gain, sae.b_enc)
        description = sae.description
        self._k = (description.k or 0) if description.architecture == "topk" else 0
        self._ones = torch.ones_like(sae.decoder_norm)
        self._unit = sae.decoder_norm if self._k and description.is_scaled_by_decoder_norm else self._ones
        self._scale = self._ones if description.is_scaled_by_decoder_norm else sae.decoder_norm
        self._plan: _Plan | None = None
        self._lock = threading.Lock()

    def encode(self, residuals: Float[Tensor, "n d_in"], counts: Bool[np.ndarray, " n"] | None = None) -> Firings:
        """As `encoder.Encoder.encode`: firings in the host's memory, by row and then feature."""
        found = self.fire(residuals, counts)
        order = torch.argsort(found.row.long() * self.sae.d_sae + found.feature)
        row, feature, value = (column[order].cpu().numpy() for column in (found.row, found.feature, found.value))
        return Firings(row.view(np.uint32), feature.view(np.uint32), value)

    def fire(self, residuals: Float[Tensor, "n d_in"], counts: Bool[np.ndarray, " n"] | None = None) -> DeviceFirings:
        """Firings of every feature on `n` tokens, those where `counts` is False left out."""
        with on_device(self.device), torch.inference_mode():
            x = normalise(self._dictionary, residuals.to(self.device)).contiguous()
            kept = None
            if counts is not None and not counts.all():
                kept = torch.from_numpy(np.flatnonzero(counts)).to(self.device)
                x = x[kept]
            plan = self._prepared(x)
            parts, low = [_nothing(self.device)], 0
            while low < len(x):
                high = min(low + plan.n_rows, len(x))
                part = self._fire(plan, x[low:high])
                if part is None:
                    plan.n_rows = max(1, (high - low) // 2)
                    continue
                parts.append(DeviceFirings(part.row + low, part.feature, part.value))
                low = high
            row, feature, value = (torch.cat(column) for column in zip(*map(_columns, parts), strict=True))
            if abs_top_k.is_needed(self.sae):
                feature, value = feature // 2, torch.where(feature % 2 == 0, value, -value)
            return DeviceFirings(row if kept is None else kept[row].int(), feature, value)

    def _prepared(self, x: Float32[Tensor, "n d"]) -> _Plan:
        if self._plan is None:
            with self._lock:
                if self._plan is None:
                    self._plan = self._planned(x[:_SAMPLE_ROWS])
        return self._plan

    def _planned(self, sample: Float32[Tensor, "n d"]) -> _Plan:
        path, d_sae, d = self._path, self._dictionary.d_sae, sample.shape[1]
        mean = sample.double().mean(dim=0) if len(sample) else torch.zeros(d, dtype=torch.float64, device=self.device)
        screen = bf16_screen.Bf16Screen(path.weights, path.bias, self._dictionary.threshold, self._unit, mean)
        memory_bytes = self._memory_bytes or free_bytes(self.device) // 4
        n_survivors = max(d_sae, min(memory_bytes // 2 // _SURVIVOR_BYTES, MAX_SURVIVORS))
        n_rows = min(memory_bytes // 2 // (_ROW_BYTES * d), MAX_ROWS, (2**31 - 1) // d_sae)
        return _Plan(screen, max(1, n_rows), n_survivors)

    def _fire(self, plan: _Plan, x: Float32[Tensor, "n d"]) -> DeviceFirings | None:
        """Firings of some rows; None where there was no room for all that could fire."""
        rows = plan.screen.rows(x)
        found = bf16_screen.room(min(plan.n_survivors, len(x) * self._dictionary.d_sae), self.device)
        self._kernels.survivors(rows, plan.screen.columns, self._floor(rows, plan.screen.columns), found)
        n = int(found.count)
        if n > len(found.row):
            return None
        row, feature = found.row[:n], found.feature[:n]
        error = x.double().norm(dim=1) * ((x.shape[1] + 2) * exact.FLOAT64_STEP)
        value = self._pre_activations(self._path, x, error, row, feature)
        if self._k:
            return self._largest(row, feature, value * self._unit[feature])
        fires = value > self._dictionary.threshold[feature]
        row, feature, value = row[fires], feature[fires], value[fires]
        if self._magnitude is not None:
            value = self._pre_activations(self._magnitude, x, error, row, feature)
            fires = value > 0
            row, feature, value = row[fires], feature[fires], value[fires]
        return DeviceFirings(row, feature, value * self._scale[feature])

    def _floor(self, rows: Rows, columns: Columns) -> Float32[Tensor, " n"]:
        """What a pair's upper bound must exceed: for top-k a number below the k-th largest value."""
        floor = torch.full_like(rows.lost, -bf16_screen.UNDERFLOW)
        if not self._k:
            return floor
        # the k-th largest of n groups is close to the k-th largest of all only where n is a few times k
        group = next((size for size in (128, 64, 32) if self._dictionary.d_sae >= 2 * self._k * size), 16)
        lows = self._kernels.group_lows(rows, columns, group)
        if lows.shape[1] < self._k:
            return floor
        least = lows.topk(self._k, dim=1, sorted=False).values.amin(dim=1)
        return torch.maximum(floor, torch.nextafter(least, torch.full_like(least, -torch.inf)))

    def _largest(
        self, row: Int32[Tensor, " n"], feature: Int32[Tensor, " n"], value: Float32[Tensor, " n"]
    ) -> DeviceFirings:
        """Of each row the k largest values above zero; ties go to the lower feature."""
        fires = value > 0
        row, feature, value = row[fires], feature[fires], value[fires]
        by_feature = torch.argsort(feature)
        # positive fp32 numbers are ordered as their bits are
        key = (row.long() << 32) - value.view(torch.int32)
        order = by_feature[torch.argsort(key[by_feature], stable=True)]
        row, feature, value = row[order], feature[order], value[order]
        rank = torch.arange(len(row), device=self.device) - torch.searchsorted(row, row)
        kept = rank < self._k
        row, feature, value = row[kept], feature[kept], value[kept]
        return DeviceFirings(row, feature, value * self._scale[feature])

    def _pre_activations(
        self,
        path: _Path,
        x: Float32[Tensor, "n d"],
        error: Float64[Tensor, " n"],
        row: Int32[Tensor, " n_pairs"],
        feature: Int32[Tensor, " n_pairs"],
    ) -> Float32[Tensor, " n_pairs"]:
        """The exact sums, rounded once; `error` times ‖w‖ bounds what an fp64 sum over a row may be off."""
        total = self._kernels.totals(x, path.weights, row, feature) + path.bias[feature]
        value = _rounded(total, error[row] * path.norm[feature])
        open_pairs = value.isnan().nonzero()[:, 0]
        for pairs in torch.split(open_pairs, _PAIRS_TOGETHER):
            value[pairs] = _summed_twice(path, x, row[pairs], feature[pairs])
        return value


def kernels_for(device: torch.device) -> Kernels:
    """Triton's on a GPU where it is installed, else plain torch."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return torch_kernels
    from workers.compute import triton_kernels  # Triton is not everywhere, and slow to import

    return triton_kernels


def on_device(device: torch.device) -> AbstractContextManager[None]:
    """Make a GPU the current one, which kernels are launched on; nothing on a CPU."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def free_bytes(device: torch.device) -> int:
    """What is free on a GPU, with what PyTorch holds unused; a modest constant on a CPU."""
    if device.type != "cuda":
        return _CPU_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _path(W_enc: Float32[Tensor, "d d_sae"], bias: Float32[Tensor, " d_sae"]) -> _Path:
    weights = W_enc.T.contiguous()
    norm = (
        torch.cat([part.double().norm(dim=1) for part in torch.split(weights, 4096)]) if len(weights) else weights[:, 0]
    )
    return _Path(weights, bias, norm)


def _nothing(device: torch.device) -> DeviceFirings:
    none = torch.zeros(0, dtype=torch.int32, device=device)
    return DeviceFirings(none, none, none.float())


def _columns(firings: DeviceFirings) -> tuple[Tensor, Tensor, Tensor]:
    return firings.row, firings.feature, firings.value


def _rounded(total: Float64[Tensor, " n"], error: Float64[Tensor, " n"]) -> Float32[Tensor, " n"]:
    """By `exact.bounds`: totals as fp32, NaN where `error` could change the last bit."""
    error = error + total.abs() * exact.FLOAT64_STEP
    low, high = (total - error).float(), (total + error).float()
    return torch.where(low == high, low, torch.nan)


def _summed_twice(
    path: _Path, x: Float32[Tensor, "n d"], row: Int32[Tensor, " n_pairs"], feature: Int32[Tensor, " n_pairs"]
) -> Float32[Tensor, " n_pairs"]:
    """Pre-activations by sums of twice the precision, and in integers where that does not decide."""
    weights, bias = path.weights[feature], path.bias[feature].double()
    products = x[row].double() * weights.double()  # exact
    high, low = _double_double(products)
    total, lost = _two_sum(high, bias)
    # L levels of a tree over n products lose at most 2L²·2⁻¹⁰⁶·Σ|xᵢ·wᵢ|, L ≤ 20
    value = _rounded(total + (low + lost), products.abs().sum(dim=1) * 2.0**-90)
    for i in value.isnan().nonzero()[:, 0].tolist():
        pair = (x[row[i]].cpu().numpy(), weights[i].cpu().numpy(), float(bias[i]))
        value[i] = float(exact.inner_product(*pair))
    return value


def _double_double(terms: Float64[Tensor, "n d"]) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " n"]]:
    """Row sums as the sum of two fp64 numbers: a tree of exact additions, their errors summed beside."""
    low = torch.zeros_like(terms)
    while terms.shape[1] > 1:
        if terms.shape[1] % 2:
            terms, low = (torch.nn.functional.pad(part, (0, 1)) for part in (terms, low))
        half = terms.shape[1] // 2
        terms, lost = _two_sum(terms[:, :half], terms[:, half:])
        low = low[:, :half] + low[:, half:] + lost
    return terms[:, 0], low[:, 0]


def _two_sum(a: Float64[Tensor, "*n"], b: Float64[Tensor, "*n"]) -> tuple[Float64[Tensor, "*n"], Float64[Tensor, "*n"]]:
    """A + b and what rounding it lost, exactly (Knuth, TAOCP vol. 2, §4.2.2, theorem B)."""
    total = a + b
    other = total - a
    return total, (a - (total - other)) + (b - other)
