"""Features as readers see them: one dashboard, a page of a source's features, the features beside one.

Owns the SQL over `feature`, `dashboard` and `context`; what is made of the rows is in `feature_views` and `given_views`.
`get` costs a fixed number of statements whatever the feature.
"""

import math
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from sqlalchemy import CTE, ColumnElement, and_, false, func, or_, select, true, tuple_
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Context, Dashboard, Feature, Source
from backend.formats import dashboards, given
from backend.formats.given import GivenFeature
from backend.names import FeatureRef
from backend.services import catalog, given_views
from backend.services.catalog import AnyRow
from backend.services.catalog import SourceView as SourceView
from backend.services.feature_views import Documents, Summary, with_documents
from backend.services.feature_views import DocumentView as DocumentView
from backend.services.feature_views import ExampleView as ExampleView
from backend.services.feature_views import FeatureView as FeatureView
from backend.services.feature_views import GroupView as GroupView
from backend.services.feature_views import HistogramView as HistogramView
from backend.services.feature_views import LogitLensView as LogitLensView
from backend.services.feature_views import NeighbourView as NeighbourView
from backend.services.feature_views import Packed as Packed
from backend.services.feature_views import SignedView as SignedView
from backend.services.feature_views import expand as expand
from backend.services.feature_views import texts_of as texts_of
from backend.services.visibility import addressed

MAX_PER_PAGE = 200
"""Rows of the table of features."""


SortKey = Literal["index", "density", "max_activation", "logit_kurtosis"]


@dataclass(frozen=True, slots=True)
class FeatureQuery:
    """What a table of features shows; every field is part of the page's URL."""

    sort: SortKey = "index"
    is_descending: bool = False
    min_density: float | None = None
    max_density: float | None = None
    min_activation: float | None = None
    min_kurtosis: float | None = None
    token: str = ""
    """Keep features that fire on or promote a token containing this text, ignoring case."""
    with_dead: bool = False
    page: int = 1
    per_page: int = 50


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """One line of the table."""

    index: int
    density: float
    max_activation: float
    logit_kurtosis: float | None
    fires_on: tuple[str, ...]
    promotes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FeaturePage:
    """A page of the table and how many rows the filters leave in all."""

    rows: tuple[FeatureRow, ...]
    n_total: int
    query: FeatureQuery


def get(session: Session, ref: FeatureRef) -> FeatureView:
    """One feature's dashboard; five statements, six when its vocabulary is read for the first time.

    Raises `NotFoundError` for a source without dashboards and for an index it does not have.
    """
    shown = catalog.readable_source(session, ref.model, ref.source)
    query = _STORED.where(Feature.revision_id == shown.revision_id, Feature.index == ref.index)
    row = session.execute(query).one_or_none() if 0 <= ref.index < shown.view.d_sae else None
    if row is None and shown.view.is_partial and 0 <= ref.index < shown.view.d_sae:
        raise errors.NotFoundError(
            f"Feature {ref.index} of '{ref.model}/{ref.source}' is not computed yet.",
            hint="The source's page says which are.",
        )
    if row is None:
        raise errors.NotFoundError(
            f"'{ref.model}/{ref.source}' has no feature {ref.index}.",
            hint=f"Its features are 0 to {shown.view.d_sae - 1}.",
        )
    before, after = _alive_beside(session, shown.revision_id, ref.index)
    return _views(session, [_Stored(shown, row, before, after)])[0]


