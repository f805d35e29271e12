# ruff: noqa: N815 - Neuronpedia's keys are what they are
"""Bodies of the REST API, in and out: what OpenAPI shows and what the tests hold every answer against.

The first part is Neuronpedia's (keys, types and nullability of its rows at ebb8426f); `backend/formats/neuronpedia.py`
makes those bodies and they are sent as made. The second part is Eyepiece's own. Output schemas have no defaults: every
key is always there.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat

from backend.services import activation_index, features, health

Int32 = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""An index or offset; strings of digits are read as numbers."""

Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]*$", max_length=128)]
"""JSON can hold text that no database can compare, such as half of a surrogate pair."""


class Answer(BaseModel):
    """Base of everything sent."""

    model_config = ConfigDict(extra="forbid", from_attributes=True, frozen=True)


class Error(Answer):
    """What every refused request is answered with; both keys say the same to clients that read one of them."""

    error: str
    message: str


class Model(Answer):
    """Neuronpedia's `Model` row."""

    id: str
    displayNameShort: str
    displayName: str
    creatorId: str
    tlensId: str | None
    openRouterId: str | None
    dimension: int | None
    thinking: bool
    visibility: str
    defaultSourceSetName: str | None
    defaultSourceId: str | None
    defaultGraphSourceSetName: str | None
    inferenceEnabled: bool
    instruct: bool
    layers: int
    neuronsPerLayer: int
    createdAt: datetime
    owner: str
    updatedAt: datetime
    website: str | None


class SourceSummary(Answer):
    """What Neuronpedia's list of models says of a source."""

    id: str
    modelId: str
    visibility: str
    setName: str
    hasUmap: bool
    hasUmapLogSparsity: bool
    hasUmapClusters: bool
    num_prompts: int | None
    num_tokens_in_prompt: int | None
    dataset: str | None
    inferenceEnabled: bool
    hasDashboards: bool
    notes: str | None
    createdAt: datetime
    cosSimMatchSourceId: str | None
    cosSimMatchModelId: str | None


class Source(SourceSummary):
    """Neuronpedia's `Source` row."""

    saelensConfig: dict[str, Any] | None
    saelensRelease: str | None
    saelensSaeId: str | None
    hfRepoId: str | None
    hfFolderId: str | None
    defaultOfModelId: str | None
    creatorId: str


class SourceSet(Answer):
    """Neuronpedia's `SourceSet` row."""

    modelId: str
    name: str
    hasDashboards: bool
    allowInferenceSearch: bool
    visibility: str
    description: str
    type: str
    creatorName: str
    urls: list[str]
    creatorEmail: str | None
    creatorId: str
    releaseName: str | None
    hasGraphs: bool
    graphEnabled: bool
    similarityMatrixEnabled: bool
    defaultOfModelId: str | None
    defaultGraphModelId: str | None
    defaultRange: int
    defaultShowBreaks: bool
    showDfa: bool
    showCorrelated: bool
    showHeadAttribution: bool
    showUmap: bool
    createdAt: datetime


class SourceSetInList(SourceSet):
    """A source set and its sources that have dashboards."""

    sources: list[SourceSummary]


class ModelInList(Model):
    """A model and its source sets that have dashboards."""

    sourceSets: list[SourceSetInList]


class Release(Answer):
    """Neuronpedia's `SourceRelease` row."""

    name: str
    description: str
    descriptionShort: str | None
    creatorName: str
    creatorNameShort: str | None
    creatorId: str
    creatorEmail: str | None
    visibility: str
    isNewUi: bool
    featured: bool
    urls: list[str]
    defaultSourceSetName: str | None
    defaultSourceId: str | None
    defaultUmapSourceIds: list[str]
    createdAt: datetime


class SourceSetWithRelations(SourceSet):
    """A source set, all its sources, its model, and its release: one, though Neuronpedia calls it `releases`."""

    sources: list[Source]
    releases: Release | None
    model: Model


class Document(Answer):
    """A document of the corpus: where in the example's tokens it begins or goes on, and its name."""

    position: int
    name: str


