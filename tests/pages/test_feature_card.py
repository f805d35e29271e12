"""The picture of a feature: whatever its texts and numbers are, it is drawn, and inside its edges."""

import io
import math
from dataclasses import replace

import pytest
from PIL import Image, ImageChops

from backend.web import card_fonts, feature_card
from backend.web.card_fonts import Fonts
from tests.pages import samples

PILLOWS_OWN = Fonts(())


def drawn(feature, fonts: Fonts = PILLOWS_OWN) -> Image.Image:
    return Image.open(io.BytesIO(feature_card.draw(feature, fonts=fonts))).convert("RGB")


def inked(picture: Image.Image) -> tuple[int, int, int, int]:
    """The box outside of which everything is paper: left, top, right, bottom."""
    paper = Image.new("RGB", picture.size, picture.getpixel((0, 0)))
    box = ImageChops.difference(picture, paper).getbbox()
    assert box is not None
    return box


def labelled(label: str):
    source = samples.source(architecture="vectors", config={"labels": [label]})
    return samples.feature(source=source, index=0)


LENS = samples.feature().logit_lens
assert LENS is not None
STRANGE = {
    "usual": samples.feature(),
    "dead": samples.dead_feature(),
    "signed": samples.signed_feature(),
    "no lens": samples.feature(logit_lens=None),
    "long label": labelled("many words " * 50),
    "label of one endless word": labelled("x" * 400),
    "long names": samples.feature(source=samples.source(model="m" * 128, name="s" * 128), index=2**31 - 1),
    "endless tokens": samples.feature(fires_on=("x" * 200, " y")),
    "strange tokens": samples.feature(fires_on=("", "\n", "\t", "\x00", " ", "\u200f\u05d7", "旅", "é")),
    "all logits negative": samples.feature(logit_lens=replace(LENS, top=((" a", -1.0), ("b" * 90, -2e9)))),
    "no promoted tokens": samples.feature(logit_lens=replace(LENS, top=())),
    "no contexts": samples.feature(groups=()),
}


@pytest.mark.parametrize("name", STRANGE)
def test_every_feature_is_drawn_inside_the_edges(name):
    for fonts in (PILLOWS_OWN, Fonts()):
        picture = drawn(STRANGE[name], fonts)
        assert picture.size == (1200, 630)
        left, top, right, bottom = inked(picture)
        assert left >= 58
        assert top >= 40
        assert right <= 1144
        assert bottom <= 600


def test_the_same_feature_is_the_same_picture_and_another_is_not():
    first = feature_card.draw(samples.feature(), fonts=PILLOWS_OWN)
    assert first == feature_card.draw(samples.feature(), fonts=Fonts(()))
    assert first != feature_card.draw(samples.feature(density=0.5), fonts=PILLOWS_OWN)
    assert first != feature_card.draw(samples.feature(), "names of cats", PILLOWS_OWN)
    assert first != feature_card.draw(samples.feature(fires_on=(" cat",)), fonts=PILLOWS_OWN)


def test_a_token_that_is_too_long_for_the_card_is_cut():
    headline = drawn(STRANGE["endless tokens"]).crop((60, 110, 1144, 200))
    assert inked(headline)[2] > 1_000, "as much of it as there is room for"


def test_the_strongest_firing_is_shaded_deepest():
    picture = drawn(samples.feature())
    deepest = tuple(int(feature_card._SHADES[-1][at : at + 2], 16) for at in (1, 3, 5))
    palest = tuple(int(feature_card._SHADES[0][at : at + 2], 16) for at in (1, 3, 5))
    line = picture.crop((60, 240, 1140, 290))
    colours = {colour for _, colour in line.getcolors(maxcolors=2**16)}
    assert deepest in colours
    assert palest not in {
        colour for _, colour in drawn(samples.dead_feature()).crop((60, 240, 1140, 290)).getcolors(2**16)
    }


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("cat", "cat"), ("É – “ab” →…", 'E - “ab” ->…'), ("a\nb\tc\r", "a\\nb\\tc\\r"), ("旅団", "??"), ("\x00", "?"),
        ("Ж−1×2", "?-1x2"), ("", ""),
    ],
)  # fmt: skip
def test_what_the_font_has_no_shape_for_is_replaced(given, shown):
    assert PILLOWS_OWN.text(given) == shown


@pytest.mark.parametrize(("given", "shown"), [(" cat", "·cat"), ("", "(empty)"), ("\n ", "\\n·")])
def test_nothing_of_a_token_is_invisible(given, shown):
    assert PILLOWS_OWN.token(given) == shown


def test_a_font_that_is_not_there_is_passed_over(monkeypatch):
    assert Fonts(("no such font.ttf",)).text("é") == "e"
    monkeypatch.setattr(card_fonts.ImageFont, "load_default", lambda size: object())
    with pytest.raises(OSError, match="FreeType"):
        Fonts(()).of(20)


def test_the_same_in_a_sentence():
    assert feature_card.description(samples.feature()).startswith("Fires on ' brigade', ' Brigade'")
    assert feature_card.description(samples.dead_feature()) == "Never fires on openwebtext, first 5,000 contexts."
    assert feature_card.description(samples.feature(fires_on=())) == "Density 0.19%."
    assert feature_card.description(labelled("units")).startswith("“units”. Fires on")
    assert not math.isnan(samples.feature().density)


def test_what_explains_a_feature_is_said_of_it():
    assert feature_card.description(samples.feature(), "names of cats").startswith("“names of cats”. ")
