# ruff: noqa: N815 - Neuronpedia's keys are what they are
"""Bodies of the routes that ask the live worker about texts: Neuronpedia's keys, with what Eyepiece adds marked as ours.

What is sent to us is read leniently: every name a source has in Neuronpedia's own bodies, an index as number or text,
null or nothing for what has a default, keys we do not know ignored. What we send is made in `web/api` and sent as made;
that it fits the schemas is tested. Activations are fp32, as their shortest decimals.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, Field, FiniteFloat, RootModel, model_validator

from backend.web.schemas import Answer, CustomText, Explanation, FeatureInList, Id, Int32, Neuron

MOST_TEXTS = 100
MOST_SOURCES = 1_000
MOST_COSINES = 100
SOURCE = AliasChoices("source", "layer", "sourceId", "saeId")
"""One id, called by all of these."""

Texts = CustomText | Annotated[list[CustomText], Field(min_length=1, max_length=MOST_TEXTS)]
"""One text, or a list of them, which is answered with a list."""


class Given(BaseModel):
    """Base of what is sent to us."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, given: Any) -> Any:
        return {key: value for key, value in given.items() if value is not None} if isinstance(given, dict) else given


# --- one feature on texts ------------------------------------------------------------------------------------------


class LiveFeature(Given):
    """One feature."""

    modelId: Id
    source: Id = Field(validation_alias=SOURCE)
    index: Int32


class NewActivationRequest(Given):
    """Which feature to run on which texts; `neuron` is an older name of `feature`."""

    feature: LiveFeature = Field(validation_alias=AliasChoices("feature", "neuron"))
    customText: Texts
    ignoreBos: bool = False
    """Leave out a special token that the text itself opens with."""


class NewActivation(Answer):
    """A feature's activations on a custom text, a value for each token; the BOS put before a text is not shown."""

    tokens: list[str]
    values: list[float]
    maxValue: float
    minValue: float
    modelId: str
    layer: str
    index: str
    creatorId: str
    dataIndex: None
    dataSource: str
    maxValueTokenIndex: int
    createdAt: datetime


class NewActivations(RootModel[NewActivation | list[NewActivation]]):
    """One object for one text, a list of them for a list."""


# --- all features of a source on texts -----------------------------------------------------------------------------


class SourceActivationsRequest(Given):
    """Which source to run on which texts."""

    modelId: Id
    source: Id = Field(validation_alias=SOURCE)
    customText: Texts


class TextFirings(Answer):
    """What fires on one text."""

    tokens: list[str]
    """With the BOS put before them."""
    activeFeatures: dict[str, list[tuple[int, float]]]
    """By feature, ascending, its firings as [token, activation]. Position 0 and special tokens are left out."""


class SourceActivations(Answer):
    """One result for each text, in their order; a list for a single text too."""

    results: list[TextFirings]


# --- the features of several sources that fire most on a text ------------------------------------------------------


class SearchRequest(Given):
    """Which sources to search for the features that fire most on which texts."""

    modelId: Id
    sourceSet: Id = ""
    """May be left out where layers are selected. What follows `__` in a source's id is not looked at."""
    selectedLayers: Annotated[list[Id], Field(max_length=MOST_SOURCES)] = []
    """Ids of sources; none: all of the set that who asks may see."""
    text: Texts
    sortIndexes: list[Int32] = []
    """Tokens, the BOS being 0: rank by the sum of the activations on them. None: by the greatest activation."""
    ignoreBos: bool = True
    """Position 0 and special tokens count as 0, as in dashboards."""
    densityThreshold: FiniteFloat = -1
    """Leave out features that fire on a larger fraction of their corpus's tokens; 0 or less: none."""
    numResults: Annotated[int, Field(ge=1, le=100)] = 50
    expand: bool = True
    """Ours: with each feature of a single text, what its dashboard says."""

    @model_validator(mode="after")
    def _has_sources(self) -> "SearchRequest":
        if not self.sourceSet and not self.selectedLayers:
            raise ValueError("give sourceSet, or sources in selectedLayers")
        return self


class SearchResult(Answer):
    """A feature, and its activation on every token of the text."""

    modelId: str
    layer: str
    index: str
    values: list[float]
    maxValue: float
    maxValueIndex: int


