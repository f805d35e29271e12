"""A list that is nowhere but in its address: `/quick-list?name=&features=`, as SAELens and others link to it.

`features` is a JSON array of `{modelId, layer, index, description}`, up to 150 of them, as in Neuronpedia
(hijohnnylin/neuronpedia at ebb8426f, `apps/webapp/app/quick-list`). A button saves it as a list of the reader's own.
"""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import TypeAdapter, ValidationError

from backend import errors, names
from backend.names import FeatureRef
from backend.services import feature_lists, features
from backend.services.feature_lists import ListText, NewItem
from backend.web import list_cards, rendering
from backend.web.dependencies import DbSession
from backend.web.list_cards import Card
from backend.web.list_schemas import ListedFeature

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

MOST_FEATURES = 150
_FEATURES = TypeAdapter(list[ListedFeature])
_HINT = 'It is a JSON array such as [{"modelId": "gpt2-small", "layer": "6-res-jb", "index": "12345"}].'


@dataclass(frozen=True, slots=True)
class QuickListContext:
    """What `pages/quick_list.html` shows."""

    name: str
    cards: tuple[Card, ...]
    features: str
    """As the address has them."""
    steer_url: str

    @property
    def n_unknown(self) -> int:
        """Features that have no dashboard here."""
        return sum(card.feature is None for card in self.cards)


@router.get("/quick-list")
def show(request: Request, session: DbSession, name: str = "", features: str = "") -> HTMLResponse:
    """The features the address names, each as in a list."""
    return rendering.respond(request, "pages/quick_list.html", context(session, name, features))


@router.post("/quick-list")
def save(
    session: DbSession, name: Annotated[str, Form()] = "", features: Annotated[str, Form()] = ""
) -> RedirectResponse:
    """Makes a list of it; features that are not hosted here are left out."""
    items = [NewItem(ref, description) for ref, description in read(features)]
    view = feature_lists.create(session, ListText(name=name.strip()[: feature_lists.MOST_NAME] or "Quick list"), items)
    return RedirectResponse(names.list_url(view.id), 303)


def context(session: DbSession, name: str, given: str) -> QuickListContext:
    """The page; raises `InvalidInputError` for features that cannot be read."""
    named = read(given)
    found = features.several(session, [ref for ref, _ in named], n_examples=list_cards.N_LINES)
    cards = list_cards.cards(named, found)
    return QuickListContext(name.strip() or "Quick list", cards, given, list_cards.steer_url(cards))


def read(given: str) -> list[tuple[FeatureRef, str]]:
    """The features (address, what is said of each), each once, in their order; raises `InvalidInputError`."""
    try:
        asked = _FEATURES.validate_json(given or "[]")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise errors.InvalidInputError(
            f"The address's features cannot be read: {f'{where}: ' if where else ''}{first['msg']}.", hint=_HINT
        ) from error
    if len(asked) > MOST_FEATURES:
        raise errors.InvalidInputError(
            f"The address names {len(asked)} features; a quick list has at most {MOST_FEATURES}.",
            hint="POST /api/list/new-with-features makes longer ones.",
        )
    refs = {FeatureRef(each.modelId, each.layer, each.index): each.description for each in asked}
    return list(refs.items())
