"""What a source leaves of a run of contexts: postings, or for a dense source the extremes of each context."""

from pathlib import Path

from backend.formats import array_file
from workers.compute.activation_index import Postings
from workers.compute.extremes import Extremes

Part = Postings | Extremes


def read(path: Path) -> Part:
    """Map a shard's file; raises `ValueError` where it is damaged."""
    arrays = array_file.read(path).arrays
    return Extremes(**arrays) if "high" in arrays else Postings(**arrays)
