# ruff: noqa: N815 - Neuronpedia's keys are what they are
"""Bodies of the steering and vector routes: Neuronpedia's keys, with what Eyepiece adds marked as ours.

What is sent to us is read leniently: both spellings of the source (`layer`, `source`), an index as number or text, null
for absent, keys we do not know ignored. What we send has every key, always.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AliasChoices, BeforeValidator, Field, FiniteFloat, field_validator, model_validator

from backend.services import steering
from backend.web.live_schemas import Given
from backend.web.schemas import Answer, CustomText, Id, Int32, Model

MOST_FEATURES = 100
MOST_MESSAGES = 1_000
MOST_STRENGTH = 1e6
"""So that no product of strengths is too large for the model's numbers."""
WHOLE = 2**53 - 1
"""JSON's numbers are whole and exact up to it."""


def _in_capitals(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


Method = Annotated[steering.Method, BeforeValidator(_in_capitals)]
Strength = Annotated[FiniteFloat, Field(ge=-MOST_STRENGTH, le=MOST_STRENGTH)]


class SteerFeature(Given):
    """A feature, or a vector of somebody's own, and how hard to push."""

    modelId: Id | None = Field(None, description="The request's model, as is the default.")
    layer: Id = Field(validation_alias=AliasChoices("layer", "source"), description="The source.")
    index: Int32 | None = Field(None, description="Not needed to RECONSTRUCT.")
    strength: Strength | None = Field(
        None, description="Not read to ABLATE and RECONSTRUCT; of a vector its own unless given."
    )
    method: Method | None = Field(
        None, validation_alias=AliasChoices("method", "steer_method"), description="Ours: instead of the request's."
    )


class SteerSettings(Given):
    """How to steer and how to choose tokens."""

    features: list[SteerFeature] = Field([], max_length=MOST_FEATURES)
    strength_multiplier: Strength = Field(1.0, description="Of every strength.")
    steer_method: Method = "SIMPLE_ADDITIVE"
    steer_special_tokens: bool = Field(True, description="Push at special tokens too, such as BOS and a chat's marks.")
    n_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] = Field(
        48, description="At most; with the prompt no more than the model's context."
    )
    temperature: Annotated[FiniteFloat, Field(ge=0, le=2)] = Field(0.5, description="0: always the likeliest token.")
    top_p: Annotated[FiniteFloat, Field(gt=0, le=1)] = Field(1.0, description="Ours.")
    freq_penalty: Annotated[FiniteFloat, Field(ge=-2, le=2)] = Field(
        0.0,
        description="Taken off a token's logit for each time it was generated. Neuronpedia reads 1, and ignores it.",
    )
    seed: Annotated[int, Field(ge=-WHOLE, le=WHOLE)] = Field(16, description="The same seed, the same text.")
    n_logprobs: Annotated[int, Field(ge=0, le=10)] = Field(
        5, description="Ours: likeliest tokens told with each; 0: no log-probabilities at all."
    )
    stream: bool = Field(False, description="Answer with server-sent events, each the answer so far.")


class SteerRequest(SteerSettings):
    """Go on with a text."""

    modelId: Id
    prompt: CustomText


class ChatMessage(Given):
    """One message of a chat."""

    role: Annotated[str, Field(min_length=1, max_length=50, pattern=r"^[a-z_]+$")]
    """user, assistant (also called model), system or developer, as far as the model's template has them."""
    content: Annotated[str, Field(max_length=100_000, pattern=r"^[\s\S]*$")]


ChatMessages = Annotated[list[ChatMessage], Field(max_length=MOST_MESSAGES)]


class SteerChatRequest(SteerSettings):
    """Answer a chat. Of the two conversations one may be left out, and is then the other."""

    modelId: Id
    defaultChatMessages: ChatMessages = Field([])
    steeredChatMessages: ChatMessages = Field([])
    isAssistantAxis: bool = False

    @field_validator("isAssistantAxis")
    @classmethod
    def _has_no_axis(cls, is_asked: bool) -> bool:
        if is_asked:
            raise ValueError("the assistant axis is not hosted here; steer with a vector of your own instead")
        return is_asked

    @model_validator(mode="after")
    def _says_something(self) -> "SteerChatRequest":
        if not self.defaultChatMessages and not self.steeredChatMessages:
            raise ValueError("defaultChatMessages or steeredChatMessages must have a message")
        return self


class SteerLoadRequest(Given):
    """Which saved run."""

    steerOutputId: Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9_-]*$")]


class ModelRequest(Given):
    """Which model."""

    modelId: Id


class TopLogprob(Answer):
    """A token that could have stood there."""

    token: str
    logprob: float


class TokenLogprob(Answer):
    """A generated token; log-probabilities are the model's own, at temperature 1 and without the penalty."""

    token: str
    logprob: float
    topLogprobs: list[TopLogprob]
    """Likeliest first; empty until a stream's last event."""


