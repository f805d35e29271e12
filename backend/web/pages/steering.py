"""The page where a model is steered, and a saved run of it. Its script runs the model over REST (`api/steering`).

Everything chosen is in the address, so it can be shared before anything runs:
`?feature=SOURCE/INDEX:STRENGTH:METHOD` for each feature, `through=SOURCE`, `prompt`, `mode`, `system` and the sampling.
What the address names and is not there is said on the page, which works with the rest.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from backend import errors, names
from backend.names import FeatureRef
from backend.services import catalog, features, inference, steer_presets, vectors
from backend.services.catalog import ModelFacts, ModelView, SourceView
from backend.services.features import FeatureRow, FeatureView
from backend.services.steer_presets import Preset
from backend.services.vectors import VectorView
from backend.settings import Settings
from backend.web import rendering
from backend.web.dependencies import DbSession

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

PRESETS = (("−1", -1.0), ("0", 0.0), ("½", 0.5), ("1", 1.0), ("3", 3.0), ("10", 10.0))
"""Multiples of a feature's largest activation."""
DEFAULT_MULTIPLE = 3.0
UNKNOWN_STRENGTH = 10.0
"""Where a feature has no activations to go by."""
MOST_FEATURES = 32
MOST_SEED = 10**8
MOST_TOKENS = 10**6
DEFAULT_TOKENS = 64
_CHOSEN = re.compile(
    r"(?P<source>[A-Za-z0-9][A-Za-z0-9._-]{0,127})/(?P<index>\d{1,9})"
    r"(?::(?P<strength>-?\d+(?:\.\d+)?(?:e[+-]?\d{1,3})?)(?::(?P<method>[A-Z_]+))?)?"
)


@dataclass(frozen=True, slots=True)
class Method:
    """A way to push, under the name the API has for it."""

    id: str
    name: str
    meaning: str
    has_strength: bool = True


ADD, CLAMP = "SIMPLE_ADDITIVE", "CLAMP"
METHODS = (
    Method(ADD, "add", "Strength × the feature's direction is added at every token."),
    Method(
        "ORTHOGONAL_DECOMP", "orthogonal", "What lies along the direction is taken out, then strength × it is added."
    ),
    Method("PROJECTION_CAP", "cap", "What lies along the direction is kept at or below the strength."),
    Method(CLAMP, "clamp", "The feature's activation is held at this multiple of its largest, whatever the text."),
    Method("ABLATE", "ablate", "What the feature writes is taken out wherever it fires.", has_strength=False),
)
BY_ID = {method.id: method for method in METHODS}


class Asked(BaseModel):
    """The query of the page's address."""

    model_config = ConfigDict(frozen=True)

    feature: list[str] = []
    through: list[str] = []
    mode: Literal["text", "chat"] = "text"
    prompt: str = ""
    system: str = ""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.5
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    n_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    """None: the page's default for the model."""
    freq_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    seed: Annotated[int, Field(ge=-MOST_SEED, le=MOST_SEED)] = 0
    special: bool = True
    """Push at a chat template's special tokens too."""


DEFAULTS = Asked()


@dataclass(frozen=True, slots=True)
class Chosen:
    """A feature as the address names it."""

    ref: FeatureRef
    strength: float | None
    """None: the page's default."""
    method: str


@dataclass(frozen=True, slots=True)
class Slider:
    """The ends of a slider and its step; the ends are whole steps."""

    low: float
    high: float
    step: float


