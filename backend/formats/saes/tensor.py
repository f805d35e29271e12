"""What a file's header says of one tensor, and which dtypes weights may have."""

import math
from typing import NamedTuple

from backend import errors

MAX_AXES = 8
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
    "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
"""By safetensors' names. Tensors that are no weights may have any of them."""
WEIGHT_DTYPES = ("F64", "F32", "F16", "BF16")


class Tensor(NamedTuple):
    """Of one tensor in a file."""

    file: str
    """Path below the folder."""
    dtype: str
    """By safetensors' name; another name for those it does not know."""
    shape: tuple[int, ...]


def checked(file: str, name: str, dtype: object, shape: object) -> Tensor:
    """The tensor, or `InvalidInputError` where the header holds something else."""
    if not isinstance(dtype, str) or not isinstance(shape, list | tuple) or len(shape) > MAX_AXES:
        raise errors.InvalidInputError(f"{file} has a broken header at '{name[:80]}'.", hint="Save it again.")
    sizes = [size for size in shape if isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 1 << 48]
    if len(sizes) < len(shape) or math.prod(sizes) >= 1 << 56:
        raise errors.InvalidInputError(f"{file}: '{name[:80]}' has an impossible shape.", hint="Save it again.")
    return Tensor(file, dtype, tuple(sizes))


def n_bytes(tensor: Tensor) -> int | None:
    """Bytes its elements take; None for an unknown dtype."""
    item = ITEM_BYTES.get(tensor.dtype)
    return None if item is None else item * math.prod(tensor.shape)
