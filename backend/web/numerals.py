"""Numbers as pages write them: grouped counts, percents, activations, logits, spans of time.

Owns rounding and signs. Numbers stay numbers everywhere else: densities are fractions until a function here makes them
percent. Exact values are in the JSON beside every page.
"""

import math
from datetime import UTC, datetime

MINUS = "−"
UNDEFINED = "–"


def count(n: int) -> str:
    """`1234567` → `1,234,567`."""
    return f"{n:,}"


def short_count(n: int) -> str:
    """Two or three digits and a unit, for axes and tables: `1,234,567` → `1.2M`."""
    for size, unit in ((1_000_000_000, "B"), (1_000_000, "M"), (1_000, "k")):
        if abs(n) >= size:
            scaled = n / size
            return f"{scaled:.0f}{unit}" if scaled >= 10 or n % size == 0 else f"{scaled:.1f}{unit}"
    return str(n)


def size(n_bytes: int) -> str:
    """`734003200` → `734 MB`; powers of ten, three digits at most."""
    for unit_bytes, unit in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if n_bytes >= 0.9995 * unit_bytes:
            return f"{significant(n_bytes / unit_bytes)} {unit}"
    return f"{n_bytes} bytes"


def percent(fraction: float, *, digits: int = 2) -> str:
    """`0.00213` → `0.21%`, with so many significant digits and never in powers of ten."""
    if fraction == 0:
        return "0%"
    value = float(f"{fraction * 100:.{digits - 1}e}")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}".replace("-", MINUS) + "%"


def exact_percent(fraction: float) -> str:
    """The shortest percent that reads back as the same fraction: what a form field holds."""
    return f"{fraction * 100:.10g}%"


def decimals_for(maximum: float) -> int:
    """Decimals that give numbers up to `maximum` three or four digits, so that a column of them lines up."""
    if maximum <= 0 or not math.isfinite(maximum):
        return 2
    return min(6, max(0, 2 - math.floor(math.log10(maximum)))) if maximum < 1 else (2 if maximum < 100 else 1)


def fixed(value: float, decimals: int = 2) -> str:
    """`-0.5` → `−0.50`; zero has no sign, undefined numbers are an en dash."""
    if not math.isfinite(value):
        return UNDEFINED
    return f"{round(value, decimals) + 0.0:.{decimals}f}".replace("-", MINUS)


def signed(value: float, decimals: int = 2) -> str:
    """As `fixed`, with the sign always written: `+3.75`, `−0.71`."""
    text = fixed(value, decimals)
    return f"+{text}" if math.isfinite(value) and round(value, decimals) > 0 else text


def minus(text: str) -> str:
    """A number as written for programs, with the sign that pages use: `-0.50` → `−0.50`."""
    return text.replace("-", MINUS)


def significant(value: float, digits: int = 3) -> str:
    """`0.012345` → `0.0123`, `8123.4` → `8,120`; undefined numbers are an en dash."""
    if not math.isfinite(value):
        return UNDEFINED
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(0, decimals)}f}".replace("-", MINUS)


def duration(seconds: float) -> str:
    """`75` → `1 min 15 s`; two units at most."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {left} s" if minutes else f"{left} s"


def moment(at: datetime) -> str:
    """`21 Nov 2025, 03:28 UTC`."""
    return at.astimezone(UTC).strftime("%-d %b %Y, %H:%M UTC")
