"""The three loops of `encoder_cuda` in plain torch, on any device: the twin of `triton_kernels`.

Both find every pair that could fire and give the same sums up to their rounding, so the firings are the same bits. Here
products are made block by block of rows; they are fp32 products of numbers bf16 holds, within `bf16_screen`'s bound.
"""

import torch
from jaxtyping import Float32, Float64, Int32
from torch import Tensor

from workers.compute.bf16_screen import Columns, Rows, Survivors

_BLOCK = 1 << 24
"""Numbers of a temporary."""


def survivors(rows: Rows, columns: Columns, floor: Float32[Tensor, " n"], out: Survivors) -> None:
    """Append the pairs whose upper bound is above their row's floor, or not a number.

    `out.count` counts them all, also those for which there was no room.
    """
    right = columns.right.float().T
    for low, high in _blocks(len(rows.left), len(columns.right)):
        bound = (rows.left[low:high].float() @ right + columns.upper) + _margin(rows, columns, low, high)
        row, feature = (~(bound * columns.unit <= floor[low:high, None])).nonzero(as_tuple=True)
        start = min(int(out.count), len(out.row))
        n = min(len(row), len(out.row) - start)
        out.row[start : start + n] = (row[:n] + low).int()
        out.feature[start : start + n] = feature[:n].int()
        out.count.add_(len(row))


def group_lows(rows: Rows, columns: Columns, group: int) -> Float32[Tensor, "n n_groups"]:
    """The largest lower bound among each run of `group` features; -inf where there is none."""
    n, d_sae = len(rows.left), len(columns.right)
    lows = torch.full((n, -(-d_sae // group) * group), -torch.inf, device=rows.left.device)
    right = columns.right.float().T
    for low, high in _blocks(n, d_sae):
        bound = (rows.left[low:high].float() @ right + columns.lower) - _margin(rows, columns, low, high)
        bound = bound * columns.unit
        lows[low:high, :d_sae] = torch.where(bound < torch.inf, bound, -torch.inf)
    return lows.view(n, -1, group).amax(dim=2)


def totals(
    x: Float32[Tensor, "n d"],
    weights: Float32[Tensor, "d_sae d"],
    row: Int32[Tensor, " n_pairs"],
    feature: Int32[Tensor, " n_pairs"],
) -> Float64[Tensor, " n_pairs"]:
    """Σ xᵢ·wᵢ of each pair in fp64, in any order."""
    out = torch.empty(len(row), dtype=torch.float64, device=x.device)
    for low, high in _blocks(len(row), x.shape[1]):
        out[low:high] = (x[row[low:high]].double() * weights[feature[low:high]].double()).sum(dim=1)
    return out


def _blocks(n: int, width: int) -> list[tuple[int, int]]:
    step = max(1, _BLOCK // max(1, width))
    return [(low, min(low + step, n)) for low in range(0, n, step)]


def _margin(rows: Rows, columns: Columns, low: int, high: int) -> Float32[Tensor, "block d_sae"]:
    return rows.lost[low:high, None] * columns.norm + rows.kept[low:high, None] * columns.rest
