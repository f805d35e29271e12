"""The letters of cards: a font of this machine, and what stands for characters it has no shapes for.

A machine's own sans-serif font comes first, since it may know more scripts; the one inside Pillow knows little more than
ASCII, so its cards show `e` for `é`, a `-` for a dash, and `?` for letters of other scripts.
"""

import unicodedata
from functools import cached_property

from PIL import ImageFont

from backend.web import token_text

SYSTEM = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "Helvetica.ttc")
_ABSENT = "\uffff"
"""A character that no font has."""
_PLAIN = {
    "↵": "\\n", "⇥": "\\t", "␍": "\\r", "∅": "(empty)", "–": "-", "—": "-", "−": "-", "×": "x", "…": "...",
    "→": "->", "‘": "'", "’": "'", "“": '"', "”": '"',
}  # fmt: skip
_UNKNOWN = ("□", "?")


class Fonts:
    """One font in the sizes that a card needs; not shared between threads."""

    def __init__(self, names: tuple[str, ...] = SYSTEM) -> None:
        """The first of `names` that this machine has, else Pillow's own."""
        self._name = next((name for name in names if _is_there(name)), "")
        self._covered: dict[str, bool] = {}
        self._sizes: dict[int, ImageFont.FreeTypeFont] = {}

    def of(self, size: int) -> ImageFont.FreeTypeFont:
        """The font, `size` pixels high."""
        if size not in self._sizes:
            self._sizes[size] = _font(self._name, size)
        return self._sizes[size]

    def token(self, token: str) -> str:
        """A token so that nothing of it is invisible: every space is a `·`."""
        return self.text(token_text.plain(token))

    def text(self, text: str) -> str:
        """`text` in characters that the font has, on one line."""
        return "".join(self._shown(char) for char in "".join(token_text.plain(c) if c < " " else c for c in text))

    def _shown(self, char: str) -> str:
        if self._covers(char):
            return char
        base = unicodedata.normalize("NFKD", char)[0]
        unknown = next(each for each in _UNKNOWN if self._covers(each))
        return _PLAIN.get(char) or (base if self._covers(base) else unknown)

    def _covers(self, char: str) -> bool:
        if char not in self._covered:
            mask = self.of(20).getmask(char)
            self._covered[char] = char == " " or (mask.size, bytes(mask)) != self._box
        return self._covered[char]

    @cached_property
    def _box(self) -> tuple[tuple[int, int], bytes]:
        """How the font shows what it does not have."""
        mask = self.of(20).getmask(_ABSENT)
        return mask.size, bytes(mask)


def _is_there(name: str) -> bool:
    try:
        _font(name, 20)
    except OSError:
        return False
    return True


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.truetype(name, size) if name else ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise OSError("This Pillow was built without FreeType.")
    return font
