"""Lists of features over REST. Bodies are Neuronpedia's; the export is ours.

A list and its features are sent as `list_rows` makes them, without a pass through their schemas: 300 features have
100,000 tokens in them. That they fit the schemas is tested.
"""

import csv
import io
from collections.abc import Sequence
from typing import Any, Literal

import orjson
from fastapi import APIRouter, Request, Response

from backend import errors, names
from backend.formats.neuronpedia import Row
from backend.names import FeatureRef
from backend.services import comments, feature_lists, features
from backend.services.access import Viewer
from backend.services.feature_lists import ItemView, ListText, ListView, NewItem
from backend.web import callers, list_rows, list_schemas
from backend.web.dependencies import DbSession, Viewing
from backend.web.list_schemas import ListedFeature

router = APIRouter(prefix="/list", tags=["lists"])

Format = Literal["json", "jsonl", "csv"]
MEDIA = {"json": "application/json", "jsonl": "application/x-ndjson", "csv": "text/csv"}
EXPORTED = {"content": {MEDIA[kind]: {"schema": {"type": "string"}} for kind in ("jsonl", "csv")}}


@router.post("/list", response_model=list[list_schemas.FeatureList])
def list_owned(session: DbSession, viewer: Viewing) -> list[Row]:
    """Your lists, the oldest first; to the operator of a site without accounts all there are. No body is needed."""
    check_signed_in(viewer)
    return [list_rows.list_row(view) for view in feature_lists.owned(session)]


@router.post("/new", response_model=list_schemas.NewFeatureList)
def create(request: Request, session: DbSession, asked: list_schemas.NewListRequest) -> Row:
    """Make an empty list. It is unlisted unless you say otherwise."""
    return _created(request, feature_lists.create(session, _text(asked)))


@router.post("/new-with-features", response_model=list_schemas.NewFeatureList)
def create_with_features(request: Request, session: DbSession, asked: list_schemas.NewListWithFeatures) -> Row:
    """Make a list with features in it; those that are not hosted here are left out."""
    return _created(request, feature_lists.create(session, _text(asked), _items(asked.features)))


@router.post("/add-features", response_model=list[list_schemas.ListItem])
def add_features(session: DbSession, asked: list_schemas.AddFeatures) -> list[Row]:
    """Put up to 100 features into a list of yours; where one is not hosted here, none is added."""
    added = feature_lists.add(session, asked.listId, _items(asked.featuresToAdd))
    view = feature_lists.get(session, asked.listId)
    return [list_rows.item(view, item) for item in added]


@router.post("/get", response_model=list_schemas.FeatureListWithItems)
def get(session: DbSession, asked: list_schemas.ListRequest) -> Response:
    """A list with its comments and up to 300 of its features, each with its strongest activations."""
    view = feature_lists.get(session, asked.listId)
    items = feature_lists.items(session, view, n=list_schemas.MOST_SHOWN)
    found = features.several(session, [item.ref for item in items], n_examples=list_rows.N_EXAMPLES)
    said = comments.of_list(session, view.id)
    body = list_rows.list_row(view) | {
        "neurons": [list_rows.item_with_feature(view, *pair) for pair in zip(items, found, strict=True)],
        "activations": [],
        "user": {"name": view.owner},
        "comments": [list_rows.list_comment(view.id, each) for each in said],
    }
    return Response(orjson.dumps(body, option=orjson.OPT_UTC_Z), media_type=MEDIA["json"])


@router.post("/update", response_model=list_schemas.FeatureList)
def update(session: DbSession, asked: list_schemas.ListUpdate) -> Row:
    """Change what a list of yours says; a description or test text left out is empty from now on."""
    before = feature_lists.get(session, asked.listId)
    text = ListText(
        name=asked.name, description=asked.description, default_test_text=asked.defaultTestText,
        visibility=asked.visibility or before.visibility,
    )  # fmt: skip
    return list_rows.list_row(feature_lists.change(session, asked.listId, text))


