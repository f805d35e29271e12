"""What a text search asks, and how its page's address says so.

Defaults are left out of addresses, so that equal views have equal ones. What cannot be read is refused with everything
that is wrong with it; fields that forms send empty mean nothing is asked.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import orjson
from fastapi import Query

from backend import errors

By = Literal["feature", "layer", "token"]
"""One list, the best of each source, or the best of each token."""
DENSEST = 0.01
TRUE = frozenset({"1", "true", "on"})
MOST_POSITIONS = 1000


@dataclass(frozen=True, slots=True)
class TextQuery:
    """Every field is part of the page's address."""

    text: str = ""
    source_set: str = ""
    """Empty: that of the first source named, else the model's first."""
    sources: tuple[str, ...] = ()
    """By name; empty: all of the set."""
    sort: tuple[int, ...] = ()
    """Tokens whose activations are added up to rank by, ascending; empty: by the largest activation."""
    is_bos_counted: bool = False
    densest: float | None = DENSEST
    """Features of a greater density are folded away; None: none are."""
    by: By = "feature"

    @property
    def densest_text(self) -> str:
        """As the form's field holds it."""
        return "" if self.densest is None else f"{self.densest * 100:.10g}%"


def normal(text: str) -> str:
    """The text with single line feeds, of which forms make carriage returns and line feeds."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read(
    text: str = "",
    set: str = "",
    source: Annotated[tuple[str, ...], Query()] = (),
    sort: Annotated[tuple[str, ...], Query()] = (),
    bos: str = "",
    dense: str | None = None,
    by: str = "",
    toggle: str = "",
) -> TextQuery:
    """The query an address holds; raises `InvalidInputError`.

    `toggle` is a token to sort by, or not any more if it is one of those: what a click on it sends without scripts.
    """
    problems: list[str] = []
    wanted = {_position(each, problems) for each in sort if each}
    if toggle:
        wanted ^= {_position(toggle, problems)}
    if len(wanted) > MOST_POSITIONS:
        problems.append(f"sort must name at most {MOST_POSITIONS} tokens, not {len(wanted)}")
    if by not in ("", *get_args(By)):
        problems.append(f"by must be one of {', '.join(get_args(By))}, not '{by}'")
    query = TextQuery(
        text=normal(text),
        source_set=set,
        sources=tuple(dict.fromkeys(each for each in source if each)),
        sort=tuple(sorted(wanted)),
        is_bos_counted=bos in TRUE,
        densest=DENSEST if dense is None else _share(dense, problems),
        by=next((each for each in get_args(By) if each == by), "feature"),
    )
    if problems:
        raise errors.InvalidInputError(f"This search cannot be read: {'; '.join(problems)}.")
    return query


def of_neuronpedia(parameters: Mapping[str, str]) -> TextQuery:
    """The query of an address of Neuronpedia's search; its lists are JSON: `?q=…&selectedLayers=["6-res-jb"]`.

    Raises `InvalidInputError`.
    """
    sort = _json_list("sortIndexes", parameters.get("sortIndexes", ""))
    return read(
        text=parameters.get("q", ""),
        set=parameters.get("sourceSet", ""),
        source=_json_list("selectedLayers", parameters.get("selectedLayers", "")),
        sort=sort,
        bos="" if parameters.get("ignoreBos", "true").lower() in TRUE else "1",
    )


def parameters(query: TextQuery) -> list[tuple[str, str]]:
    """Of the address, in the form's order."""
    plain = TextQuery()
    given = [("text", query.text), ("set", query.source_set), *(("source", each) for each in query.sources)]
    given += [("sort", str(each)) for each in query.sort]
    given += [("bos", "1" if query.is_bos_counted else ""), ("by", "" if query.by == plain.by else query.by)]
    found = [(key, value) for key, value in given if value]
    return found if query.densest == plain.densest else [*found, ("dense", query.densest_text)]


def _json_list(name: str, text: str) -> tuple[str, ...]:
    try:
        found = orjson.loads(text or "[]")
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, list):
        raise errors.InvalidInputError(f"{name} must be a JSON list, such as [], not '{text}'.")
    return tuple(map(str, found))


def _position(text: str, problems: list[str]) -> int:
    if text.isascii() and text.isdigit() and len(text) < 7:
        return int(text)
    problems.append(f"a token is named by its position, from 0, not by '{text}'")
    return 0


def _share(text: str, problems: list[str]) -> float | None:
    """A density as a fraction, or as a percent."""
    text = text.strip().replace(",", ".")
    if not text:
        return None
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        problems.append(f"dense must be a density from 0 to 1, or a percent, not '{text}'")
        return None
    return None if value == 1 else value
