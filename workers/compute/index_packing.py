"""Postings into the compressed form of a kept activation index (`backend/formats/activation_index.py`).

`pack_features` packs a block of features: two passes over its firings, one for the range of each feature's values, one
that writes. `pack_tokens` turns postings round: for a run of contexts, which features fire on each token. It goes
through the tokens a chunk at a time, each feature's firings being in order of token already, so that what it scatters
into stays in the cache. Whole numbers only: the same firings give the same bytes on every machine.
"""

import numpy as np
from numpy.typing import NDArray

from backend.formats import bit_packing
from backend.formats.activation_index import PackedFeatures, PackedTokens, steps
from workers.compute.activation_index import Postings
from workers.compute.jit import compiled

CHUNK_TOKENS = 16_384


def pack_features(postings: Postings, *, context_size: int, n_tokens: int) -> PackedFeatures:
    """Pack all features of `postings`, complete ones; their values must be finite and not negative.

    Args:
        postings: Firings of whole features.
        context_size: Tokens of a context.
        n_tokens: Tokens of the corpus, masked ones included.
    """
    n = np.diff(postings.offset)
    lowest, highest = _value_ranges(postings.offset, postings.value)
    if postings.value.size and int(highest.max()) > 0x7F7F:
        raise ValueError("an activation is negative or not finite; only values from 0 on can be kept")
    low_width = np.array([bit_packing.low_width(k, n_tokens) for k in n.tolist()], np.uint8)
    value_width = np.array([k.bit_length() for k in (highest - lowest).tolist()], np.uint8)
    upper_bits = np.where(n > 0, n + ((n_tokens - 1) >> low_width.astype(np.int64)), 0)
    n_upper, n_lower, n_value = (
        (bits.astype(np.int64) + 7) // 8 for bits in (upper_bits, n * low_width, n * value_width)
    )
    size = n_upper + n_lower + n_value
    start = np.cumsum(size) - size
    n_bytes = int(size.sum())
    words = _words(n_bytes)
    _write_features(
        postings.offset, postings.context, postings.position, postings.value, context_size,
        start, n_upper, n_lower, low_width, value_width, lowest, words,
    )  # fmt: skip
    return PackedFeatures(
        words.view(np.uint8)[:n_bytes],
        size.astype(np.uint64),
        n.astype(np.uint64),
        lowest.astype(np.uint16),
        low_width,
        value_width,
    )


def pack_part(postings: Postings, *, context_size: int) -> tuple[int, PackedTokens]:
    """The first context in which anything fires, and which features fire on each token from there to the last such."""
    first = int(postings.context.min()) if postings.context.size else 0
    stop = int(postings.context.max()) + 1 if postings.context.size else 0
    return first, pack_tokens(postings, first_context=first, n_contexts=stop - first, context_size=context_size)


