"""Features of a list as its page shows them: each with a few of its top contexts as lines of a concordance."""

from collections.abc import Sequence
from dataclasses import dataclass

from backend import names
from backend.names import FeatureRef
from backend.services.features import FeatureView
from backend.web import concordance, links
from backend.web.concordance import Line
from backend.web.pages import steering

N_LINES = 3
"""Contexts of each feature."""


@dataclass(frozen=True, slots=True)
class Card:
    """A feature of a list."""

    ref: FeatureRef
    description: str
    """What the list says of it; empty for nothing."""
    feature: FeatureView | None
    """None before its dashboard is computed, or where it is not hosted."""
    lines: tuple[Line, ...]
    url: str
    """Of its page, which tries the list's test text."""
    steer_url: str


def cards(
    named: Sequence[tuple[FeatureRef, str]], views: Sequence[FeatureView | None], *, test_text: str = ""
) -> tuple[Card, ...]:
    """Cards of features (address, what is said of it), with what `features.several` found of each."""
    return tuple(_card(*each, view, test_text) for each, view in zip(named, views, strict=True))


def steer_url(shown: Sequence[Card]) -> str:
    """The steering page with the features of the first one's model, as many as it takes; empty without features."""
    found = [card for card in shown if card.feature is not None]
    if not found:
        return ""
    model = found[0].ref.model
    of_model = [card for card in found if card.ref.model == model][: steering.MOST_FEATURES]
    chosen = [names.steered(card.ref.source, card.ref.index, _strength(card.feature)) for card in of_model]
    return names.steer_url(model, *chosen)


def _card(ref: FeatureRef, description: str, view: FeatureView | None, test_text: str) -> Card:
    texts = (test_text,) if test_text else ()
    url = links.tried_url(ref.model, ref.source, ref.index, texts)
    if view is None:
        return Card(ref, description, None, (), url, names.steer_url(ref.model, names.steered(ref.source, ref.index)))
    ends = concordance.Range(view.max_value, min(0.0, view.min_value))
    examples = [
        example for group in view.groups if group.is_top and not group.is_negative for example in group.examples
    ]
    lines = [concordance.line(each, ends.maximum, minimum=ends.minimum) for each in examples[:N_LINES]]
    return Card(ref, description, view, tuple(lines), url, steering.url_of(view))


def _strength(view: FeatureView | None) -> float:
    return steering.default_strength(view.max_value if view else 0.0)