def several(
    session: Session, refs: Sequence[FeatureRef], *, n_examples: int | None = 1
) -> tuple[FeatureView | None, ...]:
    """The features named, in their order, each with its first `n_examples` top contexts; None where there is no dashboard.

    With `n_examples` None each has all of its contexts. Four statements for any number of features and sources of a model
    on one corpus, none for no features. The features beside each are not looked for.
    """
    if not refs:
        return ()
    names: dict[str, set[str]] = {}
    for ref in refs:
        names.setdefault(ref.model, set()).add(ref.source)
    shown = {
        (model, name): source
        for model, wanted in names.items()
        for name, source in catalog.readable_sources(session, model, wanted).items()
    }
    by_revision: dict[int, set[int]] = {}
    for ref in refs:
        if (ref.model, ref.source) in shown:
            by_revision.setdefault(shown[ref.model, ref.source].revision_id, set()).add(ref.index)
    sources = {source.revision_id: source for source in shown.values()}
    by_corpus: dict[int, list[_Stored]] = {}
    for row in session.execute(_STORED.where(_among(by_revision))):
        source = sources[row.revision_id]
        by_corpus.setdefault(source.corpus_id, []).append(_Stored(source, row))
    views = [view for stored in by_corpus.values() for view in _views(session, stored, n_examples=n_examples)]
    found = {(view.source.model, view.source.name, view.index): view for view in views}
    return tuple(found.get((ref.model, ref.source, ref.index)) for ref in refs)


def offset(session: Session, model: str, source: str, offset: int, *, n: int = 25) -> tuple[FeatureView, ...]:
    """Up to `n` features that fire, by index, from the `offset`-th on; one statement fewer than `get`."""
    shown = catalog.readable_source(session, model, source)
    alive = _STORED.where(Feature.revision_id == shown.revision_id, Feature.n_firings > 0).order_by(Feature.index)
    # One more on either side, where there is one: the features beside the first and the last.
    n_before = min(offset, 1)
    rows = session.execute(alive.offset(offset - n_before).limit(n_before + n + 1)).all()
    beside = [None, *(row.feature for row in rows), None]
    stored = [_Stored(shown, row, beside[at], beside[at + 2]) for at, row in enumerate(rows)]
    return _views(session, stored[n_before:][:n])


def run(session: Session, shown: catalog.ReadableSource, first: int, stop: int, *, n: int) -> tuple[FeatureView, ...]:
    """The first `n` features by index from `first` to below `stop`, dead ones too, with all of their contexts.

    The features beside each are not looked for.
    """
    among = (Feature.revision_id == shown.revision_id, Feature.index >= first, Feature.index < stop)
    rows = session.execute(_STORED.where(*among).order_by(Feature.index).limit(n))
    return _views(session, [_Stored(shown, row) for row in rows])


def random_index(session: Session, model: str, source: str) -> int:
    """A feature that fires, each as likely; raises `NotFoundError` where none does."""
    shown = catalog.readable_source(session, model, source)
    alive = select(Feature.index).where(Feature.revision_id == shown.revision_id, Feature.n_firings > 0)
    n_alive = shown.view.n_alive
    if shown.view.is_partial:
        n_alive = session.scalars(select(func.count()).select_from(alive.subquery())).one()
    at = random.randrange(max(n_alive, 1))  # noqa: S311 - chance for readers, not secrets
    index = session.execute(alive.order_by(Feature.index).offset(at).limit(1)).scalar_one_or_none()
    if index is None:
        raise errors.NotFoundError(f"No feature of '{model}/{source}' fires on its corpus.")
    return index


def browse(session: Session, model: str, source: str, query: FeatureQuery) -> FeaturePage:
    """The page of the table that `query` asks for; two statements. Ties are broken by index, unknown values come last.

    The filters are applied to the narrow (index, key) pairs once, for the count and the page both; only the rows of
    the page are read whole.
    """
    shown = catalog.readable_source(session, model, source)
    _check(query)
    key: ColumnElement[Any] = getattr(Feature, query.sort)
    matching = select(Feature.index, key.label("key")).where(*_filters(shown.revision_id, query)).cte("matching")
    skipped = (query.page - 1) * query.per_page
    page = select(matching).order_by(*_order(matching, query)).limit(query.per_page).offset(skipped).cte("page")
    count = select(func.count().label("n_total")).select_from(matching).subquery("total")
    listed = page.join(Feature, and_(Feature.revision_id == shown.revision_id, Feature.index == page.c.index))
    # A page past the last one is a single row: the count, and no feature.
    rows = session.execute(
        select(count.c.n_total, *_ROW_COLUMNS)
        .select_from(count.outerjoin(listed, true()))
        .order_by(*_order(page, query))
    ).all()
    return FeaturePage(tuple(_row(row) for row in rows if row.feature is not None), rows[0].n_total, query)


