"""Imports: dashboards that other tools wrote become those of a source here.

1. `begin` describes release, model, set and source as the files' heads do (`given_catalog`), and queues a job whose spec
   names the files (`workers/importing.py` has its stages).
2. `store_merged` numbers token texts and contexts for the whole import, and opens a revision that nobody sees yet.
3. `publish` takes along the features of the revision before that the import says nothing of, and switches readers over.
So what is imported again replaces what it says and leaves the rest, and an import that ends early changes nothing.
A source's imported contexts and vocabulary belong to it alone and only grow. Does not own files, nor computing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import and_, delete, exists, func, insert, literal_column, select, update
from sqlalchemy.orm import Session

from backend import errors, names
from backend.db.tables import Context, Corpus, Dashboard, Feature, Model, Revision, Source, Vocabulary
from backend.formats import copy_rows, given, import_parts
from backend.formats.import_files import Layout
from backend.formats.neuronpedia_rows import Counts
from backend.services import access, catalog, given_catalog, ingest, jobs, limits
from backend.services.access import Viewer, Visibility
from backend.services.visibility import addressed, unrestricted

DTYPE = "float32"
"""In which the model is run where weights are attached to an imported source."""
_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Wish:
    """How an import is to be hosted."""

    model: str = ""
    """Id; empty: as the files say. So the next."""
    source: str = ""
    visibility: Visibility | None = None
    """None: public, or as the source is."""
    is_replacing: bool = False
    """Dashboards that were computed here may be replaced, and features that the import does not have go."""


@dataclass(frozen=True, slots=True)
class Begun:
    """An import under way."""

    job_id: int
    ref: str
    """model/source."""


def begin(session: Session, viewer: Viewer, layout: Layout, place: Mapping[str, str], wish: Wish) -> Begun:
    """Describe the source and queue its import.

    Args:
        session: Committed by the caller.
        viewer: Who asks.
        layout: What the files are.
        place: How workers find them, see `backend/import_places.py`.
        wish: Names and visibility.

    Raises:
        InvalidInputError: Neither files nor wish name model and source.
        ConflictError: The source's dashboards were computed here, or are being computed or imported.
        ForbiddenError: The source is somebody else's, or the asker may not write.
    """
    access.check_may_write(viewer)
    limits.check_jobs(session, viewer)
    model, source = wish.model or layout.model, wish.source or layout.source
    if not model or not source:
        raise errors.InvalidInputError(
            f"the files do not say of which {'source' if model else 'model and source'} they are.",
            hint="Name it: --source model/source at the command line, 'model' and 'source' over REST.",
        )
    source_id = _described(session, viewer, layout, model, source, wish)
    if layout.has_features and not wish.is_replacing:
        refuse_computed(session, source_id, f"{model}/{source}")
    spec = {
        "import": {
            "place": dict(place),
            "files": [[file.name, file.size, file.what] for file in layout.files],
            "ignored": list(layout.ignored)[:100],
            "n_least": max(layout.skipped, default=-1) + 1,
            "is_replacing": wish.is_replacing,
        },
    }
    return Begun(jobs.create(session, [source_id], spec, owner_id=viewer.account_id), f"{model}/{source}")


def _described(session: Session, viewer: Viewer, layout: Layout, model: str, source: str, wish: Wish) -> int:
    heads = layout.heads
    if heads.get("release", {}).get("name"):
        given_catalog.put_release(session, viewer, heads["release"])
    given_catalog.put_model(session, viewer, heads.get("model", {}) | {"id": model})
    set_name = names.source_set_of(source)
    given_catalog.put_source_set(session, viewer, heads.get("sourceset", {}) | {"modelId": model, "name": set_name})
    row = heads.get("source", {}) | {"id": source, "modelId": model, "setName": set_name}
    config = row.get("saelensConfig") or {}
    sizes = {name: config[name] for name in ("d_in", "d_sae") if isinstance(config.get(name), int)}
    hook = config.get("hook_name") or (config.get("metadata") or {}).get("hook_name")
    hook = hook if isinstance(hook, str) and names.is_hook_point(hook) else ""
    return given_catalog.put_source(session, viewer, row, hook_point=hook, visibility=wish.visibility, **sizes)


def refuse_computed(session: Session, source_id: int, ref: str) -> None:
    """Return unless the source's dashboards were computed here; raises `ConflictError`."""
    query = select(Corpus.blob_key).join(Revision, Revision.corpus_id == Corpus.id)
    query = query.join(Source, Source.revision_id == Revision.id).where(Source.id == source_id)
    if session.scalar(unrestricted(query)):
        raise errors.ConflictError(
            f"the dashboards of '{ref}' were computed here.",
            hint="Import under another id, or say that the import replaces them.",
        )


