"""Lists of features that people keep and share: made, filled, changed and deleted by their owners.

A list says who sees it (`access.VISIBILITIES`). What it shows of a feature follows the feature's source besides: an
unlisted source's features are shown by an unlisted list, whose address is as good as theirs, and left out of a public
one, except to its owner. Does not own comments (`comments`), nor what features look like (`features`).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, or_, select, update
from sqlalchemy import delete as deletion
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Account, FeatureList, FeatureListItem, Source
from backend.names import FeatureRef
from backend.services import access, catalog, feature_addresses, written_text
from backend.services.access import VISIBILITIES
from backend.services.visibility import addressed, is_own, unrestricted

AnySelect = Select[*tuple[Any, ...]]
MOST_NAME, MOST_DESCRIPTION, MOST_TEST_TEXT = 200, 4_000, 500
"""Characters; Neuronpedia's too of a test text (hijohnnylin/neuronpedia at ebb8426f, `apps/webapp/lib/utils/list.ts`)."""
MOST_ITEMS = 10_000
MOST_LISTS = 1_000
"""Of an account."""
MOST_WITH_A_FEATURE = 100
"""Lists that are named on a feature's page and in its JSON."""


@dataclass(frozen=True, slots=True)
class ListView:
    """A list by itself."""

    id: str
    owner_id: int | None
    """None: the host's operator's."""
    owner: str
    """The account's name; empty for the host's operator."""
    name: str
    description: str
    default_test_text: str
    visibility: str
    created_at: datetime
    updated_at: datetime
    n_items: int
    """Those that who asks may see in lists."""


@dataclass(frozen=True, slots=True)
class ItemView:
    """A feature in a list."""

    list_id: str
    ref: FeatureRef
    description: str
    added_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ListText:
    """What an owner says of a list."""

    name: str
    description: str = ""
    default_test_text: str = ""
    visibility: str = "unlisted"


@dataclass(frozen=True, slots=True)
class NewItem:
    """A feature to add."""

    ref: FeatureRef
    description: str = ""


def create(session: Session, given: ListText, items: Sequence[NewItem] = ()) -> ListView:
    """A new list of who asks. Items that are not there are left out, as Neuronpedia leaves them out.

    Raises:
        UnauthorizedError, ForbiddenError: Who asks may not write.
        ConflictError: They have as many lists as an account may.
        InvalidInputError: A text is too long, or the name is missing.
    """
    viewer = access.viewer_of(session)
    access.check_may_write(viewer)
    of_owner = FeatureList.owner_id.is_not_distinct_from(viewer.account_id)
    count = select(func.count()).select_from(FeatureList).where(of_owner)
    if viewer.account_id is not None and session.execute(unrestricted(count)).scalar_one() >= MOST_LISTS:
        raise errors.ConflictError(f"You have {MOST_LISTS:,} lists.", hint="Delete one first.")
    list_id = written_text.new_id()
    session.execute(insert(FeatureList).values(id=list_id, owner_id=viewer.account_id, **_checked(given)))
    known = feature_addresses.source_ids(session, {item.ref for item in items})
    _insert(session, list_id, [item for item in items if item.ref in known], known)
    return get(session, list_id)


def get(session: Session, list_id: str) -> ListView:
    """The list, whoever has its address; raises `NotFoundError`."""
    query = _LISTS.where(FeatureList.id == catalog.as_key(list_id))
    row = session.execute(addressed(query)).one_or_none()
    if row is None:
        raise errors.NotFoundError(f"There is no list '{list_id}'.", hint="The page /lists names those you see.")
    return _list_view(row)


def owned(session: Session) -> tuple[ListView, ...]:
    """Lists of who asks, the oldest first; in `open` mode all there are."""
    own = _LISTS.where(is_own(access.viewer_of(session), FeatureList.owner_id))
    rows = session.execute(addressed(own.order_by(FeatureList.created_at, FeatureList.id)))
    return tuple(_list_view(row) for row in rows)


def public(session: Session, *, n: int) -> tuple[ListView, ...]:
    """Lists for everybody, what changed last first, at most `n`."""
    query = _LISTS.where(FeatureList.visibility == "public")
    query = query.order_by(FeatureList.updated_at.desc(), FeatureList.id).limit(n)
    return tuple(_list_view(row) for row in session.execute(query))


