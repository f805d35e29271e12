# ruff: noqa: N815 - Neuronpedia's keys are what they are
"""Bodies of importing and of Neuronpedia's upload routes."""

from typing import Annotated

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from backend.services.access import Visibility
from backend.web.live_schemas import SOURCE, Given
from backend.web.schemas import Answer, Id, Int32

MOST_FEATURES = 128
MOST_TOKENS = 1024
Token = Annotated[str, Field(max_length=1000, pattern=r"^[\s\S]*$")]
"""Also an empty one; the pattern refuses half of a surrogate pair."""


class NewImport(BaseModel):
    """Files of dashboards to import: an upload, or for the host's operator a folder or an address."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    upload: str | None = Field(None, description="Id of a complete upload of kind `dashboards`.")
    folder: str | None = Field(None, description="Of the host.")
    url: str | None = Field(None, description="`s3://bucket/v1/model/source` or `https://…/`.")
    model: Id = Field("", description="Id to import under; empty: as the files say. So `source`.")
    source: Id = ""
    visibility: Visibility | None = Field(None, description="null: public, or as the source is.")
    replace: bool = Field(False, description="Replace what was computed here; features the files do not have go.")


class ImportBegun(Answer):
    """A source that is being imported, and the job to watch."""

    source: str
    job: int
    job_url: str


class GivenActivation(Given):
    """One text with a value for each token."""

    tokens: list[Token] = Field(min_length=1, max_length=MOST_TOKENS)
    values: list[FiniteFloat]
    quantileMin: FiniteFloat | None = None
    quantileMax: FiniteFloat | None = None
    quantileFraction: FiniteFloat | None = Field(None, ge=0, le=1)

    @model_validator(mode="after")
    def _fit(self) -> "GivenActivation":
        if len(self.tokens) != len(self.values):
            raise ValueError(f"{len(self.values)} values of {len(self.tokens)} tokens")
        return self


class GivenLogit(Given):
    """A token and what a feature adds to its logit."""

    token: Token
    value: FiniteFloat


class GivenExplanation(Given):
    """What a feature is said to be."""

    text: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[\s\S]*$")]
    methodName: str | None = None
    modelName: str | None = None


class GivenFeature(Given):
    """One feature."""

    index: Int32
    density: FiniteFloat | None = Field(None, ge=0, le=1)
    topLogits: list[GivenLogit] = Field([], max_length=20)
    bottomLogits: list[GivenLogit] = Field([], max_length=20)
    explanations: list[GivenExplanation] = Field([], max_length=100)
    activations: list[GivenActivation] = Field([], max_length=1000)


class FeatureBatch(Given):
    """Features of a source."""

    modelId: Id
    source: Id = Field(validation_alias=SOURCE)
    features: list[GivenFeature] = Field(min_length=1, max_length=MOST_FEATURES)


class ActivationBatch(Given):
    """Texts of one feature."""

    modelId: Id
    source: Id = Field(validation_alias=SOURCE)
    index: Int32
    activations: list[GivenActivation] = Field(
        min_length=1, max_length=1000, validation_alias=AliasChoices("activations", "activation")
    )


class Created(Answer):
    """How many there are now that were not there."""

    message: str
