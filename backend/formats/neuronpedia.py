# ruff: noqa: D102 - the protocols name what the classes they describe document
"""A hosted feature in Neuronpedia's words: the keys and types of its REST rows, which are those of its data files too.

Owns the renaming and the expansion (dense values, bin centres, one row per example). What Eyepiece does not have gets
the value an empty Neuronpedia row has: [] or null, 0, '' or -1. Does not read a database: the protocols below say what
it needs of a feature, and the views of `backend/services` have it.

Names, types and empty values: hijohnnylin/neuronpedia at ebb8426f, `apps/webapp/prisma/schema.prisma` and
`apps/webapp/lib/db/neuron.ts`. Numbers computed in fp32 are given as their shortest decimals.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np

Row = dict[str, object]

TOP_BIN = -1
"""`binMin` and `binContains` of the top group. Of a signed feature's most negative contexts only `binContains` is it: their
`binMin` and `binMax` are where their minima lie, below zero."""
DEFAULT_STEER_STRENGTH = 10
PUBLIC = "PUBLIC"


class Model(Protocol):
    """What is needed of a model."""

    @property
    def id(self) -> str: ...
    @property
    def display_name(self) -> str: ...
    @property
    def weights(self) -> str | None: ...
    @property
    def n_layers(self) -> int | None: ...
    @property
    def d_model(self) -> int | None: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def given(self) -> Mapping[str, object]: ...


class Release(Protocol):
    """What is needed of a release."""

    @property
    def name(self) -> str: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def given(self) -> Mapping[str, object]: ...


class SourceSet(Protocol):
    """What is needed of a source set."""

    @property
    def model(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def release(self) -> str | None: ...
    @property
    def given(self) -> Mapping[str, object]: ...


class Source(Protocol):
    """What is needed of a source."""

    @property
    def model(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def set_name(self) -> str: ...
    @property
    def hook_point(self) -> str: ...
    @property
    def has_weights(self) -> bool: ...
    @property
    def given(self) -> Mapping[str, object]: ...
    @property
    def config(self) -> Mapping[str, object]: ...
    @property
    def visibility(self) -> str: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def revision_id(self) -> int | None: ...
    @property
    def corpus(self) -> str: ...
    @property
    def n_corpus_contexts(self) -> int: ...
    @property
    def context_size(self) -> int: ...
    @property
    def computed_at(self) -> datetime | None: ...


class Document(Protocol):
    """What is needed of a document of a context."""

    @property
    def position(self) -> int: ...
    @property
    def name(self) -> str: ...


class Example(Protocol):
    """What is needed of one context with its activations."""

    @property
    def context(self) -> int: ...
    @property
    def tokens(self) -> Sequence[str]: ...
    @property
    def positions(self) -> Sequence[int]: ...
    @property
    def values(self) -> Sequence[float]: ...
    @property
    def max_value(self) -> float: ...
    @property
    def max_position(self) -> int: ...
    @property
    def documents(self) -> Sequence[Document]: ...
    @property
    def given(self) -> Mapping[str, Any] | None: ...
    def peak(self, *, is_negative: bool) -> int: ...


class Group(Protocol):
    """What is needed of the top contexts or of an interval's sample."""

    @property
    def is_top(self) -> bool: ...
    @property
    def is_negative(self) -> bool: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def fraction(self) -> float: ...
    @property
    def examples(self) -> Sequence[Example]: ...


class Histogram(Protocol):
    """Counts between edges."""

    @property
    def edges(self) -> Sequence[float]: ...
    @property
    def counts(self) -> Sequence[int]: ...


class LogitLens(Protocol):
    """What is needed of a logit lens."""

    @property
    def top(self) -> Sequence[tuple[str, float]]: ...
    @property
    def bottom(self) -> Sequence[tuple[str, float]]: ...
    @property
    def histogram(self) -> Histogram: ...


class Neighbour(Protocol):
    """What is needed of a feature near in decoder direction."""

    @property
    def index(self) -> int: ...
    @property
    def cosine(self) -> float: ...


