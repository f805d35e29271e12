"""What a row of Neuronpedia says of a model, source set, source or release, read before it is kept and served again.

A key that its schema has must have the schema's type, else our own answers would break the shape that its clients rely
on; null says nothing. Keys it does not have are kept as they are, and not served. What a site says of itself, whatever
another did, is left out.

Keys and types: hijohnnylin/neuronpedia at ebb8426f, `apps/webapp/prisma/schema.prisma`.
"""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from backend import errors

Kind = Literal["model", "source set", "source", "release"]
OURS = frozenset({"visibility", "hasDashboards", "inferenceEnabled", "allowInferenceSearch"})
IDENTITY: dict[Kind, frozenset[str]] = {
    "model": frozenset({"id"}),
    "source set": frozenset({"modelId", "name"}),
    "source": frozenset({"id", "modelId", "setName"}),
    "release": frozenset({"name"}),
}
_TEXT = "a text"
_FLAG = "true or false"
_COUNT = "a whole number from 0"
_TEXTS = "a list of texts"
_MOMENT = "a time such as 2026-01-31T12:00:00.000Z"
_OBJECT = "an object"
_MOST = 2**31 - 1


def _keys(kind: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), kind)


KEYS: dict[Kind, dict[str, str]] = {
    "model": _keys(
        _TEXT,
        "displayNameShort displayName creatorId tlensId openRouterId defaultSourceSetName defaultSourceId "
        "defaultGraphSourceSetName owner website",
    )
    | _keys(_FLAG, "thinking instruct")
    | _keys(_COUNT, "dimension layers neuronsPerLayer")
    | _keys(_MOMENT, "createdAt updatedAt"),
    "source set": _keys(
        _TEXT,
        "description type creatorName creatorEmail creatorId releaseName defaultOfModelId defaultGraphModelId",
    )
    | _keys(
        _FLAG,
        "hasGraphs graphEnabled similarityMatrixEnabled defaultShowBreaks showDfa showCorrelated showHeadAttribution "
        "showUmap",
    )
    | _keys(_COUNT, "defaultRange")
    | _keys(_TEXTS, "urls")
    | _keys(_MOMENT, "createdAt"),
    "source": _keys(
        _TEXT,
        "saelensRelease saelensSaeId hfRepoId hfFolderId defaultOfModelId creatorId dataset notes cosSimMatchModelId "
        "cosSimMatchSourceId",
    )
    | _keys(_FLAG, "hasUmap hasUmapLogSparsity hasUmapClusters")
    | _keys(_COUNT, "num_prompts num_tokens_in_prompt")
    | _keys(_OBJECT, "saelensConfig")
    | _keys(_MOMENT, "createdAt"),
    "release": _keys(
        _TEXT,
        "description descriptionShort creatorName creatorNameShort creatorId creatorEmail defaultSourceSetName "
        "defaultSourceId",
    )
    | _keys(_FLAG, "isNewUi featured")
    | _keys(_TEXTS, "urls defaultUmapSourceIds")
    | _keys(_MOMENT, "createdAt"),
}
"""By kind of row, what each key holds; identity and `OURS` left out."""


def read(row: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    """What the row says beyond whose it is, fit to be kept as jsonb; raises `InvalidInputError` for a wrong type.

    Numbers of 0 where 0 can only mean "not known" (a model's sizes, which Neuronpedia's converters leave so) say
    nothing, as null does.
    """
    wrong = [
        f"{key} is {wanted}, not {row[key]!r:.60}"
        for key, wanted in KEYS[kind].items()
        if row.get(key) is not None and not _is(row[key], wanted)
    ]
    if wrong:
        raise errors.InvalidInputError(
            f"This row of a {kind} cannot be read: {'; '.join(wrong)}.", hint="Correct those, or leave them out."
        )
    left_out = OURS | IDENTITY[kind]
    said = {key: value for key, value in row.items() if value is not None and key not in left_out}
    unknown = {"dimension", "layers", "neuronsPerLayer"} if kind == "model" else set()
    kept: dict[str, Any] = storable({key: value for key, value in said.items() if value != 0 or key not in unknown})
    return kept


def storable(value: Any) -> Any:
    """The value as jsonb can hold it: no U+0000 (a space, as Neuronpedia's importer writes), half characters, NaN."""
    if isinstance(value, str):
        return value.replace("\0", " ").encode("utf-8", "replace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {storable(str(key)): storable(each) for key, each in value.items()}
    return [storable(each) for each in value] if isinstance(value, list | tuple) else value


def _is(value: Any, wanted: str) -> bool:
    match wanted:
        case "a text":
            return isinstance(value, str)
        case "true or false":
            return isinstance(value, bool)
        case "a whole number from 0":
            return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST
        case "a list of texts":
            return isinstance(value, list) and all(isinstance(each, str) for each in value)
        case "an object":
            return isinstance(value, Mapping)
    return isinstance(value, str) and _is_moment(value)


def _is_moment(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
