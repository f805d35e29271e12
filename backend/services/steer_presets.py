"""What a steering page offers to begin with: features of a model's own sources that are likely to show, and prompts.

Features are chosen by rule, so that the same rows give the same choice: from the sources nearest to the middle of the
model, where steering tells most, those that are alive, fire seldom, and push few tokens far above the rest (the
kurtosis of their logits), one for each word they push most. Their strength is three times their largest activation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Feature
from backend.services import catalog, vectors
from backend.services.catalog import ModelFacts, ModelView, SourceView

N_SOURCES = 3
N_FEATURES = 3
"""Of each source."""
TIMES_THE_MAX = 3.0
MAX_DENSITY = 0.01
"""Of features that fire more often one cannot say what they are about."""
MIN_FIRINGS = 10
_N_LOOKED_AT = 50
_N_TOKENS = 3
"""In a name."""
_SHORTEST_WORD = 3


@dataclass(frozen=True, slots=True)
class PresetFeature:
    """A feature or a vector, and a strength that shows."""

    source: str
    index: int
    strength: float
    explanation: str
    """The tokens it fires on; of a vector its label."""


@dataclass(frozen=True, slots=True)
class Preset:
    """Features to steer with together."""

    name: str
    """The tokens they push; of a vector its label."""
    features: tuple[PresetFeature, ...]
    is_own_vector: bool
    """It is a vector of who asks."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text to go on with."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Presets:
    """What there is to begin with."""

    model: ModelFacts
    prompts: tuple[Prompt, ...]
    """The first is the one to show."""
    presets: tuple[Preset, ...]
    """Features first, then vectors of who asks."""


PROMPTS = (
    Prompt("Story", "Once upon a time"),
    Prompt("About oneself", "My name is"),
    Prompt("Opinion", "The most important thing in life is"),
    Prompt("Journey", "Yesterday I went to"),
)


def of_model(session: Session, model: str) -> Presets:
    """The presets of a model; raises `NotFoundError`. Features of unlisted sources are not among them."""
    shown = catalog.model(session, model)
    chosen: dict[str, Preset] = {}
    for source in _in_the_middle(shown)[:N_SOURCES]:
        n_before = len(chosen)
        for row in _candidates(session, source):
            word = _word(row.promotes[0]) if row.promotes else ""
            if word and word not in chosen:
                chosen[word] = _preset(source.name, row)
            if len(chosen) == n_before + N_FEATURES:
                break
    own = [_preset_of_vector(each) for each in vectors.owned(session, model=model)]
    return Presets(shown, PROMPTS, (*chosen.values(), *own))


def _in_the_middle(model: ModelView) -> list[SourceView]:
    """SAEs with weights and dashboards, those nearest to the middle of the model first."""
    middle = ((model.n_layers or 1) - 1) / 2
    saes = [
        each
        for each in model.sources
        if each.kind == "sae" and each.has_weights and each.revision_id is not None and not each.is_partial
    ]
    return sorted(saes, key=lambda source: (abs(source.layer - middle), source.name))


def _candidates(session: Session, source: SourceView) -> list[Any]:
    """Features that may do, the clearest first."""
    columns = (Feature.index.label("number"), Feature.max_activation, Feature.fires_on, Feature.promotes)
    query = select(*columns).where(
        Feature.revision_id == source.revision_id, Feature.n_firings >= MIN_FIRINGS, Feature.density <= MAX_DENSITY,
        Feature.max_activation > 0, Feature.logit_kurtosis.is_not(None),
    )  # fmt: skip
    return list(session.execute(query.order_by(Feature.logit_kurtosis.desc(), Feature.index).limit(_N_LOOKED_AT)))


def _word(token: str) -> str:
    """The token as a word, in lower case; empty if it is none: pieces of words and signs say little."""
    word = token.strip()
    return word.casefold() if word.isalpha() and len(word) >= _SHORTEST_WORD else ""


def _preset(source: str, row: Any) -> Preset:
    # two digits: nobody wants to read more, and a small strength stays above zero
    strength = float(f"{TIMES_THE_MAX * row.max_activation:.2g}")
    feature = PresetFeature(source, row.number, strength, _listed(row.fires_on))
    return Preset(_listed(row.promotes[:_N_TOKENS]), (feature,), is_own_vector=False)


def _listed(tokens: Sequence[str]) -> str:
    return ", ".join(filter(None, (token.strip() for token in tokens)))


def _preset_of_vector(vector: vectors.VectorView) -> Preset:
    name = vector.label or str(vector.ref)
    feature = PresetFeature(vector.source, vector.index, vector.default_strength, name)
    return Preset(name, (feature,), is_own_vector=True)
