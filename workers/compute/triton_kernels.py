"""The three loops of `encoder_cuda` as Triton kernels; `torch_kernels` says in plain torch what each computes.

survivors   One tile of the bf16 product per program, in registers from the first step to the comparison. What survives
            is counted, the program takes that much room with one atomic addition, and writes rows and features there.
            Dense activations never exist in memory.
group_lows  The same product; each program keeps the largest lower bound of each row of its tile.
totals      Eight pairs a program: rows of x and of the weights side by side, multiplied and summed in fp64.

Programs are numbered so that those that run at the same time share rows and features in the second-level cache.
Imported only where Triton is; with TRITON_INTERPRET=1 the kernels run on a CPU, whose interpreter has no bf16 product.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float32, Float64, Int32
from torch import Tensor

from workers.compute.bf16_screen import WIDTH_STEP, Columns, Rows, Survivors

_ROW_TILE = 128
_FEATURE_TILE = 128
_N_WARPS = 8
_N_STAGES = 4
_ROW_TILES_TOGETHER = 16
_PAIRS = 8
_STEP = 256


def survivors(rows: Rows, columns: Columns, floor: Float32[Tensor, " n"], out: Survivors) -> None:
    """Append the pairs whose upper bound is above their row's floor, or not a number."""
    n, d_sae = len(rows.left), len(columns.right)
    assert n * d_sae < 2**31, "pairs are counted in 32 bits"
    if n and d_sae:
        _survivors[_n_tiles(n, d_sae, _FEATURE_TILE),](
            rows.left, rows.lost, rows.kept, floor, columns.right, columns.norm, columns.rest, columns.upper, columns.unit,
            out.row, out.feature, out.count, n, d_sae, rows.left.shape[1], len(out.row), **_options(n, _FEATURE_TILE),
        )  # fmt: skip


def group_lows(rows: Rows, columns: Columns, group: int) -> Float32[Tensor, "n n_groups"]:
    """The largest lower bound among each run of `group` features, a power of two from 16 on."""
    n, d_sae = len(rows.left), len(columns.right)
    lows = torch.empty(n, triton.cdiv(d_sae, group), device=rows.left.device)
    if n and d_sae:
        _group_lows[_n_tiles(n, d_sae, group),](
            rows.left, rows.lost, rows.kept, columns.right, columns.norm, columns.rest, columns.lower, columns.unit,
            lows, n, d_sae, rows.left.shape[1], lows.shape[1], **_options(n, group),
        )  # fmt: skip
    return lows


def totals(
    x: Float32[Tensor, "n d"],
    weights: Float32[Tensor, "d_sae d"],
    row: Int32[Tensor, " n_pairs"],
    feature: Int32[Tensor, " n_pairs"],
) -> Float64[Tensor, " n_pairs"]:
    """Σ xᵢ·wᵢ of each pair in fp64, in any order."""
    out = torch.empty(len(row), dtype=torch.float64, device=x.device)
    if len(row):
        _totals[triton.cdiv(len(row), _PAIRS),](
            x, weights, row, feature, out, len(row), x.shape[1], PAIRS=_PAIRS, STEP=_STEP, num_warps=4
        )
    return out


def _n_tiles(n: int, d_sae: int, feature_tile: int) -> int:
    return int(triton.cdiv(n, _ROW_TILE) * triton.cdiv(d_sae, feature_tile))


def _options(n: int, feature_tile: int) -> dict[str, Any]:
    return {
        "ROW_TILE": _ROW_TILE, "FEATURE_TILE": feature_tile, "STEP": WIDTH_STEP,
        "TOGETHER": min(_ROW_TILES_TOGETHER, triton.cdiv(n, _ROW_TILE)), "IS_INTERPRETED": triton.knobs.runtime.interpret,
        "num_warps": _N_WARPS if feature_tile >= 64 else 4, "num_stages": _N_STAGES,
    }  # fmt: skip


def _kernel(function: Callable[..., Any]) -> Any:
    """Compile; shape checks that tests wrap around every function are taken off first."""
    return triton.jit(inspect.unwrap(function))


@_kernel
def _tile(n_rows, d_sae, ROW_TILE: tl.constexpr, FEATURE_TILE: tl.constexpr, TOGETHER: tl.constexpr):  # type: ignore[no-untyped-def]
    """Rows and features of this program: tiles of rows in groups, feature by feature within a group."""
    program = tl.program_id(0)
    n_row_tiles = tl.cdiv(n_rows, ROW_TILE)
    n_feature_tiles = tl.cdiv(d_sae, FEATURE_TILE)
    first = program // (TOGETHER * n_feature_tiles) * TOGETHER
    n_together = tl.minimum(n_row_tiles - first, TOGETHER)
    within = program % (TOGETHER * n_feature_tiles)
    row_tile = first + within % n_together
    feature_tile = within // n_together
    row = row_tile * ROW_TILE + tl.arange(0, ROW_TILE)
    feature = feature_tile * FEATURE_TILE + tl.arange(0, FEATURE_TILE)
    return row, feature, feature_tile


