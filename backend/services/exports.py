"""Exports: every dashboard and explanation of a source, as files that are made while they are read.

`begin` looks the source up; `files` then opens a session for each batch of features and gives it back before the batch is
written, so whoever reads slowly holds no connection and a source of any size takes the same memory. Where the dashboards
are replaced meanwhile the export fails instead of mixing two computations. Does not own the formats of files.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, assert_never

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Feature
from backend.formats import neuronpedia_explanations, neuronpedia_files, parquet_files
from backend.formats.file_streams import File
from backend.formats.neuronpedia import Row
from backend.formats.neuronpedia_files import Heads
from backend.services import catalog, explanation_files, features
from backend.services.features import FeatureView

Format = Literal["neuronpedia", "parquet"]
FORMATS: tuple[Format, ...] = ("neuronpedia", "parquet")
FEATURES_AT_ONCE = 128
_LAST = 2**31
_RANGE = re.compile(r"(\d{0,9}):(\d{0,9})", re.ASCII)

Opened = Callable[[], AbstractContextManager[Session]]
"""Opens a session of who asks."""


@dataclass(frozen=True, slots=True)
class Export:
    """What is exported, and what its files say it is of."""

    heads: Heads
    model: str
    source: str
    revision_id: int
    format: Format
    first: int
    stop: int
    """Features from `first` to below it."""
    n_features: int
    """In that range."""

    @property
    def name(self) -> str:
        """What the files are called together."""
        return f"{self.model}-{self.source}" + ("-parquet" if self.format == "parquet" else "")


def begin(session: Session, model: str, source: str, format: Format = "neuronpedia", *, only: str = "") -> Export:
    """What an export of the source will be; `only` is a range of features, `0:1000`, empty for all.

    Raises:
        NotFoundError: There is no such source, or it has no dashboards.
        ConflictError: Its first computation is under way.
        InvalidInputError: `only` is no range.
        UnavailableError: This host cannot write the format.
    """
    first, stop = parse_range(only)
    shown = catalog.readable_source(session, model, source)
    if shown.view.is_partial:
        raise errors.ConflictError(
            f"'{model}/{source}' is being computed for the first time.", hint="Export it when its job is done."
        )
    if format == "parquet":
        parquet_files.check()
    facts, source_set = catalog.origin(session, shown.view)
    release = None if source_set.release is None else catalog.release(session, source_set.release)
    among = (Feature.revision_id == shown.revision_id, Feature.index >= first, Feature.index < stop)
    n_features = session.scalars(select(func.count()).select_from(Feature).where(*among)).one()
    heads = Heads(facts, source_set, shown.view, release)
    return Export(heads, model, source, shown.revision_id, format, first, stop, n_features)


def parse_range(text: str) -> tuple[int, int]:
    """First index and the one behind the last of `0:1000`, `500:` or `:500`; all for an empty text."""
    if not text:
        return 0, _LAST
    match = _RANGE.fullmatch(text)
    first, stop = (int(match[1] or 0), int(match[2] or _LAST)) if match else (0, 0)
    if first >= stop:
        raise errors.InvalidInputError(
            f"'{text[:40]}' is no range of features.", hint="Give the first and the one behind the last: 0:1000."
        )
    return first, stop


def files(opened: Opened, export: Export, *, on_features: Callable[[int], None] = lambda n: None) -> Iterator[File]:
    """The export's files, to be read in order; `on_features` hears how many features more were read.

    Raises `ConflictError` where the dashboards are replaced, `NotFoundError` where the source is deleted meanwhile.
    """
    match export.format:
        case "neuronpedia":
            rows = _explanations(opened, export)
            return neuronpedia_files.files(export.heads, _features(opened, export, on_features), rows)
        case "parquet":
            return parquet_files.files(
                lambda: _features(opened, export, on_features), lambda: _explanations(opened, export)
            )
    assert_never(export.format)


def n_readings(format: Format) -> int:
    """How often `files` reads each feature."""
    return 2 if format == "parquet" else 1


def _features(opened: Opened, export: Export, on_features: Callable[[int], None]) -> Iterator[FeatureView]:
    first = export.first
    while True:
        with opened() as session:
            shown = catalog.readable_source(session, export.model, export.source)
            if shown.revision_id != export.revision_id:
                raise errors.ConflictError(
                    f"The dashboards of '{export.model}/{export.source}' were replaced meanwhile.", hint="Export again."
                )
            some = features.run(session, shown, first, export.stop, n=FEATURES_AT_ONCE)
        if not some:
            return
        first = some[-1].index + 1
        yield from some
        on_features(len(some))


def _explanations(opened: Opened, export: Export) -> Iterator[Row]:
    after = (export.first, "")
    while True:
        with opened() as session:
            some = explanation_files.read(session, export.model, export.source, after=after)
        for each in some:
            if each.view.ref.index >= export.stop:
                return
            yield neuronpedia_explanations.file_row(each.view, each.embedding, each.embedding_model)
        if not some:
            return
        after = some[-1].place
