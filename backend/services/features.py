"""Features as readers see them: one dashboard, a page of a source's features, the features beside one.

Owns the SQL over `feature`, `dashboard` and `context`, and the expansion of packed examples to token texts.
`get` costs a fixed number of statements whatever the feature. Masked leading tokens are not shown.
"""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import CTE, ColumnElement, and_, false, func, or_, select, true, tuple_
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Context, Dashboard, Feature, Source
from backend.formats import dashboards
from backend.formats.dashboards import BOTTOM_GROUP, FIRST_NEGATIVE_GROUP, TOP_GROUP, Moments
from backend.names import FeatureRef
from backend.services import catalog
from backend.services.catalog import AnyRow
from backend.services.catalog import SourceView as SourceView
from backend.services.visibility import addressed

MAX_PER_PAGE = 200
"""Rows of the table of features."""

_Ids = NDArray[np.integer[Any]]
_Documents = Mapping[int, Sequence[tuple[int, str]] | None]
"""(position, name) of each document of a context, by index in the corpus."""


@dataclass(frozen=True, slots=True)
class DocumentView:
    """A document of the corpus, as far as one context has it."""

    position: int
    """Of its first token there, as an index into the example's `tokens`."""
    name: str


@dataclass(frozen=True, slots=True)
class ExampleView:
    """One context with its activations, the leading special token left out."""

    context: int
    """Index in the corpus."""
    tokens: tuple[str, ...]
    positions: tuple[int, ...]
    """Where the feature fires, as indexes into `tokens`, ascending."""
    values: tuple[float, ...]
    """Activation at each of `positions`; fp32 exactly."""
    max_value: float
    max_position: int
    documents: tuple[DocumentView, ...] = ()
    """Those its tokens are from, in order; none where it is not known."""

    def peak(self, *, is_negative: bool) -> int:
        """Where the largest value stands, or the most negative one; the first of several."""
        if not is_negative:
            return self.max_position
        return self.positions[min(range(len(self.values)), key=self.values.__getitem__)]


@dataclass(frozen=True, slots=True)
class GroupView:
    """The top contexts, or the sample of one interval of (0, max]; for signed features also of those below zero."""

    is_top: bool
    low: float
    """Lower end, open; for the top group the smallest maximum shown."""
    high: float
    fraction: float
    """Of the feature's firings that lie in the interval; 1 for the top group means nothing and is not shown."""
    examples: tuple[ExampleView, ...]
    is_negative: bool = False
    """Below zero: the contexts with the most negative values if `is_top`, else a sample of an interval of [min, 0)."""


@dataclass(frozen=True, slots=True)
class SignedView:
    """What is said only of a feature whose values may be negative."""

    is_dense: bool
    """It has a value at every token: intervals count contexts, and moments and histogram are of all tokens."""
    positive: float
    """Fraction of the tokens that count with a value above zero."""
    negative: float
    fires_on: tuple[str, ...]
    """Tokens with the most negative values."""


@dataclass(frozen=True, slots=True)
class HistogramView:
    """Counts between edges: `len(edges) == len(counts) + 1`; empty for a dead feature."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LogitLensView:
    """Tokens a feature pushes up and down."""

    top: tuple[tuple[str, float], ...]
    """(token, logit), largest first."""
    bottom: tuple[tuple[str, float], ...]
    """(token, logit), most negative first."""
    histogram: HistogramView
    moments: Moments


@dataclass(frozen=True, slots=True)
class NeighbourView:
    """A feature near in decoder direction."""

    index: int
    cosine: float
    density: float
    fires_on: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FeatureView:
    """Everything a feature's page and its JSON are rendered from."""

    source: SourceView
    index: int
    n_firings: int
    n_contexts: int
    density: float
    max_value: float
    min_value: float
    moments: Moments
    """Of the firings."""
    decoder_norm: float
    fires_on: tuple[str, ...]
    log_histogram: HistogramView
    linear_histogram: HistogramView
    groups: tuple[GroupView, ...]
    """Top group first, then intervals from the highest to the lowest, then, of signed features, the bottom group and the
    intervals from the lowest up to zero; empty ones are left out."""
    logit_lens: LogitLensView | None
    neighbours: tuple[NeighbourView, ...]
    previous_index: int | None
    """The nearest lower feature that is alive."""
    next_index: int | None
    signed: SignedView | None = None
    """None for features that are never negative."""

    @property
    def label(self) -> str:
        """What a vector of a set is called; empty for what has no name."""
        return self.source.label(self.index)

    @property
    def is_dead(self) -> bool:
        """True if it never fired on the corpus."""
        return self.n_firings == 0


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


