"""Colours of `tokens.css`: readable on each other in light and dark, and shades that step evenly."""

import math
import re
from itertools import pairwise

import pytest

from backend.settings import REPOSITORY

TOKENS = (REPOSITORY / "frontend/static/css/tokens.css").read_text()
AA_TEXT, AA_GRAPHICS = 4.5, 3.0
Colour = tuple[float, float, float]
Palette = dict[str, Colour]


def palettes() -> list[Palette]:
    pattern = r"--([\w-]+): light-dark\(oklch\(([\d. ]+)\), oklch\(([\d. ]+)\)\);"
    found = re.findall(pattern, TOKENS)
    return [{name: tuple(map(float, pair[which].split())) for name, *pair in found} for which in (0, 1)]


LIGHT, DARK = palettes()
BOTH = pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])


def lab(colour: Colour) -> Colour:
    lightness, chroma, hue = colour
    return lightness, chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))


def linear_rgb(colour: Colour) -> Colour:
    """OKLCH to linear sRGB (Ottosson 2020, "A perceptual color space for image processing")."""
    lightness, a, b = lab(colour)
    l3 = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    m3 = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    s3 = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * l3 - 3.3077115913 * m3 + 0.2309699292 * s3,
        -1.2684380046 * l3 + 2.6097574011 * m3 - 0.3413193965 * s3,
        -0.0041960863 * l3 - 0.7034186147 * m3 + 1.7076147010 * s3,
    )


def contrast(one: Colour, other: Colour) -> float:
    """WCAG 2.2's ratio."""
    red, green, blue = 0.2126, 0.7152, 0.0722
    light, dark = sorted(
        (
            sum(w * min(1, max(0, c)) for w, c in zip((red, green, blue), linear_rgb(x), strict=True))
            for x in (one, other)
        ),
        reverse=True,
    )
    return (light + 0.05) / (dark + 0.05)


def test_the_formula_knows_black_on_white():
    assert contrast((0, 0, 0), (1, 0, 0)) == pytest.approx(21, abs=0.01)


@BOTH
@pytest.mark.parametrize("ink", ["ink", "muted", "activation-ink", "suppression-ink", *(f"k{i}" for i in range(1, 9))])
def test_text_is_readable_on_paper_and_sheet(palette, ink):
    assert contrast(palette[ink], palette["paper"]) >= AA_TEXT
    assert contrast(palette[ink], palette["sheet"]) >= AA_TEXT


@BOTH
def test_text_is_readable_on_every_shade(palette):
    for step in range(1, 11):
        ink = palette["on-pale" if step <= 6 else "on-deep"]
        assert contrast(ink, palette[f"a{step}"]) >= AA_TEXT, step
        assert contrast(ink, palette[f"n{step}"]) >= AA_TEXT, step


@BOTH
@pytest.mark.parametrize("tint", ["activation-tint", "suppression-tint"])
def test_tokens_are_readable_on_their_bars(palette, tint):
    assert contrast(palette["ink"], palette[tint]) >= AA_TEXT


@BOTH
@pytest.mark.parametrize("fill", ["activation", "suppression", "bar-strong", "focus"])
def test_what_carries_meaning_stands_out_from_paper(palette, fill):
    assert contrast(palette[fill], palette["paper"]) >= AA_GRAPHICS


@BOTH
@pytest.mark.parametrize("name", ["a", "n"])
def test_shades_step_evenly_and_can_be_told_apart(palette, name):
    shades = [lab(palette[f"{name}{step}"]) for step in range(1, 11)]
    steps = [math.dist(one, other) for one, other in pairwise(shades)]
    assert min(steps) > 0.02
    assert max(steps) / min(steps) < 1.35
    lightness = [shade[0] for shade in shades]
    assert lightness == sorted(lightness, reverse=palette is LIGHT)


@BOTH
def test_every_colour_can_be_shown(palette):
    for name, colour in palette.items():
        assert all(-0.003 <= channel <= 1.003 for channel in linear_rgb(colour)), name


@BOTH
def test_hues_of_clusters_can_be_told_apart(palette):
    """The first four more easily: that many there are unless more are asked for."""
    hues = [lab(palette[f"k{i}"]) for i in range(1, 9)]
    distances = {(i, j): math.dist(hues[i], hues[j]) for j in range(8) for i in range(j)}
    assert min(distances.values()) > 0.07
    assert min(value for (_, j), value in distances.items() if j < 4) > 0.14


def test_both_hues_differ_for_readers_who_confuse_red_and_green():
    """What they see is nearly lightness and the blue-yellow axis (OKLab's b); the two lie on either side of it."""
    for palette in (LIGHT, DARK):
        assert lab(palette["activation"])[2] > 0.08
        assert lab(palette["suppression"])[2] < -0.08
