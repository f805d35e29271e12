"""A steered text and the other one as elements: cut at their tokens, with marks on what only one of them has.

`frontend/static/js/steer_tokens.js` and `steer_diff.js` do the same while a text is written.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from backend.formats.messages import GeneratedToken
from backend.web import numerals

REPLACEMENT = "\ufffd"
"""What a tokenizer shows for a part of a character."""

CHARACTERS_A_PART = 16
"""So much text a token that does not stand in it may have at most."""
_NONE: tuple[GeneratedToken | None, bool] = (None, False)


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the text: a token, or several that make up characters only together."""

    text: str
    token: GeneratedToken | None
    """The last of them; None where there is none."""
    is_own: bool
    """The other text does not have it."""

    @property
    def share(self) -> str:
        """How likely the token was: `72.6%`."""
        return "" if self.token is None else numerals.percent(math.exp(self.token.logprob), digits=3)

    @property
    def told(self) -> str:
        """What the script reads of the token, as JSON in the words of the API."""
        if self.token is None:
            return "null"
        others = [{"token": each.token, "logprob": each.logprob} for each in self.token.alternatives]
        return json.dumps({"token": self.token.token, "logprob": self.token.logprob, "topLogprobs": others})


def pieces(text: str, tokens: Sequence[GeneratedToken], is_own: Sequence[bool]) -> tuple[Piece, ...]:
    """The text cut where its tokens meet; `is_own` says which tokens the other text does not have.

    Tokens that do not stand in it as they are (parts of a character, special ones, a first one without its space) share
    what stands between the tokens around them, under the last of them.
    """
    found: list[Piece] = []
    start, n_parts, part = 0, 0, _NONE

    def cut(end: int, token: GeneratedToken | None, own: bool) -> None:
        nonlocal start
        if end > start:
            found.append(Piece(text[start:end], token, own))
            start = end

    for token, own in zip(tokens, is_own, strict=True):
        at = text.find(token.token, start) if token.token and REPLACEMENT not in token.token else -1
        if at < 0 or at - start > n_parts * CHARACTERS_A_PART:
            part, n_parts = (token, own), n_parts + 1
            continue
        cut(at, *part)
        cut(at + len(token.token), token, own)
        n_parts, part = 0, _NONE
    cut(len(text), *part)
    return tuple(found)


def differing(a: Sequence[str], b: Sequence[str]) -> tuple[list[bool], list[bool], int]:
    """Which tokens of each are not in a longest common subsequence of both, and how many both begin with."""
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    left, right = a[same:], b[same:]
    longest = _longest_common(left, right)
    own_a, own_b = [False] * len(a), [False] * len(b)
    i = j = 0
    while i < len(left) or j < len(right):
        if i < len(left) and j < len(right) and left[i] == right[j]:
            i, j = i + 1, j + 1
        elif j == len(right) or (i < len(left) and longest[i + 1][j] >= longest[i][j + 1]):
            own_a[same + i] = True
            i += 1
        else:
            own_b[same + j] = True
            j += 1
    return own_a, own_b, same


def _longest_common(a: Sequence[str], b: Sequence[str]) -> list[list[int]]:
    """Lengths of the longest common subsequences of what is left from i and j on, by [i][j]."""
    rows = [[0] * (len(b) + 1)]
    for x in reversed(a):
        below, row = rows[-1], [0] * (len(b) + 1)
        for j in range(len(b) - 1, -1, -1):
            row[j] = below[j + 1] + 1 if x == b[j] else max(below[j], row[j + 1])
        rows.append(row)
    return rows[::-1]