@router.post("/edit-feature", response_model=list_schemas.ListItem)
def edit_feature(session: DbSession, asked: list_schemas.ListItemUpdate) -> Row:
    """Change what a list of yours says of a feature in it."""
    item = feature_lists.describe(session, asked.listId, _ref(asked), asked.description)
    return list_rows.item(feature_lists.get(session, asked.listId), item)


@router.post("/remove", response_model=list_schemas.ListItem)
def remove(session: DbSession, asked: list_schemas.ListItemRequest) -> Row:
    """Take a feature out of a list of yours."""
    item = feature_lists.remove(session, asked.listId, _ref(asked))
    return list_rows.item(feature_lists.get(session, asked.listId), item)


@router.post("/delete")
def delete(session: DbSession, asked: list_schemas.ListRequest) -> list_schemas.ListDeleted:
    """Delete a list of yours, with its comments."""
    feature_lists.delete(session, asked.listId)
    return list_schemas.ListDeleted(True)


@router.post("/comment/new", response_model=list_schemas.ListCommentRow)
def comment(session: DbSession, asked: list_schemas.NewListComment) -> Row:
    """Say something of a list, in 2 to 1,024 characters."""
    return list_rows.list_comment(asked.listId, comments.add_to_list(session, asked.listId, asked.text))


@router.post("/comment/delete")
def delete_comment(session: DbSession, asked: list_schemas.CommentRequest) -> list_schemas.Count:
    """Delete a comment of yours, or one on a list of yours."""
    comments.delete_of_list(session, asked.id)
    return list_schemas.Count(count=1)


@router.get("/{list_id}/export", response_model=list[list_schemas.ExportedItem], responses={200: EXPORTED})
def export(request: Request, session: DbSession, list_id: str, format: Format = "json") -> Response:
    """All features of a list, as a JSON array, as one JSON object a line (jsonl), or as CSV with a head."""
    view = feature_lists.get(session, list_id)
    site = callers.site_url(request.headers, request.app.state.settings)
    rows = [_exported(item, site) for item in feature_lists.items(session, view)]
    said = f'attachment; filename="list-{view.id}.{format}"'
    headers = {} if format == "json" else {"Content-Disposition": said}
    return Response(_written(rows, format), media_type=MEDIA[format], headers=headers)


def check_signed_in(viewer: Viewer) -> None:
    """Return if it is somebody who may own things; raises `UnauthorizedError`."""
    if viewer.account_id is None and not viewer.is_admin:
        raise errors.UnauthorizedError("Nobody is signed in.", hint="Sign in, or send an API key as x-api-key.")


def _created(request: Request, view: ListView) -> Row:
    url = callers.site_url(request.headers, request.app.state.settings) + names.list_url(view.id)
    return list_rows.list_row(view) | {"user": {"name": view.owner}, "url": url}


def _text(asked: list_schemas.NewListRequest) -> ListText:
    return ListText(
        name=asked.name, description=asked.description, default_test_text=asked.testText, visibility=asked.visibility
    )


def _items(asked: Sequence[ListedFeature]) -> list[NewItem]:
    return [NewItem(FeatureRef(each.modelId, each.layer, each.index), each.description) for each in asked]


def _ref(asked: list_schemas.ListItemRequest) -> FeatureRef:
    return FeatureRef(asked.modelId, asked.layer, asked.index)


def _exported(item: ItemView, site: str) -> dict[str, Any]:
    ref = item.ref
    return {
        "modelId": ref.model, "layer": ref.source, "index": str(ref.index), "description": item.description,
        "addedAt": item.added_at, "url": site + names.feature_url(ref.model, ref.source, ref.index),
    }  # fmt: skip


def _written(rows: list[dict[str, Any]], format: Format) -> bytes:
    if format == "json":
        return orjson.dumps(rows, option=orjson.OPT_UTC_Z)
    if format == "jsonl":
        return b"".join(orjson.dumps(row, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE) for row in rows)
    text = io.StringIO()
    table = csv.DictWriter(text, list(list_schemas.ExportedItem.model_fields), lineterminator="\r\n")
    table.writeheader()
    table.writerows(row | {"addedAt": row["addedAt"].isoformat()} for row in rows)
    return text.getvalue().encode()
