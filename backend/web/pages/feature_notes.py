"""What readers keep and say about a feature, from its page: the bookmark, lists and comments."""

from typing import Annotated

from fastapi import APIRouter, Form
from fastapi.responses import HTMLResponse, RedirectResponse
from sqlalchemy.orm import Session

from backend import names
from backend.names import FeatureRef
from backend.services import access, bookmarks, comments, feature_addresses, feature_lists
from backend.services.feature_lists import ListText, NewItem
from backend.web.dependencies import DbSession

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

Field = Annotated[str, Form()]


@router.post("/{model}/{source}/{index:int}/bookmark")
def bookmark(session: DbSession, model: str, source: str, index: int, is_set: Field = "") -> RedirectResponse:
    """Sets the reader's bookmark, or takes it away where `is_set` is empty."""
    ref = FeatureRef(model, source, index)
    if is_set:
        bookmarks.add(session, ref)
    else:
        bookmarks.delete(session, ref)
    return _back(ref)


@router.post("/{model}/{source}/{index:int}/lists")
def add_to_list(
    session: DbSession,
    model: str,
    source: str,
    index: int,
    list_id: Field = "",
    name: Field = "",
    description: Field = "",
) -> RedirectResponse:
    """Puts the feature into a list of the reader's own, or into a new one with that name."""
    ref = FeatureRef(model, source, index)
    _check(session, ref)
    item = NewItem(ref, description)
    if list_id:
        feature_lists.add(session, list_id, [item])
    else:
        list_id = feature_lists.create(session, ListText(name=name), [item]).id
    return RedirectResponse(names.list_url(list_id), 303)


@router.post("/{model}/{source}/{index:int}/comments")
def comment(session: DbSession, model: str, source: str, index: int, text: Field = "") -> RedirectResponse:
    """Says something of the feature."""
    ref = FeatureRef(model, source, index)
    comments.add_to_feature(session, ref, text)
    return _back(ref, "comments")


@router.post("/{model}/{source}/{index:int}/comments/{comment_id}/delete")
def delete_comment(session: DbSession, model: str, source: str, index: int, comment_id: str) -> RedirectResponse:
    """Deletes a comment."""
    ref = FeatureRef(model, source, index)
    feature_addresses.source_id(session, ref)
    comments.delete_of_feature(session, comment_id)
    return _back(ref, "comments")


def _check(session: Session, ref: FeatureRef) -> None:
    """The feature comes first: what may not be seen is not there."""
    feature_addresses.source_id(session, ref)
    access.check_may_write(access.viewer_of(session))


def _back(ref: FeatureRef, part: str = "") -> RedirectResponse:
    return RedirectResponse(names.feature_url(ref.model, ref.source, ref.index) + (f"#{part}" if part else ""), 303)