class ExpandedSearchResult(SearchResult):
    """A feature of a single text's search."""

    neuron: FeatureInList | None
    """With one example; null for a feature without a dashboard."""


class TextSearch(Answer):
    """The features that fire on one text, best first; fewer than asked for where fewer fire."""

    tokens: list[str]
    """With the BOS put before them, where one of the sources was trained with it."""
    result: Sequence[SearchResult]
    sortIndexes: list[int]


class ExpandedTextSearch(TextSearch):
    """As above, with dashboards."""

    result: Sequence[ExpandedSearchResult]


class TextSearches(Answer):
    """One search for each text, in their order."""

    results: list[TextSearch]


class Search(RootModel[ExpandedTextSearch | TextSearch | TextSearches]):
    """One object for one text; for a list, a list of them under `results`."""


# --- the features of a source that fire most on each token ---------------------------------------------------------


class TopByTokenRequest(Given):
    """Which source to search for the features that fire most on each token of which texts."""

    modelId: Id
    source: Id = Field(validation_alias=SOURCE)
    text: Texts
    numResults: Annotated[int, Field(ge=1, le=20)] = 10
    """Of each token."""
    ignoreBos: bool = True
    """Nothing fires at position 0 and on special tokens, and for a single text the latter are left out."""
    densityThreshold: FiniteFloat = 0.01
    """Leave out features that fire on a larger fraction of their corpus's tokens; 0 or less: none."""
    expand: bool = True
    """Ours: with each feature of a single text, what its dashboard says."""


class ExplainedNeuron(Neuron):
    """A feature without examples."""

    explanations: list[Explanation]
    """One at most."""


class TopFeature(Answer):
    """A feature that fires on a token."""

    activationValue: float
    featureIndex: int


class ExpandedTopFeature(TopFeature):
    """A feature that fires on a token of a single text."""

    feature: ExplainedNeuron | None
    """Null for a feature without a dashboard, and beyond the strongest firings of a long text."""


class TokenTop(Answer):
    """A token, and the features that fire most on it, greatest first."""

    position: int
    """The BOS put before the text being 0."""
    token: str
    isSpecial: bool
    topFeatures: Sequence[TopFeature]


class ExpandedTokenTop(TokenTop):
    """A token of a single text."""

    topFeatures: Sequence[ExpandedTopFeature]


class TextTopByToken(Answer):
    """The tokens of one text."""

    source: str
    results: Sequence[TokenTop]


class ExpandedTextTopByToken(TextTopByToken):
    """As above, with dashboards."""

    results: Sequence[ExpandedTokenTop]


class TextsTopByToken(Answer):
    """One object for each text, in their order."""

    results: list[TextTopByToken]


class TopByToken(RootModel[ExpandedTextTopByToken | TextTopByToken | TextsTopByToken]):
    """One object for one text; for a list, a list of them under `results`."""


# --- tokens and directions -----------------------------------------------------------------------------------------


class TokenizeRequest(Given):
    """Which text to cut into a model's tokens."""

    prompt: Annotated[CustomText, Field(max_length=10_000)]
    modelId: Id
    prependBos: bool = True


class Tokens(Answer):
    """The ids of a text's tokens and their texts."""

    tokens: list[int]
    tokenStrings: list[str]
    prependBos: bool


class CosineRequest(Given):
    """Which source to search for the decoder directions nearest to a feature's."""

    modelId: Id
    source: Id = Field(validation_alias=SOURCE)
    index: Int32
    targetModelId: Id = ""
    """The feature's, where it is left out."""
    targetSourceId: Id = Field("", validation_alias=AliasChoices("targetSourceId", "targetSource", "targetLayer"))
    """The feature's, where it is left out."""
    numResults: Annotated[int, Field(ge=1, le=MOST_COSINES)] = 10


class FeatureName(Answer):
    """One feature."""

    model: str
    source: str
    index: int


class NearFeature(Answer):
    """A feature, and how near its direction is."""

    feature: FeatureName
    cosineSimilarity: float


class Cosines(Answer):
    """The nearest features, nearest first; the feature itself is left out."""

    feature: FeatureName
    topkDecoderCossimFeatures: list[NearFeature]