class Activation(Answer):
    """Neuronpedia's `Activation` row, `source`, without which its Python client fails, and the example's documents."""

    id: str
    tokens: list[str]
    dataIndex: str | None
    index: str
    layer: str
    modelId: str
    source: str
    dataSource: str | None
    maxValue: float
    maxValueTokenIndex: int
    minValue: float
    values: list[float]
    dfaValues: list[float]
    dfaTargetIndex: int | None
    dfaMaxValue: float | None
    zQIndices: list[int]
    zKIndices: list[int]
    zValues: list[float]
    creatorId: str
    createdAt: datetime
    lossValues: list[float]
    logitContributions: str | None
    binMin: float | None
    """-1 for the top group."""
    binMax: float | None
    binContains: float | None
    """Fraction of the firings in the interval; -1 for the top group, null to a request with an API key."""
    qualifyingTokenIndex: int | None
    documents: list[Document]
    """Ours: those the tokens are from; empty where it is not known."""


class ExplanationAuthor(Answer):
    """Who wrote an explanation."""

    name: str
    """The account's, or the author's id where it was imported from; empty: not known."""


class ExplanationScore(Answer):
    """Neuronpedia's `ExplanationScore` row."""

    id: str
    initiatedByUserId: str | None
    value: float
    explanationId: str
    explanationScoreTypeName: str | None
    explanationScoreModelName: str | None
    jsonDetails: str
    createdAt: datetime


class ExplanationVote(Answer):
    """Somebody finds an explanation good."""

    explanationId: str
    voterId: str
    """Of the account; empty: the operator of a site without accounts."""
    createdAt: datetime


class Explanation(Answer):
    """One explanation; `modelId`, `source` and `index` are what Neuronpedia's Python client needs beside its server."""

    id: str
    modelId: str
    source: str
    index: str
    description: str
    explanationModelName: str | None
    """Null: a person wrote it."""
    typeName: str | None
    scores: list[ExplanationScore]
    triggeredByUser: dict[str, Any] | None
    author: ExplanationAuthor
    votes: list[ExplanationVote]


class Creator(Answer):
    """Who made a feature: nobody, here."""

    name: str


class Neuron(Answer):
    """Neuronpedia's `Neuron` row: one feature."""

    modelId: str
    layer: str
    index: str
    sourceSetName: str | None
    creatorId: str | None
    createdAt: datetime
    maxActApprox: float | None
    hasVector: bool
    vector: list[float]
    vectorLabel: str | None
    vectorDefaultSteerStrength: float | None
    hookName: str | None
    topkCosSimIndices: list[int]
    topkCosSimValues: list[float]
    neuron_alignment_indices: list[int]
    neuron_alignment_values: list[float]
    neuron_alignment_l1: list[float]
    correlated_neurons_indices: list[int]
    correlated_neurons_pearson: list[float]
    correlated_neurons_l1: list[float]
    correlated_features_indices: list[int]
    correlated_features_pearson: list[float]
    correlated_features_l1: list[float]
    neg_str: list[str]
    neg_values: list[float]
    pos_str: list[str]
    pos_values: list[float]
    frac_nonzero: float
    freq_hist_data_bar_heights: list[float]
    freq_hist_data_bar_values: list[float]
    logits_hist_data_bar_heights: list[float]
    logits_hist_data_bar_values: list[float]
    decoder_weights_dist: list[float]
    umap_cluster: int | None
    umap_log_feature_sparsity: float | None
    umap_x: float | None
    umap_y: float | None


class FeatureInList(Neuron):
    """A feature as lists show it."""

    model: Model
    sourceSet: SourceSet | None
    activations: list[Activation]
    explanations: list[Explanation]


class Feature(FeatureInList):
    """A feature with all its relations."""

    source: Source | None
    creator: Creator
    lists: list[dict[str, Any]]
    comments: list[dict[str, Any]]


class FeaturesOffset(BaseModel):
    """Which 25 features to send: those that fire, by index, from the `offset`-th on."""

    modelId: Id
    layer: Id
    offset: Int32 | None = None


class FeatureAddress(BaseModel):
    """One feature."""

    modelId: Id
    source: Id
    index: Int32


CustomText = Annotated[str, Field(min_length=1, max_length=100_000, pattern=r"^[\s\S]*$")]
"""The pattern takes any text; checking it refuses half of a surrogate pair, which cannot be encoded."""


