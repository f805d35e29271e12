"""What is said of a feature: the views its page, JSON and exports are rendered from, and how a dashboard becomes one.

Owns the expansion of packed examples to token texts. Masked leading tokens are not shown. Reads no database: `features`
brings what a dashboard refers to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from backend.formats import dashboards
from backend.formats.dashboards import BOTTOM_GROUP, FIRST_NEGATIVE_GROUP, TOP_GROUP, Moments
from backend.services.catalog import SourceView

Ids = NDArray[np.integer[Any]]
Documents = Mapping[int, Sequence[tuple[int, str]] | None]
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
    """Index in the corpus; -1 for one that was imported and that no other example shows."""
    tokens: tuple[str, ...]
    positions: tuple[int, ...]
    """Where the feature fires, as indexes into `tokens`, ascending."""
    values: tuple[float, ...]
    """Activation at each of `positions`; fp32 exactly."""
    max_value: float
    max_position: int
    documents: tuple[DocumentView, ...] = ()
    """Those its tokens are from, in order; none where it is not known."""
    given: Mapping[str, Any] | None = None
    """What its row said where it was imported, see `formats.given`; None: it was computed here."""

    def peak(self, *, is_negative: bool) -> int:
        """Where the largest value stands, or the most negative one; the first of several."""
        if not is_negative or not self.positions:
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
    given: Mapping[str, Any] | None = None
    """What its row said where it was imported: then there are no moments, norm nor counts, and no log histogram. None:
    it was computed here."""

    @property
    def label(self) -> str:
        """What a vector of a set is called; empty for what has no name."""
        return self.source.label(self.index)

    @property
    def is_dead(self) -> bool:
        """True if it never fired on the corpus."""
        return self.n_firings == 0


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
    contexts: Mapping[int, Ids],
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


def with_documents(view: FeatureView, documents: Documents, *, n_hidden: int) -> FeatureView:
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
    d: dashboards.Dashboard, contexts: Mapping[int, Ids], texts: Sequence[str], *, n_hidden: int
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
    examples: dashboards.Examples, at: int, contexts: Mapping[int, Ids], texts: Sequence[str], n_hidden: int
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


def texts_of(ids: Ids, texts: Sequence[str]) -> tuple[str, ...]:
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