def known_files(session: Session, source_id: int) -> dict[str, str]:
    """sha256 of each file that the source's dashboards were imported from, by name; empty where they were computed."""
    query = select(Revision.spec).join(Source, Source.revision_id == Revision.id).where(Source.id == source_id)
    return _files_of(session.scalar(query))


def files_of_revision(session: Session, revision_id: int) -> dict[str, str]:
    """As `known_files`, of a revision."""
    return _files_of(session.scalar(select(Revision.spec).where(Revision.id == revision_id)))


def _files_of(spec: Mapping[str, Any] | None) -> dict[str, str]:
    return dict((spec or {}).get("files") or {})


@dataclass(frozen=True, slots=True)
class CorpusFacts:
    """What files say of the text that dashboards were computed on; 0 and empty where they do not."""

    name: str = ""
    n_contexts: int = 0
    context_size: int = 0

    @property
    def n_tokens(self) -> int:
        """0 where it is not known."""
        return self.n_contexts * self.context_size


@dataclass(frozen=True, slots=True)
class Before:
    """What is there of a source's imported text, held until the transaction ends."""

    corpus_id: int
    vocabulary: tuple[str, ...]
    digests: Mapping[bytes, int]
    """Numbers of its contexts, by `import_parts.digest`."""


def corpus_of(session: Session, model: str, source_id: int, facts: CorpusFacts) -> Corpus:
    """The imported corpus of a source, made if there is none; who else adds to it waits for this transaction."""
    fingerprint = f"given:{source_id}"
    session.execute(unrestricted(select(Source.id).where(Source.id == source_id).with_for_update(key_share=True)))
    known = select(Corpus).where(Corpus.model_id == model, Corpus.fingerprint == fingerprint)
    row = session.scalar(unrestricted(known).execution_options(populate_existing=True))
    if row is None:
        row = Corpus(
            model_id=model, vocabulary_id=ingest.store_vocabulary(session, [], []), name=facts.name,
            fingerprint=fingerprint, context_size=facts.context_size, n_contexts=facts.n_contexts,
            n_tokens=facts.n_tokens, is_first_masked=False, blob_key="",
        )  # fmt: skip
        session.add(row)
    elif facts.n_tokens:
        row.context_size, row.n_contexts, row.n_tokens = facts.context_size, facts.n_contexts, facts.n_tokens
        row.name = facts.name or row.name
    session.flush()
    return row


def hold(session: Session, model: str, source_id: int, facts: CorpusFacts) -> Before:
    """What there is of a source's imported text; as `corpus_of`."""
    row = corpus_of(session, model, source_id, facts)
    vocabulary = catalog.vocabulary(session, row.vocabulary_id)
    texts = _contexts(session, row.id)
    digests = {import_parts.digest([vocabulary[i] for i in ids]): number for number, ids in enumerate(texts)}
    return Before(row.id, vocabulary, digests)


def _contexts(session: Session, corpus_id: int) -> Iterator[list[int]]:
    """Token ids of every context of an imported corpus, by number; there are no gaps."""
    query = select(Context.tokens).where(Context.corpus_id == corpus_id).order_by(Context.index)
    rows = session.execute(query.execution_options(yield_per=_ROWS))
    return (given.unpack_tokens(tokens) for tokens in rows.scalars())


def store_texts(
    session: Session, corpus_id: int, vocabulary: Sequence[str], new: Iterable[tuple[int, Sequence[int]]]
) -> None:
    """Add contexts, (number, token ids) ascending, to an imported corpus, and the vocabulary that has all their tokens.

    A vocabulary only grows: ids stay, and the row that it replaces goes with the last corpus that has it.

    Raises `InvalidInputError` for more different tokens than can be.
    """
    if len(vocabulary) > given.MAX_TOKENS:
        raise errors.InvalidInputError(
            f"there are {len(vocabulary):,} different tokens; {given.MAX_TOKENS:,} can be.",
            hint="Are 'tokens' whole texts? Each is to be one token's.",
        )
    of_corpus = select(Corpus.vocabulary_id).where(Corpus.id == corpus_id)
    replaced = session.scalars(unrestricted(of_corpus)).one()
    vocabulary_id = ingest.store_vocabulary(session, vocabulary, [])
    if vocabulary_id != replaced:
        grown = update(Corpus).where(Corpus.id == corpus_id).values(vocabulary_id=vocabulary_id)
        session.execute(unrestricted(grown))
        is_used = exists().where(Corpus.vocabulary_id == replaced) | exists().where(Model.vocabulary_id == replaced)
        session.execute(unrestricted(delete(Vocabulary).where(Vocabulary.id == replaced, ~is_used)))
    session.connection().exec_driver_sql(
        "CREATE TEMPORARY TABLE given_context (index integer, tokens bytea, documents jsonb) ON COMMIT DROP"
    )
    rows: list[bytes] = []
    for number, ids in new:
        rows.append(copy_rows.context(number, given.pack_tokens(ids), None))
        if len(rows) == _ROWS:
            ingest.copy(session, "given_context (index, tokens, documents)", rows)
            rows = []
    ingest.copy(session, "given_context (index, tokens, documents)", rows)
    session.connection().exec_driver_sql(
        "INSERT INTO context (corpus_id, index, tokens) SELECT %s, index, tokens FROM given_context",
        (corpus_id,),
    )
    session.connection().exec_driver_sql("DROP TABLE given_context")


