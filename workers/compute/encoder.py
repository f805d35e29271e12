"""An SAE's encoder on a CPU: residuals in, firings out; dense activations never leave a tile that fits the cache.

For each tile of rows and features: a fast product (`screens`), one comparison a pair, and for the few survivors the
pre-activation itself (`exact`). What fires, and with which value, is decided by that number alone, so the answer is the
same to the bit whatever the screen, the tile, the number of threads or the library. Firing follows the SAE's own
weights; only then is the value scaled by ‖W_dec‖, as if decoder rows had unit norm (what SAEDashboard and Neuronpedia
show). The GPU's twin of this file is `encoder_cuda`.

Source of the semantics: sae_lens/saes/{sae,standard_sae,topk_sae,abstopk_sae,jumprelu_sae,gated_sae}.py, SAELens 6.54.
"""

import threading
import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt32
from numpy.typing import NDArray
from torch import Tensor

from workers.compute import abs_top_k, exact, firing_kernels, screens
from workers.compute.sae import Sae

ScreenName = Literal["auto", "fp32", "int8"]
SCREENS: tuple[ScreenName, ...] = ("auto", "fp32", "int8")
ROW_TILE = 512
FEATURE_TILE = 512
"""A tile's product is 1 MB and its encoder weights as much: the second-level cache of today's cores."""
_SAMPLE_ROWS = 512
_LEAST = float(np.finfo(np.float32).smallest_subnormal)
"""Floor of a token nothing is known of: zero does not fire."""
_REACH = 2.0
"""Features that no row of this many times the sample's largest norm could fire are left out of the product."""


