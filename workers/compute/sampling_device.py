"""The twins of `sampling_kernels` in torch, for logits that are on a GPU; they run anywhere.

They take the same numbers and agree with the compiled loops but for the last bit of a logarithm or of a sum.
"""

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, UInt64
from torch import Tensor

from workers.compute.sampling_kernels import GAMMA, MIX_1, MIX_2


def first_to_arrive(weights: Float32[Tensor, "n d_vocab"], keys: UInt64[np.ndarray, " n"]) -> Int64[Tensor, " n"]:
    """Of each row the token with the least E / weight; rows that share a key share their E."""
    distinct, which = np.unique(keys, return_inverse=True)
    states = torch.from_numpy(distinct.view(np.int64)).to(weights.device)
    counter = torch.arange(1, weights.shape[1] + 1, device=weights.device)
    z = states[:, None] + counter * _signed(GAMMA)
    z = (z ^ _shifted(z, 30)) * _signed(MIX_1)
    z = (z ^ _shifted(z, 27)) * _signed(MIX_2)
    z = z ^ _shifted(z, 31)
    times = (_shifted(z, 12).double() + 0.5).mul_(-(2.0**-52)).log1p_().neg_()
    arrival = times[torch.from_numpy(which).to(weights.device)] / weights
    return arrival.argmin(dim=-1)


def nucleus(weights: Float32[Tensor, "n d_vocab"], top_p: Float64[np.ndarray, " n"]) -> Float32[Tensor, "n d_vocab"]:
    """The weights with those outside top-p set to zero."""
    needed = torch.from_numpy(top_p).to(weights.device) * weights.sum(dim=-1, dtype=torch.float64)
    found, ids = weights.sort(dim=-1, descending=True, stable=True)
    reached = found.cumsum(dim=-1, dtype=torch.float64)
    is_kept = torch.cat([torch.zeros_like(reached[:, :1]), reached[:, :-1]], dim=-1) < needed[:, None]
    return torch.zeros_like(weights).scatter_(1, ids, found * is_kept)


def largest(values: Float32[Tensor, "n d_vocab"], k: int) -> tuple[Int64[Tensor, "n k"], Float32[Tensor, "n k"]]:
    """Places and values of the `k` greatest of each row, greatest first; ties go to the lower place."""
    found, ids = values.sort(dim=-1, descending=True, stable=True)
    return ids[:, :k].contiguous(), found[:, :k].contiguous()


def _shifted(z: Int64[Tensor, "n d_vocab"], n_bits: int) -> Int64[Tensor, "n d_vocab"]:
    """To the right, zeros coming in: torch shifts in the sign."""
    return (z >> n_bits) & ((1 << (64 - n_bits)) - 1)


def _signed(word: int) -> int:
    """The same 64 bits as an int64, whose products wrap around."""
    return word - (1 << 64) if word >= 1 << 63 else word
