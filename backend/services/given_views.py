"""The view of a feature that was imported: what its rows say, in the shape in which computed dashboards are shown.

What an import does not say (moments, norms, counts of firings in contexts) is NaN or 0 and not shown; histograms have
their bars where the file has them. The rows themselves go along (`given`), so that the API serves them to the last digit.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.formats.dashboards import Moments
from backend.formats.given import OWN, GivenExample, GivenFeature
from backend.formats.neuronpedia import TOP_BIN
from backend.services.catalog import SourceView
from backend.services.feature_views import (
    DocumentView,
    ExampleView,
    FeatureView,
    GroupView,
    HistogramView,
    LogitLensView,
    NeighbourView,
    Summary,
)

UNKNOWN = Moments(math.nan, math.nan, math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class About:
    """What stands around an imported feature."""

    n_firings: int
    """As `import_rows.n_firings` has it: 0 for a dead feature."""
    density: float
    fires_on: tuple[str, ...]
    previous_index: int | None = None
    next_index: int | None = None


def expand(
    feature: GivenFeature,
    about: About,
    source: SourceView,
    contexts: Mapping[int, Sequence[int]],
    texts: Sequence[str],
    near: Mapping[int, Summary],
) -> FeatureView:
    """The view; `contexts` are token ids by index in the corpus, `near` the neighbours by index."""
    row = feature.row
    groups = _groups(feature, contexts, texts)
    return FeatureView(
        source=source,
        index=feature.index,
        n_firings=about.n_firings,
        n_contexts=0,
        density=about.density,
        max_value=feature.max_value,
        min_value=0.0,
        moments=UNKNOWN,
        decoder_norm=math.nan,
        fires_on=about.fires_on,
        log_histogram=HistogramView((), ()),
        linear_histogram=_histogram(row, "freq_hist_data"),
        groups=groups,
        logit_lens=_logit_lens(row),
        neighbours=_neighbours(row, near),
        previous_index=about.previous_index,
        next_index=about.next_index,
        given=row,
    )


def _groups(
    feature: GivenFeature, contexts: Mapping[int, Sequence[int]], texts: Sequence[str]
) -> tuple[GroupView, ...]:
    """As `GroupView`s are ordered; the top group also has what is of no interval."""
    of_bins: dict[tuple[float, float, float], list[ExampleView]] = {}
    top: list[ExampleView] = []
    for example in feature.examples:
        view = _example(example, contexts, texts)
        if example.is_top:
            top.append(view)
        else:
            low, high, share = (float(example.row.get(name) or 0.0) for name in ("binMin", "binMax", "binContains"))
            of_bins.setdefault((low, high, share), []).append(view)
    groups = []
    if top:
        top.sort(key=lambda view: -view.max_value)
        groups.append(GroupView(True, top[-1].max_value, feature.max_value, 1.0, tuple(top)))
    for (low, high, share), views in sorted(of_bins.items(), key=lambda pair: _order(*pair[0])):
        views.sort(key=lambda view: -view.max_value)
        groups.append(GroupView(False, low, high, share if share != TOP_BIN else 0.0, tuple(views)))
    return tuple(groups)


def _order(low: float, high: float, share: float) -> tuple[bool, float, float]:
    """Intervals from the highest to the lowest, then those below zero from the lowest up, the bottom group before them."""
    return (False, -low, -high) if low >= 0 else (True, 0.0 if share == TOP_BIN else 1.0, low)


def _example(example: GivenExample, contexts: Mapping[int, Sequence[int]], texts: Sequence[str]) -> ExampleView:
    values = example.values
    ids = example.tokens if example.context == OWN else contexts[example.context]
    top = max(range(len(values)), key=values.__getitem__) if values else -1
    return ExampleView(
        context=example.context,
        tokens=tuple(texts[token] for token in ids),
        positions=example.positions,
        values=values,
        max_value=values[top] if values else 0.0,
        max_position=example.positions[top] if values else 0,
        documents=tuple(
            DocumentView(int(each["position"]), str(each["name"])) for each in example.row.get("documents") or ()
        ),
        given=example.row,
    )


def _histogram(row: Mapping[str, Any], name: str) -> HistogramView:
    """Edges half-way between the bars, which stand at equal distances."""
    centres, heights = row.get(f"{name}_bar_values") or [], row.get(f"{name}_bar_heights") or []
    if not centres or not any(heights):
        return HistogramView((), ())
    half = (centres[-1] - centres[0]) / (2 * (len(centres) - 1)) if len(centres) > 1 else 0.0
    edges = (centres[0] - half, *((a + b) / 2 for a, b in itertools.pairwise(centres)), centres[-1] + half)
    return HistogramView(edges, tuple(int(height) for height in heights))


def _logit_lens(row: Mapping[str, Any]) -> LogitLensView | None:
    top, bottom = (
        tuple(zip(row.get(f"{side}_str") or (), row.get(f"{side}_values") or (), strict=True))
        for side in ("pos", "neg")
    )
    histogram = _histogram(row, "logits_hist_data")
    if not (top or bottom or histogram.counts):
        return None
    return LogitLensView(top, bottom, histogram, UNKNOWN)


def _neighbours(row: Mapping[str, Any], near: Mapping[int, Summary]) -> tuple[NeighbourView, ...]:
    pairs = zip(row.get("topkCosSimIndices") or (), row.get("topkCosSimValues") or (), strict=False)
    return tuple(
        NeighbourView(index, cosine, near[index].density, tuple(near[index].fires_on))
        for index, cosine in pairs
        if index in near
    )
