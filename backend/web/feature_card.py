"""A feature as one picture, for previews of links elsewhere: 1200 × 630 pixels, a PNG.

From the top: where the feature is; what it is called, or the tokens it fires on; one of its top contexts with the
firing tokens shaded as on its page; below, how its activations spread, and the tokens it promotes. Colours are those of
the light theme (`tokens.css`), in sRGB. Does not decide who may see it.
"""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw

from backend.services.features import ExampleView, FeatureView
from backend.web import concordance, numerals
from backend.web.card_fonts import Fonts

WIDTH, HEIGHT = 1200, 630
VERSION = 1
"""Of the drawing: goes into ETags, so raise it when cards look different."""
_EDGE = 60
_PAPER, _INK, _MUTED, _RULE, _BAR = "#fdfcfb", "#1f1c18", "#646059", "#e1dfdb", "#a29e96"
_PROMOTED = "#fbe5bb"
_SHADES = ("#fdefcf", "#f8e4ba", "#f5d8a6", "#f2cc92", "#efbf7f", "#ecb26b", "#eaa457", "#e89642", "#e5872b", "#e27806")
_BELOW_ZERO = (
    "#e5f2fe",
    "#d4e7f9",
    "#c3ddf4",
    "#b2d2ef",
    "#a1c7ea",
    "#91bde4",
    "#80b2df",
    "#6fa7d9",
    "#5d9dd3",
    "#4b92ce",
)
_CONTEXT_SIZE = 30
_N_PROMOTED = 5


def draw(feature: FeatureView, said: str = "", fonts: Fonts | None = None) -> bytes:
    """The card as PNG; `said` is what explains the feature, empty where nothing does."""
    image = Image.new("RGB", (WIDTH, HEIGHT), _PAPER)
    card = _Card(ImageDraw.Draw(image), fonts or Fonts())
    card.place(feature)
    card.headline(feature, said or feature.label)
    card.context(feature)
    card.spread(feature)
    card.promoted(feature)
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue()


def description(feature: FeatureView, explained: str = "") -> str:
    """The same in a sentence, for readers and for those who do not load pictures."""
    called = explained or feature.label
    said = f"“{called}”. " if called else ""
    if feature.is_dead:
        return f"{said}Never fires on {feature.source.corpus}."
    tokens = ", ".join(repr(token) for token in feature.fires_on[:5])
    fires = f"Fires on {tokens}; " if tokens else ""
    return f"{said}{fires}{'density' if fires else 'Density'} {numerals.percent(feature.density)}."


