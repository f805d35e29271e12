"""Headers of NumPy's .npz: the zip's directory and the first bytes of each array, without loading any.

Sources: numpy.lib.format's documentation of the .npy format; PKWARE's APPNOTE for zip as `zipfile` reads it.
"""

import ast
import struct
import zipfile
from pathlib import Path

from backend import errors
from backend.formats.saes import tensor, zip_directory

_DTYPES = {
    "f8": "F64", "f4": "F32", "f2": "F16", "i8": "I64", "i4": "I32", "i2": "I16", "i1": "I8", "u8": "U64", "u4": "U32",
    "u2": "U16", "u1": "U8", "b1": "BOOL",
}  # fmt: skip
_MAX_HEADER_BYTES = 1 << 16


def read(path: Path) -> dict[str, tensor.Tensor]:
    """Tensors by name; raises `InvalidInputError`."""
    with zip_directory.opened(path) as (archive, members):
        found = {}
        for member in members:
            if not member.filename.endswith(".npy"):
                raise errors.InvalidInputError(f"{path.name} holds '{member.filename[:80]}', which is no .npy array.")
            name = member.filename.removesuffix(".npy")
            found[name] = _array(archive, member, path.name, name)
    return found


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: str, name: str) -> tensor.Tensor:
    broken = errors.InvalidInputError(f"{file} has a broken array '{name[:80]}'.", hint="Save it again.")
    with archive.open(member) as stream:
        start = stream.read(8)
        if len(start) < 8 or start[:6] != b"\x93NUMPY" or start[6] not in (1, 2, 3):
            raise broken
        width = 2 if start[6] == 1 else 4
        raw_length = stream.read(width)
        if len(raw_length) < width:
            raise broken
        length = struct.unpack("<H" if width == 2 else "<I", raw_length)[0]
        if length > _MAX_HEADER_BYTES:
            raise broken
        text = stream.read(length)
    try:
        header = ast.literal_eval(text.decode("utf-8").strip())
        descr, shape = header["descr"], header["shape"]
    except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError) as error:
        raise broken from error
    if not isinstance(descr, str):
        raise errors.InvalidInputError(f"{file}: '{name[:80]}' is a table; expected plain numbers.")
    if descr.lstrip("|<>=") == "O":
        raise errors.InvalidInputError(f"{file}: '{name[:80]}' holds Python objects, which run code when opened.")
    known = _DTYPES.get(descr[1:], descr) if descr[:1] in "<|=" else descr
    found = tensor.checked(file, name, known, shape)
    needed = tensor.n_bytes(found)
    if needed is not None and member.file_size != 8 + width + length + needed:
        raise errors.InvalidInputError(
            f"{file}: '{name[:80]}' takes {member.file_size} bytes, more or fewer than its shape and dtype need.",
            hint="Save it again.",
        )
    return found
