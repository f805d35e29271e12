"""Memory as a setting: how much of a budget is left for firings.

The budget is what the computation may take beyond the libraries. What those take is measured when a budget is made,
before models and corpora are loaded, and stated (`floor`). What is counted is anonymous memory: pages of mapped files
(corpora, postings) are the kernel's to drop.
"""

import ctypes
import re
from pathlib import Path

import psutil

from backend import errors

_STATUS = Path("/proc/self/status")
_MIN_FIRINGS = 1 << 16
_HELD_BACK = 0.05
"""Part of the budget that is not given out: allocators keep some pages."""
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""Of glibc's mallopt(3)."""
_KEPT, _MAPPED = 256 << 20, 64 << 20


def keep_freed() -> None:
    """Let malloc keep up to 256 MB it was given back, in blocks below 64 MB; nothing where it is not glibc's.

    A forward pass makes and drops the same few dozen tensors for every batch. As glibc comes, it hands their pages back
    to the kernel and faults them in again. A budget gives back what is kept before it measures.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _MAPPED)
        mallopt(_TRIM_THRESHOLD, _KEPT)


def _give_back() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def taken() -> int:
    """Bytes of anonymous memory of this process; all of its resident memory where the system does not tell them apart."""
    if _STATUS.is_file():
        found = re.search(r"^RssAnon:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    return int(psutil.Process().memory_info().rss)


class Budget:
    """So many bytes beyond what the process has taken by now."""

    def __init__(self, limit: int = 0, *, floor: int | None = None) -> None:
        """`limit` 0: half of the memory that is free now. `floor`: what the libraries take; what is taken now, if not given."""
        _give_back()
        self.floor = taken() if floor is None else floor
        self.limit = limit or psutil.virtual_memory().available // 2

    def firings(self, bytes_each: int) -> int:
        """How many firings of this size fit beside what is taken now.

        Raises:
            InvalidInputError: Not even a few do; says how much would.
        """
        used = taken() - self.floor
        n = int(self.limit * (1 - _HELD_BACK) - used) // bytes_each
        if n < _MIN_FIRINGS:
            needed = (used + bytes_each * 4 * _MIN_FIRINGS) / (1 - _HELD_BACK)
            raise errors.InvalidInputError(
                f"a memory of {self.limit / 2**20:,.0f} MB is too little: the model, the SAE and one batch take "
                f"{used / 2**20:,.0f} MB.",
                hint=f"Give at least {needed / 2**20:,.0f} MB (--memory, EYEPIECE_MEMORY_GB), or fewer threads.",
            )
        return n