class SourceFacts(Answer):
    """What is known of a source; what a computation adds is empty before the first one."""

    model: str
    name: str
    set_name: str
    hook_point: str
    layer: int
    architecture: str
    d_in: int
    d_sae: int
    config: dict[str, Any]
    visibility: str
    """private, unlisted or public."""
    has_weights: bool
    """False: it was imported or only named, so no text can be run on it; what is not known is empty or 0."""
    created_at: datetime
    revision_id: int | None
    corpus: str
    n_corpus_tokens: int
    n_corpus_contexts: int
    context_size: int
    n_alive: int
    n_firings: int
    mean_l0: float
    mean_l1: float | None
    """None, as `n_dense`, in computations from before it was measured."""
    n_dense: int | None
    """Features of density above 0.1."""
    density_low: float
    """log10 of density at the left end of `density_counts`, whose bins are equal."""
    density_high: float
    density_counts: list[int]
    computed_at: datetime | None
    index_bytes: int | None
    """Size of the kept activation index."""


class QualityMetric(Answer):
    """One number of an evaluation; null where it is undefined."""

    value: float | None
    standard_error: float | None
    by_position: list[float | None]


class QualityEvaluation(Answer):
    """Metrics over one sample of contexts of equal length, by name."""

    context_size: int
    n_contexts: int
    n_tokens: int
    metrics: dict[str, QualityMetric]


class SourceQuality(Answer):
    """How good a source is: on the corpus's contexts, and on longer ones than it was trained on."""

    trained_context_size: int | None
    seed: int
    corpus: QualityEvaluation
    longer: QualityEvaluation | None
    notes: list[str]
    """What is missing and why."""


def _absent_if_empty(value: object) -> object:
    return None if value == "" else value


Limit = Annotated[FiniteFloat | None, BeforeValidator(_absent_if_empty)]
"""A form sends what was left empty as an empty string."""


class TableQuery(BaseModel):
    """Which features a table shows, and in which order."""

    model_config = ConfigDict(frozen=True)

    sort: features.SortKey = "index"
    descending: bool = False
    min_density: Limit = None
    max_density: Limit = None
    min_activation: Limit = None
    min_kurtosis: Limit = None
    token: str = Field("", max_length=200, description="Part of a token the feature fires on or promotes.")
    with_dead: bool = False
    page: Annotated[int, Field(ge=1, le=10**6)] = 1
    per_page: Annotated[int, Field(ge=1, le=features.MAX_PER_PAGE)] = 50


class FeatureRow(Answer):
    """One line of a source's table of features."""

    index: int
    density: float
    max_activation: float
    logit_kurtosis: float | None
    fires_on: list[str]
    promotes: list[str]


class FeatureTable(Answer):
    """One page of a source's table of features."""

    rows: list[FeatureRow]
    n_total: int
    """Features the filters leave, on all pages."""
    page: int
    per_page: int


class IndexFacts(Answer):
    """The activation index a source keeps."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "gpt2-small", "source": "6-res-jb", "n_features": 24576, "n_firings": 178412003,
                    "n_bytes": 689201152, "bytes_per_firing": 3.86, "max_value_error": 0.00390625,
                }
            ]
        }
    )  # fmt: skip

    model: str
    source: str
    n_features: int
    n_firings: int
    n_bytes: int
    bytes_per_firing: float
    max_value_error: float
    """Largest relative error of its values, which are bfloat16."""


class ActivationRange(BaseModel):
    """Which firings of a feature: those from `low` to `high`, both included, strongest first."""

    model_config = ConfigDict(frozen=True)

    low: Limit = Field(None, description="Smallest activation.", examples=[2.5])
    high: Limit = Field(None, description="Largest activation.", examples=[5])
    page: Annotated[int, Field(ge=1, le=activation_index.MAX_PAGE)] = 1
    per_page: Annotated[int, Field(ge=1, le=activation_index.MAX_PER_PAGE)] = 50


class Firing(Answer):
    """One firing in its context; `position` and `positions` are indexes into `tokens`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "context": 4711, "position": 2, "value": 4.875, "tokens": [" the", " second", " brigade", " before"],
                    "positions": [1, 2], "values": [0.5, 4.875],
                }
            ]
        }
    )  # fmt: skip

    context: int
    """Index in the corpus."""
    position: int
    value: float
    tokens: list[str]
    positions: list[int]
    """Where the feature fires in this context, ascending."""
    values: list[float]


class Quantile(Answer):
    """The smallest activation that at least this share of the feature's firings does not exceed."""

    share: float
    value: float


class Histogram(Answer):
    """Counts of the values from each edge up to, but without, the next; the last bin holds its upper edge too."""

    edges: list[float]
    counts: list[int]