Logprobs = list[TokenLogprob] | None
"""Null where none were asked for."""


class SteeredCompletion(Answer):
    """The text generated with the features and that without; the prompt is in neither."""

    STEERED: str
    DEFAULT: str
    steeredLogProbs: Logprobs
    defaultLogProbs: Logprobs
    id: str | None
    """Of the saved run; null until a stream's last event, and where a source was deleted meanwhile."""
    shareUrl: str | None
    """Its page."""
    limit: str | None
    """Requests that could be made at once, as `x-limit-remaining`; null where they are not counted."""


class ChatTurn(Answer):
    """One message of a chat."""

    role: str
    content: str


class SteeredText(Answer):
    """One of the two texts."""

    raw: str
    """Of a chat everything the model read and wrote; of a completion what it wrote."""
    chatTemplate: list[ChatTurn] | None
    """The conversation with the model's answer; null for a completion."""
    chat_template: list[ChatTurn] | None
    """The same, as older clients spell it."""
    logprobs: Logprobs


class SteerSettingsUsed(Answer):
    """The settings a text was generated with; `top_p` and `n_logprobs` are ours."""

    temperature: float
    n_tokens: int
    freq_penalty: float
    seed: int
    strength_multiplier: float
    steer_special_tokens: bool
    steer_method: steering.Method
    top_p: float
    n_logprobs: int


class SteeredChat(Answer):
    """The answer given with the features and that without."""

    STEERED: SteeredText
    DEFAULT: SteeredText
    id: str | None
    shareUrl: str | None
    limit: str | None
    settings: SteerSettingsUsed


class SavedSteerFeature(Answer):
    """A feature of a saved run."""

    modelId: str
    layer: str
    index: str
    strength: float
    """As asked, before the multiplier; 0 where none is read."""
    method: steering.Method
    """Ours."""
    steerOutputId: str


class SavedSteer(SteeredChat):
    """A saved run; keys from `kind` on are ours."""

    inputText: str
    """The prompt; of a chat the steered one as the model read it."""
    outputTextIncludesPrompt: bool
    features: list[SavedSteerFeature]
    kind: Literal["completion", "chat"]
    modelId: str
    defaultChatMessages: list[ChatTurn]
    steeredChatMessages: list[ChatTurn]
    createdAt: datetime
    canDelete: bool
    """Who asks may delete it."""


class SteerDeleted(Answer):
    """Its address leads nowhere any more."""

    id: str


class PromptPreset(Answer):
    """A prompt to begin with."""

    name: str
    prompt: str


class PresetFeature(Answer):
    """A feature and a strength that shows."""

    modelId: str
    layer: str
    index: int
    strength: float
    explanation: str


class FeaturePreset(Answer):
    """Features to begin with."""

    name: str
    features: list[PresetFeature]
    isUserVector: bool


class SteerPresets(Answer):
    """What a steering page offers to begin with."""

    model: Model
    defaultPrompt: str
    promptPresets: list[PromptPreset]
    featurePresets: list[FeaturePreset]
    defaultSelectedFeatures: list[PresetFeature]


class NewVector(Given):
    """A vector to steer with."""

    modelId: Id
    layerNumber: Int32
    hookType: Literal["hook_resid_pre", "hook_resid_post"]
    vector: Annotated[list[FiniteFloat], Field(min_length=1, max_length=2**17)]
    vectorDefaultSteerStrength: Strength = Field(10.0, description="Used where a request gives no strength.")
    vectorLabel: Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")] = ""


class VectorAddress(Given):
    """A vector, or a feature."""

    modelId: Id
    source: Id = Field(validation_alias=AliasChoices("source", "layer"))
    index: Int32


class AddedVector(Answer):
    """A vector that was added."""

    modelId: str
    source: str
    index: str
    label: str
    createdAt: datetime
    defaultSteerStrength: float
    hookName: str
    values: list[float]


class VectorAdded(Answer):
    """A vector that was added, and where to steer with it."""

    message: Literal["Success"]
    url: str
    vector: AddedVector


class Vector(Answer):
    """A vector of somebody's own, or the decoder row of a feature at unit norm."""

    modelId: str
    layer: str
    index: str
    vectorLabel: str | None
    createdAt: datetime | None
    creatorId: str
    """Empty: who has accounts here is nobody's business."""
    vectorDefaultSteerStrength: float
    hookName: str
    vector: list[float]


class VectorFound(Answer):
    """The vector asked for."""

    vector: Vector


class VectorsOwned(Answer):
    """Vectors of who asks, newest first."""

    vectors: list[Vector]


class VectorDeleted(Answer):
    """It cannot be steered with any more."""

    message: Literal["Success"]
