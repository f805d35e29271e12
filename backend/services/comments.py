"""What people say of features and of lists: written by who is signed in, deleted by who wrote it.

A comment is there for those who see what it is about; nobody changes one.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete as deletion
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Account, FeatureComment, FeatureList, ListComment, Source
from backend.names import FeatureRef
from backend.services import access, catalog, feature_addresses, feature_lists, written_text
from backend.services.visibility import addressed

LEAST, LEAST_OF_LIST, MOST = 5, 2, 1024
"""Characters; Neuronpedia's (hijohnnylin/neuronpedia at ebb8426f, `apps/webapp/app/api/comment/new/route.tsx` and
`.../list/comment/new/route.tsx`), which has no upper bound on comments of lists."""

MOST_SHOWN = 500
"""Of one feature or list."""


@dataclass(frozen=True, slots=True)
class CommentView:
    """A comment."""

    id: str
    author_id: int | None
    """None: the host's operator."""
    author: str
    """The account's name; empty for the host's operator."""
    text: str
    created_at: datetime


def of_feature(session: Session, ref: FeatureRef) -> tuple[CommentView, ...]:
    """The newest `MOST_SHOWN` comments on a feature, the oldest of them first; one statement."""
    query = _ON_FEATURES.join(Source, Source.id == FeatureComment.source_id).where(
        Source.model_id == catalog.as_key(ref.model),
        Source.name == catalog.as_key(ref.source),
        FeatureComment.index == ref.index,
    )
    newest = query.order_by(FeatureComment.created_at.desc(), FeatureComment.id).limit(MOST_SHOWN)
    return tuple(_view(row) for row in reversed(session.execute(addressed(newest)).all()))


def of_list(session: Session, list_id: str) -> tuple[CommentView, ...]:
    """The newest `MOST_SHOWN` comments on a list, the oldest of them first; one statement."""
    query = _ON_LISTS.where(ListComment.list_id == list_id)
    newest = query.order_by(ListComment.created_at.desc(), ListComment.id).limit(MOST_SHOWN)
    return tuple(_view(row) for row in reversed(session.execute(addressed(newest)).all()))


def add_to_feature(session: Session, ref: FeatureRef, text: str) -> CommentView:
    """A new comment of who asks; raises `NotFoundError`, `InvalidInputError`, or as `access.check_may_write`."""
    source_id = feature_addresses.source_id(session, ref)
    viewer = access.viewer_of(session)
    access.check_may_write(viewer)
    row = {
        "id": written_text.new_id(), "source_id": source_id, "index": ref.index, "author_id": viewer.account_id,
        "text": written_text.checked(text, "comment", least=LEAST, most=MOST),
    }  # fmt: skip
    session.execute(insert(FeatureComment).values(**row))
    return _view(session.execute(addressed(_ON_FEATURES.where(FeatureComment.id == row["id"]))).one())


def add_to_list(session: Session, list_id: str, text: str) -> CommentView:
    """A new comment of who asks; raises as `add_to_feature`."""
    view = feature_lists.get(session, list_id)
    viewer = access.viewer_of(session)
    access.check_may_write(viewer)
    row = {
        "id": written_text.new_id(), "list_id": view.id, "author_id": viewer.account_id,
        "text": written_text.checked(text, "comment", least=LEAST_OF_LIST, most=MOST),
    }  # fmt: skip
    session.execute(insert(ListComment).values(**row))
    return _view(session.execute(addressed(_ON_LISTS.where(ListComment.id == row["id"]))).one())


def delete_of_feature(session: Session, comment_id: str) -> None:
    """Delete one's own comment; raises `NotFoundError`, or as `access.check_may_change`."""
    key = FeatureComment.id == catalog.as_key(comment_id)
    row = session.execute(addressed(_ON_FEATURES.where(key))).one_or_none()
    if row is None:
        raise _not_there(comment_id)
    access.check_may_change(access.viewer_of(session), row.author_id)
    session.execute(addressed(deletion(FeatureComment).where(key)))


def delete_of_list(session: Session, comment_id: str) -> None:
    """Delete one's own comment, or anybody's on one's own list; raises as `delete_of_feature`."""
    key = ListComment.id == catalog.as_key(comment_id)
    query = _ON_LISTS.add_columns(FeatureList.owner_id).join(FeatureList, FeatureList.id == ListComment.list_id)
    row = session.execute(addressed(query.where(key))).one_or_none()
    if row is None:
        raise _not_there(comment_id)
    viewer = access.viewer_of(session)
    access.check_may_change(viewer, row.owner_id if access.owns(viewer, row.owner_id) else row.author_id)
    session.execute(addressed(deletion(ListComment).where(key)))


_ON_FEATURES = select(
    FeatureComment.id, FeatureComment.author_id, Account.name.label("author"), FeatureComment.text,
    FeatureComment.created_at,
).outerjoin(Account, Account.id == FeatureComment.author_id)  # fmt: skip
_ON_LISTS = select(
    ListComment.id, ListComment.author_id, Account.name.label("author"), ListComment.text, ListComment.created_at
).outerjoin(Account, Account.id == ListComment.author_id)


def _not_there(comment_id: str) -> errors.NotFoundError:
    return errors.NotFoundError(f"There is no comment '{comment_id}'.", hint="It may have been deleted.")


def _view(row: Any) -> CommentView:
    return CommentView(row.id, row.author_id, row.author or "", row.text, row.created_at)