@dataclass(frozen=True, slots=True)
class Card:
    """A chosen feature with what is known of it."""

    ref: FeatureRef
    label: str
    """What a vector is called; empty for what has no name."""
    fires_on: tuple[str, ...]
    promotes: tuple[str, ...]
    max_activation: float
    """0: it is dead, has no dashboard, or is a vector of somebody's own."""
    strength: float
    """In the units of activations; to clamp, in multiples of the largest."""
    method: str
    is_vector: bool = False
    """Of somebody's own: it has no page and no activations."""

    @property
    def unit(self) -> float:
        """What a strength of one largest activation is."""
        if self.method == CLAMP:
            return 1.0
        return self.max_activation or max(abs(self.strength), UNKNOWN_STRENGTH) / DEFAULT_MULTIPLE

    @property
    def slider(self) -> Slider:
        """From −3 to 10 times the largest activation, or as far as the strength."""
        step = 10.0 ** math.floor(math.log10(self.unit / 10))
        low, high = min(-3 * self.unit, self.strength), max(10 * self.unit, self.strength)
        return Slider(_rounded(math.floor(low / step) * step), _rounded(math.ceil(high / step) * step), _rounded(step))

    @property
    def presets(self) -> tuple[tuple[str, float], ...]:
        """Names and strengths; none without a largest activation."""
        return tuple((name, _short(k * self.unit)) for name, k in PRESETS) if self.max_activation else ()


@dataclass(frozen=True, slots=True)
class SteerContext:
    """What `pages/steer.html` shows."""

    model: ModelFacts
    others: tuple[ModelFacts, ...]
    """Other models that can be steered."""
    sources: tuple[SourceView, ...]
    """Whose features can be chosen, by layer."""
    own: tuple[VectorView, ...]
    """Vectors of the reader's own, which can be chosen too."""
    presets: tuple[Preset, ...]
    """Features to begin with."""
    cards: tuple[Card, ...]
    problems: tuple[str, ...]
    """What the address asks for and is not there; each a sentence."""
    asked: Asked
    n_tokens: int
    """By default: no more than half of the model's context."""
    is_live: bool
    """A live worker was heard from."""
    example: str = steer_presets.PROMPTS[0].text
    """A prompt to begin with."""
    methods: tuple[Method, ...] = METHODS
    defaults: Asked = DEFAULTS


@router.get("/steer")
def choose(session: DbSession) -> RedirectResponse:
    """Leads to the page of the first model that can be steered."""
    first = next((model for model in catalog.models(session) if model.sources), None)
    if first is None:
        raise errors.NotFoundError("No model with features is hosted yet.", hint="The home page says how to add one.")
    return RedirectResponse(names.steer_url(first.id), 303)


@router.get("/{model}/steer")
def show(request: Request, session: DbSession, model: str, asked: Annotated[Asked, Query()]) -> HTMLResponse:
    """Features to choose, a prompt, and the two texts."""
    settings: Settings = request.app.state.settings
    chosen, _ = read_features(model, asked.feature)
    models = catalog.models(session)
    sources = catalog.sources_named(session, model, [*(each.ref.source for each in chosen), *asked.through])
    facts = _model(session, model, models, sources)
    known = Known(
        models=models,
        sources=sources,
        rows=features.named(session, [each.ref for each in chosen]),
        vectors=vectors.named(session, model, {(each.ref.source, each.ref.index) for each in chosen}),
        own=vectors.owned(session, model=model),
        presets=() if chosen or facts not in models else steer_presets.of_model(session, model).presets,
        is_live=inference.is_worker_alive(session, heartbeat_s=settings.heartbeat_s),
    )
    return rendering.respond(request, "pages/steer.html", context(facts, known, asked))


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the database says of what an address asks for."""

    models: Sequence[ModelView]
    """All that are in lists."""
    sources: Sequence[SourceView]
    """Those that the address names."""
    rows: Mapping[FeatureRef, FeatureRow]
    """Those of its features that have dashboards."""
    vectors: Mapping[tuple[str, int], VectorView]
    """Those of its features that are vectors of somebody's own, by source and index."""
    own: Sequence[VectorView]
    """The reader's own."""
    presets: Sequence[Preset]
    """Suggestions, where the address names no feature."""
    is_live: bool


