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
SIGNED_VERSION = 2
"""Of rows of signed features, which say more; all others are as they always were."""
ZLIB_LEVEL = 1
"""Most of a row is fp32 numbers, which do not shrink: level 6 saves one byte in a hundred and takes half as long again."""
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
FIRST_NEGATIVE_GROUP = N_INTERVALS + 1
"""Signed features: groups 6…10 are the intervals of [min, 0), nearest to zero first."""
BOTTOM_GROUP = FIRST_NEGATIVE_GROUP + N_INTERVALS
"""Signed features: the contexts with the most negative values."""


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

    def first(self, n: int) -> "Examples":
        """The first `n` of the top group, or all of them."""
        n = min(n, int(np.count_nonzero(self.group == TOP_GROUP)))
        n_firings = int(self.offset[n])
        firings = (self.position[:n_firings], self.value[:n_firings])
        return Examples(self.group[:n], self.context[:n], self.offset[: n + 1], *firings)


@dataclass(frozen=True, slots=True)
class Signed:
    """What is said only of a feature whose values may be negative."""

    is_dense: bool
    """It has a value at every token (a neuron, a vector): the numbers of the dashboard are of all tokens that count, those
    of intervals are of contexts."""
    n_positive: int
    """Tokens with a value above zero."""
    n_negative: int
    bin_exponent: int
    """Bins of the histogram are 2^bin_exponent wide; zero is the edge of one."""
    first_bin: int
    """The histogram begins at first_bin · 2^bin_exponent."""
    negative_intervals: NDArray[np.int64]
    """As `Dashboard.interval_firings`, of each fifth of [min, 0), nearest to zero first."""
    bottom_tokens: NDArray[np.int32]
    """As `Dashboard.top_tokens`, of the most negative values."""


@dataclass(frozen=True, slots=True)
class Dashboard:
    """Everything computed about one feature. A dead feature has `n_firings` 0, `max` 0 and no examples."""

    index: int
    n_firings: int
    """Values that are not zero."""
    n_contexts: int
    """Contexts with at least one firing."""
    max: float
    """fp32, before any rounding; 0 for a dead feature."""
    min: float
    """Smallest firing; 0 for a dead feature. Signed: the most negative value."""
    moments: Moments
    """Of the firings, zeros left out; of dense features, of all tokens that count."""
    decoder_norm: float
    """‖W_dec‖; the raw activation is the value divided by it."""
    linear_histogram: NDArray[np.int64]
    """Fifty equal bins over [min, max], the last closed; all zero for a dead feature. Signed: see `Signed.bin_exponent`."""
    log_histogram: NDArray[np.int64]
    """Forty bins, equal in log, over [min, max]. Signed: empty."""
    interval_firings: NDArray[np.int64]
    """Firings in each fifth of (0, max], lower ends open; they sum to `n_firings`. Dense: contexts whose maximum lies there."""
    top_tokens: NDArray[np.int32]
    """Up to ten tokens this feature fires on most strongly: by the sum of their maxima over the top contexts; ties by id."""
    examples: Examples
    logit_lens: LogitLens | None
    """None where the hook point has no path to the unembedding."""
    neighbours: NDArray[np.int32]
    """Up to ten features by decoder cosine, nearest first, itself left out."""
    cosines: NDArray[np.float32]
    signed: Signed | None = None


def pack(dashboard: Dashboard) -> bytes:
    """Return the packed form; `unpack` gives back every array and number bit for bit."""
    d, lens, e = dashboard, dashboard.logit_lens, dashboard.examples
    are_short = d.n_firings < 2**32  # every count is of firings
    are_short = are_short and (d.signed is None or not d.signed.is_dense)  # zeros are counted too
    parts = [
        _HEAD.pack(d.index, d.n_firings, d.n_contexts, d.max, d.min, *_flat(d.moments), d.decoder_norm),
        *_pack_signed(d.signed),
        _pack_counts(d.linear_histogram, are_short=are_short),
        _pack_counts(d.log_histogram, are_short=are_short),
        _pack_counts(d.interval_firings, are_short=are_short),
        _pack(_I4, d.top_tokens),
        _pack(_I4, d.neighbours),
        _pack(_F4, d.cosines),
        _pack(_U1, e.group),
        _pack(_U4, e.context),
        _pack(_U2, e.offset[1:] - e.offset[:-1]),
        _pack(_U1 if e.position.size == 0 or e.position.max() < 256 else _U2, e.position),
        _pack(_F4, e.value),
    ]
    if lens is not None:
        parts += [
            _pack(_I4, lens.top_tokens),
            _pack(_F4, lens.top_logits),
            _pack(_I4, lens.bottom_tokens),
            _pack(_F4, lens.bottom_logits),
            _pack_counts(lens.histogram, are_short=True),  # of tokens, whose ids are int32
            _LENS.pack(_F8, 6, lens.low, lens.high, *_flat(lens.moments)),
        ]
    version = PACK_VERSION if d.signed is None else SIGNED_VERSION
    return bytes([version]) + zlib.compress(b"".join(parts), ZLIB_LEVEL)