class Feature(Protocol):
    """What is needed of a feature."""

    @property
    def source(self) -> Source: ...
    @property
    def index(self) -> int: ...
    @property
    def label(self) -> str: ...
    @property
    def density(self) -> float: ...
    @property
    def max_value(self) -> float: ...
    @property
    def linear_histogram(self) -> Histogram: ...
    @property
    def groups(self) -> Sequence[Group]: ...
    @property
    def logit_lens(self) -> LogitLens | None: ...
    @property
    def neighbours(self) -> Sequence[Neighbour]: ...
    @property
    def given(self) -> Mapping[str, Any] | None: ...


def neuron(feature: Feature) -> Row:
    """The `Neuron` row, relations left out. An imported one as it was given."""
    source, lens = feature.source, feature.logit_lens
    row: Row = {
        "modelId": source.model,
        "layer": source.name,
        "index": str(feature.index),
        "sourceSetName": source.set_name,
        "creatorId": "",
        "createdAt": _made_at(source, feature.given),
        "maxActApprox": _shortest(feature.max_value),
        "hasVector": False,
        "vector": [],
        "vectorLabel": feature.label or None,
        "vectorDefaultSteerStrength": DEFAULT_STEER_STRENGTH,
        "hookName": source.hook_point,
        "topkCosSimIndices": [near.index for near in feature.neighbours],
        "topkCosSimValues": _all_shortest([near.cosine for near in feature.neighbours]),
        **{f"neuron_alignment_{key}": [] for key in ("indices", "values", "l1")},
        **{f"correlated_neurons_{key}": [] for key in ("indices", "pearson", "l1")},
        **{f"correlated_features_{key}": [] for key in ("indices", "pearson", "l1")},
        "neg_str": [token for token, _ in lens.bottom] if lens else [],
        "neg_values": _all_shortest([logit for _, logit in lens.bottom]) if lens else [],
        "pos_str": [token for token, _ in lens.top] if lens else [],
        "pos_values": _all_shortest([logit for _, logit in lens.top]) if lens else [],
        "frac_nonzero": _shortest(feature.density),
        "freq_hist_data_bar_heights": list(feature.linear_histogram.counts),
        "freq_hist_data_bar_values": _centres(feature.linear_histogram),
        "logits_hist_data_bar_heights": list(lens.histogram.counts) if lens else [],
        "logits_hist_data_bar_values": _centres(lens.histogram) if lens else [],
        "decoder_weights_dist": [],
        "umap_cluster": None,
        "umap_log_feature_sparsity": None,
        "umap_x": None,
        "umap_y": None,
    }
    if feature.given is None:
        return row
    # what an import leaves out it said nothing of: our own reading of it is no part of the row
    said_nothing: Row = {"topkCosSimIndices": [], "topkCosSimValues": [], "hookName": None, "vectorLabel": None}
    histograms: Row = {name: [] for name in row if "_hist_data_" in name}
    return row | said_nothing | histograms | {name: value for name, value in feature.given.items() if name in row}


def activations(feature: Feature) -> list[Row]:
    """The `Activation` rows, greatest `maxValue` first."""
    return [row for row, _ in _activations(feature)]


def file_neuron(feature: Feature) -> Row:
    """A line of `features/batch-N.jsonl`: as `neuron`, and of an imported one also the keys that nobody knows."""
    return _with_unknown(neuron(feature), feature.given)


def file_activations(feature: Feature) -> list[Row]:
    """Lines of `activations/batch-N.jsonl`: as `activations`, and of imported ones also the keys that nobody knows."""
    return [_with_unknown(row, example.given) for row, example in _activations(feature)]


def feature_with_relations(
    feature: Feature,
    model: Model,
    source_set: SourceSet,
    *,
    explanations: Sequence[Row] = (),
    lists: Sequence[Row] = (),
    comments: Sequence[Row] = (),
) -> Row:
    """What `GET /api/feature/{model}/{source}/{index}` answers.

    Explanations are rows of `neuronpedia_explanations`; rows of lists and comments are given as they are sent.
    """
    return {
        **_served(neuron(feature)),
        "model": model_row(model),
        "source": source_row(feature.source),
        "sourceSet": source_set_row(source_set, has_dashboards=True, can_search=feature.source.has_weights),
        "creator": {"name": ""},
        "lists": list(lists),
        "comments": list(comments),
        "activations": activations(feature),
        "explanations": list(explanations),
    }


