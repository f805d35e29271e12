"""What people keep and say about one feature, as its page shows it: bookmark, lists and comments together."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from backend.names import FeatureRef
from backend.services import access, bookmarks, comments, feature_lists
from backend.services.comments import CommentView
from backend.services.feature_lists import ItemView, ListView


@dataclass(frozen=True, slots=True)
class FeatureNotes:
    """Of one feature, for one reader."""

    is_bookmarked: bool
    lists: tuple[tuple[ListView, ItemView], ...]
    """Public ones and the reader's own that have the feature."""
    other_lists: tuple[ListView, ...]
    """The reader's own that do not have it."""
    comments: tuple[CommentView, ...]


def of(session: Session, ref: FeatureRef) -> FeatureNotes:
    """The notes on a feature that is there; two statements for who may not write, else four."""
    containing = feature_lists.of_feature(session, ref)
    said = comments.of_feature(session, ref)
    if "write" not in access.viewer_of(session).scopes:
        return FeatureNotes(False, containing, (), said)
    those = {view.id for view, _ in containing}
    others = tuple(view for view in feature_lists.owned(session) if view.id not in those)
    return FeatureNotes(bookmarks.is_set(session, ref), containing, others, said)
