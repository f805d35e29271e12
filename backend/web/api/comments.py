"""Comments on features over REST; those on lists are in `lists`. Bodies are Neuronpedia's."""

from fastapi import APIRouter

from backend.formats.neuronpedia import Row
from backend.names import FeatureRef
from backend.services import comments
from backend.web import list_rows, list_schemas
from backend.web.dependencies import DbSession

router = APIRouter(prefix="/comment", tags=["features"])


@router.post("/new", response_model=list_schemas.Comment)
def add(session: DbSession, asked: list_schemas.NewComment) -> Row:
    """Say something of a feature, in 5 to 1,024 characters. Whoever sees the feature sees it."""
    ref = FeatureRef(asked.modelId, asked.layer, asked.index)
    return list_rows.feature_comment(ref, comments.add_to_feature(session, ref, asked.text))


@router.post("/delete")
def delete(session: DbSession, asked: list_schemas.CommentRequest) -> list_schemas.CommentDeleted:
    """Delete a comment of yours."""
    comments.delete_of_feature(session, asked.id)
    return list_schemas.CommentDeleted(message="ok")