def feature_in_list(feature: Feature, model: Model, source_set: SourceSet, *, explanations: Sequence[Row] = ()) -> Row:
    """One of what `POST /api/features-offset` answers: fewer relations."""
    return {
        **_served(neuron(feature)),
        "model": model_row(model),
        "sourceSet": source_set_row(source_set, has_dashboards=True, can_search=feature.source.has_weights),
        "activations": activations(feature),
        "explanations": list(explanations),
    }


def _served(row: Row) -> Row:
    """Neuronpedia's server leaves these empty on purpose, whatever its files say: they do not mean what they are called."""
    return row | {f"correlated_features_{key}": [] for key in ("indices", "pearson", "l1")}


def explained_neuron(feature: Feature, *, explanations: Sequence[Row] = ()) -> Row:
    """A feature in what `POST /api/search-topk-by-token` answers: its explanations are its only relation."""
    return {**neuron(feature), "explanations": list(explanations)}


def model_row(model: Model) -> Row:
    """The `Model` row."""
    row: Row = {
        "id": model.id,
        "displayNameShort": model.display_name,
        "displayName": model.display_name,
        "creatorId": "",
        "tlensId": None,
        "openRouterId": None,
        "dimension": model.d_model,
        "thinking": False,
        "visibility": PUBLIC,
        "defaultSourceSetName": None,
        "defaultSourceId": None,
        "defaultGraphSourceSetName": None,
        "inferenceEnabled": model.weights is not None,
        "instruct": False,
        "layers": model.n_layers or 0,
        "neuronsPerLayer": 0,
        "createdAt": _time(model.created_at),
        "owner": "",
        "updatedAt": _time(model.created_at),
        "website": None,
    }
    return _with_given(row, model.given)


def source_row(source: Source) -> Row:
    """The `Source` row."""
    row: Row = {
        "id": source.name,
        "modelId": source.model,
        "hasDashboards": source.revision_id is not None,
        "inferenceEnabled": source.has_weights,
        "saelensConfig": source.config or None,
        "saelensRelease": None,
        "saelensSaeId": None,
        "hfRepoId": None,
        "hfFolderId": None,
        "visibility": source.visibility.upper(),
        "defaultOfModelId": None,
        "setName": source.set_name,
        "creatorId": "",
        "hasUmap": False,
        "hasUmapLogSparsity": False,
        "hasUmapClusters": False,
        "num_prompts": source.n_corpus_contexts or None,
        "num_tokens_in_prompt": source.context_size or None,
        "dataset": source.corpus or None,
        "notes": None,
        "cosSimMatchModelId": None,
        "cosSimMatchSourceId": None,
        "createdAt": _time(source.created_at),
    }
    return _with_given(row, source.given)


def source_set_row(source_set: SourceSet, *, has_dashboards: bool, can_search: bool = False) -> Row:
    """The `SourceSet` row; `can_search`: a live worker can run some source of it on a text."""
    row: Row = {
        "modelId": source_set.model,
        "name": source_set.name,
        "hasDashboards": has_dashboards,
        "allowInferenceSearch": can_search,
        "visibility": PUBLIC,
        "description": source_set.description,
        "type": "",
        "creatorName": "",
        "urls": [],
        "creatorEmail": None,
        "creatorId": "",
        "releaseName": source_set.release,
        "hasGraphs": False,
        "graphEnabled": False,
        "similarityMatrixEnabled": False,
        "defaultOfModelId": None,
        "defaultGraphModelId": None,
        "defaultRange": 1,
        "defaultShowBreaks": True,
        "showDfa": False,
        "showCorrelated": False,
        "showHeadAttribution": False,
        "showUmap": False,
        "createdAt": _time(source_set.created_at),
    }
    return _with_given(row, source_set.given)


def release_row(release: Release) -> Row:
    """The `SourceRelease` row."""
    row: Row = {
        "name": release.name,
        "description": "",
        "descriptionShort": None,
        "creatorName": "",
        "creatorNameShort": None,
        "creatorId": "",
        "creatorEmail": None,
        "visibility": PUBLIC,
        "isNewUi": False,
        "featured": False,
        "urls": [],
        "defaultSourceSetName": None,
        "defaultSourceId": None,
        "defaultUmapSourceIds": [],
        "createdAt": _time(release.created_at),
    }
    return _with_given(row, release.given)


