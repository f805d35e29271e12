"""A small SVG writer: panels of points with a fitted line, axes from zero. The same numbers give the same bytes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

PANEL_WIDTH, PANEL_HEIGHT = 260, 190
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 30, 42
INK, QUIET, HUE = "#1f2328", "#8c959f", "#0b5cad"


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot; `intercept` and `slope` draw the line."""

    title: str
    x_label: str
    y_label: str
    xs: Sequence[float]
    ys: Sequence[float]
    intercept: float
    slope: float


def svg(rows: Sequence[Sequence[Panel]]) -> str:
    """A document of panels in rows."""
    width, height = PANEL_WIDTH * max(map(len, rows)), PANEL_HEIGHT * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="system-ui, sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            parts += [f'<g transform="translate({j * PANEL_WIDTH} {i * PANEL_HEIGHT})">', *_panel(panel), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def ticks(highest: float) -> list[float]:
    """Zero and up to five round steps that reach `highest`."""
    raw = highest / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(m for m in (1, 2, 2.5, 5, 10) if m * power >= raw)
    return [i * step for i in range(math.ceil(highest / step - 1e-9) + 1)]


def _panel(panel: Panel) -> list[str]:
    x_ticks, y_ticks = ticks(max(panel.xs)), ticks(max(panel.ys))
    right, bottom = PANEL_WIDTH - RIGHT, PANEL_HEIGHT - BOTTOM

    def x_of(x: float) -> str:
        return f"{LEFT + (right - LEFT) * x / x_ticks[-1]:.1f}"

    def y_of(y: float) -> str:
        return f"{bottom - (bottom - TOP) * y / y_ticks[-1]:.1f}"

    last = max(panel.xs)
    parts = [f'<text x="{LEFT}" y="18" fill="{INK}" font-weight="600">{escape(panel.title)}</text>']
    for y in y_ticks:
        parts.append(f'<path d="M{LEFT} {y_of(y)}H{right}" stroke="#d8dee4" stroke-width="1"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y_of(y)}" dy="4" text-anchor="end" fill="{QUIET}">{_number(y)}</text>')
    parts += [
        f'<text x="{x_of(x)}" y="{bottom + 15}" text-anchor="middle" fill="{QUIET}">{_number(x)}</text>'
        for x in x_ticks
    ]
    line = f"M{x_of(0)} {y_of(panel.intercept)}L{x_of(last)} {y_of(panel.intercept + panel.slope * last)}"
    parts.append(f'<path d="{line}" stroke="{HUE}" stroke-width="1.5" fill="none" opacity="0.5"/>')
    parts += [
        f'<circle cx="{x_of(x)}" cy="{y_of(y)}" r="3.5" fill="{HUE}"/>' for x, y in zip(panel.xs, panel.ys, strict=True)
    ]
    middle = (LEFT + right) / 2
    parts.append(
        f'<text x="{middle:g}" y="{bottom + 31}" text-anchor="middle" fill="{INK}">{escape(panel.x_label)}</text>'
    )
    turned = f'transform="translate(13 {(TOP + bottom) / 2:g}) rotate(-90)"'
    parts.append(f'<text {turned} text-anchor="middle" fill="{INK}">{escape(panel.y_label)}</text>')
    return parts


def _number(value: float) -> str:
    """Short: thousands as k, millions as M."""
    for size, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"