def unpack(data: bytes) -> Dashboard:
    """The dashboard `pack` was given; raises `ValueError` for a version this code does not know."""
    if not data or data[0] not in (PACK_VERSION, SIGNED_VERSION):
        raise ValueError(
            f"packed dashboard of version {data[:1].hex() or 'none'}; this code reads {PACK_VERSION} and {SIGNED_VERSION}"
        )
    raw = zlib.decompress(data[1:])
    index, n_firings, n_contexts, maximum, minimum, mean, std, skewness, kurtosis, norm = _HEAD.unpack_from(raw)
    at, numbers = _HEAD.size, None
    if data[0] == SIGNED_VERSION:
        at, numbers = at + _SIGNED.size, _SIGNED.unpack_from(raw, at)
    arrays = _unpack_arrays(raw, at)
    signed = None
    if numbers is not None:
        is_dense, n_positive, n_negative, exponent, first_bin = numbers
        signed = Signed(is_dense, n_positive, n_negative, exponent, first_bin, arrays[0], arrays[1])
        arrays = arrays[2:]
    linear, log, intervals, tokens, neighbours, cosines, group, context, counts, position, value = arrays[:11]
    offset = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    examples = Examples(group, context.astype(np.int64), offset, position.astype(np.uint16), value)
    lens = None
    if len(arrays) > 11:
        top, top_logits, bottom, bottom_logits, histogram, figures = arrays[11:]
        low, high, *rest = (float(x) for x in figures)
        lens = LogitLens(top, top_logits, bottom, bottom_logits, histogram, low, high, Moments(*rest))
    moments = Moments(mean, std, skewness, kurtosis)
    return Dashboard(
        index, n_firings, n_contexts, maximum, minimum, moments, norm, linear, log, intervals, tokens, examples, lens,
        neighbours, cosines, signed,
    )  # fmt: skip


def _flat(moments: Moments) -> list[float]:
    return [moments.mean, moments.std, moments.skewness, moments.kurtosis]


_HEAD = struct.Struct("<3q7d")
_SIGNED = struct.Struct("<?2qiq")
_ARRAY = struct.Struct("<BI")
_LENS = struct.Struct("<BI6d")
_DTYPES = [np.dtype(name) for name in ("u1", "<u2", "<u4", "<i4", "<i8", "<f4", "<f8", "<u4")]
_U1, _U2, _U4, _I4, _I8, _F4, _F8, _SHORT_COUNTS = range(8)
"""Type codes: indexes of `_DTYPES`. The last is for counts, int64 in memory, that fit in four bytes."""


def _pack(code: int, array: NDArray[Any]) -> bytes:
    """Type code, length (uint32) and bytes."""
    return _ARRAY.pack(code, len(array)) + array.astype(_DTYPES[code], copy=False).tobytes()


def _pack_signed(signed: Signed | None) -> list[bytes]:
    if signed is None:
        return []
    s = signed
    return [
        _SIGNED.pack(s.is_dense, s.n_positive, s.n_negative, s.bin_exponent, s.first_bin),
        _pack(_I8, s.negative_intervals),
        _pack(_I4, s.bottom_tokens),
    ]


def _pack_counts(counts: NDArray[np.int64], *, are_short: bool) -> bytes:
    return _pack(_SHORT_COUNTS if are_short else _I8, counts)


def _unpack_arrays(raw: bytes, at: int) -> list[NDArray[Any]]:
    arrays: list[NDArray[Any]] = []
    while at < len(raw):
        code, n = _ARRAY.unpack_from(raw, at)
        array = np.frombuffer(raw, _DTYPES[code], n, at + _ARRAY.size)
        at += _ARRAY.size + array.nbytes
        arrays.append(array.astype(np.int64) if code == _SHORT_COUNTS else array)
    return arrays