def named(session: Session, refs: Sequence[FeatureRef]) -> dict[FeatureRef, FeatureRow]:
    """Those of the features, all of one model, that have dashboards, as the table has them; one statement."""
    if not refs:
        return {}
    wanted = tuple_(Source.name, Feature.index).in_([(ref.source, ref.index) for ref in refs])
    query = select(Source.name.label("source"), *_ROW_COLUMNS).join(Feature, Feature.revision_id == Source.revision_id)
    rows = session.execute(addressed(query.where(Source.model_id == refs[0].model, wanted))).all()
    return {FeatureRef(refs[0].model, row.source, row.feature): _row(row) for row in rows}


@dataclass(frozen=True, slots=True)
class _Stored:
    """A feature as the database has it, and the features beside it that are alive."""

    source: catalog.ReadableSource
    row: AnyRow
    before: int | None = None
    after: int | None = None


# A row has a method `index`, so columns of that name are read under another.
_STORED = select(
    Feature.revision_id,
    Feature.index.label("feature"),
    Feature.n_firings,
    Feature.density,
    Feature.fires_on,
    Dashboard.packed,
).join(Dashboard, and_(Dashboard.revision_id == Feature.revision_id, Dashboard.index == Feature.index))
_ROW_COLUMNS = (
    Feature.index.label("feature"),
    Feature.density,
    Feature.max_activation,
    Feature.logit_kurtosis,
    Feature.fires_on,
    Feature.promotes,
)


def _alive_beside(session: Session, revision_id: int, index: int) -> tuple[int | None, int | None]:
    alive = select(Feature.index).where(Feature.revision_id == revision_id, Feature.n_firings > 0).limit(1)
    before = alive.where(Feature.index < index).order_by(Feature.index.desc()).scalar_subquery()
    after = alive.where(Feature.index > index).order_by(Feature.index).scalar_subquery()
    row = session.execute(select(before.label("before"), after.label("after"))).one()
    return row.before, row.after


def _views(session: Session, stored: Sequence[_Stored], *, n_examples: int | None = None) -> tuple[FeatureView, ...]:
    """Features on one corpus, with their first top contexts or, at None, all contexts of all groups.

    Everything the packed rows refer to is read in two statements, and the vocabulary where it is not yet known.
    """
    if not stored:
        return ()
    unpacked = [_unpacked(each.row.packed, n_examples) for each in stored]
    shown = stored[0].source
    texts = catalog.vocabulary(session, shown.vocabulary_id)
    wanted = {index for d in unpacked for index in _context_indices(d)}
    is_given = isinstance(unpacked[0], GivenFeature)
    contexts, documents = _contexts(session, shown, len(texts), wanted, is_given=is_given)
    near = _summaries(session, zip((each.source.revision_id for each in stored), unpacked, strict=True))
    n_hidden = int(shown.is_first_masked)
    views = []
    for each, d in zip(stored, unpacked, strict=True):
        summaries = near.get(each.source.revision_id, {})
        if isinstance(d, GivenFeature):
            about = given_views.About(
                each.row.n_firings, each.row.density, tuple(each.row.fires_on), each.before, each.after
            )
            views.append(given_views.expand(d, about, each.source.view, contexts, texts, summaries))
            continue
        packed = Packed(d, each.row.density, tuple(each.row.fires_on), each.before, each.after)
        view = expand(packed, each.source.view, contexts, texts, summaries, n_hidden=n_hidden)
        views.append(with_documents(view, documents, n_hidden=n_hidden))
    return tuple(views)


def _unpacked(packed: bytes, n_examples: int | None) -> dashboards.Dashboard | GivenFeature:
    if given.is_given(packed):
        return given.unpack(packed).shown(n_examples)
    d = dashboards.unpack(packed)
    return d if n_examples is None else replace(d, examples=d.examples.first(n_examples))


