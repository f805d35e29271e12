"""Pages of lists of features: all that the reader sees, and one with its features, comments and forms."""

import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from sqlalchemy.orm import Session

from backend import errors, names
from backend.services import access, bookmarks, comments, feature_lists, features
from backend.services.access import VISIBILITIES, Viewer
from backend.services.bookmarks import BookmarkView
from backend.services.comments import CommentView
from backend.services.feature_lists import ListText, ListView, NewItem
from backend.web import callers, embedding, links, list_cards, rendering
from backend.web.dependencies import DbSession, Viewing
from backend.web.list_cards import Card

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

PER_PAGE = 50
N_PUBLIC = 200
Field = Annotated[str, Form()]


@dataclass(frozen=True, slots=True)
class ListsContext:
    """What `pages/lists.html` shows."""

    own: tuple[ListView, ...]
    public: tuple[ListView, ...]
    """Of others."""
    bookmarks: tuple[BookmarkView, ...]


@dataclass(frozen=True, slots=True)
class ListContext:
    """What `pages/list.html` shows."""

    list: ListView
    cards: tuple[Card, ...]
    comments: tuple[CommentView, ...]
    n_total: int
    """Features of the whole list, as the reader sees it."""
    page: int
    n_pages: int
    can_change: bool
    steer_url: str
    url: str
    """With the site's name."""
    code: str
    """To embed it with."""
    is_embedded: bool = False
    visibilities: tuple[str, ...] = VISIBILITIES


@router.get("/lists")
def show_all(request: Request, session: DbSession, viewer: Viewing) -> HTMLResponse:
    """The reader's own lists and bookmarks, and the lists that are for everybody."""
    may_own = viewer.account_id is not None or viewer.is_admin
    own = feature_lists.owned(session) if may_own else ()
    those = {view.id for view in own}
    public = tuple(view for view in feature_lists.public(session, n=N_PUBLIC) if view.id not in those)
    page = ListsContext(own, public, bookmarks.owned(session) if may_own else ())
    return rendering.respond(request, "pages/lists.html", page)


@router.post("/lists")
def create(session: DbSession, name: Field = "") -> RedirectResponse:
    """Makes an empty list."""
    return _to(feature_lists.create(session, ListText(name=name)).id)


@router.get("/list/{list_id}")
def show(
    request: Request, session: DbSession, viewer: Viewing, list_id: str, page: Annotated[int, Query(ge=1, le=10**6)] = 1
) -> HTMLResponse:
    """A list; bare where it is embedded."""
    site = callers.site_url(request.headers, request.app.state.settings)
    is_embedded = embedding.is_asked(request.query_params)
    shown = context(session, viewer, list_id, page=page, site=site, is_embedded=is_embedded)
    response = rendering.respond(request, "pages/list.html", shown)
    return embedding.frameable(response) if is_embedded else response


@router.post("/list/{list_id}/edit")
def edit(
    session: DbSession, list_id: str, name: Field = "", description: Field = "", test_text: Field = "",
    visibility: Field = "unlisted",
) -> RedirectResponse:  # fmt: skip
    """Changes what the list says, and who sees it."""
    text = ListText(name=name, description=description, default_test_text=test_text, visibility=visibility)
    return _to(feature_lists.change(session, list_id, text).id)


@router.post("/list/{list_id}/add")
def add(session: DbSession, viewer: Viewing, list_id: str, features: Field = "") -> RedirectResponse:
    """Puts features into it, named by their addresses with white space or commas between."""
    access.check_may_change(viewer, feature_lists.get(session, list_id).owner_id)
    refs = [names.parse_feature_ref(each) for each in re.split(r"[\s,]+", features) if each]
    if not refs:
        raise errors.InvalidInputError("No feature is named.", hint="Write model/source/index.")
    feature_lists.add(session, list_id, [NewItem(ref) for ref in refs])
    return _to(list_id)


@router.post("/list/{list_id}/describe")
def describe(session: DbSession, list_id: str, feature: Field = "", description: Field = "") -> RedirectResponse:
    """Changes what the list says of a feature in it."""
    feature_lists.describe(session, list_id, _known(session, list_id, feature), description)
    return _to(list_id, feature)


@router.post("/list/{list_id}/remove")
def remove(session: DbSession, list_id: str, feature: Field = "") -> RedirectResponse:
    """Takes a feature out of it."""
    feature_lists.remove(session, list_id, _known(session, list_id, feature))
    return _to(list_id)


@router.post("/list/{list_id}/delete")
def delete(session: DbSession, list_id: str) -> RedirectResponse:
    """Deletes it with its comments."""
    feature_lists.delete(session, list_id)
    return RedirectResponse(links.lists_url(), 303)


@router.post("/list/{list_id}/comments")
def comment(session: DbSession, list_id: str, text: Field = "") -> RedirectResponse:
    """Says something of it."""
    comments.add_to_list(session, list_id, text)
    return _to(list_id, "comments")


@router.post("/list/{list_id}/comments/{list_comment_id}/delete")
def delete_comment(session: DbSession, list_id: str, list_comment_id: str) -> RedirectResponse:
    """Deletes a comment."""
    feature_lists.get(session, list_id)
    comments.delete_of_list(session, list_comment_id)
    return _to(list_id, "comments")


def context(
    session: Session, viewer: Viewer, list_id: str, *, page: int = 1, site: str, is_embedded: bool = False
) -> ListContext:
    """A page of the list; raises `NotFoundError`."""
    view = feature_lists.get(session, list_id)
    n_total = feature_lists.count(session, view)
    items = feature_lists.items(session, view, offset=(page - 1) * PER_PAGE, n=PER_PAGE)
    found = features.several(session, [item.ref for item in items], n_examples=list_cards.N_LINES)
    cards = list_cards.cards([(item.ref, item.description) for item in items], found, test_text=view.default_test_text)
    url = site + names.list_url(view.id)
    return ListContext(
        list=view,
        cards=cards,
        comments=() if is_embedded else comments.of_list(session, view.id),
        n_total=n_total,
        page=page,
        n_pages=max(1, -(-n_total // PER_PAGE)),
        can_change=not is_embedded and access.may_change(viewer, view.owner_id),
        steer_url=list_cards.steer_url(cards),
        url=url,
        code=embedding.code(url, view.name),
        is_embedded=is_embedded,
    )


def _known(session: Session, list_id: str, feature: str) -> names.FeatureRef:
    """The feature a form names; the list comes first, so that nobody hears of one they may not see."""
    access.check_may_change(access.viewer_of(session), feature_lists.get(session, list_id).owner_id)
    return names.parse_feature_ref(feature)


def _to(list_id: str, part: str = "") -> RedirectResponse:
    return RedirectResponse(names.list_url(list_id) + (f"#{part}" if part else ""), 303)
