"""Token texts as HTML in which nothing is invisible: spaces at the ends, line breaks, tabs, control characters.

Owns escaping and the signs that stand for white space. In lists of tokens every space is a pale `·`; in running text
spaces stay spaces (a switch on the page shows them) and a line break is a pale `↵`, so that a line stays one line.
Every sign is in an `<i>`, which style sheets tell from the token's own characters.
"""

from markupsafe import Markup, escape

_SIGNS = {"\n": "↵", "\r": "␍", "\t": "⇥"}
_EMPTY = "∅"


def isolated(token: str) -> Markup:
    """One token on its own, as lists show it."""
    if not token:
        return _sign(_EMPTY)
    return Markup("").join(_sign("·") if char == " " else _character(char) for char in token)


def inline(text: str) -> Markup:
    """Running text on one line: line breaks and tabs are signs only."""
    return Markup("").join(_runs(text, keep=False))


def flowing(text: str) -> Markup:
    """Running text over several lines: signs are followed by the line break or tab they stand for."""
    return Markup("").join(_runs(text, keep=True))


def plain(token: str) -> str:
    """The same signs without markup, for titles and labels."""
    return "".join("·" if char == " " else _SIGNS.get(char, char) for char in token) or _EMPTY


def _runs(text: str, *, keep: bool) -> list[Markup]:
    """Escaped stretches between the characters that need a sign."""
    parts, start = [], 0
    for at, char in enumerate(text):
        if char >= " " and char != "\x7f":
            continue
        parts += [escape(text[start:at]), _character(char)]
        if keep and char in "\n\t":
            parts.append(Markup(char))  # noqa: S704 - one of two constants
        start = at + 1
    return [*parts, escape(text[start:])]


def _character(char: str) -> Markup:
    if char in _SIGNS:
        return _sign(_SIGNS[char])
    if char < " ":
        return _sign(chr(0x2400 + ord(char)))
    return _sign("␡") if char == "\x7f" else escape(char)


def _sign(sign: str) -> Markup:
    return Markup("<i>{}</i>").format(sign)