def _context_indices(d: dashboards.Dashboard | GivenFeature) -> Iterable[int]:
    if isinstance(d, GivenFeature):
        return [example.context for example in d.examples if example.context != given.OWN]
    found: list[int] = d.examples.context.tolist()
    return found


def _contexts(
    session: Session, shown: catalog.ReadableSource, n_tokens: int, wanted: Collection[int], *, is_given: bool
) -> tuple[dict[int, Any], Documents]:
    """Token ids and documents of the contexts wanted, by index in the corpus."""
    query = select(Context.index.label("context"), Context.tokens, Context.documents)
    found = query.where(Context.corpus_id == shown.corpus_id, Context.index.in_(sorted(wanted)))
    rows = session.execute(found).all()
    width = "<u2" if n_tokens <= 2**16 else "<u4"
    read = given.unpack_tokens if is_given else lambda tokens: np.frombuffer(tokens, width)
    return {row.context: read(row.tokens) for row in rows}, {row.context: row.documents for row in rows}


def _summaries(
    session: Session, found: Iterable[tuple[int, dashboards.Dashboard | GivenFeature]]
) -> dict[int, dict[int, Summary]]:
    """Density and tokens of the neighbours of the features found, by revision and index."""
    wanted: dict[int, set[int]] = {}
    for revision, d in found:
        wanted.setdefault(revision, set()).update(map(int, d.neighbours))
    query = select(Feature.revision_id, Feature.index.label("feature"), Feature.density, Feature.fires_on)
    near: dict[int, dict[int, Summary]] = {}
    for row in session.execute(query.where(_among(wanted))):
        near.setdefault(row.revision_id, {})[row.feature] = row
    return near


def _among(wanted: Mapping[int, set[int]]) -> ColumnElement[bool]:
    """The features wanted, by revision."""
    of = (and_(Feature.revision_id == each, Feature.index.in_(sorted(indexes))) for each, indexes in wanted.items())
    return or_(false(), *of)


def _row(row: AnyRow) -> FeatureRow:
    return FeatureRow(
        row.feature, row.density, row.max_activation, row.logit_kurtosis, tuple(row.fires_on), tuple(row.promotes)
    )


def _check(query: FeatureQuery) -> None:
    bounds = (query.min_density, query.max_density, query.min_activation, query.min_kurtosis)
    problems = []
    if query.page < 1 or not 1 <= query.per_page <= MAX_PER_PAGE:
        problems.append(f"pages count from 1 and hold 1 to {MAX_PER_PAGE} features")
    if any(bound is not None and not math.isfinite(bound) for bound in bounds):
        problems.append("limits are finite numbers")
    if "\0" in query.token:
        problems.append("a token holds no NUL")
    if problems:
        raise errors.InvalidInputError("This table of features cannot be shown.", hint="; ".join(problems) + ".")


def _filters(revision_id: int, query: FeatureQuery) -> list[ColumnElement[bool]]:
    wanted: list[ColumnElement[bool]] = [Feature.revision_id == revision_id]
    if not query.with_dead:
        wanted.append(Feature.n_firings > 0)
    for column, least in (
        (Feature.density, query.min_density),
        (Feature.max_activation, query.min_activation),
        (Feature.logit_kurtosis, query.min_kurtosis),
    ):
        if least is not None:
            wanted.append(column >= _as_stored(least))
    if query.max_density is not None:
        wanted.append(Feature.density <= _as_stored(query.max_density))
    if query.token:
        wanted.append(_mentions(query.token))
    return wanted


def _order(rows: CTE, query: FeatureQuery) -> tuple[ColumnElement[Any], ...]:
    key = rows.c.key.desc() if query.is_descending else rows.c.key.asc()
    return key.nulls_last(), rows.c.index


def _as_stored(number: float) -> float:
    """Rounded as the columns are, so that a limit read off the page keeps the feature it was read from."""
    return float(np.clip(number, np.finfo(np.float32).min, np.finfo(np.float32).max).astype(np.float32))


def _mentions(token: str) -> ColumnElement[bool]:
    """Any text in `fires_on` or `promotes` contains `token`, whatever the case."""
    return Feature.token_texts.contains(token.lower(), autoescape=True)
