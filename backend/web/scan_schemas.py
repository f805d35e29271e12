"""Bodies and queries of an injection coefficient scan: the page's form and the REST API ask with the same words."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from backend.web.schemas import Answer, CustomText, Id, Int32

MAX_COEFFICIENTS = 512
MAX_CLUSTERS = 8
TokenText = Annotated[str, Field(max_length=200, pattern=r"^[\s\S]*$")]
"""Text of one token, spaces at its ends included."""


class ScanQuery(BaseModel):
    """What is read, and the coefficients. Fields of a form that were left empty stand for what they are by default."""

    model_config = ConfigDict(frozen=True)

    text: Annotated[str, Field(max_length=100_000, pattern=r"^[\s\S]*$")] = ""
    token: TokenText = ""
    minus_token: TokenText = Field("", description="Its logit is subtracted; empty: the mean logit is.")
    lowest: FiniteFloat = -10.0
    highest: FiniteFloat = 10.0
    n_coefficients: Annotated[int, Field(ge=1, le=MAX_COEFFICIENTS)] = 128
    position: Annotated[int, Field(ge=-(2**31), lt=2**31)] = Field(
        -1, description="The token at which components are read, from 0, or from the end: -1 is the last."
    )
    only_there: bool = Field(False, description="The vector is added at that token only; else at every token.")
    heads_apart: bool = Field(False, description="Every attention head is a component of its own.")
    n_clusters: Annotated[int, Field(ge=1, le=MAX_CLUSTERS)] = 4

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, given: Any) -> Any:
        return {key: value for key, value in given.items() if value != ""} if isinstance(given, dict) else given


class InjectionScanRequest(ScanQuery):
    """A feature of a source, or a vector and the hook point it is added at."""

    model: Id
    source: Id = ""
    index: Int32 = 0
    hook_point: Annotated[str, Field(max_length=200)] = ""
    vector: Annotated[list[FiniteFloat], Field(max_length=65_536)] = []
    text: CustomText
    token: Annotated[TokenText, Field(min_length=1)]

    @model_validator(mode="after")
    def _check_target(self) -> "InjectionScanRequest":
        if bool(self.source) == bool(self.vector) or bool(self.vector) != bool(self.hook_point):
            raise ValueError("give either source and index, or hook_point and vector")
        return self


class ScanComponent(Answer):
    """One part of the residual stream."""

    name: str
    """`embedding`, `injected`, `3.attention`, `3.head.5`, `3.mlp`, `rest`."""
    kind: Literal["embedding", "injected", "attention", "mlp", "head", "rest"]
    layer: int | None
    head: int | None
    cluster: int
    """Components with one number have profiles of one shape; -1: it does not change."""
    swing: float
    """Greatest value less the smallest."""
    values: list[float]
    """What it gives the logit, at each coefficient."""


class InjectionScan(Answer):
    """At every coefficient the components' values sum to the total."""

    model: str
    source: str | None
    index: int | None
    hook_point: str
    tokens: list[str]
    position: int
    token: str
    minus_token: str
    """Empty: the mean logit was subtracted."""
    coefficients: list[float]
    components: list[ScanComponent]
    total: list[float]
    scale: list[float]
    """What the final norm divides by."""