@_kernel
def _product(  # type: ignore[no-untyped-def]
    left, right, row, feature, width,
    ROW_TILE: tl.constexpr, FEATURE_TILE: tl.constexpr, STEP: tl.constexpr, IS_INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Left · right of one tile, accumulated in fp32; `row` and `feature` lie inside."""
    at = tl.arange(0, STEP)
    left += row.to(tl.int64)[:, None] * width + at[None, :]
    right += feature.to(tl.int64)[None, :] * width + at[:, None]
    total = tl.zeros((ROW_TILE, FEATURE_TILE), tl.float32)
    for _ in range(0, width, STEP):
        x = tl.load(left)
        w = tl.load(right)
        if IS_INTERPRETED:  # noqa: SIM108 (Triton decides it while it compiles)
            total = tl.dot(x.to(tl.float32), w.to(tl.float32), total)
        else:
            total = tl.dot(x, w, total)
        left += STEP
        right += STEP
    return total


@_kernel
def _survivors(  # type: ignore[no-untyped-def]
    left, lost, kept, floor, right, norm, rest, upper, unit,
    row_out, feature_out, count, n_rows, d_sae, width, n_room,
    ROW_TILE: tl.constexpr, FEATURE_TILE: tl.constexpr, STEP: tl.constexpr, TOGETHER: tl.constexpr,
    IS_INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Tile → product → bound → pairs."""
    row, feature, _ = _tile(n_rows, d_sae, ROW_TILE, FEATURE_TILE, TOGETHER)
    r = tl.minimum(row, n_rows - 1)
    f = tl.minimum(feature, d_sae - 1)
    total = _product(left, right, r, f, width, ROW_TILE, FEATURE_TILE, STEP, IS_INTERPRETED)
    margin = (
        tl.load(lost + r)[:, None] * tl.load(norm + f)[None, :]
        + tl.load(kept + r)[:, None] * tl.load(rest + f)[None, :]
    )
    bound = ((total + tl.load(upper + f)[None, :]) + margin) * tl.load(unit + f)[None, :]
    inside = (row < n_rows)[:, None] & (feature < d_sae)[None, :]
    found = tl.where(bound <= tl.load(floor + r)[:, None], 0, 1)  # a bound that is no number survives
    found = tl.where(inside, found, 0)
    by_row = tl.sum(found, 1)
    n_found = tl.sum(by_row, 0)
    if n_found > 0:
        start = tl.atomic_add(count, n_found, sem="relaxed")
        before = start + tl.cumsum(by_row, 0) - by_row
        place = before[:, None] + tl.cumsum(found, 1) - found
        fits = (found > 0) & (place < n_room)
        tl.store(row_out + place, tl.broadcast_to(row[:, None], (ROW_TILE, FEATURE_TILE)), mask=fits)
        tl.store(feature_out + place, tl.broadcast_to(feature[None, :], (ROW_TILE, FEATURE_TILE)), mask=fits)


@_kernel
def _group_lows(  # type: ignore[no-untyped-def]
    left, lost, kept, right, norm, rest, lower, unit, lows, n_rows, d_sae, width, n_groups,
    ROW_TILE: tl.constexpr, FEATURE_TILE: tl.constexpr, STEP: tl.constexpr, TOGETHER: tl.constexpr,
    IS_INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Tile → product → bound → its largest of each row."""
    row, feature, group = _tile(n_rows, d_sae, ROW_TILE, FEATURE_TILE, TOGETHER)
    r = tl.minimum(row, n_rows - 1)
    f = tl.minimum(feature, d_sae - 1)
    total = _product(left, right, r, f, width, ROW_TILE, FEATURE_TILE, STEP, IS_INTERPRETED)
    margin = (
        tl.load(lost + r)[:, None] * tl.load(norm + f)[None, :]
        + tl.load(kept + r)[:, None] * tl.load(rest + f)[None, :]
    )
    bound = ((total + tl.load(lower + f)[None, :]) - margin) * tl.load(unit + f)[None, :]
    counts = (feature < d_sae)[None, :] & (bound < float("inf"))  # also drops what is no number
    largest = tl.max(tl.where(counts, bound, float("-inf")), 1)
    tl.store(lows + row.to(tl.int64) * n_groups + group, largest, mask=row < n_rows)


@_kernel
def _totals(  # type: ignore[no-untyped-def]
    x, weights, row, feature, out, n_pairs, d, PAIRS: tl.constexpr, STEP: tl.constexpr
):
    """Pairs → sums."""
    pair = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    inside = pair < n_pairs
    x += tl.load(row + pair, mask=inside, other=0).to(tl.int64)[:, None] * d
    weights += tl.load(feature + pair, mask=inside, other=0).to(tl.int64)[:, None] * d
    total = tl.zeros((PAIRS, STEP), tl.float64)
    for start in range(0, d, STEP):
        at = (start + tl.arange(0, STEP))[None, :]
        mask = inside[:, None] & (at < d)
        left = tl.load(x + at, mask=mask, other=0.0).to(tl.float64)
        total += left * tl.load(weights + at, mask=mask, other=0.0).to(tl.float64)
    tl.store(out + pair, tl.sum(total, 1), mask=inside)
