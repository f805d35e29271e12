"""A kept activation index, opened: which files it has, and what they say of one feature, a few tokens, some contexts.

A revision names its index's files; they are read through a mirror of the store. Contexts are read from the corpus
itself, so any of them can be shown, not only those that examples show.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Corpus, Feature, Job, Revision
from backend.formats import activation_index as files
from backend.formats.activation_index import Firings
from backend.services import catalog
from backend.services.catalog import SourceView
from backend.services.features import ExampleView, texts_of
from backend.services.firings import Numbers, in_context
from backend.services.visibility import addressed
from backend.storage import Mirror, Store

F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class FiringView:
    """One firing in its context, or a context at its strongest firing."""

    context: int
    position: int
    """Index into the example's tokens."""
    value: float
    example: ExampleView
    """The context with all its firings of the feature."""
    other_positions: tuple[int, ...] = ()
    """Where the other feature fires, when two are looked at."""
    other_values: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class FeatureFacts:
    """A feature as tables name it."""

    index: int
    n_firings: int
    density: float
    max_value: float
    """Exact, not rounded as the index is."""
    fires_on: tuple[str, ...]


@dataclass(frozen=True)
class KeptIndex:
    """The index of a source's current revision, its files opened as they are asked for."""

    session: Session
    mirror: Mirror
    shown: catalog.ReadableSource
    names: dict[str, list[dict[str, Any]]]
    corpus_key: str

    @property
    def view(self) -> SourceView:
        """The source."""
        return self.shown.view

    @property
    def context_size(self) -> int:
        """Tokens of a context, masked ones included."""
        return self.view.context_size

    @cached_property
    def n_firings(self) -> NDArray[np.int64]:
        """Of each feature."""
        return np.concatenate([file.n for file in self._features]).astype(np.int64)

    def firings(self, feature: int) -> Firings:
        """Every firing of a feature of the source."""
        at = np.searchsorted([file.first for file in self._features], feature, side="right") - 1
        try:
            return self._features[int(at)].firings(feature)
        except ValueError as error:
            raise _damaged(self.view) from error

    def count_features(self, token: Numbers) -> NDArray[np.int64]:
        """On how many of these tokens, ascending, each feature of the source fires."""
        counts = np.zeros(self.view.d_sae, np.int64)
        firsts = [each["first"] for each in self.names["tokens"]]
        cuts = [*np.searchsorted(token, firsts).tolist(), token.size]
        for each, start, stop in zip(self.names["tokens"], cuts, cuts[1:], strict=False):
            if stop > start:
                try:
                    features, _ = _tokens_file(self._path(each["key"])).features(token[start:stop])
                except ValueError as error:
                    raise _damaged(self.view) from error
                counts += np.bincount(features, minlength=counts.size)
        return counts

    def facts(self, features: Sequence[int]) -> dict[int, FeatureFacts]:
        """Of features by index; raises `NotFoundError` for one the source does not have."""
        wrong = [feature for feature in features if not 0 <= feature < self.view.d_sae]
        if wrong:
            raise errors.NotFoundError(
                f"'{self.view.model}/{self.view.name}' has no feature {wrong[0]}.",
                hint=f"Its features are 0 to {self.view.d_sae - 1}.",
            )
        f = Feature
        query = select(f.index.label("feature"), f.n_firings, f.density, f.max_activation, f.fires_on)
        rows = self.session.execute(query.where(f.revision_id == self.shown.revision_id, f.index.in_(features)))
        return {
            row.feature: FeatureFacts(row.feature, row.n_firings, row.density, row.max_activation, tuple(row.fires_on))
            for row in rows
        }

    def lines(self, firings: Firings, chosen: Numbers, other: Firings | None = None) -> tuple[FiringView, ...]:
        """The firings with these numbers in their contexts; masked leading tokens are left out."""
        n_hidden, size = int(self.shown.is_first_masked), self.context_size
        texts = catalog.vocabulary(self.session, self.shown.vocabulary_id)
        contexts = (firings.token[chosen] // size).tolist()
        rows = np.load(self._path(self.corpus_key), mmap_mode="r", allow_pickle=False) if contexts else None
        value = firings.value[chosen].tolist()
        out = []
        for at, context, strength in zip(chosen.tolist(), contexts, value, strict=True):
            assert rows is not None
            positions, values = in_context(firings, context, size, n_hidden)
            top = int(np.argmax(values))
            example = ExampleView(
                context=context,
                tokens=texts_of(rows[context][n_hidden:], texts),
                positions=tuple(positions.tolist()),
                values=tuple(values.tolist()),
                max_value=float(values[top]),
                max_position=int(positions[top]),
            )
            position = int(firings.token[at]) - context * size - n_hidden
            beside = in_context(other, context, size, n_hidden) if other is not None else ()
            out.append(FiringView(context, position, strength, example, *(tuple(each.tolist()) for each in beside)))
        return tuple(out)

    @cached_property
    def _features(self) -> list[files.FeaturesFile]:
        try:
            return [_opened.get(self._path(each["key"]), files.read_features) for each in self.names["features"]]
        except ValueError as error:
            raise _damaged(self.view) from error

    def _path(self, key: str) -> Path:
        try:
            return self.mirror.path(key)
        except FileNotFoundError as error:
            raise errors.UnavailableError(
                f"A file of the activation index of '{self.view.model}/{self.view.name}' is missing: {key}.",
                hint="Compute the source again.",
            ) from error


def opened(session: Session, mirror: Mirror, model: str, source: str) -> KeptIndex:
    """Three statements; raises `NotFoundError` where the source is not computed or kept no index."""
    shown = catalog.readable_source(session, model, source)
    query = select(Revision.index_files, Corpus.blob_key).join(Corpus, Corpus.id == Revision.corpus_id)
    row = session.execute(addressed(query.where(Revision.id == shown.revision_id))).one()
    if row.index_files is None:
        raise none_kept(model, source)
    return KeptIndex(session, mirror, shown, row.index_files, row.blob_key)


def set_files(session: Session, revision_id: int, found: dict[str, Any] | None, n_bytes: int | None) -> None:
    """Say which blobs are a revision's index, and their size; None: it keeps none."""
    kept = {"index_files": found, "index_bytes": n_bytes}
    session.execute(update(Revision).where(Revision.id == revision_id).values(kept))


def drop(session: Session, model: str, source: str) -> int:
    """Keep the index of a source no longer: the source's id. Its blobs go with `sweep`, after the commit.

    Raises `NotFoundError` where none is kept.
    """
    shown = catalog.readable_source(session, model, source)
    if shown.view.index_bytes is None:
        raise none_kept(model, source)
    set_files(session, shown.revision_id, None, None)
    return session.get_one(Revision, shown.revision_id).source_id


def sweep(session: Session, blobs: Store, source_id: int) -> int:
    """Delete the blobs of a source's indexes (`indexes/SOURCE/JOB/…`) that no revision names; how many they were.

    Those are what attempts, jobs and revisions that are no more have left. A job at work may still come to name its own.
    """
    keys = blobs.keys(f"indexes/{source_id}")
    revisions = session.scalars(select(Revision.index_files).where(Revision.source_id == source_id))
    named = {file["key"] for found in revisions if found is not None for kind in found.values() for file in kind}
    jobs = {key: int(key.split("/")[2]) for key in keys}
    at_work = set(
        session.scalars(select(Job.id).where(Job.id.in_(jobs.values()), Job.state.in_(("queued", "running"))))
    )
    stale = [key for key, job_id in jobs.items() if key not in named and job_id not in at_work]
    for key in stale:
        blobs.delete(key)
    return len(stale)


def none_kept(model: str, source: str) -> errors.NotFoundError:
    """What is said of a source without an index."""
    return errors.NotFoundError(
        f"No activation index of '{model}/{source}' is kept.",
        hint="Compute the source again with `eyepiece add … --keep-index`.",
    )


def _damaged(view: SourceView) -> errors.UnavailableError:
    return errors.UnavailableError(
        f"The activation index of '{view.model}/{view.name}' is damaged.", hint="Compute the source again."
    )


class _Opened:
    """Files that stay mapped from one question to the next; a file that is gone or another is let go."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._files: dict[Path, tuple[tuple[int, ...], Any]] = {}
        self._lock = Lock()

    def get(self, path: Path, read: Callable[[Path], F]) -> F:
        with self._lock:
            for known, (identity, _) in list(self._files.items()):
                if _identity(known) != identity:
                    del self._files[known]
            if path in self._files:
                found: F = self._files[path][1]
                return found
        identity, file = _identity(path), read(path)
        with self._lock:
            while len(self._files) >= self._n:
                del self._files[next(iter(self._files))]
            self._files[path] = (identity, file)
        return file


def _identity(path: Path) -> tuple[int, ...]:
    """Tells a file from another of that name; empty where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


_opened = _Opened(256)


def _tokens_file(path: Path) -> files.TokensFile:
    """The whole file is read once, for its checksums."""
    return _opened.get(path, lambda path: files.read_tokens(path, is_checked=True))