def _with_given(row: Row, given: Mapping[str, object]) -> Row:
    """The row with what was given of it: `given_rows` has read its types."""
    return row | {key: given[key] for key in row.keys() & given.keys()}


def _with_unknown(row: Row, given: Mapping[str, Any] | None) -> Row:
    return row | {name: value for name, value in (given or {}).items() if name not in row}


def _activations(feature: Feature) -> list[tuple[Row, Example]]:
    rows = [(_activation(feature, group, example), example) for group in feature.groups for example in group.examples]
    return sorted(rows, key=lambda pair: -pair[1].max_value)


def _activation(feature: Feature, group: Group, example: Example) -> Row:
    source = feature.source
    is_given = example.given is not None
    values = [0.0] * len(example.tokens)
    shown = example.values if is_given else _all_shortest(example.values)
    for position, value in zip(example.positions, shown, strict=True):
        values[position] = value
    greatest = max(values, default=0.0)
    row: Row = {
        "id": _activation_id(feature, group, example),
        "tokens": list(example.tokens),
        "dataIndex": str(example.context),
        "index": str(feature.index),
        "layer": source.name,
        "modelId": source.model,
        # Neuronpedia's server does not send it; its Python client cannot do without.
        "source": source.name,
        "dataSource": source.corpus or None,
        "maxValue": greatest,
        "maxValueTokenIndex": values.index(greatest) if values else 0,
        "minValue": min(values, default=0.0),
        "values": values,
        "dfaValues": [],
        "dfaTargetIndex": None,
        "dfaMaxValue": None,
        "zQIndices": [],
        "zKIndices": [],
        "zValues": [],
        "creatorId": "",
        "createdAt": _made_at(source, example.given),
        "lossValues": [],
        "logitContributions": None,
        "binMin": TOP_BIN if group.is_top and not group.is_negative else _shortest(group.low),
        "binMax": _shortest(feature.max_value if group.is_top and not group.is_negative else group.high),
        "binContains": TOP_BIN if group.is_top else group.fraction,
        "qualifyingTokenIndex": example.peak(is_negative=group.is_negative),
        # ours: Neuronpedia's rows do not say where a text is from
        "documents": [{"position": document.position, "name": document.name} for document in example.documents],
    }
    if example.given is None:
        return row
    said_nothing = dict.fromkeys(("dataIndex", "dataSource", "binMin", "binMax", "binContains", "qualifyingTokenIndex"))
    return row | said_nothing | {name: value for name, value in example.given.items() if name in row}


def _made_at(source: Source, given: Mapping[str, Any] | None) -> str:
    """When it was computed; what was imported and says nothing is as old as its source, so importing again changes nothing."""
    return _time((source.computed_at if given is None else None) or source.created_at)


def _activation_id(feature: Feature, group: Group, example: Example) -> str:
    """25 characters like Neuronpedia's own; the same for the same example, another for every other.

    A signed feature may show a context twice: for its largest value and for its most negative one.
    """
    ref = f"{feature.source.model}/{feature.source.name}/{feature.index}/{example.context}{'-' * group.is_negative}"
    if example.context < 0:  # an imported text that has no number: its tokens tell it from others
        ref += "\0".join(example.tokens)
    firings = np.array(example.positions, "<i8").tobytes() + np.array(example.values, "<f4").tobytes()
    return "c" + hashlib.blake2b(ref.encode("utf-8", "surrogatepass") + b"\0" + firings, digest_size=12).hexdigest()


def _centres(histogram: Histogram) -> list[float]:
    edges = np.array(histogram.edges)
    return _all_shortest(((edges[:-1] + edges[1:]) / 2).tolist())


def _all_shortest(numbers: Sequence[float]) -> list[float]:
    """Each number rounded to fp32, as the float its shortest fp32 decimal reads as: 0.1, not 0.10000000149011612."""
    return [float(text) for text in np.array(numbers, np.float32).astype(str).tolist()]


def _shortest(number: float) -> float:
    return float(str(np.float32(number)))


def _time(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds, as JavaScript writes dates."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
