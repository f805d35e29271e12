"""Charts as inline SVG, made from numbers alone: histograms and the small bars beside numbers.

A plot is as wide as its column and has a fixed height, so nothing moves while a page loads: x is in percent, y in
pixels, text keeps its size. Colours come from classes in `frontend/static/css/charts.css`; no style attributes.
Every bar says its range and count in a `<title>`; the whole chart says its gist in its label.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from markupsafe import Markup

from backend.services.features import HistogramView
from backend.web import concordance, numerals

TOP, PLOT, STRIP, FOOT = 16, 96, 5, 34
"""Pixels above the plot, of the plot, of the strip of shades under it, and of tick labels and axis title."""
HEIGHT = TOP + PLOT + FOOT
LEGEND_STEP = 24

BarKind = Literal["activation", "promoted", "suppressed", "plain", "chosen", "faded"]


@dataclass(frozen=True, slots=True)
class Bar:
    """One bin of a histogram."""

    left: float
    right: float
    """0–1 along the axis."""
    n: int
    title: str
    kind: BarKind = "plain"
    href: str = ""


@dataclass(frozen=True, slots=True)
class Axis:
    """Where numbers lie between the ends of the x axis."""

    low: float
    high: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """0 at the low end, 1 at the high end; 0 where the ends coincide."""
        if self.high <= self.low:
            return 0.0
        if self.is_log:
            return (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Words:
    """What a plot says of itself."""

    label: str
    x: str
    y: str


def activations(histogram: HistogramView, maximum: float, *, is_log: bool) -> Markup:
    """Firings by activation; the strip under the axis shows how the values are shaded in the examples."""
    edges = histogram.edges
    axis = Axis(edges[0], edges[-1], is_log)
    bars = _bars(histogram, axis, "firing", lambda low, high: "activation")
    ticks = [(axis.at(v), short(v)) for v in (_log_ticks(*_ends(axis)) if is_log else round_values(*_ends(axis)))]
    words = Words(
        f"Histogram of {numerals.count(sum(histogram.counts))} firings by activation, "
        f"from {short(edges[0])} to {short(edges[-1])}.",
        "activation, log scale" if is_log else "activation",
        "firings" if is_log else "firings, log scale",
    )
    return _plot(bars, ticks, words, is_log=not is_log, strip=_shade_strip(axis, maximum))


def signed_values(histogram: HistogramView, ends: concordance.Range, *, is_dense: bool) -> Markup:
    """Tokens (of an SAE: firings) by value, below zero in the hue of suppression; the strip shows the shades."""
    axis = Axis(histogram.edges[0], histogram.edges[-1])
    what = "token" if is_dense else "firing"
    bars = _bars(histogram, axis, what, lambda low, high: "activation" if low >= 0 else "suppressed")
    ticks = [(axis.at(v), short(v)) for v in round_values(*_ends(axis))]
    words = Words(
        f"Histogram of {numerals.count(sum(histogram.counts))} {what}s by activation, "
        f"from {short(axis.low)} to {short(axis.high)}.",
        "activation",
        f"{what}s, log scale",
    )
    strip = _shade_strip(axis, ends.maximum) + _shade_strip(axis, ends.minimum, name="m")
    return _plot(bars, ticks, words, is_log=True, strip=strip)


def firings(histogram: HistogramView, maximum: float, is_chosen: Sequence[bool], hrefs: Sequence[str]) -> Markup:
    """Firings by activation, as the kept index bins them; a bar leads to its firings, bars not chosen are faded."""
    edges = histogram.edges
    axis = Axis(edges[0], edges[-1], is_log=edges[0] > 0)
    bars = [
        replace(bar, href=href, kind="activation" if chosen else "faded")
        for bar, chosen, href in zip(_bars(histogram, axis, "firing", _plainly), is_chosen, hrefs, strict=True)
    ]
    ticks = [(axis.at(v), short(v)) for v in (_log_ticks(*_ends(axis)) if axis.is_log else round_values(*_ends(axis)))]
    words = Words(
        f"Histogram of {numerals.count(sum(histogram.counts))} firings by activation, "
        f"from {short(edges[0])} to {short(edges[-1])}.",
        "activation, log scale" if axis.is_log else "activation",
        "firings",
    )
    return _plot(bars, ticks, words, is_log=False, strip=_shade_strip(axis, maximum))


def logits(histogram: HistogramView) -> Markup:
    """The vocabulary by logit: what the feature suppresses left of zero, what it promotes right of it."""
    axis = Axis(histogram.edges[0], histogram.edges[-1])
    bars = _bars(histogram, axis, "token", lambda low, high: "promoted" if low + high > 0 else "suppressed")
    ticks = [(axis.at(v), short(v)) for v in round_values(*_ends(axis))]
    words = Words(
        f"Histogram of {numerals.count(sum(histogram.counts))} tokens by logit, "
        f"from {short(axis.low)} to {short(axis.high)}.",
        "logit",
        "tokens, log scale",
    )
    return _plot(bars, ticks, words, is_log=True)


def densities(
    ends: tuple[float, float],
    counts: Sequence[int],
    chosen: tuple[float, float],
    href: Callable[[float, float], str],
) -> Markup:
    """Features by density; a bar leads to the features in it, bars outside the `chosen` densities are faded.

    Args:
        ends: log10 of density at both ends.
        counts: Features per equal bin between them.
        chosen: Smallest and largest density the table shows.
        href: Page of the features between two densities.
    """
    axis, n = Axis(*ends), len(counts)
    bars = []
    for i, count in enumerate(counts):
        low, high = (10 ** (ends[0] + (ends[1] - ends[0]) * k / n) for k in (i, i + 1))
        title = f"{_of(count, 'feature')} of density {numerals.percent(low)} to {numerals.percent(high)}"
        is_in = low >= chosen[0] * 0.999 and high <= chosen[1] * 1.001
        bars.append(Bar(i / n, (i + 1) / n, count, title, "plain" if is_in else "faded", href(low, high)))
    whole = range(math.ceil(ends[0]), math.floor(ends[1]) + 1)
    shown = [k for k in whole if len(whole) <= 4 or k % 2 == 0]
    ticks = [(axis.at(k), numerals.percent(10.0**k, digits=1)) for k in shown]
    label = f"Histogram of {numerals.count(sum(counts))} features that fire, by density."
    return _plot(bars, ticks, Words(label, "density, log scale", "features"), is_log=False)


def spark(counts: Sequence[int]) -> Markup:
    """A histogram of densities as small as a word; the page of the source has the large one."""
    n, tallest = len(counts), max(counts, default=0)
    if not tallest:
        return Markup("")
    parts = [
        Markup('<rect x="{}" y="{:.1f}" width="2" height="{:.1f}"/>').format(
            3 * i, 18 - 18 * c / tallest, 18 * c / tallest
        )
        for i, c in enumerate(counts)
        if c
    ]
    return Markup('<svg class="spark" aria-hidden="true" focusable="false" width="{}" height="18">{}</svg>').format(
        3 * n, Markup("").join(parts)
    )


def legend(maximum: float) -> Markup:
    """The ten shades from zero to the feature's maximum, and a caret that the page moves to the value being read."""
    ticks = [numerals.fixed(maximum * k / 5, numerals.decimals_for(maximum)) for k in range(1, 6)]
    return _legend(ticks, f"0 to {short(maximum)}")


