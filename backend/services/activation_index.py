"""What only a kept activation index can answer: all firings of a feature, and which features fire together.

Owns the questions and their answers; `kept_index` reads the files, `firings` does the arithmetic. Everything is counted
over the corpus's tokens that count; values are bfloat16, off by at most 1/256.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from sqlalchemy.orm import Session

from backend import errors
from backend.names import FeatureRef
from backend.services import catalog, firings, kept_index
from backend.services.catalog import SourceView
from backend.services.features import HistogramView
from backend.services.kept_index import FeatureFacts, FiringView
from backend.storage import Mirror

MAX_PER_PAGE = 200
MAX_PAGE = 10**6
SAMPLED_TOKENS = 8_192
"""Firings of a feature looked at for what fires with it; of one that fires more often, so many at equal distances."""
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class ActivationQuery:
    """Which firings, both ends included; strongest first, ties by context and position."""

    low: float | None = None
    high: float | None = None
    page: int = 1
    per_page: int = 50


@dataclass(frozen=True, slots=True)
class ActivationPage:
    """A page of a feature's firings."""

    source: SourceView
    feature: FeatureFacts
    query: ActivationQuery
    n_total: int
    """Firings in the range, on all pages."""
    rows: tuple[FiringView, ...]
    histogram: HistogramView
    """Of all firings. Bins hold the values from one edge up to, but without, the next; the last holds its end too."""
    bin_ends: tuple[tuple[float, float], ...]
    """Smallest and largest value each bin can hold: the range that asks for exactly its firings."""
    quantiles: tuple[tuple[float, float], ...]
    """(share, value): the smallest value that at least this share of the firings does not exceed."""


CofiringKey = Literal["count", "lift", "correlation"]


@dataclass(frozen=True, slots=True)
class CofiringQuery:
    """Which features fire with one, and in which order; ties by index."""

    sort: CofiringKey = "count"
    min_count: int = 5
    """Tokens looked at on which both fire, at least: chance makes rare pairs look strong."""
    page: int = 1
    per_page: int = 50


@dataclass(frozen=True, slots=True)
class CofiringRow:
    """A feature B beside the feature A."""

    feature: FeatureFacts
    count: int
    """Tokens on which both fire; scaled up where A's firings were sampled."""
    share: float
    """Of A's firings, those where B fires too."""
    other_share: float
    """Of B's firings, those where A fires too."""
    lift: float
    """P(A and B) / (P(A) P(B))."""
    correlation: float | None
    """Phi of the two indicators of firing; None where one of them fires on every token."""


@dataclass(frozen=True, slots=True)
class CofiringPage:
    """A page of the features that fire with one."""

    source: SourceView
    feature: FeatureFacts
    query: CofiringQuery
    n_total: int
    n_looked_at: int
    """Firings of A that were looked at; fewer than there are means a sample."""
    rows: tuple[CofiringRow, ...]


Where = Literal["together", "without"]
Scope = Literal["token", "context"]


@dataclass(frozen=True, slots=True)
class PairQuery:
    """Contexts in which A fires with or without B, by A's largest such firing."""

    where: Where = "together"
    scope: Scope = "token"
    """What B has to fire on: the same token, or any token of the context."""
    page: int = 1
    per_page: int = 50


@dataclass(frozen=True, slots=True)
class PairPage:
    """Two features, and a page of contexts."""

    source: SourceView
    feature: FeatureFacts
    other: FeatureFacts
    query: PairQuery
    n_tokens_both: int
    n_contexts: int
    """In which A fires."""
    n_contexts_other: int
    n_contexts_both: int
    lift: float | None
    """None where one of them never fires."""
    correlation: float | None
    """Phi; None where one of them never fires, or on every token."""
    value_correlation: float | None
    """Pearson's, of the activations on all tokens that count, zeros included."""
    n_total: int
    """Contexts, on all pages."""
    rows: tuple[FiringView, ...]


def kept(session: Session, model: str, source: str) -> SourceView:
    """A source that keeps an index; raises `NotFoundError` for any other."""
    view = catalog.readable_source(session, model, source).view
    if view.index_bytes is None:
        raise kept_index.none_kept(model, source)
    return view


def activations(session: Session, mirror: Mirror, ref: FeatureRef, query: ActivationQuery) -> ActivationPage:
    """A page of the firings of a feature in a range of values; raises `NotFoundError`, `InvalidInputError`."""
    _check_page(query.page, query.per_page)
    index = kept_index.opened(session, mirror, ref.model, ref.source)
    facts = index.facts([ref.index])[ref.index]
    of_feature = index.firings(ref.index)
    scale = firings.Scale(of_feature)
    first, stop = scale.steps_between(query.low, query.high)
    chosen = firings.strongest(of_feature.step, scale.counts, (first, stop), _rows_of(query.page, query.per_page))
    rows = index.lines(of_feature, chosen)
    histogram, ends = scale.histogram()
    return ActivationPage(
        index.view, facts, query, int(scale.counts[first:stop].sum()), rows, histogram, ends, scale.quantiles(QUANTILES)
    )