def several(session: Session, refs: Sequence[FeatureRef], *, n_examples: int = 1) -> tuple[FeatureView | None, ...]:
    """The features named, in their order, each with its first `n_examples` top contexts; None where there is no dashboard.

    Four statements for any number of features and sources of a model on one corpus, none for no features. The features
    beside each are not looked for.
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


class Summary(Protocol):
    """What is said of a feature beside another."""

    @property
    def density(self) -> float: ...  # noqa: D102 - as in `FeatureView`
    @property
    def fires_on(self) -> Sequence[str]: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Packed:
    """A dashboard as computed, and what stands around it."""

    dashboard: dashboards.Dashboard
    density: float
    fires_on: tuple[str, ...]
    previous_index: int | None = None
    next_index: int | None = None


def expand(
    packed: Packed,
    source: SourceView,
    contexts: Mapping[int, _Ids],
    texts: Sequence[str],
    near: Mapping[int, Summary],
    *,
    n_hidden: int,
) -> FeatureView:
    """The view of a computed dashboard: token ids become texts, counts get their edges.

    `contexts` are token ids by index in the corpus, `near` the neighbours by index; `n_hidden` leading tokens of every
    context are masked and not shown.
    """
    d = packed.dashboard
    return FeatureView(
        source=source,
        index=d.index,
        n_firings=d.n_firings,
        n_contexts=d.n_contexts,
        density=packed.density,
        max_value=d.max,
        min_value=d.min,
        moments=d.moments,
        decoder_norm=d.decoder_norm,
        fires_on=packed.fires_on,
        log_histogram=_histogram(d.log_histogram, d.min, d.max, is_log=True),
        linear_histogram=(
            _histogram(d.linear_histogram, d.min, d.max, is_log=False)
            if d.signed is None
            else _signed_histogram(d.linear_histogram, d.signed)
        ),
        groups=_groups(d, contexts, texts, n_hidden=n_hidden),
        logit_lens=None if d.logit_lens is None else _logit_lens(d.logit_lens, texts),
        neighbours=_neighbours(d, near),
        previous_index=packed.previous_index,
        next_index=packed.next_index,
        signed=None if d.signed is None else _signed(d.signed, source, texts),
    )


@dataclass(frozen=True, slots=True)
class _Stored:
    """A feature as the database has it, and the features beside it that are alive."""

    source: catalog.ReadableSource
    row: AnyRow
    before: int | None = None
    after: int | None = None


# A row has a method `index`, so columns of that name are read under another.
_STORED = select(
    Feature.revision_id, Feature.index.label("feature"), Feature.density, Feature.fires_on, Dashboard.packed
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
    unpacked = [dashboards.unpack(each.row.packed) for each in stored]
    if n_examples is not None:
        unpacked = [replace(d, examples=d.examples.first(n_examples)) for d in unpacked]
    shown = stored[0].source
    texts = catalog.vocabulary(session, shown.vocabulary_id)
    contexts, documents = _contexts(session, shown, len(texts), (d.examples.context for d in unpacked))
    near = _summaries(session, zip((each.source.revision_id for each in stored), unpacked, strict=True))
    n_hidden = int(shown.is_first_masked)
    views = []
    for each, d in zip(stored, unpacked, strict=True):
        packed = Packed(d, each.row.density, tuple(each.row.fires_on), each.before, each.after)
        summaries = near.get(each.source.revision_id, {})
        view = expand(packed, each.source.view, contexts, texts, summaries, n_hidden=n_hidden)
        views.append(_with_documents(view, documents, n_hidden=n_hidden))
    return tuple(views)


def _with_documents(view: FeatureView, documents: _Documents, *, n_hidden: int) -> FeatureView:
    """Each example with the documents its shown tokens are from."""

    def of(example: ExampleView) -> ExampleView:
        pairs = documents.get(example.context) or []
        ends = [*(position for position, _ in pairs[1:]), n_hidden + len(example.tokens)]
        shown = (
            [
                DocumentView(max(position - n_hidden, 0), name)
                for (position, name), end in zip(pairs, ends, strict=True)
                if end > n_hidden
            ]
            if pairs
            else []
        )
        return replace(example, documents=tuple(shown))

    return replace(view, groups=tuple(replace(g, examples=tuple(map(of, g.examples))) for g in view.groups))


def _contexts(
    session: Session, shown: catalog.ReadableSource, n_tokens: int, wanted: Iterable[_Ids]
) -> tuple[dict[int, _Ids], _Documents]:
    """Token ids and documents of the contexts wanted, by index in the corpus."""
    indexes = sorted({int(index) for each in wanted for index in each})
    query = select(Context.index.label("context"), Context.tokens, Context.documents)
    rows = session.execute(query.where(Context.corpus_id == shown.corpus_id, Context.index.in_(indexes))).all()
    width = "<u2" if n_tokens <= 2**16 else "<u4"
    ids = {row.context: np.frombuffer(row.tokens, width) for row in rows}
    return ids, {row.context: row.documents for row in rows}


def _summaries(session: Session, found: Iterable[tuple[int, dashboards.Dashboard]]) -> dict[int, dict[int, Summary]]:
    """Density and tokens of the neighbours of the features found, by revision and index."""
    wanted: dict[int, set[int]] = {}
    for revision, d in found:
        wanted.setdefault(revision, set()).update(d.neighbours.tolist())
    query = select(Feature.revision_id, Feature.index.label("feature"), Feature.density, Feature.fires_on)
    near: dict[int, dict[int, Summary]] = {}
    for row in session.execute(query.where(_among(wanted))):
        near.setdefault(row.revision_id, {})[row.feature] = row
    return near


def _among(wanted: Mapping[int, set[int]]) -> ColumnElement[bool]:
    """The features wanted, by revision."""
    of = (and_(Feature.revision_id == each, Feature.index.in_(sorted(indexes))) for each, indexes in wanted.items())
    return or_(false(), *of)


def _histogram(counts: NDArray[np.int64], low: float, high: float, *, is_log: bool) -> HistogramView:
    n = int(counts.sum())
    if n == 0:
        return HistogramView((), ())
    if low == high:
        return HistogramView((low, high), (n,))
    space = np.geomspace if is_log else np.linspace
    return HistogramView(tuple(space(low, high, counts.size + 1).tolist()), tuple(counts.tolist()))


def _signed_histogram(counts: NDArray[np.int64], signed: dashboards.Signed) -> HistogramView:
    if counts.sum() == 0:
        return HistogramView((), ())
    edges = np.ldexp(np.arange(counts.size + 1, dtype=np.float64) + signed.first_bin, signed.bin_exponent)
    return HistogramView(tuple(edges.tolist()), tuple(counts.tolist()))


def _signed(signed: dashboards.Signed, source: SourceView, texts: Sequence[str]) -> SignedView:
    n_tokens = max(1, source.n_corpus_tokens)
    return SignedView(
        signed.is_dense,
        signed.n_positive / n_tokens,
        signed.n_negative / n_tokens,
        texts_of(signed.bottom_tokens, texts),
    )


def _groups(
    d: dashboards.Dashboard, contexts: Mapping[int, _Ids], texts: Sequence[str], *, n_hidden: int
) -> tuple[GroupView, ...]:
    """Top group, then intervals from the highest to the lowest, then the bottom group; those without examples are left out."""
    views = [_example(d.examples, at, contexts, texts, n_hidden) for at in range(d.examples.context.size)]
    groups = []
    for number in (
        TOP_GROUP,
        *range(dashboards.N_INTERVALS, 0, -1),
        BOTTOM_GROUP,
        *range(BOTTOM_GROUP - 1, FIRST_NEGATIVE_GROUP - 1, -1),
    ):
        examples = tuple(view for view, group in zip(views, d.examples.group, strict=True) if group == number)
        if examples:
            groups.append(_group(d, number, examples))
    return tuple(groups)


def _group(d: dashboards.Dashboard, number: int, examples: tuple[ExampleView, ...]) -> GroupView:
    """The group of that number; intervals are between fifths of the largest value, or of the most negative one."""
    if number == TOP_GROUP:
        return GroupView(True, min(e.max_value for e in examples), d.max, 1.0, examples)
    if number == BOTTOM_GROUP:
        return GroupView(True, d.min, max(min(e.values) for e in examples), 1.0, examples, is_negative=True)
    is_negative = d.signed is not None and number >= FIRST_NEGATIVE_GROUP
    interval = number - (FIRST_NEGATIVE_GROUP if is_negative else 1)
    counts = d.signed.negative_intervals if d.signed is not None and is_negative else d.interval_firings
    end = d.min if is_negative else d.max
    low, high = sorted(end * k / dashboards.N_INTERVALS for k in (interval, interval + 1))
    n = d.n_contexts if d.signed is not None and d.signed.is_dense else d.n_firings
    return GroupView(False, low, high, int(counts[interval]) / n, examples, is_negative=is_negative)


def _example(
    examples: dashboards.Examples, at: int, contexts: Mapping[int, _Ids], texts: Sequence[str], n_hidden: int
) -> ExampleView:
    """Example `at`, its first `n_hidden` tokens left out; they are masked, so none of them fires."""
    firings = slice(int(examples.offset[at]), int(examples.offset[at + 1]))
    values = examples.value[firings].astype(np.float64)
    positions = examples.position[firings].astype(np.int64) - n_hidden
    index, top = int(examples.context[at]), int(values.argmax())
    return ExampleView(
        context=index,
        tokens=texts_of(contexts[index][n_hidden:], texts),
        positions=tuple(positions.tolist()),
        values=tuple(values.tolist()),
        max_value=float(values[top]),
        max_position=int(positions[top]),
    )


def texts_of(ids: _Ids, texts: Sequence[str]) -> tuple[str, ...]:
    """Token texts; a model's output may be padded to ids that its tokenizer does not have."""
    return tuple(texts[i] if i < len(texts) else f"<{i}>" for i in ids.tolist())


def _logit_lens(lens: dashboards.LogitLens, texts: Sequence[str]) -> LogitLensView:
    return LogitLensView(
        top=tuple(zip(texts_of(lens.top_tokens, texts), lens.top_logits.tolist(), strict=True)),
        bottom=tuple(zip(texts_of(lens.bottom_tokens, texts), lens.bottom_logits.tolist(), strict=True)),
        histogram=_histogram(lens.histogram, lens.low, lens.high, is_log=False),
        moments=lens.moments,
    )


def _neighbours(d: dashboards.Dashboard, near: Mapping[int, Summary]) -> tuple[NeighbourView, ...]:
    pairs = zip(d.neighbours.tolist(), d.cosines.tolist(), strict=True)
    return tuple(
        NeighbourView(index, cosine, near[index].density, tuple(near[index].fires_on))
        for index, cosine in pairs
        if index in near  # it is not, while the source is computed and the neighbour is not finished
    )


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
