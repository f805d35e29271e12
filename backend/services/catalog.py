"""What is hosted: models, source sets, sources and vocabularies.

Owns the SQL over `model`, `source_set`, `source` and `vocabulary`, the rules of registering them, and what pages say
about a source (its current revision and corpus included). Does not own features, nor the computing of anything.
Token texts never change under an id, so they are kept in the process after the first read.
"""

import zlib
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import orjson
from sqlalchemy import Engine, Row, Select, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backend import errors, names
from backend.db.tables import Corpus, Feature, Job, JobSource, Model, Release, Revision, Source, SourceSet, Vocabulary
from backend.formats import dense_sources
from backend.formats.look import Look
from backend.formats.look import from_json as look_from_json
from backend.formats.quality import Quality, from_json
from backend.formats.saes.description import Kind
from backend.services import access
from backend.services.access import Viewer, Visibility
from backend.services.visibility import addressed, unrestricted

AnyRow = Row[*tuple[Any, ...]]
N_CACHED_VOCABULARIES = 4
"""Per database; a vocabulary of 250,000 tokens takes some 20 MB."""


@dataclass(frozen=True, slots=True)
class SourceView:
    """What pages say about a source."""

    model: str
    name: str
    set_name: str
    hook_point: str
    layer: int
    architecture: str
    d_in: int
    d_sae: int
    config: dict[str, Any]
    created_at: datetime
    revision_id: int | None
    """None until dashboards are computed; then the fields below hold."""
    owner_id: int | None = None
    """None: the host's own."""
    visibility: str = "public"
    has_weights: bool = True
    """False: it was imported, or made over Neuronpedia's API; then hook point and architecture may be empty, sizes 0."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """What Neuronpedia's row of it said, see `given_catalog`; so in the others below."""
    corpus: str = ""
    n_corpus_tokens: int = 0
    """Unmasked."""
    n_corpus_contexts: int = 0
    context_size: int = 0
    n_features: int = 0
    """That dashboards were made of: of an import perhaps fewer than `d_sae`."""
    n_alive: int = 0
    n_firings: int = 0
    n_dense: int | None = None
    """None in revisions computed before it was counted, as below."""
    activation_sum: float | None = None
    density_low: float = 0.0
    """log10 of density at the left end of the histogram below."""
    density_high: float = 0.0
    density_counts: tuple[int, ...] = ()
    computed_at: datetime | None = None
    index_bytes: int | None = None
    """Size of the activation index; None where none is kept."""
    is_partial: bool = False
    """Its first computation is under way: the numbers are whole, but only some features' dashboards can be read."""
    is_imported: bool = False
    """Another tool made its dashboards: what that did not say is not known."""

    @property
    def mean_l0(self) -> float:
        """Firings per unmasked token; 0 before the first computation."""
        return self.n_firings / self.n_corpus_tokens if self.n_corpus_tokens else 0.0

    @property
    def has_l0(self) -> bool:
        """Its mean L0 is known: of an import only where all features of the SAE are there, and the tokens are told."""
        is_whole = self.n_features == self.d_sae and (self.has_weights or bool(self.config.get("d_sae")))
        return self.n_corpus_tokens > 0 and (is_whole or not self.is_imported)

    @property
    def dead_share(self) -> float:
        """Of the features that dashboards were made of; 0 before the first computation."""
        return self.n_dead / (self.n_features or self.d_sae or 1)

    @property
    def n_dead(self) -> int:
        """Of the features that dashboards were made of; 0 before the first computation."""
        return max(0, (self.n_features or self.d_sae) - self.n_alive) if self.revision_id is not None else 0

    @property
    def kind(self) -> Kind:
        """Whether it is an SAE, a hook point's neurons or a set of vectors."""
        return dense_sources.kind_of(self.architecture)

    @property
    def is_signed(self) -> bool:
        """Its activations may be negative."""
        return dense_sources.is_signed(self.architecture)

    @property
    def labels(self) -> tuple[str, ...]:
        """What its vectors are called, by index; empty for what has no names."""
        return tuple(self.config.get("labels") or ()) if self.kind == "vectors" else ()

    def label(self, index: int) -> str:
        """What a vector is called; empty for what has no name."""
        return self.labels[index] if index < len(self.labels) else ""

    @property
    def mean_l1(self) -> float | None:
        """Sum of the activations on an unmasked token, on average; None where it is not known, and of signed ones."""
        if self.activation_sum is None or self.is_signed or not self.n_corpus_tokens:
            return None
        return self.activation_sum / self.n_corpus_tokens


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model by itself. Facts are None until a worker has loaded it."""

    id: str
    display_name: str
    weights: str | None
    """None: none are known."""
    architecture: str | None
    n_layers: int | None
    d_model: int | None
    n_context: int | None
    created_at: datetime
    given: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelView(ModelFacts):
    """A model and its sources, by layer, then name."""

    sources: tuple[SourceView, ...] = ()

    @property
    def has_dashboards(self) -> bool:
        """Features of some source can be read."""
        return any(source.revision_id is not None for source in self.sources)

    @property
    def is_searchable(self) -> bool:
        """Some source with dashboards can be asked what fires on a text."""
        return self.weights is not None and any(
            source.has_weights and source.revision_id is not None for source in self.sources
        )


@dataclass(frozen=True, slots=True)
class SourceSetFacts:
    """A source set by itself."""

    model: str
    name: str
    description: str
    created_at: datetime
    release: str | None = None
    given: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SourceSetView(SourceSetFacts):
    """A source set and its sources, by layer, then name."""

    sources: tuple[SourceView, ...] = ()


@dataclass(frozen=True, slots=True)
class ReleaseFacts:
    """A release by itself."""

    name: str
    created_at: datetime
    given: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReadableSource:
    """A source and the keys its dashboards are read with."""

    view: SourceView
    revision_id: int
    corpus_id: int
    vocabulary_id: int
    is_first_masked: bool


def models(session: Session) -> tuple[ModelView, ...]:
    """Every hosted model, by id; two statements."""
    facts = [_model_facts(row) for row in session.execute(_MODELS.order_by(Model.id))]
    sources = _source_views(session, _SOURCES)
    return tuple(_model_view(fact, [s for s in sources if s.model == fact.id]) for fact in facts)


def model(session: Session, model_id: str) -> ModelView:
    """One model and its sources; raises `NotFoundError`."""
    row = session.execute(_MODELS.where(Model.id == as_key(model_id))).one_or_none()
    if row is None:
        raise no_model(model_id)
    return _model_view(_model_facts(row), _source_views(session, _SOURCES.where(Source.model_id == model_id)))


def model_facts(session: Session, model_id: str) -> ModelFacts:
    """One model by itself, also for who knows only an unlisted source of it; raises `NotFoundError`."""
    row = session.execute(addressed(_MODELS.where(Model.id == as_key(model_id)))).one_or_none()
    if row is None:
        raise no_model(model_id)
    return _model_facts(row)


def source(session: Session, model_id: str, name: str) -> SourceView:
    """One source; raises `NotFoundError`."""
    return _source_view(_source_row(session, model_id, name))


def sources_named(session: Session, model_id: str, source_names: Collection[str]) -> tuple[SourceView, ...]:
    """Those of the sources that there are, by layer, then name; one statement."""
    if not source_names:
        return ()
    wanted = [Source.model_id == as_key(model_id), Source.name.in_({as_key(name) for name in source_names})]
    return tuple(_source_views(session, addressed(_SOURCES.where(*wanted))))


def sources_of(session: Session, model_id: str) -> tuple[SourceView, ...]:
    """The sources of a model that the viewer sees in lists, by layer, then name; one statement."""
    return tuple(_source_views(session, _SOURCES.where(Source.model_id == as_key(model_id))))


def quality(session: Session, model_id: str, name: str) -> Quality | None:
    """What the evaluation of a source found; None where there was none. Raises `NotFoundError`."""
    query = select(Revision.quality).select_from(Source).outerjoin(Revision, Revision.id == Source.revision_id)
    query = addressed(query.where(Source.model_id == as_key(model_id), Source.name == as_key(name)))
    row = session.execute(query).one_or_none()
    if row is None:
        raise _no_source(model_id, name)
    return from_json(row.quality) if row.quality else None


def look(session: Session, model_id: str, name: str) -> Look | None:
    """What the quick look of the newest job found; None where there was none. Raises `NotFoundError`."""
    query = select(Source.look).where(Source.model_id == as_key(model_id), Source.name == as_key(name))
    row = session.execute(addressed(query)).one_or_none()
    if row is None:
        raise _no_source(model_id, name)
    return look_from_json(row.look) if row.look else None


def readable_source(session: Session, model_id: str, name: str) -> ReadableSource:
    """A source that has dashboards; raises `NotFoundError` for one that has none yet."""
    row = _source_row(session, model_id, name)
    if row.revision_id is None:
        raise errors.NotFoundError(
            f"The dashboards of '{model_id}/{name}' are not computed yet.",
            hint="Start their computation, or watch it under /jobs.",
        )
    return _readable(row)


def readable_sources(session: Session, model_id: str, wanted: Collection[str]) -> dict[str, ReadableSource]:
    """By name those of the wanted sources that have dashboards; one statement."""
    query = _SOURCES.where(Source.model_id == as_key(model_id), Source.name.in_({as_key(name) for name in wanted}))
    return {row.name: _readable(row) for row in session.execute(addressed(query)) if row.revision_id is not None}


def source_set(session: Session, model_id: str, name: str) -> SourceSetView:
    """One source set and its sources; raises `NotFoundError`."""
    key = (SourceSet.model_id == as_key(model_id), SourceSet.name == as_key(name))
    row = session.execute(_SOURCE_SETS.where(*key)).one_or_none()
    if row is None:
        raise errors.NotFoundError(f"Model '{model_id}' has no source set '{name}'.", hint="See the model's page.")
    sources = _source_views(session, _SOURCES.where(Source.model_id == model_id, Source.set_name == name))
    return SourceSetView(row.model, row.name, row.description, row.created_at, row.release, row.given, tuple(sources))


def source_sets(session: Session) -> tuple[SourceSetFacts, ...]:
    """Every source set without its sources, by model and name."""
    rows = session.execute(_SOURCE_SETS.order_by(SourceSet.model_id, SourceSet.name))
    return tuple(SourceSetFacts(*row) for row in rows)


def releases(session: Session) -> tuple[ReleaseFacts, ...]:
    """Every release of which the viewer sees a source in lists, and their own, by name."""
    rows = session.execute(_RELEASES.order_by(Release.name))
    return tuple(ReleaseFacts(*row) for row in rows)


def release(session: Session, name: str) -> ReleaseFacts | None:
    """The release, also for who knows only an unlisted source of it; None: there is none."""
    row = session.execute(addressed(_RELEASES.where(Release.name == name))).one_or_none()
    return None if row is None else ReleaseFacts(*row)


def origin(session: Session, view: SourceView) -> tuple[ModelFacts, SourceSetFacts]:
    """The model and the set of a source, in one statement."""
    query = select(*_MODEL_COLUMNS, *_SET_COLUMNS).join(SourceSet, SourceSet.model_id == Model.id)
    row = session.execute(addressed(query.where(Model.id == view.model, SourceSet.name == view.set_name))).one()
    return _model_facts(row), SourceSetFacts(*row[len(_MODEL_COLUMNS) :])


def vocabulary(session: Session, vocabulary_id: int) -> tuple[str, ...]:
    """The text of every token, by id; a statement only the first time in this process."""
    cache = _cache_of(session)
    with _lock:
        if vocabulary_id in cache:
            cache.move_to_end(vocabulary_id)
            return cache[vocabulary_id]
    packed = session.execute(select(Vocabulary.strings).where(Vocabulary.id == vocabulary_id)).scalar_one()
    texts = tuple(orjson.loads(zlib.decompress(packed)))
    with _lock:
        cache[vocabulary_id] = texts
        while len(cache) > N_CACHED_VOCABULARIES:
            cache.popitem(last=False)
    return texts


def add_model(session: Session, model_id: str, weights: str, *, display_name: str | None = None) -> None:
    """Register a model, or say where the weights of a registered one lie now; a display name given replaces the old."""
    names.check_id(model_id, "model")
    row = insert(Model).values(id=model_id, display_name=display_name or model_id, weights=weights)
    changed = {"weights": weights} | ({"display_name": display_name} if display_name else {})
    session.execute(row.on_conflict_do_update(index_elements=[Model.id], set_=changed))


@dataclass(frozen=True, slots=True)
class Claim:
    """Who takes the id of a source, and how."""

    viewer: Viewer = access.OPERATOR
    visibility: Visibility = "public"
    """Of a new source."""
    is_replacing: bool = False
    """A source of theirs may get other weights."""


THE_HOST_S = Claim()


def add_source(
    session: Session,
    model_id: str,
    name: str,
    *,
    hook_point: str,
    architecture: str,
    d_in: int,
    d_sae: int,
    weights: str,
    config: dict[str, Any],
    declared: dict[str, Any] | None = None,
    claim: Claim = THE_HOST_S,
) -> int:
    """Register an SAE and its source set, and return the row's id.

    Registering the same weights again updates the row, and so does replacing them. A source without weights gets these
    and keeps its dashboards. Raises `ConflictError` when the id belongs to other weights, or when dashboards were
    computed for, or say, another hook point or size; `NotFoundError` when the model is not hosted; `ForbiddenError` when
    the source is somebody else's.
    """
    names.check_id(name, "source")
    place = names.parse_hook_point(hook_point)
    if session.execute(unrestricted(select(Model.id).where(Model.id == as_key(model_id)))).one_or_none() is None:
        raise no_model(model_id)
    set_name = names.source_set_of(name)
    session.execute(insert(SourceSet).values(model_id=model_id, name=set_name).on_conflict_do_nothing())
    facts = {
        "hook_point": hook_point, "layer": place.layer, "architecture": architecture, "d_in": d_in, "d_sae": d_sae,
        "config": config, "declared": declared or {},
    }  # fmt: skip
    owned = {"owner_id": claim.viewer.account_id, "visibility": claim.visibility}
    row = insert(Source).values(model_id=model_id, name=name, set_name=set_name, weights=weights, **owned, **facts)
    # The no-op update makes a concurrent registration wait here and returns the row it made.
    added = row.on_conflict_do_update(index_elements=[Source.model_id, Source.name], set_={"name": name})
    found = session.execute(added.returning(*_IDENTITY)).one()
    if found.weights is None:
        access.check_may_change(claim.viewer, found.owner_id)
        _refuse_unlike(session, f"{model_id}/{name}", found, (hook_point, d_in, d_sae))
    elif claim.is_replacing:
        access.check_may_change(claim.viewer, found.owner_id)
    else:
        _refuse_another_sae(f"{model_id}/{name}", found, claim.viewer, (weights, hook_point, d_in, d_sae))
    changed = update(Source).where(Source.id == found.id).values(weights=weights, **facts)
    session.execute(unrestricted(changed))
    return int(found.id)


_lock = Lock()
_vocabularies: WeakKeyDictionary[Engine, OrderedDict[int, tuple[str, ...]]] = WeakKeyDictionary()
_IDENTITY = (
    Source.id,
    Source.owner_id,
    Source.weights,
    Source.hook_point,
    Source.d_in,
    Source.d_sae,
    Source.revision_id,
)
_MODEL_COLUMNS = (
    Model.id, Model.display_name, Model.weights, Model.architecture, Model.n_layers, Model.d_model, Model.n_context,
    Model.created_at, Model.given,
)  # fmt: skip
_MODELS = select(*_MODEL_COLUMNS)
_SET_COLUMNS = (
    SourceSet.model_id.label("model"), SourceSet.name, SourceSet.description, SourceSet.created_at,
    SourceSet.release_name.label("release"), SourceSet.given,
)  # fmt: skip
_SOURCE_SETS = select(*_SET_COLUMNS)
_RELEASES = select(Release.name, Release.created_at, Release.given)
_job, _of_job = Job.__table__.alias("active"), JobSource.__table__.alias("of_active")
# The revision that the first computation of a source writes, once some of its features are there to be read.
_UNFINISHED = (
    select(_of_job.c.revision_id)
    .join(_job, _job.c.id == _of_job.c.job_id)
    .where(
        _of_job.c.source_id == Source.id,
        _job.c.state.in_(("queued", "running")),
        exists().where(Feature.revision_id == _of_job.c.revision_id),
    )
    .limit(1)
    .correlate(Source)
    .scalar_subquery()
)
# Columns, not entities: a session that already holds a row as an object would go on showing its old revision.
_SOURCES = (
    select(
        Source.model_id.label("model"), Source.name, Source.set_name, Source.hook_point, Source.layer,
        Source.architecture, Source.d_in, Source.d_sae, Source.config, Source.created_at, Source.owner_id,
        Source.visibility, Source.weights.is_not(None).label("has_weights"), Source.given,
        Revision.id.label("revision_id"), Revision.n_features, Revision.n_alive, Revision.n_firings, Revision.density_histogram,
        Revision.n_dense, Revision.activation_sum, Revision.index_bytes,
        Revision.created_at.label("computed_at"), Corpus.id.label("corpus_id"), Corpus.name.label("corpus"),
        Corpus.n_tokens.label("n_corpus_tokens"), Corpus.n_contexts.label("n_corpus_contexts"), Corpus.context_size,
        Corpus.vocabulary_id, Corpus.is_first_masked, Source.revision_id.is_(None).label("is_partial"),
        (Corpus.blob_key == "").label("is_imported"),
    )
    .select_from(Source)
    .outerjoin(Revision, Revision.id == func.coalesce(Source.revision_id, _UNFINISHED))
    .outerjoin(Corpus, Corpus.id == Revision.corpus_id)
)  # fmt: skip


_REGISTERED = (
    "model", "name", "set_name", "hook_point", "layer", "architecture", "d_in", "d_sae", "config", "created_at",
    "revision_id", "owner_id", "visibility", "has_weights", "given",
)  # fmt: skip
_COMPUTED = (
    "corpus", "n_corpus_tokens", "n_corpus_contexts", "context_size", "n_features", "n_alive", "n_firings", "n_dense",
    "activation_sum", "computed_at", "index_bytes", "is_partial", "is_imported",
)  # fmt: skip


def as_key(text: str) -> str:
    """`text`, unless no id could be that: Postgres refuses even to compare a NUL."""
    return "" if "\0" in text or not text.isascii() else text


def no_model(model_id: str) -> errors.NotFoundError:
    """What is said of a model that is not hosted, or that the viewer may not see."""
    return errors.NotFoundError(f"No model '{model_id}' is hosted.", hint="The home page lists those that are.")


def _no_source(model_id: str, name: str) -> errors.NotFoundError:
    return errors.NotFoundError(
        f"No source '{name}' of a model '{model_id}' is hosted.", hint="The home page lists those that are."
    )


def _source_row(session: Session, model_id: str, name: str) -> AnyRow:
    query = addressed(_SOURCES.where(Source.model_id == as_key(model_id), Source.name == as_key(name)))
    row = session.execute(query).one_or_none()
    if row is None:
        raise _no_source(model_id, name)
    return row


def _readable(row: AnyRow) -> ReadableSource:
    return ReadableSource(_source_view(row), row.revision_id, row.corpus_id, row.vocabulary_id, row.is_first_masked)


def _source_views(session: Session, query: Select[Any]) -> list[SourceView]:
    return [_source_view(row) for row in session.execute(query.order_by(Source.layer, Source.name))]


def _source_view(row: AnyRow) -> SourceView:
    facts = {name: getattr(row, name) for name in _REGISTERED}
    if row.revision_id is None:
        return SourceView(**facts)
    computed = {name: getattr(row, name) for name in _COMPUTED}
    histogram = row.density_histogram
    return SourceView(
        **facts,
        **computed,
        density_low=histogram["low"],
        density_high=histogram["high"],
        density_counts=tuple(histogram["counts"]),
    )


def _model_facts(row: AnyRow) -> ModelFacts:
    return ModelFacts(*row[: len(_MODEL_COLUMNS)])


def _model_view(facts: ModelFacts, sources: Sequence[SourceView]) -> ModelView:
    known = {each.name: getattr(facts, each.name) for each in fields(ModelFacts)}
    return ModelView(**known, sources=tuple(sources))


def _refuse_unlike(session: Session, ref: str, found: AnyRow, given: tuple[str, int, int]) -> None:
    """Raise `ConflictError` for weights that cannot be those that a source's imported dashboards are of."""
    if found.revision_id is None:
        return
    hook_point, d_in, d_sae = given
    last = session.scalar(select(func.max(Feature.index)).where(Feature.revision_id == found.revision_id))
    problems = []
    if last is not None and last >= d_sae:
        problems.append(f"has a feature {last}, and this SAE has 0 to {d_sae - 1}")
    if found.hook_point not in ("", hook_point):
        problems.append(f"is at {found.hook_point}, and this SAE at {hook_point}")
    if found.d_in not in (0, d_in):
        problems.append(f"reads {found.d_in} numbers, and this SAE {d_in}")
    if problems:
        raise errors.ConflictError(
            f"'{ref}' has dashboards of another SAE: it {'; it '.join(problems)}.",
            hint="Give this SAE another id.",
        )


def _refuse_another_sae(ref: str, found: AnyRow, viewer: Viewer, given: tuple[str, str, int, int]) -> None:
    weights, *shape = given
    if found.weights != weights:
        other = f"the SAE in '{found.weights}'" if viewer.is_admin else "another SAE"
        raise errors.ConflictError(
            f"'{ref}' is already {other}.", hint="Give this one another id, or say that it replaces that one."
        )
    access.check_may_change(viewer, found.owner_id)
    if found.revision_id is not None and [found.hook_point, found.d_in, found.d_sae] != shape:
        raise errors.ConflictError(
            f"'{ref}' has dashboards for {found.hook_point}, {found.d_in} × {found.d_sae}; these weights differ.",
            hint="Give the changed SAE another id.",
        )


def _cache_of(session: Session) -> OrderedDict[int, tuple[str, ...]]:
    """Ids mean something within one database only."""
    with _lock:
        return _vocabularies.setdefault(session.get_bind().engine, OrderedDict())
