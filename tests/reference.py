"""Slow, obvious twins of what the product computes fast: plain loops over dense activations."""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from workers.compute.sae import Sae


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


def nearest_float32(exact: Fraction) -> np.float32:
    """The nearest of the fp32 numbers around a fraction, ties to the even one."""
    if abs(exact) >= Fraction(2) ** 128 - Fraction(2) ** 103:
        return np.float32(math.copysign(math.inf, exact))
    guess = np.float32(float(exact))
    guess = np.clip(guess, -np.finfo(np.float32).max, np.finfo(np.float32).max).astype(np.float32)
    around = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    finite = [candidate for candidate in around if np.isfinite(candidate)]
    return min(finite, key=lambda c: (abs(Fraction(float(c)) - exact), int(c.view(np.uint32)) % 2))


def pre_activation(x: NDArray[np.float32], w: NDArray[np.float32], bias: np.float32) -> np.float32:
    """Σ xᵢ·wᵢ + b in fractions, rounded once."""
    terms = [Fraction(float(a)) * Fraction(float(b)) for a, b in zip(x, w, strict=True)]
    return nearest_float32(sum(terms, Fraction(float(bias))))


@np.errstate(over="ignore")
def encode(sae: Sae, x: NDArray[np.float32]) -> dict[tuple[int, int], np.float32]:
    """{(row, feature): value} of an SAE on its normalised input, one token and one feature after the other."""
    W, norm, threshold = sae.W_enc.numpy(), sae.decoder_norm.numpy(), sae.threshold.numpy()
    is_scaled = sae.description.is_scaled_by_decoder_norm
    firings: dict[tuple[int, int], np.float32] = {}
    for row in range(len(x)):
        found: dict[int, np.float32] = {}
        for j in range(W.shape[1]):
            if sae.b_gate is not None and sae.magnitude_gain is not None:
                gate = pre_activation(x[row], W[:, j], sae.b_gate.numpy()[j])
                size = pre_activation(x[row], W[:, j] * sae.magnitude_gain.numpy()[j], sae.b_enc.numpy()[j])
                if gate > 0 and size > 0:
                    found[j] = size
            else:
                pre = pre_activation(x[row], W[:, j], sae.b_enc.numpy()[j])
                if pre > threshold[j] or sae.description.architecture == "abstopk":
                    found[j] = pre * norm[j] if is_scaled else pre
        if sae.description.architecture == "topk":
            best = sorted(found, key=lambda j: (-found[j], j))[: sae.description.k]
            found = {j: found[j] for j in best if found[j] > 0}
        if sae.description.architecture == "abstopk":
            best = sorted(found, key=lambda j: (-abs(found[j]), j))[: sae.description.k]
            found = {j: found[j] for j in best if found[j] != 0}
        for j, value in found.items():
            firings[row, j] = value if is_scaled else value * norm[j]
    return firings


def moments(values: list[float]) -> list[float]:
    """Mean, deviation, skewness and kurtosis with sums rounded once; NaN where undefined."""
    if not values:
        return [math.nan] * 4
    n = len(values)
    if min(values) == max(values):
        return [values[0], 0.0, math.nan, math.nan]
    mean = math.fsum(values) / n
    m2, m3, m4 = (math.fsum((x - mean) ** p for x in values) / n for p in (2, 3, 4))
    return [mean, math.sqrt(m2), m3 / m2**1.5, m4 / m2**2]


def histogram(values: list[float], edges: list[float]) -> list[int]:
    """Counts in bins closed below, the last closed above too; all in the first if the values do not differ."""
    counts = [0] * (len(edges) - 1)
    is_single = len(set(values)) == 1
    for x in values:
        counts[0 if is_single else sum(x >= edge for edge in edges[1:-1])] += 1
    return counts


