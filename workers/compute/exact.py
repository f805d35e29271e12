"""Inner products rounded once: the exact value of Σ xᵢ·wᵢ + b, to the nearest fp32, ties to even.

This is what a pre-activation is here. It depends on the numbers alone: not on the order of a sum, the library, the size
of a block, the number of threads or the device. Products of two fp32 numbers are exact in fp64, so a fp64 sum in any
order lies within (d + 2)·2⁻⁵³·(Σ|xᵢ·wᵢ| + |b|) of the truth. Where both ends of that interval round to the same fp32
number, that number is the answer; the few others are summed exactly.
"""

import math
from fractions import Fraction

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from workers.compute.jit import compiled, reassociated

FLOAT64_STEP = 2.0**-52


@reassociated
def dot(x: NDArray[np.float32], w: NDArray[np.float32]) -> float:
    """Σ xᵢ·wᵢ in fp64, summed in any order."""
    total = 0.0
    for i in range(x.shape[0]):
        total += np.float64(x[i]) * np.float64(w[i])
    return total


@compiled
def bounds(total: float, bias: float, error: float) -> tuple[float, float]:
    """The fp32 numbers between which `total + bias`, rounded once, lies; `total` is within `error` of the truth."""
    value = total + bias
    error += abs(value) * FLOAT64_STEP
    return float(np.float32(value - error)), float(np.float32(value + error))


def inner_product(x: Float32[np.ndarray, " d"], w: Float32[np.ndarray, " d"], bias: float) -> np.float32:
    """The definition itself, exact for every finite input."""
    products = x.astype(np.float64) * w.astype(np.float64)
    # Python's fsum rounds the exact sum once, to fp64; rounding that again is right unless it lies midway
    total = math.fsum([*products.tolist(), bias])
    with np.errstate(over="ignore"):
        near = np.float32(total)
        other = np.nextafter(near, np.float32(math.copysign(math.inf, total - float(near))))
    if np.isfinite(near) and np.isfinite(other) and total - float(near) != float(other) - total:
        return near
    terms = (Fraction(float(a)) * Fraction(float(b)) for a, b in zip(x, w, strict=True))
    return nearest_float32(sum(terms, Fraction(float(bias))))


def nearest_float32(exact: Fraction) -> np.float32:
    """The fp32 number nearest to a fraction, ties to even; infinity beyond the largest."""
    if exact == 0:
        return np.float32(0)
    magnitude = abs(exact)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    step = Fraction(2) ** (max(exponent, -126) - 23)
    mantissa = round(magnitude / step)  # Python rounds fractions half to even
    value = float(mantissa * step) if mantissa * step < Fraction(2) ** 128 else np.inf
    return np.float32(value if exact > 0 else -value)