class _Card:
    """A picture being drawn; coordinates in pixels from its top left."""

    def __init__(self, pen: ImageDraw.ImageDraw, fonts: Fonts) -> None:
        self._pen, self._fonts = pen, fonts

    def place(self, feature: FeatureView) -> None:
        """The mark of the site, model and source; the feature's index at the right."""
        source = feature.source
        self._pen.ellipse((_EDGE, 52, _EDGE + 30, 82), outline=_MUTED, width=3)
        self._pen.ellipse((_EDGE + 9, 61, _EDGE + 21, 73), fill="#d07d26")
        index = f"{feature.index}"
        room = WIDTH - 2 * _EDGE - 60 - self._width(index, 32) - 30
        self._write((_EDGE + 46, 48), self._fit(f"{source.model}  /  {source.name}", 32, room), 32, _MUTED)
        self._write((WIDTH - _EDGE - self._width(index, 32), 48), index, 32, _INK)

    def headline(self, feature: FeatureView, called: str) -> None:
        """What it is said to be or called, else the tokens it fires on, else that it never fires."""
        top, room = 116, WIDTH - 2 * _EDGE
        if called:
            self._write((_EDGE, top), self._fit(self._fonts.text(called), 58, room), 58, _INK)
        elif feature.is_dead:
            self._write((_EDGE, top), "never fires", 58, _MUTED)
        else:
            left = _EDGE + 4.0
            for i, whole in enumerate(feature.fires_on):
                token = self._fonts.token(whole)
                token = self._fit(token, 50, room - 8) if i == 0 else token
                width = self._width(token, 50)
                if left + width > WIDTH - _EDGE:
                    break
                self._pen.rounded_rectangle((left - 4, top, left + width + 4, top + 72), 6, fill=_SHADES[3])
                self._write((left, top + 6), token, 50, _INK)
                left += width + 28

    def context(self, feature: FeatureView) -> None:
        """The top context, as much of it as one line takes around its strongest firing."""
        example = next((group.examples[0] for group in feature.groups if group.is_top and group.examples), None)
        top = 232
        self._pen.line((_EDGE, top - 8, WIDTH - _EDGE, top - 8), fill=_RULE, width=2)
        if example is None:
            self._write((_EDGE, top + 12), f"on {self._fonts.text(feature.source.corpus)}", 30, _MUTED)
            return
        ends = concordance.Range(feature.max_value, min(0.0, feature.min_value))
        first, last = self._reach(example)
        values = dict(zip(example.positions, example.values, strict=True))
        left = float(_EDGE)
        for position in range(first, last + 1):
            text = self._fonts.text(example.tokens[position])
            width = self._width(text, _CONTEXT_SIZE)
            if position in values:
                self._pen.rectangle((left, top + 10, left + width, top + 52), fill=_shade(ends, values[position]))
            self._write((left, top + 12), text, _CONTEXT_SIZE, _INK)
            left += width

    def spread(self, feature: FeatureView) -> None:
        """The histogram of activations, on the axis its page begins with."""
        counts = (feature.log_histogram if len(feature.log_histogram.counts) > 1 else feature.linear_histogram).counts
        top, bottom, right = 352, 548, 600
        self._write((_EDGE, 312), self._fonts.text(f"density {numerals.percent(feature.density)}"), 26, _MUTED)
        self._pen.line((_EDGE, bottom, right, bottom), fill=_BAR, width=2)
        if len(counts) < 2:
            return
        step, greatest = (right - _EDGE) / len(counts), max(counts)
        for i, n in enumerate(counts):
            height = (bottom - top) * n / greatest
            if height:
                box = (_EDGE + i * step, bottom - max(height, 1), _EDGE + (i + 1) * step - 1, bottom)
                self._pen.rectangle(box, fill="#d07d26")
        most = self._fonts.text(numerals.significant(feature.max_value))
        self._write((right - self._width(most, 24), bottom + 8), most, 24, _MUTED)

    def promoted(self, feature: FeatureView) -> None:
        """The tokens whose logits it raises most."""
        lens = feature.logit_lens
        left, right, top = 672, WIDTH - _EDGE, 352
        if lens is None or not lens.top:
            return
        self._write((left, 312), "promotes", 26, _MUTED)
        most = max((logit for _, logit in lens.top), default=0.0)
        for i, (token, logit) in enumerate(lens.top[:_N_PROMOTED]):
            y, number = top + 44 * i, self._fonts.text(numerals.signed(logit))
            if logit > 0:
                self._pen.rectangle((left, y, left + (right - left) * logit / most, y + 38), fill=_PROMOTED)
            self._write((right - self._width(number, 26) - 8, y + 4), number, 26, _MUTED)
            room = right - left - self._width(number, 26) - 40
            self._write((left + 8, y + 4), self._fit(self._fonts.token(token), 26, room), 26, _INK)

    def _reach(self, example: ExampleView) -> tuple[int, int]:
        """The first and the last token of what fits around the strongest firing, on both sides as evenly as it goes."""
        room = WIDTH - 2 * _EDGE
        widths = [self._width(self._fonts.text(token), _CONTEXT_SIZE) for token in example.tokens]
        first = last = example.max_position
        room -= int(widths[first])
        while True:
            before = widths[first - 1] if first > 0 else room + 1
            after = widths[last + 1] if last + 1 < len(widths) else room + 1
            is_before_next = sum(widths[first : example.max_position]) <= sum(
                widths[example.max_position + 1 : last + 1]
            )
            if before <= room and (is_before_next or after > room):
                first, room = first - 1, room - int(before + 1)
            elif after <= room:
                last, room = last + 1, room - int(after + 1)
            else:
                return first, last

    def _fit(self, text: str, size: int, room: float) -> str:
        """`text`, cut with an ellipsis where it is wider than `room`."""
        if self._width(text, size) <= room:
            return text
        dots = self._fonts.text("…")
        while text and self._width(text + dots, size) > room:
            text = text[:-1]
        return text.rstrip() + dots

    def _width(self, text: str, size: int) -> float:
        return self._pen.textlength(text, self._fonts.of(size))

    def _write(self, at: tuple[float, float], text: str, size: int, colour: str) -> None:
        self._pen.text(at, text, font=self._fonts.of(size), fill=colour)


def _shade(ends: concordance.Range, value: float) -> str:
    shades: Sequence[str] = _BELOW_ZERO if value < 0 else _SHADES
    return shades[concordance.shade(abs(value), -ends.minimum if value < 0 else ends.maximum) - 1]