def share_legend(*, is_signed: bool) -> Markup:
    """The shades of lines of several features: shares of each one's own largest activation."""
    if is_signed:
        return _signed_legend(("min", "0", "max"), "each feature's most negative to 0", "each feature's largest")
    return _legend(["20%", "40%", "60%", "80%", "max"], "0 to each feature's largest")


def _legend(ticks: Sequence[str], reach: str) -> Markup:
    n, width = concordance.N_SHADES, LEGEND_STEP * concordance.N_SHADES
    parts = [
        Markup('<rect class="s{}" x="{}" y="7" width="{}" height="8"/>').format(k + 1, LEGEND_STEP * k, LEGEND_STEP)
        for k in range(n)
    ]
    for k, text in zip(range(0, n + 1, 2), ("0", *ticks), strict=True):
        anchor = "start" if k == 0 else "middle"
        parts.append(
            Markup('<text class="tick" x="{}" y="27" text-anchor="{}">{}</text>').format(LEGEND_STEP * k, anchor, text)
        )
    return Markup(
        '<svg class="legend" role="img" aria-label="Ten shades, in equal steps of activation from {}" '
        'width="{}" height="30" data-width="{}">{}<path class="caret" d="M-4 0h8l-4 6z"/></svg>'
    ).format(reach, width, width, Markup("").join(parts))


