"""Examples as lines of a concordance: what stands before the strongest firing, that firing in one column, what follows.

In steps: cut the tokens around the maximum to what a wide screen can show; join tokens that do not fire into runs of
plain text; wrap each firing token in a `<mark>` whose class is its shade and whose title is its value.
Owns the shades: ten equal steps of (0, the feature's maximum], so that an interval of the dashboard is two of them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from markupsafe import Markup

from backend.services.features import ExampleView
from backend.web import numerals, token_text

N_SHADES = 10
BEFORE_CHARACTERS, AFTER_CHARACTERS = 130, 110
"""What a line keeps on either side; the widest layout shows about 90 and 80."""
_NONE: Mapping[int, float] = {}


@dataclass(frozen=True, slots=True)
class Line:
    """One example, ready for the page."""

    before: Markup
    """Ends where the strongest firing begins; clipped at its left."""
    after: Markup
    """Begins with the strongest firing; clipped at its right."""
    full: Markup
    """The whole context."""
    value: str
    """The maximum, with the decimals the whole column has."""
    context: int
    n_firings: int
    document: str
    """The one the middle is from; empty: not known."""


def shade(value: float, maximum: float) -> int:
    """Step of `value`: i covers ((i-1)/10, i/10] of the maximum, 1 to 10."""
    if maximum <= 0:
        return 1
    return min(N_SHADES, max(1, math.ceil(N_SHADES * value / maximum)))


@dataclass(frozen=True, slots=True)
class Range:
    """What values are shaded against: the feature's largest, and for those below zero its most negative."""

    maximum: float
    minimum: float = 0.0

    def css_class(self, value: float) -> str:
        """`a1` to `a10`, or `n1` to `n10` below zero."""
        return f"n{shade(-value, -self.minimum)}" if value < 0 else f"a{shade(value, self.maximum)}"

    @property
    def size(self) -> float:
        """The largest magnitude, which decides the decimals."""
        return max(abs(self.maximum), abs(self.minimum))


def line(
    example: ExampleView,
    maximum: float,
    *,
    minimum: float = 0.0,
    at: int | None = None,
    other: Mapping[int, float] = _NONE,
) -> Line:
    """The example shaded against the feature's `maximum`, values below zero against its `minimum`.

    Args:
        example: A context.
        maximum: The feature's largest activation.
        minimum: Its most negative one; 0 for features that have none.
        at: Where the token in the middle stands; the strongest firing by default.
        other: Activations of another feature by position; where it fires is underlined.
    """
    values = dict(zip(example.positions, example.values, strict=True))
    ends = Range(maximum, minimum)
    hit, n = example.max_position if at is None else at, len(example.tokens)
    first = _reach(example.tokens, range(hit - 1, -1, -1), BEFORE_CHARACTERS, hit)
    last = _reach(example.tokens, range(hit, n), AFTER_CHARACTERS, hit) + 1

    def text(start: int, stop: int, write: Callable[[str], Markup]) -> Markup:
        return _shaded(example.tokens, values, (start, stop), ends, write, other)

    return Line(
        before=text(first, hit, token_text.inline),
        after=text(hit, last, token_text.inline),
        full=text(0, n, token_text.flowing),
        value=numerals.fixed(values.get(hit, 0.0), numerals.decimals_for(ends.size)),
        context=example.context,
        n_firings=len(example.positions),
        document=next((d.name for d in reversed(example.documents) if d.position <= hit), ""),
    )


def _reach(tokens: tuple[str, ...], positions: range, n_characters: int, start: int) -> int:
    """The last of `positions` that still begins within so many characters."""
    reached, seen = start, 0
    for position in positions:
        if seen > n_characters:
            break
        reached = position
        seen += len(tokens[position])
    return reached


def _shaded(
    tokens: tuple[str, ...],
    values: dict[int, float],
    bounds: tuple[int, int],
    ends: Range,
    write: Callable[[str], Markup],
    other: Mapping[int, float],
) -> Markup:
    parts: list[Markup] = []
    run: list[str] = []
    for position in range(*bounds):
        value = values.get(position)
        if value is None and position not in other:
            run.append(tokens[position])
            continue
        token = tokens[position]
        shown = _text(token, write) if value is None else _mark(token, value, ends, write)
        if position in other:
            shown = Markup("<u>{}</u>").format(shown)
        parts += [write("".join(run)), shown]
        run = []
    return Markup("").join([*parts, write("".join(run))])


def _mark(token: str, value: float, ends: Range, write: Callable[[str], Markup]) -> Markup:
    shade, number = ends.css_class(value), numerals.fixed(value, numerals.decimals_for(ends.size) + 1)
    # Some thousand of these make a page, and `Markup.format` takes most of their time.
    return Markup(f'<mark class="{shade}" title="{number}">{_text(token, write)}</mark>')  # noqa: S704 - ours, or escaped


def _text(token: str, write: Callable[[str], Markup]) -> Markup:
    return write(token) or token_text.isolated(token)
