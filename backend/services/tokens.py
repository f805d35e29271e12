"""Secrets that stand for somebody: 256 random bits, of which only the sha256 is kept.

A slow hash guards passwords because people choose them; nobody guesses one of 2²⁵⁶, so looking one up costs an index.
"""

import hashlib
import secrets

_N_BYTES = 32
_LONGEST = 200


def new(prefix: str = "") -> str:
    """A fresh one, in letters, digits, `-` and `_`."""
    return prefix + secrets.token_urlsafe(_N_BYTES)


def digest(token: str) -> bytes:
    """What is kept of it; of anything longer than a token can be, only its beginning is read."""
    return hashlib.sha256(token[:_LONGEST].encode("utf-8", "replace")).digest()
