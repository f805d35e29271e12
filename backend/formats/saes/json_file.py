"""JSON objects of strangers, read strictly: bounded size, no key twice, finite numbers only, bounded whole numbers.

Texts are such as a database and an answer can hold: no NUL and no half of a character.
"""

import json
import math
from pathlib import Path
from typing import Any

from backend import errors
from backend.formats.saes.problems import Problems

MAX_BYTES = 16 << 20
MAX_INTEGER = 1 << 53


def parse(raw: bytes, name: str) -> dict[str, Any]:
    """The object in `raw`; raises `InvalidInputError` naming `name`."""
    if len(raw) > MAX_BYTES:
        raise errors.InvalidInputError(f"{name} has {len(raw):,} bytes of JSON; at most {MAX_BYTES:,} are read.")
    try:
        found = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant, parse_int=_integer,
            parse_float=_float,
        )  # fmt: skip
        check_texts(found)
    except (ValueError, RecursionError) as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else str(error)
        raise errors.InvalidInputError(f"{name} is not JSON as expected: {reason}.") from error
    if not isinstance(found, dict):
        raise errors.InvalidInputError(f"{name} holds a {type(found).__name__}; expected an object.")
    return found


def check_texts(found: object) -> None:
    """Raises `ValueError` for a text, also a key, that no database or answer could hold."""
    left = [found]
    while left:
        match left.pop():
            case dict() as values:
                left += [*values, *values.values()]
            case list() as values:
                left += values
            case str() as text if "\0" in text:
                raise ValueError("a text holds a NUL")
            case str() as text:
                text.encode("utf-8")


def read(path: Path) -> dict[str, Any]:
    """The object in a file; raises `InvalidInputError`."""
    try:
        with path.open("rb") as file:
            return parse(file.read(MAX_BYTES + 1), path.name)
    except OSError as error:
        raise errors.InvalidInputError(f"{path.name} cannot be read: {error.strerror}.") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number")


def _integer(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > MAX_INTEGER:
        raise ValueError(f"the number {text[:20]} is out of range")
    return int(text)


def _float(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise ValueError(f"the number {text[:20]} is out of range")
    return found


class Fields:
    """An object's values by name, of the types they should have; a wrong type is a problem, and the value then absent."""

    def __init__(self, values: dict[str, Any], problems: Problems, file: str) -> None:
        self.values, self._problems, self._file = values, problems, file

    def text(self, *names: str) -> str | None:
        """The first of `names` that is there."""
        name, value = self._first(names)
        if value is None or isinstance(value, str):
            return value
        self._wrong(name, value, "text")
        return None

    def flag(self, *names: str) -> bool | None:
        """As `text`, true or false."""
        name, value = self._first(names)
        if value is None or isinstance(value, bool):
            return value
        self._wrong(name, value, "true or false")
        return None

    def size(self, *names: str) -> int | None:
        """As `text`, a whole number above 0."""
        name, value = self._first(names)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
            return value
        self._wrong(name, value, "a whole number above 0")
        return None

    def number(self, *names: str) -> float | None:
        """As `text`, any number."""
        name, value = self._first(names)
        if value is None:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        self._wrong(name, value, "a number")
        return None

    def fields(self, *names: str) -> "Fields":
        """As `text`, an object; an empty one if absent."""
        name, value = self._first(names)
        if value is not None and not isinstance(value, dict):
            self._wrong(name, value, "an object")
            value = None
        return Fields(value or {}, self._problems, self._file)

    def _first(self, names: tuple[str, ...]) -> tuple[str, Any]:
        return next(
            ((name, self.values[name]) for name in names if self.values.get(name) is not None), (names[0], None)
        )

    def _wrong(self, name: str, value: object, expected: str) -> None:
        self._problems.append(f"'{name}' in {self._file} is {str(value)[:60]!r}; expected {expected}.")
