"""Compiling loops over arrays: Numba, with one set of options for the whole engine.

`compiled` keeps IEEE order, so the same loop gives the same bits on every machine. `reassociated` lets LLVM sum in
any order and is only for sums whose result is rounded or bounded afterwards. Both release the GIL, so threads run
them side by side, and keep their machine code in a cache beside the module. Shape checks that tests wrap around every
function are taken off first.
"""

import inspect
from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """Compile a loop; floating-point operations happen in the order written."""
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy")(inspect.unwrap(function)))


def reassociated(function: F) -> F:
    """Compile a loop whose floating-point sums may be taken in any order; NaN and infinity keep their meaning."""
    flags = {"reassoc", "nsz", "contract", "arcp"}
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=flags)(inspect.unwrap(function)))