def context(model: ModelFacts, known: Known, asked: Asked) -> SteerContext:
    """The page; what the address asks for and is not there becomes a sentence."""
    chosen, problems = read_features(model.id, asked.feature)
    listed = next((each.sources for each in known.models if each.id == model.id), ())
    sources = {source.name: source for source in (*listed, *known.sources)}
    cards = []
    for each in chosen:
        vector = known.vectors.get((each.ref.source, each.ref.index))
        source = sources.get(each.ref.source)
        if vector is not None:
            cards.append(_card_of_vector(each, vector))
        elif source is None:
            problems.append(f"No source '{each.ref.source}' of '{model.id}' is hosted.")
        elif not source.has_weights:
            problems.append(f"No weights of '{source.name}' are known, so nothing can be steered with its features.")
        elif each.ref.index >= source.d_sae:
            problems.append(f"'{source.name}' has no feature {each.ref.index}: it has 0 to {source.d_sae - 1}.")
        else:
            cards.append(_card(each, source, known.rows.get(each.ref)))
    problems += [f"No source '{name}' of '{model.id}' is hosted." for name in asked.through if name not in sources]
    runnable = (source for source in sources.values() if source.has_weights)
    return SteerContext(
        model=model,
        others=tuple(
            each for each in known.models if each.sources and each.weights is not None and each.id != model.id
        ),
        sources=tuple(sorted(runnable, key=lambda source: (source.layer, source.name))),
        own=tuple(known.own),
        presets=tuple(each for each in known.presets if not each.is_own_vector),
        cards=tuple(cards),
        problems=tuple(problems),
        asked=asked,
        n_tokens=min(DEFAULT_TOKENS, max(1, (model.n_context or MOST_TOKENS) // 2)),
        is_live=known.is_live,
    )


def read_features(model: str, texts: Sequence[str]) -> tuple[list[Chosen], list[str]]:
    """The features an address names, each once, and a sentence for each that cannot be read."""
    chosen: dict[FeatureRef, Chosen] = {}
    problems = []
    for text in texts:
        match = _CHOSEN.fullmatch(text)
        strength = float(match["strength"]) if match and match["strength"] else None
        if match is None or (match["method"] or ADD) not in BY_ID or not math.isfinite(strength or 0):
            problems.append(f"'{text}' in the address names no feature. Expected SOURCE/INDEX:STRENGTH:METHOD.")
            continue
        ref = FeatureRef(model, match["source"], int(match["index"]))
        chosen.setdefault(ref, Chosen(ref, strength, match["method"] or ADD))
    if len(chosen) > MOST_FEATURES:
        problems.append(f"The address names {len(chosen)} features; the first {MOST_FEATURES} are taken.")
    return list(chosen.values())[:MOST_FEATURES], problems


def url_of(feature: FeatureView) -> str:
    """The page, to begin with this feature."""
    source = feature.source
    return names.steer_url(source.model, names.steered(source.name, feature.index, default_strength(feature.max_value)))


def default_strength(max_activation: float) -> float:
    """Where a feature starts: three times its largest activation, in three digits."""
    return _short(DEFAULT_MULTIPLE * max_activation) or UNKNOWN_STRENGTH


def _card(chosen: Chosen, source: SourceView, row: FeatureRow | None) -> Card:
    greatest = row.max_activation if row else 0.0
    usual = DEFAULT_MULTIPLE if chosen.method == CLAMP else default_strength(greatest)
    return Card(
        ref=chosen.ref,
        label=source.label(chosen.ref.index),
        fires_on=row.fires_on if row else (),
        promotes=row.promotes if row else (),
        max_activation=greatest,
        strength=usual if chosen.strength is None else chosen.strength,
        method=chosen.method,
    )


def _card_of_vector(chosen: Chosen, vector: VectorView) -> Card:
    strength = vector.default_strength if chosen.strength is None else chosen.strength
    return Card(chosen.ref, vector.label, (), (), 0.0, strength, chosen.method, is_vector=True)


def _model(session: Session, model: str, models: Sequence[ModelView], named: Sequence[SourceView]) -> ModelFacts:
    """The model, which may be in no list and reached by the address of an unlisted source; raises `NotFoundError`."""
    listed = next((each for each in models if each.id == model), None)
    return listed or (catalog.model_facts(session, model) if named else catalog.model(session, model))


def _short(value: float) -> float:
    """Three digits are enough to push by."""
    return float(f"{value:.3g}")


def _rounded(value: float) -> float:
    """Without the last digits that binary fractions leave."""
    return float(f"{value:.10g}")