@dataclass(frozen=True, slots=True)
class Firings:
    """Non-zero activations of a run of tokens, ascending by row for each feature."""

    row: UInt32[np.ndarray, " n"]
    feature: UInt32[np.ndarray, " n"]
    value: Float32[np.ndarray, " n"]
    """Scaled by ‖W_dec‖ unless the source is kept raw."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """A screen and what it compares with, for the columns in the order the product takes them."""

    screen: screens.Screen
    cut: NDArray[np.float32]
    n_reachable: int
    """Columns that come first because a row of norm up to `longest` can fire them."""
    longest: float


class Encoder:
    """One SAE's encoder, prepared once. Calls from several threads run side by side."""

    def __init__(self, sae: Sae, *, screen: ScreenName = "auto") -> None:
        """`auto` times both screens on the first rows it is given and keeps the faster."""
        self.sae = sae
        sae = self._dictionary = abs_top_k.as_top_k(sae)
        self._weights = sae.W_enc.T.contiguous()
        description = sae.description
        self._is_top_k = description.architecture == "topk"
        self._weight_norm = screens.row_norms(self._weights.numpy())
        self._bias = (sae.b_gate if sae.b_gate is not None else sae.b_enc).numpy()
        self._norm = sae.decoder_norm.numpy()
        self._ones = np.ones(sae.d_sae, np.float32)
        self._magnitude = self._magnitude_weights()
        self._magnitude_norm = screens.row_norms(self._magnitude[0])
        self._limit = sae.threshold.numpy().astype(np.float64) - self._bias
        self._choice: ScreenName = screen
        self._plan: _Plan | None = None
        self._guess = 0.0
        """Top-k: floor under the k-th largest value, as a share of the token's norm; it changes the time only."""
        self._lock = threading.Lock()

    @property
    def screen(self) -> str:
        """Name of the screen in use; `auto` until the first rows."""
        return self._plan.screen.name if self._plan else self._choice

    def encode(self, residuals: Float[Tensor, "n d_in"], counts: Bool[np.ndarray, " n"] | None = None) -> Firings:
        """Firings of every feature on `n` tokens, those where `counts` is False left out.

        Top-k: the k largest pre-activations of each token, those above zero; ties go to the lower index. Abs-top-k: the
        k largest by magnitude, those that are not zero.
        """
        x = normalise(self._dictionary, residuals).contiguous().numpy()
        counts = np.ones(len(x), np.bool_) if counts is None else counts
        plan = self._prepared(x[counts])
        firings = self._top_k(plan, x, counts) if self._is_top_k else self._fire(plan, x, counts)
        return _signed(firings) if abs_top_k.is_needed(self.sae) else firings

    def _prepared(self, x: NDArray[np.float32]) -> _Plan:
        if self._plan is None:
            with self._lock:
                if self._plan is None:
                    self._plan = self._choose(x[:_SAMPLE_ROWS])
        return self._plan

    def _choose(self, sample: NDArray[np.float32]) -> _Plan:
        plans: list[_Plan] = []
        mean = sample.mean(axis=0, dtype=np.float64) if len(sample) else np.zeros(self._dictionary.description.d_in)
        if self._choice in ("auto", "int8") and screens.is_int8_exact(self._dictionary.description.d_in):
            plans.append(self._planned(screens.Int8Screen(self._weights, mean), sample - mean))
        if self._choice in ("auto", "fp32") or not plans:
            plans.append(self._planned(screens.Float32Screen(self._weights), sample))
        if len(plans) == 1 or len(sample) == 0:
            return plans[-1]
        seconds = []
        counts = np.ones(len(sample), np.bool_)
        for plan in plans:
            run = self._top_k if self._is_top_k else self._fire
            run(plan, sample[:1], counts[:1])  # what is compiled or allocated once is not timed
            started = time.thread_time()
            run(plan, sample, counts)
            seconds.append(time.thread_time() - started)
        return plans[int(np.argmin(seconds))]

    def _planned(self, screen: screens.Screen, sample: NDArray[np.floating]) -> _Plan:
        """Columns out of reach go last: |x·w| ≤ ‖x‖·‖w‖ stays below their limit for every row up to `longest`."""
        longest = _REACH * float(np.linalg.norm(sample, axis=1).max(initial=0.0))
        limit = self._limit - screen.offset
        reachable = limit <= longest * self._weight_norm * (1 + screens.SLACK)
        if self._is_top_k or bool(reachable.all()):
            return _Plan(screen, screen.cuts(self._limit), self._dictionary.d_sae, np.inf)
        screen.reorder(np.argsort(~reachable, kind="stable"))
        return _Plan(screen, screen.cuts(self._limit), int(reachable.sum()), longest)

    def _magnitude_weights(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weights and bias of the number a gated feature fires with; for others those that decide firing."""
        if self._dictionary.magnitude_gain is None:
            return self._weights.numpy(), self._bias
        scaled = (self._dictionary.W_enc * self._dictionary.magnitude_gain).T.contiguous()
        return scaled.numpy(), self._dictionary.b_enc.numpy()

    def _scale(self) -> NDArray[np.float32]:
        return self._ones if self._dictionary.description.is_scaled_by_decoder_norm else self._norm

    def _fire(self, plan: _Plan, x: NDArray[np.float32], counts: NDArray[np.bool_]) -> Firings:
        screen, weights = plan.screen, self._weights.numpy()
        rows = screen.rows(x)
        x_norm = screens.row_norms(x)
        error = x_norm * (x.shape[1] + 2) * exact.FLOAT64_STEP
        out = firing_kernels.Buffer()
        product = torch.empty((min(ROW_TILE, len(x)), FEATURE_TILE), dtype=screen.dtype)
        for low in range(0, len(x), ROW_TILE):
            high = min(low + ROW_TILE, len(x))
            n_columns = plan.n_reachable if rows.norm[low:high].max() <= plan.longest else self._dictionary.d_sae
            for first in range(0, n_columns, FEATURE_TILE):
                stop = min(first + FEATURE_TILE, n_columns)
                tile = product.flatten()[: (high - low) * (stop - first)].view(high - low, stop - first)
                screen.product(rows.left[low:high], first, stop, tile)
                out.reserve((high - low) * (stop - first))
                out.n, n_undecided = firing_kernels.fire(
                    tile.numpy(), counts[low:high], rows.gain[low:high], rows.a[low:high], rows.b[low:high],
                    screen.spread[first:stop], plan.cut[first:stop], screen.order[first:stop],
                    x[low:high], error[low:high], weights, self._bias, self._weight_norm,
                    *self._magnitude, self._magnitude_norm, self._dictionary.threshold.numpy(), self._scale(),
                    self._dictionary.magnitude_gain is not None, low, out.row, out.feature, out.value, out.n,
                )  # fmt: skip
                out.n_undecided += n_undecided
        firings = Firings(*out.columns())
        return self._decided(firings, x) if out.n_undecided else firings

    @np.errstate(over="ignore")
    def _decided(self, firings: Firings, x: NDArray[np.float32]) -> Firings:
        """Settle the firings whose last bit fp64 left open, in exact arithmetic."""
        row, feature, value = firings.row, firings.feature, firings.value.copy()
        is_kept = np.ones(len(row), np.bool_)
        weights, (magnitude, magnitude_bias) = self._weights.numpy(), self._magnitude
        threshold, scale = self._dictionary.threshold.numpy(), self._scale()
        for i in np.flatnonzero(np.isnan(value)):
            r, f = row[i], feature[i]
            pre = exact.inner_product(x[r], weights[f], float(self._bias[f]))
            is_kept[i] = pre > threshold[f]
            if self._dictionary.magnitude_gain is not None:
                pre = exact.inner_product(x[r], magnitude[f], float(magnitude_bias[f]))
                is_kept[i] &= pre > 0
            value[i] = pre * scale[f]
        return Firings(row[is_kept], feature[is_kept], value[is_kept])

    @np.errstate(over="ignore")  # beyond fp32's range a value is infinite, here as in a matrix product
    def _top_k(self, plan: _Plan, x: NDArray[np.float32], counts: NDArray[np.bool_]) -> Firings:
        """The first floor under a token's k-th largest value is a guess from other tokens; where it was too high, again."""
        k = self._dictionary.description.k or 0
        rows = plan.screen.rows(x)
        floor = np.maximum(self._guess * rows.norm, _LEAST).astype(np.float32)
        row, feature, value = self._best(plan, x, rows, counts, floor)
        n_above = np.bincount(row[value >= floor[row]], minlength=len(x))
        again = np.flatnonzero(counts & (n_above < k) & (floor > _LEAST))
        if len(again):
            least = np.full(len(again), _LEAST, np.float32)
            more = self._best(plan, x[again], rows.take(again), np.ones(len(again), np.bool_), least)
            is_kept = ~np.isin(row, again)
            row = np.concatenate([row[is_kept], again[more[0]].astype(np.uint32)])
            order = np.argsort(row, kind="stable")
            row = row[order]
            feature = np.concatenate([feature[is_kept], more[1]])[order]
            value = np.concatenate([value[is_kept], more[2]])[order]
        self._guess = self._next_guess(row, value, rows.norm, k)
        if not self._dictionary.description.is_scaled_by_decoder_norm:
            value = value * self._norm[feature]
        return Firings(row, feature, value)

    def _next_guess(
        self, row: NDArray[np.uint32], value: NDArray[np.float32], norm: NDArray[np.float64], k: int
    ) -> float:
        """A share of a token's norm that its k-th largest value seldom falls below."""
        if len(row) == 0:
            return 0.0
        starts = np.flatnonzero(np.diff(row, prepend=row[:1] + np.uint32(1)))
        is_full = np.diff(starts, append=len(row)) == k
        smallest = np.minimum.reduceat(value, starts) / np.maximum(norm[row[starts]], _LEAST)
        usual = smallest[is_full & np.isfinite(smallest)]
        return 0.95 * float(np.quantile(usual, 0.02)) if 2 * len(usual) > len(starts) else 0.0

    def _best(
        self,
        plan: _Plan,
        x: NDArray[np.float32],
        rows: screens.Rows,
        counts: NDArray[np.bool_],
        floor: NDArray[np.float32],
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.float32]]:
        """Row, feature and ranked value of each token's k largest among those that reach its floor."""
        screen, k = plan.screen, self._dictionary.description.k or 0
        ranked_by = self._norm if self._dictionary.description.is_scaled_by_decoder_norm else self._ones
        base = ((self._bias + screen.offset) / screen.scale).astype(np.float32)
        unit, inverse = screens.units(ranked_by * screen.scale)
        error = screens.row_norms(x) * (x.shape[1] + 2) * exact.FLOAT64_STEP
        product = torch.empty((min(ROW_TILE, len(x)), FEATURE_TILE), dtype=screen.dtype)
        found = firing_kernels.Candidates(min(ROW_TILE, len(x)), self._dictionary.d_sae)
        parts = [(np.zeros(0, np.uint32), np.zeros(0, np.uint32), np.zeros(0, np.float32))]
        for low in range(0, len(x), ROW_TILE):
            high = min(low + ROW_TILE, len(x))
            found.clear(k, floor[low:high])
            for first in range(0, self._dictionary.d_sae, FEATURE_TILE):
                stop = min(first + FEATURE_TILE, self._dictionary.d_sae)
                tile = product.flatten()[: (high - low) * (stop - first)].view(high - low, stop - first)
                screen.product(rows.left[low:high], first, stop, tile)
                firing_kernels.collect(
                    tile.numpy(), counts[low:high], rows.gain[low:high], rows.a[low:high], rows.b[low:high],
                    screen.spread[first:stop], base[first:stop], unit[first:stop], inverse[first:stop], first, k,
                    found.floor, found.n, found.trigger, found.feature, found.low, found.high,
                )  # fmt: skip
            row, feature, pre = firing_kernels.rescore(
                x[low:high], error[low:high], self._weights.numpy(), self._bias, self._weight_norm, ranked_by,
                found.floor, found.n, found.feature, found.low, found.high, k,
            )  # fmt: skip
            for i in np.flatnonzero(np.isnan(pre)):
                f = feature[i]
                pre[i] = exact.inner_product(x[low + int(row[i])], self._weights.numpy()[f], float(self._bias[f]))
            value = pre * ranked_by[feature]
            kept = firing_kernels.largest(row, value, k, high - low)
            parts.append((row[kept] + np.uint32(low), feature[kept], value[kept]))
        row, feature, value = (np.concatenate(column) for column in zip(*parts, strict=True))
        return row, feature, value


def _signed(firings: Firings) -> Firings:
    """Firings of `abs_top_k.as_top_k` as those of the features it stands for."""
    value = np.where(firings.feature % 2, -firings.value, firings.value)
    return Firings(firings.row, firings.feature // np.uint32(2), value)


def normalise(sae: Sae, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_in"]:
    """The SAE's input in fp32: its run-time normalisation, then minus b_dec where it says so."""
    x = x.float()
    match sae.description.normalize_activations:
        case "constant_norm_rescale":
            x = x * (sae.description.d_in**0.5 / x.norm(dim=-1, keepdim=True))
        case "layer_norm":
            x = x - x.mean(dim=-1, keepdim=True)
            x = x / (x.std(dim=-1, keepdim=True) + 1e-5)
    return x - sae.b_dec if sae.description.is_b_dec_subtracted else x
