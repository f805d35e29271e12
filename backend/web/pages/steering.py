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
from backend.services import catalog, features, inference
from backend.services.catalog import ModelFacts, ModelView, SourceView
from backend.services.features import FeatureRow
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
_CHOSEN = re.compile(
    r"(?P<source>[A-Za-z0-9][A-Za-z0-9._-]{0,127})/(?P<index>\d{1,9})"
    r"(?::(?P<strength>-?\d+(?:\.\d+)?(?:e[+-]?\d{1,2})?)(?::(?P<method>[A-Z_]+))?)?"
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
        "ORTHOGONAL_DECOMP", "replace", "What lies along the direction is taken out, then strength × it is added."
    ),
    Method("PROJECTION_CAP", "cap", "What lies along the direction is kept at or below the strength."),
    Method(CLAMP, "clamp", "The feature's activation is held at this multiple of its largest, whatever the text."),
    Method("ABLATE", "ablate", "What the feature writes is taken out wherever it fires.", has_strength=False),
)
_BY_ID = {method.id: method for method in METHODS}


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
    n_tokens: Annotated[int, Field(ge=1, le=4096)] = 64
    seed: Annotated[int, Field(ge=-(10**8), le=10**8)] = 0
    freq_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0


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
    cards: tuple[Card, ...]
    problems: tuple[str, ...]
    """What the address asks for and is not there; each a sentence."""
    asked: Asked
    is_live: bool
    """A live worker was heard from."""
    methods: tuple[Method, ...] = METHODS
    defaults: Asked = DEFAULTS


@router.get("/steer")
def choose(session: DbSession) -> RedirectResponse:
    """Leads to the page of the first model that can be steered."""
    models = _steerable(catalog.models(session))
    if not models:
        raise errors.NotFoundError("No model with features is hosted yet.", hint="The home page says how to add one.")
    return RedirectResponse(names.steer_url(models[0].id), 303)


@router.get("/{model}/steer")
def show(request: Request, session: DbSession, model: str, asked: Annotated[Asked, Query()]) -> HTMLResponse:
    """Features to choose, a prompt, and the two texts."""
    settings: Settings = request.app.state.settings
    chosen, problems = read_features(model, asked.feature)
    named = catalog.sources_named(session, model, [*(each.ref.source for each in chosen), *asked.through])
    models = catalog.models(session)
    page = context(
        _this(session, model, models, named),
        models,
        named,
        features.named(session, [each.ref for each in chosen]),
        asked,
        is_live=inference.is_worker_alive(session, heartbeat_s=settings.heartbeat_s),
    )
    return rendering.respond(request, "pages/steer.html", page)


def context(
    model: ModelFacts,
    models: Sequence[ModelView],
    named: Sequence[SourceView],
    rows: Mapping[FeatureRef, FeatureRow],
    asked: Asked,
    *,
    is_live: bool,
) -> SteerContext:
    """The page. `named` are the sources the address names, `rows` the features of it that have dashboards."""
    chosen, problems = read_features(model.id, asked.feature)
    listed = next((each.sources for each in models if each.id == model.id), ())
    sources = {source.name: source for source in (*listed, *named)}
    cards = []
    for each in chosen:
        try:
            cards.append(_card(each, sources.get(each.ref.source), rows.get(each.ref)))
        except errors.NotFoundError as error:
            problems.append(str(error))
    missing = [name for name in asked.through if name not in sources]
    problems += [f"No source '{name}' of '{model.id}' is hosted." for name in missing]
    return SteerContext(
        model=model,
        others=tuple(each for each in _steerable(models) if each.id != model.id),
        sources=tuple(sorted(sources.values(), key=lambda source: (source.layer, source.name))),
        cards=tuple(cards),
        problems=tuple(problems),
        asked=asked,
        is_live=is_live,
    )


def read_features(model: str, texts: Sequence[str]) -> tuple[list[Chosen], list[str]]:
    """The features an address names, each once, and a sentence for each that cannot be read."""
    chosen: dict[FeatureRef, Chosen] = {}
    problems = []
    for text in texts:
        match = _CHOSEN.fullmatch(text)
        if match is None or (match["method"] and match["method"] not in _BY_ID):
            problems.append(f"'{text}' in the address names no feature. Expected SOURCE/INDEX:STRENGTH:METHOD.")
            continue
        ref = FeatureRef(model, match["source"], int(match["index"]))
        strength = float(match["strength"]) if match["strength"] else None
        chosen.setdefault(ref, Chosen(ref, strength, match["method"] or ADD))
    if len(chosen) > MOST_FEATURES:
        problems.append(f"The address names {len(chosen)} features; the first {MOST_FEATURES} are taken.")
    return list(chosen.values())[:MOST_FEATURES], problems


def default_strength(max_activation: float) -> float:
    """Where a feature starts: three times its largest activation, in three digits."""
    return _short(DEFAULT_MULTIPLE * max_activation) or UNKNOWN_STRENGTH


def _card(chosen: Chosen, source: SourceView | None, row: FeatureRow | None) -> Card:
    """Raises `NotFoundError`."""
    ref = chosen.ref
    if source is None:
        raise errors.NotFoundError(f"No source '{ref.source}' of '{ref.model}' is hosted.")
    if ref.index >= source.d_sae:
        raise errors.NotFoundError(f"'{ref.source}' has no feature {ref.index}: its features are 0 to {source.d_sae - 1}.")
    greatest = row.max_activation if row else 0.0
    usual = DEFAULT_MULTIPLE if chosen.method == CLAMP else default_strength(greatest)
    return Card(
        ref=ref,
        label=source.label(ref.index),
        fires_on=row.fires_on if row else (),
        promotes=row.promotes if row else (),
        max_activation=greatest,
        strength=usual if chosen.strength is None else chosen.strength,
        method=chosen.method,
    )


def _this(session: Session, model: str, models: Sequence[ModelView], named: Sequence[SourceView]) -> ModelFacts:
    """The model, which may be in no list and reached by the address of an unlisted source; raises `NotFoundError`."""
    for each in models:
        if each.id == model:
            return each
    return catalog.origin(session, named[0])[0] if named else catalog.model(session, model)


def _steerable(models: Sequence[ModelView]) -> tuple[ModelView, ...]:
    return tuple(each for each in models if each.sources)


def _short(value: float) -> float:
    """Three digits are enough to push by."""
    return float(f"{value:.3g}")


def _rounded(value: float) -> float:
    """Without the last digits that binary fractions leave."""
    return float(f"{value:.6g}")
