"""Rules for what people write: names, descriptions, comments; and the random ids of what they make."""

import secrets

from backend import errors

_N_ID_BYTES = 16


def new_id() -> str:
    """128 random bits, URL-safe: nobody finds what has it by guessing."""
    return secrets.token_urlsafe(_N_ID_BYTES)


def checked(text: str, what: str, *, least: int = 0, most: int) -> str:
    """`text` without the white space around it, line ends as one character each.

    Raises `InvalidInputError` unless `least` to `most` characters are left; Postgres cannot hold U+0000.
    """
    found = text.replace("\r\n", "\n").strip()
    if "\0" in found:
        raise errors.InvalidInputError(f"The {what} holds the character U+0000.", hint="Leave it out.")
    if not least <= len(found) <= most:
        expected = f"{least:,} to {most:,}" if least else f"at most {most:,}"
        raise errors.InvalidInputError(
            f"The {what} has {len(found):,} character{'s' if len(found) != 1 else ''}.",
            hint=f"Write {expected}, white space around it not counted.",
        )
    return found