def current(session: Session, source_id: int, corpus_id: int) -> int | None:
    """The revision readers see, if it was imported into this corpus; else None."""
    query = select(Revision.id).join(Source, Source.revision_id == Revision.id)
    return session.scalar(query.where(Source.id == source_id, Revision.corpus_id == corpus_id))


def revision_before(session: Session, source_id: int, revision_id: int) -> int | None:
    """The revision readers see, if it was imported into the same corpus as `revision_id`; else None."""
    corpus_id = session.scalars(select(Revision.corpus_id).where(Revision.id == revision_id)).one()
    return current(session, source_id, corpus_id)


def given_of(session: Session, source_id: int) -> dict[str, Any]:
    """What Neuronpedia's row of the source said."""
    return dict(session.scalars(unrestricted(select(Source.given).where(Source.id == source_id))).one())


@dataclass(frozen=True, slots=True)
class Stored:
    """An imported feature as it lies in the database."""

    packed: bytes
    fires_on: tuple[str, ...]


def stored(session: Session, revision_id: int, first: int, stop: int) -> dict[int, Stored]:
    """The features of a range, by index."""
    query = select(Dashboard.index.label("feature"), Dashboard.packed, Feature.fires_on)
    query = query.join(Feature, and_(Feature.revision_id == Dashboard.revision_id, Feature.index == Dashboard.index))
    query = query.where(Dashboard.revision_id == revision_id, Dashboard.index >= first, Dashboard.index < stop)
    return {row.feature: Stored(row.packed, tuple(row.fires_on)) for row in session.execute(query)}


def publish(session: Session, source_id: int, revision_id: int, *, n_least: int, is_replacing: bool) -> None:
    """Make an imported revision, all of whose rows are written, the one readers see.

    Features of the imported revision before that it does not have are taken along, unless `is_replacing`. The source
    has `n_least` features at least.
    """
    revision = session.get_one(Revision, revision_id)
    before = current(session, source_id, revision.corpus_id)
    if before is not None and before != revision_id and not is_replacing:
        _take_along(session, before, revision_id)
        earlier = session.scalars(select(Revision.spec).where(Revision.id == before)).one()
        revision.spec = revision.spec | {"files": dict(earlier.get("files") or {}) | revision.spec["files"]}
    ingest.publish(session, revision_id)
    resize(session, source_id, revision_id, n_least=n_least)


def resize(session: Session, source_id: int, revision_id: int, *, n_least: int = 0) -> None:
    """As many features as there are rows: of the revision, and, where it has no weights, of the source."""
    of = Feature.revision_id == revision_id
    n, last = session.execute(select(func.count(), func.max(Feature.index)).where(of)).one()
    source = session.get_one(Source, source_id, populate_existing=True)
    session.execute(update(Revision).where(Revision.id == revision_id).values(n_features=n))
    most = max(source.d_sae, n_least, (last if last is not None else -1) + 1)
    if source.weights is None and most > source.d_sae:
        session.execute(unrestricted(update(Source).where(Source.id == source_id).values(d_sae=most)))


def _take_along(session: Session, before: int, revision_id: int) -> None:
    for table in (Feature, Dashboard):
        columns = [column for column in table.__table__.columns if column.name != "revision_id"]
        there = table.__table__.alias("there")
        is_there = (
            select(there.c.index).where(there.c.revision_id == revision_id, there.c.index == table.index).exists()
        )
        kept = select(literal_column(str(revision_id)), *columns).where(table.revision_id == before, ~is_there)
        rows = insert(table).from_select(["revision_id", *(column.name for column in columns)], kept)
        session.execute(rows.execution_options(synchronize_session=False))


def merge_texts(
    session: Session, before: Before, parts: Sequence[import_parts.Part], scratch: Path, counts: Counts
) -> import_parts.Merged:
    """Store the texts of all parts, and return their numbers. Raises as `import_parts.merge`."""
    merged = import_parts.merge(parts, before.digests, before.vocabulary, scratch, counts)
    store_texts(session, before.corpus_id, merged.vocabulary, merged.new())
    return merged


def source_row(session: Session, model: str, name: str) -> Source:
    """The source, as the viewer may see it; raises `NotFoundError`."""
    catalog.source(session, model, name)
    return session.scalars(addressed(select(Source).where(Source.model_id == model, Source.name == name))).one()
