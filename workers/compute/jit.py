"""Compiling loops over arrays: Numba, with one set of options for the whole engine.

`compiled` keeps IEEE order, so the same loop gives the same bits on every machine. `reassociated` lets LLVM sum in
any order and is only for sums whose result is rounded or bounded afterwards. Both release the GIL, so threads run
them side by side. Shape checks that tests wrap around every function are taken off first.

Machine code is kept in a folder named after the sources of this package, because Numba looks only at the file of the
function it loads: a loop that calls one of another file would otherwise keep that one's old code.
"""

import inspect
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])
_PACKAGE = Path(__file__).parent


def _cache_folder() -> Path:
    """Beside the compiled Python where that may be written, else in the user's cache."""
    digest = sha256(b"".join(file.read_bytes() for file in sorted(_PACKAGE.glob("*.py")))).hexdigest()[:16]
    beside = _PACKAGE / "__pycache__"
    is_ours = os.access(beside if beside.is_dir() else _PACKAGE, os.W_OK)
    return (beside if is_ours else Path.home() / ".cache" / "eyepiece") / f"numba-{digest}"


_CONFIG: Any = numba.config
if not _CONFIG.CACHE_DIR:
    _CONFIG.CACHE_DIR = str(_cache_folder())


def compiled(function: F) -> F:
    """Compile a loop; floating-point operations happen in the order written."""
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy")(inspect.unwrap(function)))


def reassociated(function: F) -> F:
    """Compile a loop whose floating-point sums may be taken in any order; NaN and infinity keep their meaning."""
    flags = {"reassoc", "nsz", "contract", "arcp"}
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=flags)(inspect.unwrap(function)))
