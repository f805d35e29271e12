# ruff: noqa: N815 - Neuronpedia's keys are what they are
"""Bodies of Neuronpedia's routes about the catalog and about lists of features; the rows in them are in `schemas`.

What is sent to us is read leniently, as in `live_schemas`. Routes and keys: hijohnnylin/neuronpedia at ebb8426f,
`apps/webapp/app/api/{model,source-set,global,umap,features}`; `/api/test` is what SAELens asks
(`sae_lens/analysis/neuronpedia_integration.py`).
"""

from typing import Annotated, Any

from pydantic import AliasChoices, Field, RootModel

from backend.web.live_schemas import SOURCE, Given
from backend.web.schemas import Answer, Id, Int32, Model, ModelInList, Release, Source, SourceSetInList

MOST_FEATURES = 150
"""Of one request: with all their examples each may be 100 KB of JSON."""
MOST_EXAMPLES = 1_000
MOST_LAYERS = 512
MOST_SOURCES = 1_000
Words = Annotated[str, Field(max_length=1_000, pattern=r"^[^\x00]*$")]
"""The pattern refuses U+0000 and half of a surrogate pair, which Postgres cannot hold."""


class NewModel(Given):
    """A model to describe before its weights are here."""

    id: Id = Field(min_length=1)
    layers: int = Field(ge=1, le=MOST_LAYERS)
    displayName: Words = ""
    url: Words = ""


class ModelAddress(Given):
    """One model."""

    id: Id = Field(validation_alias=AliasChoices("id", "modelId"))


class ModelWithSources(Model):
    """A model with all its source sets and sources, those without dashboards too."""

    sourceSets: list[SourceSetInList]
    sources: list[Source]


class NewSourceSet(Given):
    """A source set to make: one source for each of the model's layers."""

    modelId: Id
    name: Id = Field(min_length=1)
    description: Words = ""
    url: Words = ""


class Catalog(Answer):
    """All that is hosted and in lists."""

    models: list[ModelInList]
    releases: list[Release]
    explanationTypes: list[dict[str, Any]]
    """Empty, as the next three: explanations here are of whatever kind they say, none is registered."""
    explanationModels: list[dict[str, Any]]
    explanationScoreTypes: list[dict[str, Any]]
    explanationScoreModelTypes: list[dict[str, Any]]


class UmapRequest(Given):
    """Of which sources to send the maps."""

    modelId: Id
    layers: list[Id] = Field([], max_length=MOST_SOURCES, validation_alias=AliasChoices("layers", "sources"))


class UmapPoint(Answer):
    """Where an explanation lies on its source's map."""

    id: str
    layer: str
    index: str
    description: str
    umap_cluster: int | None
    umap_x: float
    umap_y: float
    umap_log_feature_sparsity: float | None


class Umap(RootModel[dict[str, list[UmapPoint]]]):
    """By source its points; none for a source without a map."""


class WantedFeature(Given):
    """One feature of those wanted."""

    modelId: Id
    source: Id = Field(validation_alias=SOURCE)
    index: Int32
    maxActsToReturn: Int32 | None = None
    """Of the first feature, for all of them: examples to send of each, at most; absent: all."""


WantedFeatures = Annotated[list[WantedFeature], Field(max_length=MOST_FEATURES)]


class KeyTest(Given):
    """An API key to try; without it the one of the request's header is."""

    apiKey: Annotated[str, Field(max_length=1_000)] = ""


class KeyTested(Answer):
    """The key is one that this site takes."""

    message: str