def quantiles(
    session: Session, mirror: Mirror, ref: FeatureRef, shares: Sequence[float]
) -> tuple[tuple[float, float], ...]:
    """(share, value) of a feature's firings; none for a dead feature. Raises `NotFoundError`, `InvalidInputError`."""
    wrong = [share for share in shares if not 0 <= share <= 1]
    if wrong:
        raise errors.InvalidInputError(f"{wrong[0]} is not a share of the firings.", hint="Give shares from 0 to 1.")
    index = kept_index.opened(session, mirror, ref.model, ref.source)
    index.facts([ref.index])
    return firings.Scale(index.firings(ref.index)).quantiles(shares)


def cofiring(session: Session, mirror: Mirror, ref: FeatureRef, query: CofiringQuery) -> CofiringPage:
    """A page of the features that fire with one; exact up to `SAMPLED_TOKENS` firings of it. Raises `NotFoundError`."""
    _check_page(query.page, query.per_page)
    index = kept_index.opened(session, mirror, ref.model, ref.source)
    facts = index.facts([ref.index])[ref.index]
    token = index.firings(ref.index).token
    if token.size > SAMPLED_TOKENS:
        token = token[np.arange(SAMPLED_TOKENS) * token.size // SAMPLED_TOKENS]
    seen = index.count_features(token)
    seen[ref.index] = 0
    candidates = np.flatnonzero(seen >= max(1, query.min_count))
    n, n_tokens = facts.n_firings, index.view.n_corpus_tokens
    share, base = seen[candidates] / max(token.size, 1), index.n_firings[candidates] / n_tokens
    lift, correlation = share / base, firings.phi(share * n / n_tokens, n / n_tokens, base)
    key = {"count": seen[candidates], "lift": lift, "correlation": correlation}[query.sort]
    order = np.lexsort((candidates, -np.nan_to_num(key, nan=-2.0)))[_rows_of(query.page, query.per_page)]
    found = index.facts(candidates[order].tolist())
    rows = tuple(
        CofiringRow(
            feature=found[b],
            count=round(float(share[at]) * n),
            share=float(share[at]),
            other_share=min(1.0, float(share[at]) * n / found[b].n_firings),
            lift=float(lift[at]),
            correlation=firings.defined(float(correlation[at])),
        )
        for at, b in zip(order.tolist(), candidates[order].tolist(), strict=True)
    )
    return CofiringPage(index.view, facts, query, candidates.size, token.size, rows)


def pair(session: Session, mirror: Mirror, ref: FeatureRef, other: int, query: PairQuery) -> PairPage:
    """Where A fires with or without B, and how they go together; raises `NotFoundError`, `InvalidInputError`."""
    _check_page(query.page, query.per_page)
    index = kept_index.opened(session, mirror, ref.model, ref.source)
    facts = index.facts([ref.index, other])
    a, b = index.firings(ref.index), index.firings(other)
    is_both = firings.is_in(a.token, b.token)
    context, context_b = a.token // index.context_size, b.token // index.context_size
    is_in_context = firings.is_in(context, context_b)
    is_with = is_both if query.scope == "token" else is_in_context
    chosen = np.flatnonzero(is_with if query.where == "together" else ~is_with)
    best = firings.best_of_contexts(a, context, chosen)
    n_tokens, n_both = index.view.n_corpus_tokens, int(is_both.sum())
    shares = n_both / n_tokens, a.token.size / n_tokens, b.token.size / n_tokens
    is_alive = shares[1] > 0 and shares[2] > 0
    return PairPage(
        source=index.view,
        feature=facts[ref.index],
        other=facts[other],
        query=query,
        n_tokens_both=n_both,
        n_contexts=firings.n_distinct(context),
        n_contexts_other=firings.n_distinct(context_b),
        n_contexts_both=firings.n_distinct(context[is_in_context]),
        lift=shares[0] / (shares[1] * shares[2]) if is_alive else None,
        correlation=firings.defined(float(firings.phi(*(np.float64(share) for share in shares)))),
        value_correlation=firings.pearson(a, b, is_both, n_tokens),
        n_total=best.size,
        rows=index.lines(a, best[_rows_of(query.page, query.per_page)], b),
    )


def _rows_of(page: int, per_page: int) -> slice:
    return slice((page - 1) * per_page, page * per_page)


def _check_page(page: int, per_page: int) -> None:
    if not 1 <= page <= MAX_PAGE or not 1 <= per_page <= MAX_PER_PAGE:
        raise errors.InvalidInputError(
            f"page {page} of {per_page} rows cannot be shown.",
            hint=f"Pages count from 1 to {MAX_PAGE} and hold 1 to {MAX_PER_PAGE} rows.",
        )
