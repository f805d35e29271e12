# ruff: noqa: N815 - Neuronpedia's keys are what they are
"""Bodies about explanations: Neuronpedia's keys, with what Eyepiece adds marked as ours.

What is sent to us is read leniently, as `live_schemas` says. What we send is made by `explanation_rows` and
`formats/neuronpedia_explanations`; that it fits the schemas is tested.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, Field

from backend.services import explanation_search, explanations
from backend.web.live_schemas import MOST_SOURCES, SOURCE, Given
from backend.web.schemas import Answer, CustomText, Explanation, FeatureInList, Id, Int32

Words = Annotated[CustomText, Field(min_length=1, max_length=explanation_search.MOST_CHARACTERS)]
Description = Annotated[CustomText, Field(max_length=explanations.MOST_CHARACTERS)]
ShortText = Annotated[CustomText, Field(max_length=200)]


# --- explanations themselves ---------------------------------------------------------------------------------------


class NewExplanation(Given):
    """An explanation of a feature. Who names no model wrote it."""

    modelId: Id
    source: Id = Field(validation_alias=SOURCE)
    index: Int32
    description: Description = Field(validation_alias=AliasChoices("description", "explanation", "text"))
    typeName: ShortText | None = Field(None, validation_alias=AliasChoices("typeName", "explanationType"))
    explanationModelName: ShortText | None = None


class EditedExplanation(Given):
    """Other words for an explanation."""

    description: Description = Field(validation_alias=AliasChoices("description", "explanation", "text"))


class ExplanationRow(Explanation):
    """Neuronpedia's `Explanation` row without its embedding."""

    layer: str
    authorId: str
    """The account's number, or the author's id where it was imported from; empty: not known."""
    notes: str | None
    scoreV1: float
    scoreV2: float | None
    umap_x: float | None
    umap_y: float | None
    umap_cluster: int | None
    umap_log_feature_sparsity: float | None
    createdAt: datetime
    updatedAt: datetime


class ExplanationAnswer(Answer):
    """An explanation as it is now."""

    explanation: ExplanationRow


class ExplanationVotes(Answer):
    """The votes for an explanation after yours was given or taken back."""

    message: str
    votes: int


class ExplanationDeleted(Answer):
    """It is gone."""

    message: str


# --- search --------------------------------------------------------------------------------------------------------


class SearchEverywhere(Given):
    """Which words to search for."""

    query: Words
    """Three characters at least."""
    offset: Int32 = 0
    """Of the first result: `nextOffset` of the page before."""


class SearchModel(SearchEverywhere):
    """Words, in the explanations of one model."""

    modelId: Id


class SearchSources(SearchModel):
    """Words, in the explanations of some sources."""

    layers: Annotated[list[Id], Field(max_length=MOST_SOURCES)] = Field(
        [], validation_alias=AliasChoices("layers", "sources", "selectedLayers")
    )
    """Ids of sources; none: all of the model that who asks may see."""


class SearchRelease(SearchEverywhere):
    """Words, in the explanations of one release."""

    releaseName: ShortText
    """A source set's name."""


class FoundExplanation(Answer):
    """An explanation, and its feature."""

    id: str
    """Ours: the explanation's."""
    modelId: str
    layer: str
    index: str
    description: str
    explanationModelName: str | None
    typeName: str | None
    cosine_similarity: float
    """How well the words match, 0 to 1: a full-text rank under Neuronpedia's name, for embeddings are not compared."""
    neuron: FeatureInList | None
    """With three examples; null for a feature without a dashboard."""


class FoundExplanations(Answer):
    """A page of 20, the best first; ties by id."""

    request: dict[str, Any]
    """What was asked."""
    results: list[FoundExplanation]
    resultsCount: int
    """On this page."""
    hasMore: bool
    nextOffset: int


# --- export --------------------------------------------------------------------------------------------------------


class ExportQuery(BaseModel):
    """Which source's explanations to send, and as what."""

    modelId: Id
    saeId: Id = Field(validation_alias=AliasChoices("saeId", "source", "layer", "sourceId"))
    format: Literal["json", "jsonl", "csv"] = "json"


class ExportedExplanation(Answer):
    """An explanation in a flat row."""

    modelId: str
    layer: str
    index: str
    description: str
    typeName: str | None
    explanationModelName: str | None
