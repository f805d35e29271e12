"""What a finished computation says about features, and how one feature's part is packed into a database row.

Owns `FeatureBlock` (arrays over a run of features, what the computation makes and the database takes) and the packed
form of one feature: about 2 KB of zlib over little-endian arrays in a fixed order, each behind its length.
Does not own token texts: examples are (context, positions, values), and contexts are stored once per corpus.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PACK_VERSION = 1
N_LINEAR_BINS = 50
N_LOG_BINS = 40
N_LOGIT_BINS = 50
N_TOP_CONTEXTS = 20
N_INTERVALS = 5
N_INTERVAL_CONTEXTS = 5
N_LOGIT_TOKENS = 10
N_TOP_TOKENS = 10
N_NEIGHBOURS = 10

TOP_GROUP = 0
"""Group number of the top contexts; groups 1…5 are the intervals of (0, max], lowest first."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean, standard deviation (population), skewness and kurtosis (3 for a normal distribution); NaN where undefined."""

    mean: float
    std: float
    skewness: float
    kurtosis: float


@dataclass(frozen=True, slots=True)
class LogitLens:
    """What a feature's direction adds to the logits, for one feature."""

    top_tokens: NDArray[np.int32]
    """Ten token ids, largest logit first; ties by id."""
    top_logits: NDArray[np.float32]
    bottom_tokens: NDArray[np.int32]
    """Ten token ids, most negative logit first."""
    bottom_logits: NDArray[np.float32]
    histogram: NDArray[np.int64]
    """Fifty equal bins between the smallest and the largest logit; they count the vocabulary."""
    low: float
    high: float
    moments: Moments


@dataclass(frozen=True, slots=True)
class Examples:
    """The chosen contexts of one feature, in order of group, then of maximum."""

    group: NDArray[np.uint8]
    context: NDArray[np.int64]
    """Index into the corpus."""
    offset: NDArray[np.int64]
    """`offset[i]:offset[i+1]` are example i's firings in `position` and `value`."""
    position: NDArray[np.uint16]
    """Token position in the stored context, the leading special token included."""
    value: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """Everything computed about one feature. A dead feature has `n_firings` 0, `max` 0 and no examples."""

    index: int
    n_firings: int
    n_contexts: int
    """Contexts with at least one firing."""
    max: float
    """fp32, before any rounding; 0 for a dead feature."""
    min: float
    """Smallest firing; 0 for a dead feature."""
    moments: Moments
    """Of the firings, zeros left out."""
    decoder_norm: float
    """‖W_dec‖; the raw activation is the value divided by it."""
    linear_histogram: NDArray[np.int64]
    """Fifty equal bins over [min, max], the last closed; all zero for a dead feature."""
    log_histogram: NDArray[np.int64]
    """Forty bins, equal in log, over [min, max]."""
    interval_firings: NDArray[np.int64]
    """Firings in each fifth of (0, max], lower ends open; they sum to `n_firings`."""
    top_tokens: NDArray[np.int32]
    """Up to ten tokens this feature fires on most strongly: by the sum of their maxima over the top contexts; ties by id."""
    examples: Examples
    logit_lens: LogitLens | None
    """None where the hook point has no path to the unembedding."""
    neighbours: NDArray[np.int32]
    """Up to ten features by decoder cosine, nearest first, itself left out."""
    cosines: NDArray[np.float32]


def pack(dashboard: Dashboard) -> bytes:
    """Return the packed form; `unpack` gives back every array and number bit for bit."""
    d, lens = dashboard, dashboard.logit_lens
    scalars = [d.max, d.min, *_flat(d.moments), d.decoder_norm]
    parts = [struct.pack("<3q7d", d.index, d.n_firings, d.n_contexts, *scalars)]
    e = d.examples
    small = np.uint8 if e.position.size == 0 or e.position.max() < 256 else np.uint16
    counts = np.diff(e.offset).astype(np.uint16)
    arrays: list[NDArray[np.generic]] = [
        d.linear_histogram, d.log_histogram, d.interval_firings, d.top_tokens, d.neighbours, d.cosines,
        e.group, e.context.astype(np.uint32), counts, e.position.astype(small), e.value,
    ]  # fmt: skip
    if lens is not None:
        arrays += [lens.top_tokens, lens.top_logits, lens.bottom_tokens, lens.bottom_logits, lens.histogram]
        arrays.append(np.array([lens.low, lens.high, *_flat(lens.moments)]))
    parts += [_pack_array(array) for array in arrays]
    return bytes([PACK_VERSION]) + zlib.compress(b"".join(parts), 6)


def unpack(data: bytes) -> Dashboard:
    """The dashboard `pack` was given; raises `ValueError` for a version this code does not know."""
    if not data or data[0] != PACK_VERSION:
        raise ValueError(f"packed dashboard of version {data[:1].hex() or 'none'}; this code reads {PACK_VERSION}")
    raw = zlib.decompress(data[1:])
    head = struct.Struct("<3q7d")
    index, n_firings, n_contexts, maximum, minimum, mean, std, skewness, kurtosis, norm = head.unpack_from(raw)
    arrays = _unpack_arrays(raw, head.size)
    linear, log, intervals, tokens, neighbours, cosines, group, context, counts, position, value = arrays[:11]
    offset = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    examples = Examples(group, context.astype(np.int64), offset, position.astype(np.uint16), value)
    lens = None
    if len(arrays) > 11:
        top, top_logits, bottom, bottom_logits, histogram, numbers = arrays[11:]
        low, high, *rest = (float(x) for x in numbers)
        lens = LogitLens(top, top_logits, bottom, bottom_logits, histogram, low, high, Moments(*rest))
    moments = Moments(mean, std, skewness, kurtosis)
    return Dashboard(
        index, n_firings, n_contexts, maximum, minimum, moments, norm, linear, log, intervals, tokens, examples, lens,
        neighbours, cosines,
    )  # fmt: skip


def _flat(moments: Moments) -> list[float]:
    return [moments.mean, moments.std, moments.skewness, moments.kurtosis]


_CODES = ["u1", "<u2", "<u4", "<i4", "<i8", "<f4", "<f8"]


def _pack_array(array: NDArray[np.generic]) -> bytes:
    """Type code, length (uint32) and bytes; int64 counts shrink to uint32 where they fit."""
    if array.dtype == np.int64 and (array.size == 0 or (array.min() >= 0 and array.max() < 2**32)):
        return struct.pack("<BI", len(_CODES), array.size) + array.astype("<u4").tobytes()
    code = next(i for i, name in enumerate(_CODES) if np.dtype(name) == array.dtype)
    return struct.pack("<BI", code, array.size) + array.astype(_CODES[code]).tobytes()


def _unpack_arrays(raw: bytes, at: int) -> list[NDArray[Any]]:
    arrays: list[NDArray[Any]] = []
    while at < len(raw):
        code, n = struct.unpack_from("<BI", raw, at)
        is_shrunk = code == len(_CODES)
        array = np.frombuffer(raw, "<u4" if is_shrunk else _CODES[code], n, at + 5)
        at += 5 + array.nbytes
        arrays.append(array.astype(np.int64) if is_shrunk else array)
    return arrays