def signed_legend(ends: concordance.Range) -> Markup:
    """Ten shades from the most negative value to zero, ten from zero to the largest, and the caret."""
    low, high, decimals = min(ends.minimum, 0.0), max(ends.maximum, 0.0), numerals.decimals_for(ends.size)
    ticks = ["0" if value == 0 else numerals.fixed(value, decimals) for value in (low, 0.0, high)]
    return _signed_legend(ticks, f"{short(low)} to 0", short(high))


def _signed_legend(ticks: Sequence[str], low: str, high: str) -> Markup:
    n, step = concordance.N_SHADES, LEGEND_STEP // 2
    shades = [("m", k) for k in range(n, 0, -1)] + [("s", k) for k in range(1, n + 1)]
    parts = [
        Markup('<rect class="{}{}" x="{}" y="7" width="{}" height="8"/>').format(name, k, step * i, step)
        for i, (name, k) in enumerate(shades)
    ]
    width = step * len(shades)
    for x, text, anchor in zip((0, width // 2, width), ticks, ("start", "middle", "end"), strict=True):
        parts.append(Markup('<text class="tick" x="{}" y="27" text-anchor="{}">{}</text>').format(x, anchor, text))
    return Markup(
        '<svg class="legend" role="img" aria-label="Ten shades of activation from {}, ten from 0 to {}" '
        'width="{}" height="30" data-width="{}">{}<path class="caret" d="M-4 0h8l-4 6z"/></svg>'
    ).format(low, high, width, width, Markup("").join(parts))


def bar(fraction: float, kind: BarKind) -> Markup:
    """A bar so long behind or beside a number; the number itself is in the text."""
    width = 100 * min(1.0, max(0.0, fraction))
    return Markup(
        '<svg class="bar" width="60" height="10" aria-hidden="true" focusable="false">'
        '<rect class="{}" width="{:.1f}%" height="100%"/></svg>'
    ).format(kind, width)


def _bars(histogram: HistogramView, axis: Axis, what: str, kind: Callable[[float, float], BarKind]) -> list[Bar]:
    bars = []
    for low, high, n in zip(histogram.edges, histogram.edges[1:], histogram.counts, strict=False):
        title = f"{short(low)} to {short(high)}: {_of(n, what)}"
        bars.append(Bar(axis.at(low), axis.at(high) if high > low else 1.0, n, title, kind(low, high)))
    return bars


def _plainly(low: float, high: float) -> BarKind:
    return "plain"


def _shade_strip(axis: Axis, maximum: float, name: Literal["s", "m"] = "s") -> Markup:
    """One rectangle per shade between the ends of the axis; `m` are the shades below zero, to a negative `maximum`."""
    parts = []
    for step in range(1, concordance.N_SHADES + 1):
        low, high = sorted(maximum * k / concordance.N_SHADES for k in (step - 1, step))
        low, high = max(low, axis.low), min(high, axis.high)
        if high <= low:
            continue
        left, right = axis.at(low), axis.at(high)
        parts.append(
            Markup('<rect class="{}{}" x="{:.2f}%" y="{}" width="{:.2f}%" height="{}"/>').format(
                name, step, 100 * left, TOP + PLOT, 100 * (right - left), STRIP
            )
        )
    return Markup("").join(parts)


def _plot(
    bars: Sequence[Bar], ticks: Sequence[tuple[float, str]], words: Words, *, is_log: bool, strip: str = ""
) -> Markup:
    tallest = max((b.n for b in bars), default=0)
    height = _log_height(tallest) if is_log else _linear_height(tallest)
    levels = _log_levels(tallest) if is_log else _linear_levels(tallest)
    parts = [_level(TOP + PLOT - PLOT * height(n), numerals.short_count(round(n))) for n in levels]
    parts += [_bar(b, PLOT * height(b.n)) for b in bars]
    parts += [tick(at, text) for at, text in ticks]
    role = "group" if any(b.href for b in bars) else "img"
    return Markup(
        '<svg class="plot" role="{}" aria-label="{}" width="100%" height="{}">'
        '<text class="axis-title" x="0" y="10">{}</text>{}<line class="base" x1="0" x2="100%" y1="{}" y2="{}"/>{}'
        '<text class="axis-title" x="50%" y="{}" text-anchor="middle">{}</text></svg>'
    ).format(
        role, words.label, HEIGHT, words.y, Markup("").join(parts), TOP + PLOT, TOP + PLOT, strip, HEIGHT - 3, words.x
    )


def _bar(b: Bar, height: float) -> Markup:
    """A full-height transparent target, so that low bars can be pointed at, and the bar itself."""
    width = b.right - b.left
    drawn = Markup(
        '<g class="bin"><title>{}</title><rect class="target" x="{:.2f}%" y="{}" width="{:.2f}%" height="{}"/>'
        '<rect class="{}" x="{:.2f}%" y="{:.1f}" width="{:.2f}%" height="{:.1f}"/></g>'
    ).format(
        b.title, 100 * b.left, TOP, 100 * width, PLOT,
        b.kind, 100 * (b.left + 0.06 * width), TOP + PLOT - height, 88 * width, height,
    )  # fmt: skip
    if not b.href or not b.n:
        return drawn
    return Markup('<a href="{}" aria-label="{}" tabindex="-1">{}</a>').format(b.href, b.title, drawn)


def _level(y: float, text: str) -> Markup:
    return Markup(
        '<line class="level" x1="0" x2="100%" y1="{:.1f}" y2="{:.1f}"/>'
        '<text class="tick" x="100%" y="{:.1f}" text-anchor="end">{}</text>'
    ).format(y, y, y - 3, text)


def tick(at: float, text: str) -> Markup:
    """A number under the x axis, at a share of its width."""
    anchor = "start" if at < 0.04 else ("end" if at > 0.96 else "middle")
    return Markup('<text class="tick" x="{:.2f}%" y="{}" text-anchor="{}">{}</text>').format(
        100 * at, TOP + PLOT + 17, anchor, text
    )


def _linear_height(tallest: int) -> Callable[[float], float]:
    return lambda n: n / tallest if tallest else 0.0


def _log_height(tallest: int) -> Callable[[float], float]:
    """One count is as high as the step from 1 to 2."""
    return lambda n: math.log(2 * n) / math.log(2 * tallest) if n >= 1 else 0.0


def _log_levels(tallest: int) -> list[float]:
    powers = [10.0**k for k in range(1, 12) if 10**k <= tallest]
    return powers[:: 1 + len(powers) // 4] or [float(tallest)]


def _linear_levels(tallest: int) -> list[float]:
    """Two to four multiples of a round number."""
    if tallest < 2:
        return [float(tallest)] if tallest else []
    half = tallest / 2
    power = 10.0 ** math.floor(math.log10(half))
    step = max(m * power for m in (1, 2, 5) if m * power <= half)
    return [k * step for k in range(1, int(tallest / step) + 1)]


def round_values(low: float, high: float, n: int = 5) -> list[float]:
    """Round numbers from low to high, about `n` of them."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    rough = (high - low) / n
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten; powers of ten only where those are many, round numbers where they are few."""
    if low <= 0 or high <= low:
        return [low]
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [m * 10.0**k for k in exponents for m in (1, 2, 5)]
    inside = [v for v in fine if low <= v <= high]
    if len(inside) < 3:
        return [v for v in round_values(low, high) if low <= v <= high]
    return inside if len(inside) <= 9 else [v for v in inside if math.isclose(math.log10(v) % 1, 0, abs_tol=1e-9)]


def _ends(axis: Axis) -> tuple[float, float]:
    return axis.low, axis.high


def _of(n: int, what: str) -> str:
    return f"{numerals.count(n)} {what}{'' if n == 1 else 's'}"


def short(value: float) -> str:
    """Three digits at most, no zeros after the last that counts."""
    text = numerals.significant(value, 3)
    return text.rstrip("0").rstrip(".") if "." in text else text
