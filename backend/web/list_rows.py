"""Lists, comments and bookmarks in Neuronpedia's words.

Names and types: hijohnnylin/neuronpedia at ebb8426f, `apps/webapp/prisma/schema.prisma` (`List`, `ListsOnNeurons`,
`ListComment`, `Comment`, `Bookmark`). `userId` is an account's name, which is as unique here; '' is the host's operator.
Where they have a time, JSON gets it in ISO 8601.
"""

from backend.formats import neuronpedia
from backend.formats.neuronpedia import Row
from backend.names import FeatureRef
from backend.services.bookmarks import BookmarkView
from backend.services.comments import CommentView
from backend.services.feature_lists import ItemView, ListView
from backend.services.features import FeatureView

N_EXAMPLES = 3
"""Of a feature in a list, as Neuronpedia sends them."""


def list_row(view: ListView) -> Row:
    """The `List` row; `visibility` is ours."""
    return {
        "id": view.id,
        "name": view.name,
        "description": view.description,
        "defaultTestText": view.default_test_text or None,
        "userId": view.owner,
        "createdAt": view.created_at,
        "updatedAt": view.updated_at,
        "visibility": view.visibility.upper(),
    }


def item(view: ListView, item: ItemView) -> Row:
    """The `ListsOnNeurons` row."""
    return {
        **_address(item.ref),
        "listId": item.list_id,
        "description": item.description,
        "addedAt": item.added_at,
        "userId": view.owner,
    }


def containing(view: ListView, found: ItemView) -> Row:
    """One of a feature's `lists`."""
    return item(view, found) | {"list": list_row(view)}


def item_with_feature(view: ListView, found: ItemView, feature: FeatureView | None) -> Row:
    """One of a list's `neurons`; `neuron` is null before the feature's dashboard is computed."""
    return item(view, found) | {"neuron": None if feature is None else _neuron(feature)}


def list_comment(list_id: str, view: CommentView) -> Row:
    """The `ListComment` row, with who wrote it."""
    return {"id": view.id, "listId": list_id, **_said(view)}


def feature_comment(ref: FeatureRef, view: CommentView) -> Row:
    """The `Comment` row, with who wrote it."""
    return {"id": view.id, **_address(ref), **_said(view)}


def bookmark(view: BookmarkView, owner: str) -> Row:
    """The `Bookmark` row."""
    return {"id": view.id, **_address(view.ref), "userId": owner, "createdAt": view.created_at}


def _neuron(feature: FeatureView) -> Row:
    return neuronpedia.explained_neuron(feature) | {"activations": neuronpedia.activations(feature)[:N_EXAMPLES]}


def _address(ref: FeatureRef) -> Row:
    return {"modelId": ref.model, "layer": ref.source, "index": str(ref.index)}


def _said(view: CommentView) -> Row:
    return {
        "text": view.text, "userId": view.author, "createdAt": view.created_at, "user": {"name": view.author},
    }  # fmt: skip
