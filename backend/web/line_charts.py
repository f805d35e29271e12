"""Charts of numbers by position in a context: lines as inline SVG, as wide as their column.

At most `MAX_POINTS` points are drawn, each the mean over a run of positions; pointing at one says its numbers. A dashed
upright marks the length of the contexts the SAE was trained on. One line is solid, a second to compare it with dashed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from backend.web import charts, numerals
from backend.web.charts import HEIGHT, PLOT, TOP

MAX_POINTS = 64
_WIDTH = 1000
"""Of the drawing inside, which stretches to the column's width."""

Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Line:
    """One number by position, from position 0."""

    name: str
    values: Values
    """None where it is undefined: a gap."""


@dataclass(frozen=True, slots=True)
class _Point:
    first: int
    last: int
    values: tuple[float | None, ...]
    """Of each line."""


def by_position(title: str, lines: Sequence[Line], *, trained: int | None) -> Markup:
    """One or two lines over the same positions, and a mark where the trained context ends.

    Args:
        title: What is drawn, above the plot.
        lines: The first is drawn solid, the second dashed.
        trained: Tokens in a context the SAE was trained on; marked where it lies inside.
    """
    n = max(len(line.values) for line in lines)
    points = _points(lines, n)
    known = [value for point in points for value in point.values if value is not None]
    if not known:
        return Markup("")
    low, high = _range(known)
    levels = [(TOP + PLOT * (1 - (v - low) / (high - low)), charts.short(v)) for v in charts.round_values(low, high, 3)]
    rules = [Markup('<line class="level" x1="0" x2="100%" y1="{:.1f}" y2="{:.1f}"/>').format(y, y) for y, _ in levels]
    drawn = [_path(points, k, n, (low, high)) for k in range(len(lines))]
    # what is written stands above the lines, with a rim of paper
    written = [
        Markup('<text class="tick" x="100%" y="{:.1f}" text-anchor="end">{}</text>').format(y - 3, text)
        for y, text in levels
    ]
    written += [charts.tick(v / n, numerals.count(round(v))) for v in charts.round_values(0, n)]
    written += [_mark(trained / n)] if trained is not None and 0 < trained < n else []
    written += [_target(point, n, [line.name for line in lines]) for point in points]
    return Markup(
        '<svg class="plot lines" role="img" aria-label="{}" width="100%" height="{}">'
        '<text class="axis-title" x="0" y="10">{}</text>'
        '{}<line class="base" x1="0" x2="100%" y1="{}" y2="{}"/>'
        '<svg class="drawing" x="0" y="{}" width="100%" height="{}" viewBox="0 0 {} {}" preserveAspectRatio="none">{}</svg>'
        "{}"
        '<text class="axis-title" x="50%" y="{}" text-anchor="middle">position in the context</text></svg>'
    ).format(
        _label(title, lines, points, trained), HEIGHT, title, Markup("").join(rules), TOP + PLOT, TOP + PLOT,
        TOP, PLOT, _WIDTH, PLOT, Markup("").join(drawn), Markup("").join(written), HEIGHT - 3,
    )  # fmt: skip


def _points(lines: Sequence[Line], n: int) -> list[_Point]:
    width = -(-n // MAX_POINTS)
    starts = range(0, n, width)
    return [
        _Point(start, min(start + width, n) - 1, tuple(_mean(line.values[start : start + width]) for line in lines))
        for start in starts
    ]


def _mean(values: Values) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Ends of the y axis: a little more than the values take."""
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _path(points: Sequence[_Point], k: int, n: int, ends: tuple[float, float]) -> Markup:
    """One line, in pieces where it has gaps."""
    pieces: list[list[str]] = [[]]
    for point in points:
        value = point.values[k]
        if value is None:
            pieces.append([])
            continue
        x = _WIDTH * (point.first + point.last + 1) / 2 / n
        y = PLOT * (1 - (value - ends[0]) / (ends[1] - ends[0]))
        pieces[-1].append(f"{x:.1f} {y:.1f}")
    path = "".join(f"M{'L'.join(piece)}" for piece in pieces if piece)
    return Markup('<path class="{}" d="{}" vector-effect="non-scaling-stroke"/>').format(
        "compared" if k else "shown", path
    )


def _mark(at: float) -> Markup:
    anchor, dx = ("end", -4) if at > 0.5 else ("start", 4)
    return Markup(
        '<line class="trained" x1="{:.2f}%" x2="{:.2f}%" y1="{}" y2="{}"/>'
        '<text class="tick" x="{:.2f}%" dx="{}" y="{}" text-anchor="{}">trained</text>'
    ).format(100 * at, 100 * at, TOP, TOP + PLOT, 100 * at, dx, TOP + 9, anchor)


def _target(point: _Point, n: int, names: Sequence[str]) -> Markup:
    where = f"position {point.first}" if point.first == point.last else f"positions {point.first} to {point.last}"
    numbers = [
        f"{name} {charts.short(value)}" for name, value in zip(names, point.values, strict=True) if value is not None
    ]
    return Markup(
        '<g class="bin"><title>{}</title><rect class="target" x="{:.2f}%" y="{}" width="{:.2f}%" height="{}"/></g>'
    ).format(
        f"{where}: {', '.join(numbers) or 'nothing counts'}",
        100 * point.first / n, TOP, 100 * (point.last + 1 - point.first) / n, PLOT,
    )  # fmt: skip


def _label(title: str, lines: Sequence[Line], points: Sequence[_Point], trained: int | None) -> str:
    """The gist for those who do not see it: where the solid line begins and ends."""
    known = [point for point in points if point.values[0] is not None]
    gist = f"{title}, by position in the context."
    if known:
        first, last = known[0], known[-1]
        gist += f" {lines[0].name}: {_said(first)} at position {first.first}, {_said(last)} at {last.last}."
    return gist + (f" Trained on {trained} tokens." if trained is not None else "")


def _said(point: _Point) -> str:
    value = point.values[0]
    return "" if value is None else charts.short(value)
