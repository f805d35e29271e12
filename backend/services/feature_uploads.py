"""Features that are handed over a few at a time, as Neuronpedia's `feature/upload-batch` takes them.

They are written into the imported dashboards that readers see, at once: a feature that is there is replaced, one whose
activations are added to keeps the rest. A source that has none yet gets them. What was computed here is never mixed with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Context, Corpus
from backend.formats import copy_rows, given
from backend.formats.given import GivenExample, GivenFeature
from backend.services import access, catalog, explanation_files, imports, ingest, limits
from backend.services.imports import CorpusFacts
from backend.services.visibility import unrestricted

_BYTES_A_TOKEN = 8
"""Held against the uploader's quota before anything is written; what is stored is less."""


@dataclass(frozen=True, slots=True)
class GivenText:
    """One example as it is handed over."""

    tokens: Sequence[str]
    values: Sequence[float]
    """A value for each token."""
    row: Mapping[str, Any]
    """The rest of its `Activation` row."""


@dataclass(frozen=True, slots=True)
class FeatureUpload:
    """One feature as it is handed over."""

    index: int
    row: Mapping[str, Any]
    """Its `Neuron` row, less its place."""
    texts: Sequence[GivenText]
    explanations: Sequence[Mapping[str, Any]] = ()
    """Rows, less their place."""


def put(session: Session, model: str, source: str, uploads: Sequence[FeatureUpload]) -> int:
    """Write features of a source and return how many; one that is there is replaced, of several with one index the last counts.

    Raises:
        NotFoundError: There is no such source.
        ConflictError: Its dashboards were computed here.
        ForbiddenError: It is somebody else's, or this would be too much for the account.
    """
    of = _Target.of(session, model, source, uploads)
    latest = list({upload.index: upload for upload in uploads}.values())
    examples = iter(of.examples([text for upload in latest for text in upload.texts]))
    features = []
    for upload in latest:
        own = tuple(next(examples) for _ in upload.texts)
        largest = {"maxActApprox": max((example.max_value for example in own), default=0.0)}
        features.append(GivenFeature(upload.index, largest | dict(upload.row), own))
    of.write(features)
    rows = [{"index": upload.index, **row} for upload in latest for row in upload.explanations]
    explanation_files.upsert_many(session, of.source_id, rows)
    return len(latest)


def add_texts(session: Session, model: str, source: str, index: int, texts: Sequence[GivenText]) -> int:
    """Add examples to a feature, made if it is not there, and return how many are new. Raises as `put`."""
    of = _Target.of(session, model, source, [FeatureUpload(index, {}, texts)])
    stored = imports.stored(session, of.revision_id, index, index + 1).get(index)
    known = GivenFeature(index, {}, ()) if stored is None else given.unpack(stored.packed)
    examples = {_key(each): each for each in known.examples}
    n_known = len(examples)
    for each in of.examples(texts):
        examples.setdefault(_key(each), each)
    feature = replace(known, examples=tuple(examples.values()))
    largest = max(known.max_value, *(example.max_value for example in feature.examples))
    of.write([replace(feature, row={**known.row, "maxActApprox": largest})])
    return len(examples) - n_known


@dataclass(frozen=True, slots=True)
class _Target:
    """The source, its imported corpus and the revision to write to: nobody else's until the transaction ends."""

    session: Session
    source_id: int
    corpus: Corpus
    revision_id: int

    @classmethod
    def of(cls, session: Session, model: str, source: str, uploads: Sequence[FeatureUpload]) -> "_Target":
        viewer = access.viewer_of(session)
        row = imports.source_row(session, model, source)
        access.check_may_change(viewer, row.owner_id)
        n_tokens = sum(len(text.tokens) for upload in uploads for text in upload.texts)
        limits.check_bytes(session, viewer, _BYTES_A_TOKEN * n_tokens)
        imports.refuse_computed(session, row.id, f"{model}/{source}")
        corpus = imports.corpus_of(session, model, row.id, CorpusFacts())
        revision_id = imports.current(session, row.id, corpus.id)
        if revision_id is None:
            revision_id = ingest.begin_revision(
                session, source_id=row.id, corpus_id=corpus.id, job_id=None, n_features=0,
                spec={"dtype": imports.DTYPE, "files": {}},
            )  # fmt: skip
        return cls(session, row.id, corpus, revision_id)

    def examples(self, texts: Sequence[GivenText]) -> list[GivenExample]:
        """The texts as examples, in order, each with its tokens; the vocabulary grows by those that are new."""
        ids = {text: number for number, text in enumerate(self.vocabulary)}
        for text in texts:
            for token in text.tokens:
                ids.setdefault(token, len(ids))
        imports.store_texts(self.session, self.corpus.id, list(ids), [])
        return [_example(text, ids) for text in texts]

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """As it is now."""
        of_corpus = select(Corpus.vocabulary_id).where(Corpus.id == self.corpus.id)
        return catalog.vocabulary(self.session, self.session.scalars(unrestricted(of_corpus)).one())

    def write(self, features: Sequence[GivenFeature]) -> None:
        """Replace the features and let readers see them."""
        vocabulary = self.vocabulary
        shared = {each.context for feature in features for each in feature.examples if each.is_top} - {given.OWN}
        query = select(Context.index.label("number"), Context.tokens).where(Context.corpus_id == self.corpus.id)
        rows = self.session.execute(query.where(Context.index.in_(sorted(shared))))
        tokens: dict[int, Sequence[int]] = {row.number: given.unpack_tokens(row.tokens) for row in rows}
        narrow, pages = [], []
        for feature in sorted(features, key=lambda each: each.index):
            maxima = [
                (vocabulary[(example.tokens or tokens[example.context])[at]], example.max_value)
                for example in feature.examples
                if example.is_top and (at := example.max_position) is not None
            ]
            facts = given.facts(feature, given.fires_on(maxima), self.corpus.n_tokens)
            narrow.append(copy_rows.feature(self.revision_id, facts))
            pages.append(copy_rows.dashboard(self.revision_id, feature.index, given.pack(feature)))
            ingest.delete_features(self.session, self.revision_id, feature.index, feature.index + 1)
        ingest.copy(self.session, copy_rows.FEATURE, narrow)
        ingest.copy(self.session, copy_rows.DASHBOARD, pages)
        ingest.publish(self.session, self.revision_id)
        imports.resize(self.session, self.source_id, self.revision_id)


def _key(example: GivenExample) -> tuple[object, ...]:
    """What tells examples of a feature apart."""
    return example.context, example.tokens, example.positions, example.values


def _example(text: GivenText, ids: Mapping[str, int]) -> GivenExample:
    positions = tuple(at for at, value in enumerate(text.values) if value)
    row = {name: value for name, value in text.row.items() if value is not None}
    tokens = tuple(ids[token] for token in text.tokens)
    return GivenExample(given.OWN, positions, tuple(text.values[at] for at in positions), row, tokens)
