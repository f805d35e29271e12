"""Curves of an injection scan: attribution against coefficient, one line for each component, as inline SVG.

As wide as its column and of a fixed height, like the other charts. Lines are coloured by cluster and, at their right end,
the ones that swing most are named, so colour is never all there is. A rule stands at coefficient 0, the unmodified
model. Pointing at a coefficient says its values in a title; `frontend/static/js/scan.js` reads them out instead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from backend.web import charts, numerals

TOP, FOOT = 16, 34
"""Pixels above the plot; of tick labels and axis title below."""
LABEL_STEP = 13
"""Between two names at the right end."""
MAX_TARGETS = 64
N_TOLD = 6
"""Lines a title tells."""
_WIDTH = 1000
"""Of the drawing inside, which stretches to the column's width."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One line."""

    name: str
    values: Sequence[float]
    kind: str
    """Its class in the style sheet: `total`, `k1` to `k8`, `flat`."""
    number: int
    """What the page's rows know it by."""

    @property
    def swing(self) -> float:
        """Greatest value less the smallest."""
        return max(self.values) - min(self.values)


def curves(
    coefficients: Sequence[float], lines: Sequence[Curve], words: tuple[str, str], *, height: int, n_named: int
) -> Markup:
    """The chart; empty for a single coefficient, which makes no line.

    Args:
        coefficients: Ascending.
        lines: Drawn in order, so the last lies on top.
        words: What the y axis is of, and the gist for those who do not see it.
        height: Of the plot, in pixels.
        n_named: Lines named at their right end.
    """
    if len(coefficients) < 2 or not lines:
        return Markup("")
    low, high = _range([value for line in lines for value in line.values])
    across = charts.Axis(coefficients[0], coefficients[-1])

    def y(value: float) -> float:
        return TOP + height * (1 - (value - low) / (high - low))

    levels = charts.round_values(low, high, max(4, height // 40))
    rules = [_rule("base" if abs(v) < 1e-9 * (high - low) else "level", y(v)) for v in levels]
    rules += [_upright("trained", across.at(0.0), height)] if across.low < 0 < across.high else []
    drawn = [_path(line, coefficients, across, y) for line in lines]
    written = [
        Markup('<text class="tick" x="0" dx="-6" y="{:.1f}" text-anchor="end">{}</text>').format(
            y(v) + 4, charts.short(v)
        )
        for v in levels
    ]
    written += [
        _tick(across.at(v), charts.short(v), TOP + height + 17) for v in charts.round_values(across.low, across.high)
    ]
    written += _names(sorted(lines, key=lambda line: -line.swing)[:n_named], y, height)
    written += [_upright("reading", across.at(coefficients[-1]), height)]
    written += [_target(run, coefficients, lines, across, height) for run in _runs(len(coefficients))]
    return Markup(
        '<svg class="plot curves" role="img" aria-label="{}" width="100%" height="{}">'
        '<text class="axis-title" x="0" y="10">{}</text>{}'
        '<svg class="drawing" x="0" y="{}" width="100%" height="{}" viewBox="0 {} {} {}" preserveAspectRatio="none">{}</svg>'
        '{}<text class="axis-title" x="50%" y="{}" text-anchor="middle">coefficient</text></svg>'
    ).format(
        words[1], TOP + height + FOOT, words[0], Markup("").join(rules), TOP, height, TOP, _WIDTH, height, Markup("").join(drawn),
        Markup("").join(written), TOP + height + FOOT - 3,
    )  # fmt: skip


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Ends of the y axis: a little more than the values take."""
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _rule(kind: str, y: float) -> Markup:
    return Markup('<line class="{}" x1="0" x2="100%" y1="{:.1f}" y2="{:.1f}"/>').format(kind, y, y)


def _upright(kind: str, at: float, height: int) -> Markup:
    return Markup('<line class="{}" x1="{:.2f}%" x2="{:.2f}%" y1="{}" y2="{}"/>').format(
        kind, 100 * at, 100 * at, TOP, TOP + height
    )


def _tick(at: float, text: str, y: int) -> Markup:
    return Markup('<text class="tick" x="{:.2f}%" y="{}" text-anchor="middle">{}</text>').format(100 * at, y, text)


def _path(line: Curve, coefficients: Sequence[float], across: charts.Axis, y: Callable[[float], float]) -> Markup:
    points = [f"{_WIDTH * across.at(c):.1f} {y(v):.1f}" for c, v in zip(coefficients, line.values, strict=True)]
    return Markup('<path class="{}" data-part="{}" d="M{}" vector-effect="non-scaling-stroke"/>').format(
        line.kind, line.number, "L".join(points)
    )


def _names(lines: Sequence[Curve], y: Callable[[float], float], height: int) -> list[Markup]:
    """Beside the lines' right ends, pushed apart where they would touch."""
    in_order = sorted(lines, key=lambda line: -line.values[-1])
    places: list[float] = []
    for line in in_order:
        wanted = y(line.values[-1]) + 4
        places.append(max(wanted, places[-1] + LABEL_STEP) if places else wanted)
    lowest = TOP + height + 4.0
    for i in reversed(range(len(places))):
        places[i] = min(places[i], lowest)
        lowest = places[i] - LABEL_STEP
    return [
        Markup('<text class="name {}" data-part="{}" x="100%" dx="7" y="{:.1f}">{}</text>').format(
            line.kind, line.number, place, line.name
        )
        for line, place in zip(in_order, places, strict=True)
    ]


def _runs(n: int) -> list[tuple[int, int]]:
    """First and last coefficient of each title."""
    width = -(-n // MAX_TARGETS)
    return [(start, min(start + width, n) - 1) for start in range(0, n, width)]


def _target(
    run: tuple[int, int], coefficients: Sequence[float], lines: Sequence[Curve], across: charts.Axis, height: int
) -> Markup:
    middle = (run[0] + run[1]) // 2
    told = sorted(lines, key=lambda line: -line.swing)[:N_TOLD]
    values = ", ".join(f"{line.name} {numerals.significant(line.values[middle])}" for line in told)
    half = 0.5 / (len(coefficients) - 1)
    left, right = (max(0.0, run[0] / (len(coefficients) - 1) - half), min(1.0, run[1] / (len(coefficients) - 1) + half))
    return Markup(
        '<g class="bin"><title>coefficient {}: {}</title>'
        '<rect class="target" x="{:.2f}%" y="{}" width="{:.2f}%" height="{}"/></g>'
    ).format(charts.short(coefficients[middle]), values, 100 * left, TOP, 100 * (right - left), height)