def items(session: Session, view: ListView, *, offset: int = 0, n: int | None = None) -> tuple[ItemView, ...]:
    """Of what who asks may see of a list, in the order of adding, up to `n` from the `offset`-th on; one statement."""
    query = _ITEMS.where(FeatureListItem.list_id == view.id).order_by(FeatureListItem.position)
    rows = session.execute(_as_shown(session, view, query.offset(offset).limit(n)))
    return tuple(_item_view(row) for row in rows)


def count(session: Session, view: ListView) -> int:
    """How many `items` there are without `n`."""
    query = select(func.count()).select_from(FeatureListItem).join(Source, Source.id == FeatureListItem.source_id)
    query = query.where(FeatureListItem.list_id == view.id, Source.model_id.is_not(None))
    n: int = session.execute(_as_shown(session, view, query)).scalar_one()
    return n


def of_feature(session: Session, ref: FeatureRef) -> tuple[tuple[ListView, ItemView], ...]:
    """The public lists with a feature and those of who asks, up to `MOST_WITH_A_FEATURE`; what changed last comes first."""
    query = select(*_LIST_COLUMNS, *_ITEM_COLUMNS).join(FeatureListItem, FeatureListItem.list_id == FeatureList.id)
    query = query.join(Source, Source.id == FeatureListItem.source_id).outerjoin(*_OWNER)
    query = query.where(
        Source.model_id == catalog.as_key(ref.model),
        Source.name == catalog.as_key(ref.source),
        FeatureListItem.index == ref.index,
        or_(FeatureList.visibility == "public", is_own(access.viewer_of(session), FeatureList.owner_id)),
    )
    query = query.order_by(FeatureList.updated_at.desc(), FeatureList.id).limit(MOST_WITH_A_FEATURE)
    rows = session.execute(addressed(query))
    return tuple((_list_view(row), _item_view(row)) for row in rows)


def add(session: Session, list_id: str, new: Sequence[NewItem]) -> tuple[ItemView, ...]:
    """The features as they are in the list now; one that was there keeps its place and gets the description given.

    Raises:
        NotFoundError: The list is not there, or a feature is not hosted; then none is added.
        UnauthorizedError, ForbiddenError: Who asks may not change the list.
        ConflictError: The list would have more than `MOST_ITEMS`.
    """
    _own(session, list_id)
    known = feature_addresses.source_ids(session, {item.ref for item in new})
    for item in new:
        if item.ref not in known:
            raise feature_addresses.not_there(item.ref)
    _insert(session, list_id, new, known)
    _touch(session, list_id)
    wanted = list(dict.fromkeys(item.ref for item in new))
    found = {item.ref: item for item in _named(session, list_id, {known[ref] for ref in wanted})}
    return tuple(found[ref] for ref in wanted)


def change(session: Session, list_id: str, given: ListText) -> ListView:
    """The list, with other words; raises as `add`."""
    _own(session, list_id)
    of = update(FeatureList).where(FeatureList.id == list_id)
    session.execute(addressed(of.values(**_checked(given), updated_at=func.clock_timestamp())))
    return get(session, list_id)


def describe(session: Session, list_id: str, ref: FeatureRef, description: str) -> ItemView:
    """A feature of the list, with another description; raises as `add`."""
    item, source_id = _item(session, list_id, ref)
    text = written_text.checked(description, "description", most=MOST_DESCRIPTION)
    of = update(FeatureListItem).where(*_is_item(list_id, source_id, ref.index))
    session.execute(addressed(of.values(description=text)))
    _touch(session, list_id)
    return ItemView(list_id, ref, text, item.added_at)


def remove(session: Session, list_id: str, ref: FeatureRef) -> ItemView:
    """Take a feature out of a list; returns what it was. Raises as `add`."""
    item, source_id = _item(session, list_id, ref)
    session.execute(addressed(deletion(FeatureListItem).where(*_is_item(list_id, source_id, ref.index))))
    _touch(session, list_id)
    return item


def delete(session: Session, list_id: str) -> None:
    """Delete a list with its comments; raises as `add`."""
    _own(session, list_id)
    session.execute(addressed(deletion(FeatureList).where(FeatureList.id == list_id)))