class Firings(Answer):
    """A page of a feature's firings."""

    rows: list[Firing]
    n_total: int
    """Firings in the range, on all pages."""
    page: int
    per_page: int
    histogram: Histogram
    """Of all firings."""


class CofiringRange(BaseModel):
    """Which features that fire with one, and in which order."""

    model_config = ConfigDict(frozen=True)

    sort: activation_index.CofiringKey = "count"
    min_count: Annotated[int, Field(ge=1, le=10**9)] = Field(
        5, description="Tokens on which both were seen to fire, at least: chance makes rare pairs look strong."
    )
    page: Annotated[int, Field(ge=1, le=activation_index.MAX_PAGE)] = 1
    per_page: Annotated[int, Field(ge=1, le=activation_index.MAX_PER_PAGE)] = 50


class Cofiring(Answer):
    """A feature B that fires with the feature A that was asked for."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "index": 20112, "n_firings": 5120, "count": 803, "share": 0.667, "other_share": 0.157, "lift": 391.2,
                    "correlation": 0.322, "fires_on": [" battalion", " regiment"],
                }
            ]
        }
    )  # fmt: skip

    index: int
    n_firings: int
    count: int
    """Tokens on which both fire; scaled up where A's firings were sampled."""
    share: float
    """Of A's firings, those where B fires too."""
    other_share: float
    """Of B's firings, those where A fires too."""
    lift: float
    """P(A and B) / (P(A) P(B))."""
    correlation: float | None
    """Phi of the two indicators of firing; null where one of them fires on every token."""
    fires_on: list[str]


class Cofirings(Answer):
    """A page of the features that fire with one."""

    rows: list[Cofiring]
    n_total: int
    n_firings: int
    """Of the feature asked for."""
    n_looked_at: int
    """Firings of it that were looked at, at equal distances; fewer than `n_firings` makes the counts estimates."""
    page: int
    per_page: int


class PairRange(BaseModel):
    """Contexts in which A fires with B (`together`) or without (`without`), on one token or in one context."""

    model_config = ConfigDict(frozen=True)

    where: activation_index.Where = "together"
    scope: activation_index.Scope = "token"
    page: Annotated[int, Field(ge=1, le=activation_index.MAX_PAGE)] = 1
    per_page: Annotated[int, Field(ge=1, le=activation_index.MAX_PER_PAGE)] = 50


class PairContext(Firing):
    """A context of A at its strongest firing of the kind asked for, and where B fires in it."""

    other_positions: list[int]
    other_values: list[float]


class Pair(Answer):
    """Two features of a source, and a page of contexts."""

    rows: list[PairContext]
    n_total: int
    """Contexts, on all pages."""
    page: int
    per_page: int
    n_firings: int
    n_firings_other: int
    n_tokens_both: int
    n_contexts: int
    n_contexts_other: int
    n_contexts_both: int
    lift: float | None
    correlation: float | None
    """Phi of the two indicators of firing."""
    value_correlation: float | None
    """Pearson's, of the activations on all tokens that count, zeros included."""


class Stage(Answer):
    """Progress of one stage of a job."""

    name: str
    unit: str
    """What its work is counted in."""
    n_shards: int
    n_shards_done: int
    n_shards_running: int
    n_units: int
    n_units_done: int


class JobSource(Answer):
    """Progress of one of a job's sources."""

    name: str
    n_features: int
    n_features_done: int
    is_published: bool
    """Its dashboards of this job can be read."""
    is_deleted: bool
    """There is no such source any more; the job goes on without it."""


class Job(Answer):
    """One computation of the dashboards of one or more sources."""

    id: int
    model: str
    sources: list[JobSource]
    """In the order they are finished."""
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    stage: str
    stages: list[Stage]
    fraction: float
    tokens_per_s: float | None
    seconds_left: float | None
    error: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    n_before: int
    """Jobs that are done before it, while it is queued."""


class Part(Answer):
    """A part the site needs."""

    state: health.State
    detail: str


class Worker(Answer):
    """A worker heard from within a day."""

    name: str
    kind: str
    device: str
    doing: str | None
    seconds_since_seen: float
    is_alive: bool


class Health(Answer):
    """The state of everything; sent with status 503 while the database is down."""

    is_ok: bool
    database: Part
    queue: Part
    workers: list[Worker]
