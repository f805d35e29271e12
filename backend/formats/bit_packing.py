"""Numbers in as few bits as they need, read back by whole arrays.

Two encodings, bits counted from the least significant one of the first byte:
- fields: n numbers of one width, one after the other;
- ascending numbers, as Elias and Fano split them: the low bits of each are fields, the rest is a bit set in `upper`
  at (high part + rank), so that n numbers below N take about n (2 + log2(N / n)) bits and are read without a loop.
Sources: P. Elias, Efficient Storage and Retrieval by Content and Address of Static Files, J. ACM 21 (1974);
S. Vigna, Quasi-succinct indices, WSDM 2013. Reading only; what writes is compiled and in `workers/compute`.
"""

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
MAX_WIDTH = 56
PADDING = 8
"""Zero bytes that follow fields read by `fields_at`."""


def low_width(n: int, limit: int) -> int:
    """Low bits of each of `n` ascending numbers below `limit`: floor(log2(limit / n)), and 0 for none."""
    return (limit // n).bit_length() - 1 if n else 0


def n_bytes(n_bits: int) -> int:
    """Bytes that hold so many bits."""
    return (n_bits + 7) // 8


def upper_bits(n: int, limit: int, width: int) -> int:
    """Bits of `upper` for `n` ascending numbers below `limit` with low parts of `width`."""
    return n + ((limit - 1) >> width) if n else 0


def fields(data: Bytes, n: int, width: int) -> NDArray[np.unsignedinteger]:
    """The first `n` fields of `width` bits, 0 to 56; uint64 above 25 bits, else uint32."""
    dtype = _dtype(width)
    if width == 0 or n == 0:
        return np.zeros(n, dtype)
    # eight fields take `width` whole bytes: each lane of eight begins at the same bit of its row
    n_rows = (n + 7) // 8
    rows = data[: n_rows * width]
    if rows.size < n_rows * width:
        rows = np.concatenate([rows, np.zeros(n_rows * width - rows.size, np.uint8)])
    columns = rows.reshape(n_rows, width)
    out = np.empty((n_rows, 8), dtype)
    mask = dtype.type((1 << width) - 1)
    for lane in range(8):
        first, shift = divmod(lane * width, 8)
        bits = columns[:, first].astype(dtype)
        for k in range(1, n_bytes(shift + width)):
            bits |= columns[:, first + k].astype(dtype) << dtype.type(8 * k)
        out[:, lane] = (bits >> dtype.type(shift)) & mask
    return out.reshape(-1)[:n]


def fields_at(data: Bytes, at: NDArray[np.int64], width: int) -> NDArray[np.unsignedinteger]:
    """The fields with these numbers; `data` ends with `PADDING` bytes more than they take."""
    dtype = _dtype(width)
    if width == 0:
        return np.zeros(at.size, dtype)
    if width == 8:
        return data[at].astype(dtype)
    bit = at * width
    first = bit >> 3
    bits = data[first].astype(dtype)
    for k in range(1, n_bytes(7 + width)):
        bits |= data[first + k].astype(dtype) << dtype.type(8 * k)
    shifted: NDArray[np.unsignedinteger] = bits >> (bit & 7).astype(dtype)
    return shifted & dtype.type((1 << width) - 1)


def ascending(upper: Bytes, lower: Bytes, n: int, width: int) -> NDArray[np.int64]:
    """The `n` numbers written so; raises `ValueError` where `upper` does not hold as many."""
    at = set_bits(upper)
    if at.size != n:
        raise ValueError(f"{at.size} bits are set where {n} numbers were written")
    at -= np.arange(n)
    if width == 0:
        return at
    return (at << width) | fields(lower, n, width).astype(np.int64)


def set_bits(data: Bytes) -> NDArray[np.int64]:
    """Numbers of the bits that are set, ascending."""
    return np.flatnonzero(np.unpackbits(data, bitorder="little").view(np.bool_))


def _dtype(width: int) -> np.dtype[np.unsignedinteger]:
    if not 0 <= width <= MAX_WIDTH:
        raise ValueError(f"fields of {width} bits; 0 to {MAX_WIDTH} can be read")
    return np.dtype(np.uint32) if width <= 25 else np.dtype(np.uint64)
