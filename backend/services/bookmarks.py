"""Features somebody wants to find again. A bookmark is nobody else's business: not even admins are shown others'."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy import delete as deletion
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backend.db.tables import Bookmark, Source
from backend.names import FeatureRef
from backend.services import access, catalog, feature_addresses, written_text
from backend.services.access import Viewer
from backend.services.visibility import addressed


@dataclass(frozen=True, slots=True)
class BookmarkView:
    """A bookmark."""

    id: str
    ref: FeatureRef
    created_at: datetime


def add(session: Session, ref: FeatureRef) -> BookmarkView:
    """The bookmark of who asks on a feature, new or as it was; raises `NotFoundError`, or as `access.check_may_write`."""
    source_id = feature_addresses.source_id(session, ref)
    viewer = access.viewer_of(session)
    access.check_may_write(viewer)
    row = {"id": written_text.new_id(), "owner_id": viewer.account_id, "source_id": source_id, "index": ref.index}
    session.execute(insert(Bookmark).values(**row).on_conflict_do_nothing())
    query = _BOOKMARKS.where(_is_of(viewer), Bookmark.source_id == source_id, Bookmark.index == ref.index)
    return _view(session.execute(addressed(query)).one())


def delete(session: Session, ref: FeatureRef) -> int:
    """Take the bookmark of who asks away; how many there were, 0 or 1. Raises as `add`."""
    source_id = feature_addresses.source_id(session, ref)
    viewer = access.viewer_of(session)
    access.check_may_write(viewer)
    of = deletion(Bookmark).where(_is_of(viewer), Bookmark.source_id == source_id, Bookmark.index == ref.index)
    return len(session.execute(addressed(of.returning(Bookmark.id))).all())


def owned(session: Session) -> tuple[BookmarkView, ...]:
    """Those of who asks, the newest first."""
    query = _BOOKMARKS.where(_is_of(access.viewer_of(session)), Source.model_id.is_not(None))
    rows = session.execute(addressed(query.order_by(Bookmark.created_at.desc(), Bookmark.id)))
    return tuple(_view(row) for row in rows)


def is_set(session: Session, ref: FeatureRef) -> bool:
    """Whether who asks has one on a feature; one statement."""
    query = _BOOKMARKS.where(
        _is_of(access.viewer_of(session)),
        Source.model_id == catalog.as_key(ref.model),
        Source.name == catalog.as_key(ref.source),
        Bookmark.index == ref.index,
    )
    return session.execute(addressed(query)).one_or_none() is not None


# A row has a method `index`, so the column of that name is read under another.
_BOOKMARKS = select(
    Bookmark.id, Source.model_id, Source.name.label("source"), Bookmark.index.label("number"), Bookmark.created_at
).join(Source, Source.id == Bookmark.source_id)


def _is_of(viewer: Viewer) -> ColumnElement[bool]:
    """Who is not signed in has none: nobody but the operator writes with no account."""
    return Bookmark.owner_id.is_not_distinct_from(viewer.account_id)


def _view(row: Any) -> BookmarkView:
    return BookmarkView(row.id, FeatureRef(row.model_id, row.source, row.number), row.created_at)