def pack_tokens(postings: Postings, *, first_context: int, n_contexts: int, context_size: int) -> PackedTokens:
    """Pack which features fire on each token of a run of contexts, from the firings of every feature in them."""
    n_tokens = n_contexts * context_size
    offset = _token_offsets(postings.context, postings.position, first_context, context_size, n_tokens)
    n_firings, n_features = int(offset[-1]), postings.n_features
    low_width = bit_packing.low_width(max(n_firings, 1), n_features * max(n_tokens, 1))
    low_width = min(low_width, (n_features - 1).bit_length())
    n_steps = steps(n_features, low_width)
    n_upper = bit_packing.n_bytes(n_tokens * n_steps + n_firings)
    n_lower = bit_packing.n_bytes(n_firings * low_width) + bit_packing.PADDING
    upper, lower = _words(n_upper), _words(n_lower)
    chunk = max(1, CHUNK_TOKENS // context_size)
    _write_tokens(
        postings.offset, postings.context, postings.position, offset, first_context, n_contexts, context_size, chunk,
        low_width, n_steps, upper, lower,
    )  # fmt: skip
    return PackedTokens(upper.view(np.uint8)[:n_upper], lower.view(np.uint8)[:n_lower], offset, low_width)


@compiled
def _value_ranges(offset: NDArray[np.int64], value: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Smallest and largest value of each feature as the upper half of its fp32, 0 for a dead one.

    Of numbers from 0 on, the bits are in the numbers' order; a negative one or NaN gives more than any finite one.
    """
    n = offset.size - 1
    lowest, highest = np.zeros(n, np.int64), np.zeros(n, np.int64)
    bits = value.view(np.uint32)
    for f in range(n):
        least, most = np.uint32(0xFFFFFFFF), np.uint32(0)
        for i in range(offset[f], offset[f + 1]):
            least, most = min(least, bits[i]), max(most, bits[i])
        if offset[f + 1] > offset[f]:
            lowest[f] = _nearest(int(least))
            highest[f] = _nearest(int(most)) if most < 0x7F800000 else 0xFFFF
    return lowest, highest


@compiled
def _nearest(bits: int) -> int:
    """Upper half of the nearest fp32 that has no other; ties to even, never infinity."""
    rounded = (np.int64(bits) + 0x7FFF + ((np.int64(bits) >> 16) & 1)) >> 16
    return int(min(rounded, np.int64(0x7F7F)))


@compiled
def _write_features(
    offset: NDArray[np.int64],
    context: NDArray[np.uint32],
    position: NDArray[np.uint16],
    value: NDArray[np.float32],
    context_size: int,
    start: NDArray[np.int64],
    n_upper: NDArray[np.int64],
    n_lower: NDArray[np.int64],
    low_width: NDArray[np.uint8],
    value_width: NDArray[np.uint8],
    lowest: NDArray[np.int64],
    words: NDArray[np.uint64],
) -> None:
    bits = value.view(np.uint32)
    for f in range(offset.size - 1):
        upper = 8 * start[f]
        lower = upper + 8 * n_upper[f]
        values = lower + 8 * n_lower[f]
        width, steps_width, least = int(low_width[f]), int(value_width[f]), lowest[f]
        mask = (1 << width) - 1
        for i in range(offset[f], offset[f + 1]):
            token = int(context[i]) * context_size + int(position[i])
            bit = upper + (token >> width) + i - offset[f]
            words[bit >> 6] |= np.uint64(1) << np.uint64(bit & 63)
            _write_field(words, lower, token & mask, width)
            _write_field(words, values, _nearest(bits[i]) - least, steps_width)
            lower += width
            values += steps_width


@compiled
def _token_offsets(
    context: NDArray[np.uint32], position: NDArray[np.uint16], first_context: int, context_size: int, n_tokens: int
) -> NDArray[np.int64]:
    """Firings before each token of the run, and in all."""
    offset = np.zeros(n_tokens + 1, np.int64)
    for i in range(context.size):
        offset[(np.int64(context[i]) - first_context) * context_size + position[i] + 1] += 1
    for t in range(n_tokens):
        offset[t + 1] += offset[t]
    return offset


@compiled
def _write_tokens(
    postings_offset: NDArray[np.int64],
    context: NDArray[np.uint32],
    position: NDArray[np.uint16],
    offset: NDArray[np.int64],
    first_context: int,
    n_contexts: int,
    context_size: int,
    chunk: int,
    low_width: int,
    n_steps: int,
    upper: NDArray[np.uint64],
    lower: NDArray[np.uint64],
) -> None:
    """`chunk` contexts at a time."""
    n_features = postings_offset.size - 1
    at = postings_offset[:-1].copy()  # each feature's first firing not yet written
    low_mask = (1 << low_width) - 1
    for chunk_start in range(0, n_contexts, chunk):
        chunk_stop = min(chunk_start + chunk, n_contexts)
        first, last = chunk_start * context_size, chunk_stop * context_size
        free = offset[first:last] - offset[first]
        by_token = np.empty(offset[last] - offset[first], np.uint32)
        for f in range(n_features):
            i = at[f]
            while i < postings_offset[f + 1] and np.int64(context[i]) - first_context < chunk_stop:
                t = (np.int64(context[i]) - first_context) * context_size + position[i] - first
                by_token[free[t]] = f
                free[t] += 1
                i += 1
            at[f] = i
        for t in range(first, last):
            for rank in range(offset[t], offset[t + 1]):
                feature = int(by_token[rank - offset[first]])
                bit = t * n_steps + (feature >> low_width) + rank
                upper[bit >> 6] |= np.uint64(1) << np.uint64(bit & 63)
                _write_field(lower, rank * low_width, feature & low_mask, low_width)


@compiled
def _write_field(words: NDArray[np.uint64], bit: int, field: int, width: int) -> None:
    """Or a field of `width` bits into `words` from `bit` on."""
    at, shift = bit >> 6, bit & 63
    words[at] |= np.uint64(field) << np.uint64(shift)
    if shift + width > 64:
        words[at + 1] |= np.uint64(field) >> np.uint64(64 - shift)


def _words(n_bytes: int) -> NDArray[np.uint64]:
    """Zeros for so many bytes; bit i of the bytes is bit i of the little-endian words."""
    # one more than they take: a field of no bits may begin behind the last byte
    return np.zeros(n_bytes // 8 + 2, "<u8")
