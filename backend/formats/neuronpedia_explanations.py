# ruff: noqa: D102 - the protocols name what the classes they describe document
"""Explanations in Neuronpedia's words: the rows of its REST answers and of its `explanations/batch-N.jsonl` files.

`read` takes a line of such a file and says what it means, whatever of its keys are there; the others write rows. Does not
read a database: the protocols below say what it needs.

Keys and types: hijohnnylin/neuronpedia at ebb8426f, `apps/webapp/prisma/schema.prisma`, `apps/webapp/lib/db/neuron.ts` and
`utils/neuronpedia-utils/neuronpedia_utils/export-data.py`.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import numpy as np
import orjson

from backend import errors
from backend.formats.neuronpedia import Row
from backend.names import FeatureRef

MOST_CHARACTERS = 100_000
"""Of an imported description: Postgres makes search words of 1 MB at most."""
_ID = re.compile(r"[A-Za-z0-9._~-]{1,200}")
_LARGEST_INDEX = 2**31 - 1
_SHOWN_CHARACTERS = 40


class Score(Protocol):
    """What is needed of a score."""

    @property
    def id(self) -> str: ...
    @property
    def value(self) -> float: ...
    @property
    def type_name(self) -> str | None: ...
    @property
    def model_name(self) -> str | None: ...
    @property
    def details(self) -> str: ...
    @property
    def created_at(self) -> datetime: ...


class Vote(Protocol):
    """What is needed of a vote."""

    @property
    def account_id(self) -> int | None: ...
    @property
    def created_at(self) -> datetime: ...


class Explanation(Protocol):
    """What is needed of an explanation."""

    @property
    def id(self) -> str: ...
    @property
    def ref(self) -> FeatureRef: ...
    @property
    def description(self) -> str: ...
    @property
    def author_id(self) -> int | None: ...
    @property
    def author(self) -> str: ...
    @property
    def type_name(self) -> str | None: ...
    @property
    def model_name(self) -> str | None: ...
    @property
    def notes(self) -> str | None: ...
    @property
    def score_v1(self) -> float | None: ...
    @property
    def score_v2(self) -> float | None: ...
    @property
    def umap_x(self) -> float | None: ...
    @property
    def umap_y(self) -> float | None: ...
    @property
    def umap_cluster(self) -> int | None: ...
    @property
    def umap_log_feature_sparsity(self) -> float | None: ...
    @property
    def scores(self) -> Sequence[Score]: ...
    @property
    def votes(self) -> Sequence[Vote]: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def updated_at(self) -> datetime: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedExplanation:
    """What a line of a file says; None: it does not say."""

    id: str
    """Its own; one that follows from what it says, where it has none or one that no address can hold."""
    index: int
    description: str
    author: str
    """Empty: not known."""
    type_name: str | None
    model_name: str | None
    notes: str | None
    score_v1: float | None
    score_v2: float | None
    umap_x: float | None
    umap_y: float | None
    umap_cluster: int | None
    umap_log_feature_sparsity: float | None
    embedding: tuple[float, ...] | None
    """fp32 exactly."""
    embedding_model: str | None
    created_at: datetime | None


def read(row: Mapping[str, object]) -> ImportedExplanation:
    """What a row of Neuronpedia's means. Keys nobody knows are left out; U+0000 becomes its picture, NaN None.

    Raises `InvalidInputError` for a row without an index or a description, and for values of another kind than theirs.
    """
    index, description = _index(row), _text(row, "description")
    if not description:
        raise _wrong(row, "description", "a text")
    if len(description) > MOST_CHARACTERS:
        raise _wrong(row, "description", f"at most {MOST_CHARACTERS:,} characters")
    type_name, model_name, own = _text(row, "typeName"), _text(row, "explanationModelName"), _text(row, "id")
    cluster = _number(row, "umap_cluster")
    if cluster is not None and abs(cluster) > _LARGEST_INDEX:
        raise _wrong(row, "umap_cluster", f"at most {_LARGEST_INDEX}")
    return ImportedExplanation(
        id=_id(own) or derived_id(str(index), description, type_name, model_name),
        index=index,
        description=description,
        author=_text(row, "authorId"),
        type_name=type_name or None,
        model_name=model_name or None,
        notes=_text(row, "notes") or None,
        score_v1=_number(row, "scoreV1"),
        score_v2=_number(row, "scoreV2"),
        umap_x=_number(row, "umap_x"),
        umap_y=_number(row, "umap_y"),
        umap_cluster=None if cluster is None else int(cluster),
        umap_log_feature_sparsity=_number(row, "umap_log_feature_sparsity"),
        embedding=_embedding(row),
        embedding_model=_text(row, "embeddingModel") or None,
        created_at=_moment(row),
    )


def of_feature(view: Explanation) -> Row:
    """One of a feature's `explanations`.

    `modelId`, `source` and `index` are those that Neuronpedia's Python client reads and its server does not send.
    """
    return {
        "id": view.id,
        "modelId": view.ref.model,
        "source": view.ref.source,
        "index": str(view.ref.index),
        "description": view.description,
        "explanationModelName": view.model_name,
        "typeName": view.type_name,
        "scores": [_score(view.id, score) for score in view.scores],
        "triggeredByUser": None,
        "author": {"name": view.author},
        "votes": [_vote(view.id, vote) for vote in view.votes],
    }


def row(view: Explanation) -> Row:
    """An `Explanation` row by itself, with its author, scores and votes."""
    return {
        **of_feature(view),
        "layer": view.ref.source,
        "authorId": _author_id(view),
        "notes": view.notes,
        "scoreV1": view.score_v1 or 0.0,
        "scoreV2": view.score_v2,
        **_umap(view),
        "createdAt": _time(view.created_at),
        "updatedAt": _time(view.updated_at),
    }


def file_row(view: Explanation, embedding: Sequence[float] | None, embedding_model: str | None) -> Row:
    """A line of `explanations/batch-N.jsonl`, which `read` takes back; `notes` and the last two only where they are known."""
    known = {"notes": view.notes, "embedding": embedding and list(embedding), "embeddingModel": embedding_model}
    return {
        "id": view.id,
        "modelId": view.ref.model,
        "layer": view.ref.source,
        "index": str(view.ref.index),
        "authorId": _author_id(view),
        "description": view.description,
        "typeName": view.type_name,
        "explanationModelName": view.model_name,
        "scoreV1": view.score_v1,
        "scoreV2": view.score_v2,
        **_umap(view),
        "createdAt": _time(view.created_at),
        **{key: value for key, value in known.items() if value is not None},
    }


def exported(view: Explanation) -> dict[str, str | None]:
    """One of what `GET /api/explanation/export` answers: the flat rows that Neuronpedia's had."""
    return {
        "modelId": view.ref.model,
        "layer": view.ref.source,
        "index": str(view.ref.index),
        "description": view.description,
        "typeName": view.type_name,
        "explanationModelName": view.model_name,
    }