def examples(contexts: list[int], values: list[float], *, feature: int, seed: int) -> list[tuple[int, int]]:
    """(group, context) of the examples of one feature's firings, in order."""
    maxima: dict[int, float] = {}
    for context, value in zip(contexts, values, strict=True):
        maxima[context] = max(maxima.get(context, -math.inf), value)
    ranked = sorted(maxima, key=lambda context: (-maxima[context], context))
    chosen = [(0, context) for context in ranked[:20]]
    edges = [max(values, default=0.0) * i / 5 for i in range(1, 5)]
    for interval in range(5):
        inside = [c for c in ranked[20:] if sum(maxima[c] > edge for edge in edges) == interval]
        sample = sorted(inside, key=lambda context: splitmix64(seed, feature, context))[:5]
        chosen += [(interval + 1, context) for context in sorted(sample, key=lambda context: -maxima[context])]
    return chosen


def splitmix64(seed: int, feature: int, context: int) -> int:
    """The order of contexts that samples are drawn in."""
    mask = 2**64 - 1
    z = ((context + (feature << 32)) * 0x9E3779B97F4A7C15 + seed) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def top_tokens(tops: list[tuple[int, float]]) -> list[int]:
    """From (token, maximum) of the top contexts, best first: tokens by the sum of maxima, then by id; at most ten."""
    sums: dict[int, float] = {}
    for token, value in tops:
        sums[token] = sums.get(token, 0.0) + value
    return sorted(sums, key=lambda token: (-sums[token], token))[:10]


def packed_fields(numbers: list[int], width: int) -> bytes:
    """One after the other, bits counted from the least significant of the first byte."""
    return packed_bits("".join(format(number, f"0{width}b")[::-1] for number in numbers) if width else "")


def packed_ascending(numbers: list[int], limit: int) -> tuple[bytes, bytes, int]:
    """Upper bits, low fields and their width, as Elias and Fano split ascending numbers below `limit`."""
    if not numbers:
        return b"", b"", 0
    width = math.floor(math.log2(limit // len(numbers)))
    bits = ["0"] * (len(numbers) + (limit - 1 >> width))
    for rank, number in enumerate(numbers):
        bits[(number >> width) + rank] = "1"
    low = [number - (number >> width << width) for number in numbers]
    return packed_bits("".join(bits)), packed_fields(low, width), width


def packed_bits(bits: str) -> bytes:
    """`bits` in order, eight a byte, the first the least significant; the last byte filled up with zeros."""
    return bytes(int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits), 8))


def bfloat16(value: float) -> float:
    """The nearest number with 8 significant bits and fp32's exponents; ties to even, never infinity."""
    if value == 0:
        return 0.0
    exponent = max(math.floor(math.log2(value)), -126)
    if math.ldexp(1.0, exponent) > value and exponent > -126:
        exponent -= 1
    spacing = math.ldexp(1.0, exponent - 7)
    return min(round(value / spacing) * spacing, math.ldexp(255.0, 120))


@dataclass
class ReferenceSigned:
    n_positive: int
    n_negative: int
    moments: list[float]
    positive: ReferenceFeature
    negative: ReferenceFeature
    """Of the values times -1."""


def signed_feature(dense: NDArray[np.float32], counts: NDArray[np.bool_], *, is_dense: bool) -> ReferenceSigned:
    """From one signed feature's values and the mask of tokens that count; moments of a dense one include zeros."""
    values = [float(v) for v in dense[counts] if is_dense or v != 0]
    sides = []
    for sign in (1, -1):
        side = np.where(dense * sign > 0, dense * np.float32(sign), np.float32(0))
        if is_dense:  # intervals count contexts, by their extremes
            kept = np.zeros_like(side)
            for context in range(len(side)):
                row = np.where(counts[context], side[context], 0)
                kept[context, int(row.argmax())] = row.max()
            side = kept
        sides.append(feature(side, counts))
    return ReferenceSigned(sum(v > 0 for v in values), sum(v < 0 for v in values), moments(values), sides[0], sides[1])


def signed_histogram(values: list[float], exponent: int) -> dict[int, int]:
    """{k: values in [k·2^exponent, (k + 1)·2^exponent)}."""
    found: dict[int, int] = {}
    for value in values:
        k = math.floor(Fraction(value) / Fraction(2) ** exponent)
        found[k] = found.get(k, 0) + 1
    return found
