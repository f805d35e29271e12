"""A saved run of steering: both texts as they were written, and the way to write them anew."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from backend import names
from backend.formats.messages import Generated, Sampling, Turn
from backend.names import FeatureRef
from backend.services import catalog, features, steering, vectors
from backend.services.catalog import ModelFacts
from backend.services.features import FeatureRow
from backend.services.steering import Asked, Run, SteeredFeature
from backend.web import rendering, steered_text
from backend.web.dependencies import DbSession
from backend.web.pages.steering import ADD, BY_ID, CLAMP, DEFAULTS, Method
from backend.web.steered_text import Piece

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

RECONSTRUCT = "RECONSTRUCT"


@dataclass(frozen=True, slots=True)
class Pushed:
    """A feature the run was steered with."""

    ref: FeatureRef
    method: Method | None
    """None: everything went through the source."""
    strength: float | None
    """With the multiplier; None where none was read."""
    is_in_multiples: bool
    """The strength counts the feature's largest activations."""
    label: str
    """What a vector is called; empty for what has no name."""
    fires_on: tuple[str, ...]
    is_vector: bool


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two texts."""

    id: str
    title: str
    before: tuple[Turn, ...]
    """The prompt, or the chat before the answer."""
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class SteeredContext:
    """What `pages/steer_run.html` shows."""

    model: ModelFacts
    created_at: datetime
    is_chat: bool
    pushed: tuple[Pushed, ...]
    sampling: Sampling
    sides: tuple[Side, Side]
    is_comparable: bool
    """Both were asked the same."""
    n_same: int
    """Tokens both begin with."""
    n_tokens: tuple[int, int]
    try_url: str


@router.get("/steer/{run_id}")
def show(request: Request, session: DbSession, run_id: str) -> HTMLResponse:
    """The run; whoever has its address may read it, as far as they may see what it is about."""
    run = steering.load(session, catalog.as_key(run_id))
    asked = run.asked
    refs = [FeatureRef(asked.model, each.source, each.index) for each in asked.features]
    own = vectors.named(session, asked.model, {(ref.source, ref.index) for ref in refs})
    labels = {FeatureRef(asked.model, *address): view.label for address, view in own.items()}
    page = context(run, catalog.model_facts(session, asked.model), features.named(session, refs), labels)
    return rendering.respond(request, "pages/steer_run.html", page)


def context(
    run: Run, model: ModelFacts, rows: Mapping[FeatureRef, FeatureRow], labels: Mapping[FeatureRef, str]
) -> SteeredContext:
    """The page. `rows` are the features that have dashboards, `labels` those of vectors of somebody's own."""
    asked, default, steered = run.asked, run.answer.default, run.answer.steered
    own_default, own_steered, n_same = steered_text.differing(
        [token.token for token in default.tokens], [token.token for token in steered.tokens]
    )
    return SteeredContext(
        model=model,
        created_at=run.created_at,
        is_chat=asked.kind == "chat",
        pushed=tuple(_pushed(asked, each, rows, labels) for each in asked.features),
        sampling=asked.sampling,
        sides=(
            _side("default", "As it is", asked, asked.default_chat, default, own_default),
            _side("steered", "Steered", asked, asked.steered_chat, steered, own_steered),
        ),
        is_comparable=asked.default_chat == asked.steered_chat,
        n_same=n_same,
        n_tokens=(len(default.tokens), len(steered.tokens)),
        try_url=try_url(asked),
    )


def try_url(asked: Asked) -> str:
    """The page of steering with the same settings; of a chat with its first message."""
    pushes = [_address(asked, each) for each in asked.features if _method(asked, each) != RECONSTRUCT]
    through = [each.source for each in asked.features if _method(asked, each) == RECONSTRUCT]
    return names.steer_url(asked.model, *pushes, through=through, **_query(asked))


def _pushed(
    asked: Asked, feature: SteeredFeature, rows: Mapping[FeatureRef, FeatureRow], labels: Mapping[FeatureRef, str]
) -> Pushed:
    ref, method = FeatureRef(asked.model, feature.source, feature.index), _method(asked, feature)
    row = rows.get(ref)
    return Pushed(
        ref=ref,
        method=BY_ID.get(method),
        strength=None if method in steering.WITHOUT_STRENGTH else _strength(asked, feature),
        is_in_multiples=method == CLAMP,
        label=labels.get(ref, ""),
        fires_on=row.fires_on if row else (),
        is_vector=ref in labels,
    )


def _side(id_: str, title: str, asked: Asked, chat: tuple[Turn, ...], text: Generated, is_own: list[bool]) -> Side:
    before = chat if asked.kind == "chat" else (Turn(role="user", content=asked.prompt),)
    return Side(id_, title, before, steered_text.pieces(text.text, text.tokens, is_own))


def _address(asked: Asked, feature: SteeredFeature) -> str:
    method = _method(asked, feature)
    return names.steered(feature.source, feature.index, _strength(asked, feature), "" if method == ADD else method)


def _method(asked: Asked, feature: SteeredFeature) -> str:
    return feature.method or asked.method


def _strength(asked: Asked, feature: SteeredFeature) -> float | None:
    return None if feature.strength is None else feature.strength * asked.strength_multiplier


def _query(asked: Asked) -> dict[str, str | int | float]:
    """The prompt, and the sampling as far as it is not the page's own."""
    sampling = asked.sampling
    all_of_it: dict[str, str | int | float] = {
        "mode": "chat" if asked.kind == "chat" else "text",
        "system": _first(asked.default_chat, "system"),
        "prompt": _first(asked.default_chat, "user") if asked.kind == "chat" else asked.prompt,
        "n_tokens": sampling.n_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "freq_penalty": sampling.frequency_penalty,
        "seed": sampling.seed,
        "special": int(asked.are_special_tokens_pushed),
    }
    return {key: value for key, value in all_of_it.items() if value != getattr(DEFAULTS, key)}


def _first(chat: tuple[Turn, ...], role: str) -> str:
    return next((turn.content for turn in chat if turn.role == role), "")