def derived_id(*facts: str) -> str:
    """An id that follows from the facts: the same each time they are imported."""
    return "x" + hashlib.blake2b("\0".join(facts).encode(), digest_size=16).hexdigest()


def _umap(view: Explanation) -> Row:
    return {
        "umap_x": view.umap_x,
        "umap_y": view.umap_y,
        "umap_cluster": view.umap_cluster,
        "umap_log_feature_sparsity": view.umap_log_feature_sparsity,
    }


def _author_id(view: Explanation) -> str:
    """The account's number, or the author's id where it was imported from; an account's name is no id."""
    return view.author if view.author_id is None else str(view.author_id)


def _score(explanation_id: str, score: Score) -> Row:
    return {
        "id": score.id,
        "initiatedByUserId": None,
        "value": score.value,
        "explanationId": explanation_id,
        "explanationScoreTypeName": score.type_name,
        "explanationScoreModelName": score.model_name,
        "jsonDetails": score.details,
        "createdAt": _time(score.created_at),
    }


def _vote(explanation_id: str, vote: Vote) -> Row:
    voter = "" if vote.account_id is None else str(vote.account_id)
    return {"explanationId": explanation_id, "voterId": voter, "createdAt": _time(vote.created_at)}


def _id(own: str) -> str:
    return own if _ID.fullmatch(own) or not own else derived_id(own)


def _index(given: Mapping[str, object]) -> int:
    """Files have it as a number or as text."""
    index = given.get("index")
    if isinstance(index, str) and index.isascii() and index.isdigit():
        index = int(index)
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index <= _LARGEST_INDEX:
        raise _wrong(given, "index", f"a whole number from 0 to {_LARGEST_INDEX}")
    return index


def _text(given: Mapping[str, object], key: str) -> str:
    """Empty where there is none. Postgres cannot hold U+0000."""
    text = given.get(key)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise _wrong(given, key, "a text")
    return text.replace("\0", "␀").encode("utf-8", "replace").decode()


def _number(given: Mapping[str, object], key: str) -> float | None:
    number = given.get(key)
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise _wrong(given, key, "a number")
    return float(number) if math.isfinite(number) else None


def _embedding(given: Mapping[str, object]) -> tuple[float, ...] | None:
    """A list, or a text that holds one as JSON; rounded to fp32."""
    embedding, expected = given.get("embedding"), "a list of numbers that fp32 can hold, or a text with such a list"
    try:
        if isinstance(embedding, str):
            embedding = orjson.loads(embedding) if embedding.strip() else None
        if embedding is None or embedding == []:
            return None
        if not isinstance(embedding, list) or not all(type(each) in (int, float) for each in embedding):
            raise _wrong(given, "embedding", expected)
        with np.errstate(over="ignore"):
            numbers = np.array(embedding, np.float32)
    except (ValueError, OverflowError) as error:
        raise _wrong(given, "embedding", expected) from error
    if not np.isfinite(numbers).all():
        raise _wrong(given, "embedding", expected)
    return tuple(numbers.tolist())


def _moment(given: Mapping[str, object]) -> datetime | None:
    """A time without a zone is UTC, as JavaScript writes it to databases."""
    text = _text(given, "createdAt")
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise _wrong(given, "createdAt", "a time such as 2026-11-21T17:00:00Z") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _wrong(given: Mapping[str, object], key: str, expected: str) -> errors.InvalidInputError:
    found = repr(given[key])[:_SHOWN_CHARACTERS] if given.get(key) is not None else "nothing"
    which = f"The explanation '{given['id']}'" if given.get("id") else "An explanation"
    return errors.InvalidInputError(f"{which} has {found} as its {key}.", hint=f"It must be {expected}.")


def _time(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds, as JavaScript writes dates."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
