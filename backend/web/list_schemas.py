# ruff: noqa: N815 - Neuronpedia's keys are what they are
"""Bodies of the routes of lists, comments and bookmarks: Neuronpedia's keys, with what Eyepiece adds marked as ours.

What is sent to us is read leniently: every name of a source, an index as number or text, null for absent, keys we do
not know ignored. How long a text may be is the services' to say. What we send has every key, always.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AliasChoices, BeforeValidator, Field, RootModel

from backend.services.access import Visibility
from backend.web.live_schemas import SOURCE, Given
from backend.web.schemas import Activation, Answer, Creator, Explanation, Id, Int32, Neuron

MOST_ADDED = 100
"""Features in one request to add some, as in Neuronpedia."""
MOST_SHOWN = 300
"""Features of a list that are sent with it, as in Neuronpedia."""

Text = Annotated[str, Field(max_length=100_000, pattern=r"^[\s\S]*$")]
"""The pattern takes any text; checking it refuses half of a surrogate pair, which cannot be encoded."""
Seen = Annotated[Visibility, BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)]
"""As sent, or as we send it: in capitals."""
RandomId = Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9_-]*$")]


class ListedFeature(Given):
    """A feature to put into a list."""

    modelId: Id
    layer: Id = Field(validation_alias=SOURCE, description="The source.")
    index: Int32
    description: Text = ""


class NewListRequest(Given):
    """A list to make."""

    name: Text
    description: Text = ""
    testText: Text = Field("", validation_alias=AliasChoices("testText", "defaultTestText"))
    visibility: Seen = Field("unlisted", description="Ours.")


class NewListWithFeatures(NewListRequest):
    """A list to make, with features; those that are not hosted here are left out."""

    features: list[ListedFeature] = Field([], max_length=10_000)


class ListRequest(Given):
    """Which list."""

    listId: RandomId = Field(validation_alias=AliasChoices("listId", "id"))


class AddFeatures(ListRequest):
    """Features to put into a list; one that is in it already gets the description given."""

    featuresToAdd: list[ListedFeature] = Field(max_length=MOST_ADDED)


class ListUpdate(ListRequest):
    """What a list is called from now on."""

    name: Text
    description: Text = ""
    defaultTestText: Text = Field("", validation_alias=AliasChoices("defaultTestText", "testText"))
    visibility: Seen | None = Field(None, description="Ours; as it was unless given.")


class ListItemRequest(ListRequest):
    """A feature of a list."""

    modelId: Id
    layer: Id = Field(validation_alias=SOURCE, description="The source.")
    index: Int32


class ListItemUpdate(ListItemRequest):
    """A feature of a list and what is said of it there."""

    description: Text = ""


class NewListComment(ListRequest):
    """What to say of a list."""

    text: Text


class FeatureRequest(Given):
    """Which feature."""

    modelId: Id
    layer: Id = Field(validation_alias=SOURCE, description="The source.")
    index: Int32


class NewComment(FeatureRequest):
    """What to say of a feature."""

    text: Text


class CommentRequest(Given):
    """Which comment."""

    id: RandomId = Field(validation_alias=AliasChoices("id", "commentId"))


class FeatureList(Answer):
    """Neuronpedia's `List` row."""

    id: str
    name: str
    description: str
    defaultTestText: str | None
    userId: str
    """Its owner's name; empty: the host's operator's."""
    createdAt: datetime
    updatedAt: datetime
    visibility: str
    """Ours: PRIVATE, UNLISTED or PUBLIC."""


class NewFeatureList(FeatureList):
    """A list just made."""

    user: Creator
    url: str
    """Of its page."""


class ListItem(Answer):
    """Neuronpedia's `ListsOnNeurons` row."""

    modelId: str
    layer: str
    index: str
    listId: str
    description: str
    addedAt: datetime
    userId: str


class ListedNeuron(Neuron):
    """A feature in a list: the strongest of its activations."""

    activations: list[Activation]
    explanations: list[Explanation]


class ListItemWithFeature(ListItem):
    """A feature in a list, with what is known of it."""

    neuron: ListedNeuron | None
    """Null before its dashboard is computed."""


class ListCommentRow(Answer):
    """Neuronpedia's `ListComment` row, with who wrote it."""

    id: str
    listId: str
    text: str
    userId: str
    createdAt: datetime
    user: Creator


class FeatureListWithItems(FeatureList):
    """A list and what is in it, in the order of adding; at most 300 features."""

    neurons: list[ListItemWithFeature]
    activations: list[None]
    """Always empty: a test text is run when the list is looked at."""
    user: Creator
    comments: list[ListCommentRow]


class ExportedItem(Answer):
    """A feature of a list as it is exported; `url` is its page's."""

    modelId: str
    layer: str
    index: str
    description: str
    addedAt: datetime
    url: str


class ListDeleted(RootModel[Literal[True]]):
    """The list is gone."""


class Comment(Answer):
    """Neuronpedia's `Comment` row, with who wrote it."""

    id: str
    modelId: str
    layer: str
    index: str
    text: str
    userId: str
    createdAt: datetime
    user: Creator


class CommentDeleted(Answer):
    """The comment is gone."""

    message: Literal["ok"]


class Bookmark(Answer):
    """Neuronpedia's `Bookmark` row."""

    id: str
    modelId: str
    layer: str
    index: str
    userId: str
    createdAt: datetime


class Count(Answer):
    """How many rows were deleted."""

    count: int
