"""The compiled loops of `sampling`, for logits on a CPU. Their twins for a GPU are in `sampling_device`."""

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt64

from workers.compute.jit import compiled

GAMMA = 0x9E3779B97F4A7C15
MIX_1, MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""SplitMix64's constants."""
_N_BINS = 0x3F81
"""Of the upper halves of the fp32 numbers from 0 to 1."""


@compiled
def first_to_arrive(
    weights: Float32[np.ndarray, "n d_vocab"], keys: UInt64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """Of each row the token with the least E / weight, E = -log(1 - v), v uniform in (0, 1) from key and token.

    As E is above v, a token whose v / weight is not below the least so far needs no logarithm: few do.
    """
    n, d_vocab = weights.shape
    drawn = np.zeros(n, np.int64)
    for row in range(n):
        best = np.inf
        state = keys[row]
        for token in range(d_vocab):
            state += np.uint64(GAMMA)
            weight = np.float64(weights[row, token])
            if weight == 0.0:
                continue
            z = state
            z = (z ^ (z >> np.uint64(30))) * np.uint64(MIX_1)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(MIX_2)
            z = z ^ (z >> np.uint64(31))
            v = (np.float64(np.int64(z >> np.uint64(12))) + 0.5) * 2.0**-52
            if v >= best * weight:
                continue
            arrival = -np.log1p(-v) / weight
            if arrival < best:
                best = arrival
                drawn[row] = token
    return drawn


@compiled
def cut_to_nucleus(
    weights: Float32[np.ndarray, "n d_vocab"],
    bits: Int32[np.ndarray, "n d_vocab"],
    row: int,
    top_p: float,
) -> None:
    """Set to zero, in one row, what is outside top-p; `bits` are those of the weights, which are from 0 to 1.

    Sums by the upper half of the bits, whose order is that of the weights, find where the share is reached; only what
    falls there is sorted.
    """
    d_vocab = weights.shape[1]
    sums = np.zeros(_N_BINS)
    total = 0.0
    for token in range(d_vocab):
        weight = np.float64(weights[row, token])
        sums[bits[row, token] >> 16] += weight
        total += weight
    needed = top_p * total
    reached = 0.0
    last = _N_BINS - 1
    while last > 0 and reached + sums[last] < needed:
        reached += sums[last]
        last -= 1
    n_there = 0
    for token in range(d_vocab):
        n_there += (bits[row, token] >> 16) == last
    there = np.empty(n_there, np.int64)
    i = 0
    for token in range(d_vocab):
        place = bits[row, token] >> 16
        if place == last:
            there[i] = token
            i += 1
        elif place < last:
            weights[row, token] = 0.0
    least_first = np.empty(n_there, np.float32)
    for i in range(n_there):
        least_first[i] = -weights[row, there[i]]
    for i in np.argsort(least_first, kind="mergesort"):  # stable: ties go to the lower id
        if reached >= needed:
            weights[row, there[i]] = 0.0
        reached -= np.float64(least_first[i])


@compiled
def largest(
    values: Float32[np.ndarray, "n d_vocab"], ids: Int64[np.ndarray, "n k"], found: Float32[np.ndarray, "n k"]
) -> None:
    """Fill in places and values of the greatest of each row, greatest first; ties go to the lower place."""
    n, d_vocab = values.shape
    k = ids.shape[1]
    for row in range(n):
        n_found = 0
        for token in range(d_vocab):
            value = values[row, token]
            if n_found == k and not value > found[row, k - 1]:
                continue
            place = n_found if n_found < k else k - 1
            while place > 0 and value > found[row, place - 1]:
                found[row, place] = found[row, place - 1]
                ids[row, place] = ids[row, place - 1]
                place -= 1
            found[row, place] = value
            ids[row, place] = token
            n_found = min(n_found + 1, k)