_OWNER = (Account, Account.id == FeatureList.owner_id)
_N_ITEMS = (
    select(func.count())
    .select_from(FeatureListItem)
    .where(FeatureListItem.list_id == FeatureList.id)
    .correlate(FeatureList)
    .scalar_subquery()
)
_LIST_COLUMNS = (
    FeatureList.id, FeatureList.owner_id, Account.name.label("owner"), FeatureList.name,
    FeatureList.description.label("about"), FeatureList.default_test_text, FeatureList.visibility,
    FeatureList.created_at, FeatureList.updated_at, _N_ITEMS.label("n_items"),
)  # fmt: skip
_LISTS: AnySelect = select(*_LIST_COLUMNS).outerjoin(*_OWNER)
# A row has a method `index`, so the column of that name is read under another.
_ITEM_COLUMNS = (
    FeatureListItem.list_id, Source.model_id, Source.name.label("source"), FeatureListItem.index.label("number"),
    FeatureListItem.description.label("why"), FeatureListItem.added_at,
)  # fmt: skip
_ITEMS: AnySelect = (
    select(*_ITEM_COLUMNS).join(Source, Source.id == FeatureListItem.source_id).where(Source.model_id.is_not(None))
)


def _as_shown(session: Session, view: ListView, query: AnySelect) -> AnySelect:
    is_own_list = access.owns(access.viewer_of(session), view.owner_id)
    return query if view.visibility == "public" and not is_own_list else addressed(query)


def _own(session: Session, list_id: str) -> ListView:
    view = get(session, list_id)
    access.check_may_change(access.viewer_of(session), view.owner_id)
    return view


def _item(session: Session, list_id: str, ref: FeatureRef) -> tuple[ItemView, int]:
    """A feature of a list that is one's own, and its source's row."""
    _own(session, list_id)
    source_id = feature_addresses.source_id(session, ref)
    query = _ITEMS.where(*_is_item(list_id, source_id, ref.index))
    row = session.execute(addressed(query)).one_or_none()
    if row is None:
        raise errors.NotFoundError(f"The list has no feature '{ref}'.", hint="Its page shows those it has.")
    return _item_view(row), source_id


def _named(session: Session, list_id: str, source_ids: Collection[int]) -> list[ItemView]:
    query = _ITEMS.where(FeatureListItem.list_id == list_id, FeatureListItem.source_id.in_(source_ids))
    return [_item_view(row) for row in session.execute(addressed(query))]


def _is_item(list_id: str, source_id: int, index: int) -> tuple[Any, ...]:
    return FeatureListItem.list_id == list_id, FeatureListItem.source_id == source_id, FeatureListItem.index == index


def _insert(session: Session, list_id: str, new: Sequence[NewItem], source_ids: dict[FeatureRef, int]) -> None:
    rows = {
        item.ref: {
            "list_id": list_id, "source_id": source_ids[item.ref], "index": item.ref.index,
            "description": written_text.checked(item.description, "description", most=MOST_DESCRIPTION),
        }
        for item in new
    }  # fmt: skip
    if not rows:
        return
    adding = insert(FeatureListItem).values(list(rows.values()))
    described = func.coalesce(func.nullif(adding.excluded.description, ""), FeatureListItem.description)
    session.execute(adding.on_conflict_do_update(constraint="feature_list_item_pkey", set_={"description": described}))
    n_now = select(func.count()).select_from(FeatureListItem).where(FeatureListItem.list_id == list_id)
    if session.execute(unrestricted(n_now)).scalar_one() > MOST_ITEMS:
        raise errors.ConflictError(f"A list has at most {MOST_ITEMS:,} features.", hint="Make another list.")


def _touch(session: Session, list_id: str) -> None:
    of = update(FeatureList).where(FeatureList.id == list_id)
    session.execute(addressed(of.values(updated_at=func.clock_timestamp())))


def _checked(given: ListText) -> dict[str, str]:
    if given.visibility not in VISIBILITIES:
        raise errors.InvalidInputError(
            f"'{given.visibility[:40]}' is not a visibility.",
            hint=f"Choose {', '.join(VISIBILITIES[:-1])} or {VISIBILITIES[-1]}.",
        )
    return {
        "name": written_text.checked(given.name, "name of the list", least=1, most=MOST_NAME),
        "description": written_text.checked(given.description, "description", most=MOST_DESCRIPTION),
        "default_test_text": written_text.checked(given.default_test_text, "test text", most=MOST_TEST_TEXT),
        "visibility": given.visibility,
    }


def _list_view(row: Any) -> ListView:
    return ListView(
        row.id, row.owner_id, row.owner or "", row.name, row.about, row.default_test_text, row.visibility,
        row.created_at, row.updated_at, row.n_items,
    )  # fmt: skip


def _item_view(row: Any) -> ItemView:
    return ItemView(row.list_id, FeatureRef(row.model_id, row.source, row.number), row.why, row.added_at)
