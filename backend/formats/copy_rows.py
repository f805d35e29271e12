"""Rows as Postgres's COPY takes them in binary: of features, dashboards and contexts.

A row is the number of its fields, then each behind its length, numbers big-endian; a jsonb field is its text behind a
version byte. Source: PostgreSQL's documentation of COPY, "Binary Format".
"""

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

FEATURE = (
    "feature (revision_id, index, n_firings, density, max_activation, mean_activation, logit_kurtosis, fires_on, promotes, "
    "token_texts)"
)
"""Where `feature` rows go, as COPY names it; so the others."""
DASHBOARD = "dashboard (revision_id, index, packed)"
HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
END = struct.pack(">h", -1)
_FEATURE = struct.Struct(">hiiiiiqifif")
_PAGE = struct.Struct(">hiiiii")
_CONTEXT = struct.Struct(">hiii")
_REAL = struct.Struct(">if")
_DOUBLE = struct.Struct(">id")
_LENGTH = struct.Struct(">i")
_NULL = _LENGTH.pack(-1)
_JSONB_VERSION = b"\x01"


@dataclass(frozen=True, slots=True)
class FeatureFacts:
    """What the narrow row of a feature says."""

    index: int
    n_firings: int
    density: float
    max_activation: float
    mean_activation: float
    """NaN: not known; so the next."""
    logit_kurtosis: float
    fires_on: Sequence[str]
    promotes: Sequence[str]


def feature(revision_id: int, facts: FeatureFacts) -> bytes:
    """A row of `feature`."""
    f = facts
    fields = (
        _FEATURE.pack(10, 4, revision_id, 4, f.index, 8, f.n_firings, 4, f.density, 4, f.max_activation),
        _NULL if math.isnan(f.mean_activation) else _DOUBLE.pack(8, f.mean_activation),
        _NULL if math.isnan(f.logit_kurtosis) else _REAL.pack(4, f.logit_kurtosis),
        _field(_JSONB_VERSION + _json(f.fires_on)),
        _field(_JSONB_VERSION + _json(f.promotes)),
        _field(token_texts([*f.fires_on, *f.promotes]).encode()),
    )
    return b"".join(fields)


def dashboard(revision_id: int, index: int, packed: bytes) -> bytes:
    """A row of `dashboard`."""
    return _PAGE.pack(3, 4, revision_id, 4, index, len(packed)) + packed


def context(index: int, tokens: bytes, documents: Sequence[tuple[int, str]] | None) -> bytes:
    """A row of (index, tokens, documents); None: the documents are not known."""
    named = _NULL
    if documents is not None:
        pairs = json.dumps([[position, storable(name)] for position, name in documents], ensure_ascii=False)
        named = _field(_JSONB_VERSION + pairs.encode())
    return _CONTEXT.pack(3, 4, index, len(tokens)) + tokens + named


def token_texts(texts: Sequence[str]) -> str:
    """What the token filter searches: every text in lower case between U+001F, which no token has."""
    return "\x1f".join(["", *(storable(text).lower() for text in texts), ""])


def storable(text: str) -> str:
    """NUL, which Postgres cannot hold, as its picture."""
    return text.replace("\x00", "␀")


def _field(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


def _json(texts: Sequence[str]) -> bytes:
    return json.dumps([storable(text) for text in texts], ensure_ascii=False).encode()
