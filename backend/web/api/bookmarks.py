"""Bookmarks over REST. Bodies are Neuronpedia's."""

from fastapi import APIRouter

from backend.formats.neuronpedia import Row
from backend.names import FeatureRef
from backend.services import bookmarks
from backend.web import list_rows, list_schemas
from backend.web.api.lists import check_signed_in
from backend.web.dependencies import DbSession, Viewing

router = APIRouter(tags=["features"])


@router.post("/bookmark/add", response_model=list_schemas.Bookmark)
def add(session: DbSession, viewer: Viewing, asked: list_schemas.FeatureRequest) -> Row:
    """Bookmark a feature; a second time changes nothing. Nobody else sees it."""
    view = bookmarks.add(session, FeatureRef(asked.modelId, asked.layer, asked.index))
    return list_rows.bookmark(view, viewer.name)


@router.post("/bookmark/delete")
def delete(session: DbSession, asked: list_schemas.FeatureRequest) -> list_schemas.Count:
    """Take your bookmark of a feature away."""
    return list_schemas.Count(count=bookmarks.delete(session, FeatureRef(asked.modelId, asked.layer, asked.index)))


@router.post("/user/bookmarks", response_model=list[list_schemas.Bookmark])
def list_owned(session: DbSession, viewer: Viewing) -> list[Row]:
    """Your bookmarks, the newest first. No body is needed."""
    check_signed_in(viewer)
    return [list_rows.bookmark(view, viewer.name) for view in bookmarks.owned(session)]
