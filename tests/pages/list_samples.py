"""Lists, comments and embedded pages as the services give them, and their pages."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from backend.names import FeatureRef
from backend.services.bookmarks import BookmarkView
from backend.services.comments import CommentView
from backend.services.feature_lists import ItemView, ListView
from backend.services.feature_notes import FeatureNotes
from backend.web import embedding, list_cards
from backend.web.embedding import Parts
from backend.web.list_cards import Card
from backend.web.pages import features
from backend.web.pages.lists import ListContext, ListsContext
from backend.web.pages.quick_list import QuickListContext
from tests.pages import samples

SITE = "http://localhost:3000"
LIST_ID = "Xk3vQ0pWlZ8aYt-2_b7Hfg"
REF = FeatureRef(samples.MODEL, samples.SOURCE, 12_345)


def a_list(**changes: object) -> ListView:
    """A list of somebody's; keyword arguments replace fields."""
    facts = {
        "id": LIST_ID, "owner_id": 1, "owner": "anna", "name": "Military <units>",
        "description": "Features that fire on units of armies.\nThe first one is the clearest.",
        "default_test_text": "The second brigade held the bridge.", "visibility": "unlisted", "created_at": samples.AT,
        "updated_at": samples.AT + timedelta(hours=5), "n_items": 3,
    }  # fmt: skip
    return ListView(**(facts | changes))


def said() -> tuple[CommentView, ...]:
    """A short comment and one of several lines."""
    return (
        CommentView("c1", 2, "ben", "Does it fire on “regiment” too?", samples.AT),
        CommentView(
            "c2", 1, "anna", "It does:\n\n  the regiment\n  <b>regiments</b>", samples.AT + timedelta(minutes=3)
        ),
    )


def notes() -> FeatureNotes:
    """Of a feature in one list, with comments."""
    item = ItemView(LIST_ID, REF, "The clearest of them", samples.AT)
    others = (a_list(id="other-1", name="Later"), a_list(id="other-2", name="Polysemantic"))
    return FeatureNotes(True, ((a_list(), item),), others, said())


def cards(test_text: str = "") -> tuple[Card, ...]:
    """Features with and without a description, a dead one, one that is not computed."""
    named = [
        (REF, "Fires on brigades, and on little else."), (FeatureRef(samples.MODEL, samples.SOURCE, 77), ""),
        (FeatureRef(samples.MODEL, "6-probes", 3), "A direction <of> ours"), (FeatureRef(samples.MODEL, "7-res-jb", 9), ""),
    ]  # fmt: skip
    views = [samples.feature(), samples.dead_feature(), samples.signed_feature(index=3), None]
    return list_cards.cards(named, views, test_text=test_text)


def a_page(**changes: Any) -> ListContext:
    """The page of a list of the reader's own; keyword arguments replace fields."""
    view = a_list()
    url = f"{SITE}/list/{view.id}"
    shown = cards(view.default_test_text)
    facts = {
        "list": view, "cards": shown, "comments": said(), "n_total": 104, "page": 2, "n_pages": 3, "can_change": True,
        "steer_url": list_cards.steer_url(shown), "url": url, "code": embedding.code(url, view.name),
    }  # fmt: skip
    return ListContext(**(facts | changes))


def a_feature(**changes: Any) -> features.FeatureContext:
    """A feature's page with what people keep and say of it."""
    view = samples.feature()
    return replace(features.context(view), notes=notes(), sharing=features.sharing(view, SITE), **changes)


def pages() -> dict[str, tuple[str, Any]]:
    """Template and context by name."""
    empty = {"cards": (), "n_total": 0, "page": 1, "n_pages": 1, "comments": (), "steer_url": ""}
    bookmarks = (
        BookmarkView("b1", REF, samples.AT),
        BookmarkView("b2", FeatureRef("gpt2-small", "7-mlp", 2), samples.AT),
    )
    own = (a_list(), a_list(id="other-2", name="Later", description="", n_items=0, visibility="private"))
    public = (a_list(id="other-3", name="Everybody's", owner="ben", owner_id=2, visibility="public"),)
    dead, signed = samples.dead_feature(), samples.signed_feature()
    return {
        "noted": ("pages/feature.html", a_feature()),
        "noted-dead": ("pages/feature.html", replace(features.context(dead), notes=FeatureNotes(False, (), (), ()))),
        "lists": ("pages/lists.html", ListsContext(own, public, bookmarks)),
        "no-lists": ("pages/lists.html", ListsContext((), (), ())),
        "list": ("pages/list.html", a_page()),
        "list-of-another": ("pages/list.html", a_page(can_change=False, n_pages=1, page=1)),
        "empty-list": ("pages/list.html", a_page(**empty)),
        "list-past-its-end": ("pages/list.html", a_page(cards=(), page=9)),
        "embedded-list": ("pages/list.html", a_page(can_change=False, comments=(), is_embedded=True)),
        "quick-list": ("pages/quick_list.html", QuickListContext("Brigades & co", cards(), "[]", "/gpt2-small/steer")),
        "no-quick-list": ("pages/quick_list.html", QuickListContext("Quick list", (), "", "")),
        "embedded": ("pages/embed.html", features.context(samples.feature())),
        "embedded-signed": ("pages/embed.html", replace(features.context(signed), texts=("The brigade",))),
        "embedded-dead": ("pages/embed.html", features.context(dead)),
        "embedded-part": (
            "pages/embed.html",
            replace(
                features.context(samples.feature()), texts=("The second brigade",),
                parts=Parts(plots=False, test_field=False, activations=False, link=False, steer=False),
            ),
        ),
    }  # fmt: skip
