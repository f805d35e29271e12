"""Steering: what a request means for the live worker, and the runs that are kept.

1. `question`: each feature becomes a push, with the strength in the units activations have and the vector of what is a
   vector of somebody's own. Nobody steers with what they may not see.
2. The caller asks the live worker (`inference.Client`) with `Question.request`, and puts its replies together (`joined`).
3. `save`: a run is kept under a key of the question and of the state of the rows, so that its owner who asks the same
   again is answered by `find`. Whoever has its address may read it, as far as they may see every source in it, or its
   model where there is none (`visibility`); its owner deletes it, and so does who deletes a source of it (`removal`).
"""

import hashlib
import secrets
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, cast

import orjson
from pydantic import TypeAdapter
from sqlalchemy import delete as deletion
from sqlalchemy import select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Feature as FeatureRow
from backend.db.tables import Model, Source, SteerRun
from backend.formats import messages
from backend.names import FeatureRef
from backend.services import access, inference, vectors
from backend.services.visibility import addressed, unrestricted

Kind = Literal["completion", "chat"]
Method = Literal["SIMPLE_ADDITIVE", "ORTHOGONAL_DECOMP", "PROJECTION_CAP", "ABLATE", "CLAMP", "RECONSTRUCT"]
"""The first three are Neuronpedia's; `messages.Method` says what each does."""

METHODS: Mapping[Method, messages.Method] = {
    "SIMPLE_ADDITIVE": "add", "ORTHOGONAL_DECOMP": "orthogonal", "PROJECTION_CAP": "cap", "ABLATE": "ablate",
    "CLAMP": "clamp", "RECONSTRUCT": "reconstruct",
}  # fmt: skip
WITHOUT_STRENGTH = frozenset({"ABLATE", "RECONSTRUCT"})
MODEL_ROLE = "model"
"""Another name of the assistant."""
_OF_AN_SAE = frozenset({"CLAMP", "RECONSTRUCT"})
"""They need its encoder."""
_ANSWERS = 1
"""Part of the key of a run; raised where the same question gets another answer than before."""
_N_ID_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SteeredFeature:
    """A feature or a vector, as asked."""

    source: str
    index: int = 0
    strength: float | None = None
    """Before the multiplier; None: a vector's own, or not read."""
    method: Method | None = None
    """None: the request's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request for steered text; kept with its run."""

    kind: Kind
    model: str
    prompt: str = ""
    """Of a completion."""
    steered_chat: tuple[messages.Turn, ...] = ()
    default_chat: tuple[messages.Turn, ...] = ()
    features: tuple[SteeredFeature, ...] = ()
    method: Method = "SIMPLE_ADDITIVE"
    strength_multiplier: float = 1.0
    are_special_tokens_pushed: bool = True
    sampling: messages.Sampling


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask the live worker."""

    asked: Asked
    found: inference.Places
    pushes: tuple[messages.Push, ...]

    @property
    def key(self) -> bytes:
        """Equal for equal requests about the same state of the rows."""
        told = [_ANSWERS, self.asked, self.found.versions, self.pushes]
        return hashlib.sha256(orjson.dumps(told, option=orjson.OPT_SORT_KEYS)).digest()

    def request(self, header: Mapping[str, Any], *, is_streamed: bool) -> messages.SteerRequest:
        """As the live worker reads it; `header` is `inference.Client.header`'s."""
        return messages.SteerRequest(
            **header, prompt=self.asked.prompt, steered_chat=_as_templates_have_it(self.asked.steered_chat),
            default_chat=_as_templates_have_it(self.asked.default_chat), pushes=self.pushes,
            are_special_tokens_pushed=self.asked.are_special_tokens_pushed, sampling=self.asked.sampling,
            is_streamed=is_streamed,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """A run that was kept."""

    id: str
    owner_id: int | None
    """None: the host's operator's, or of somebody who was not signed in."""
    asked: Asked
    answer: messages.SteerReply
    """The last one, with all tokens."""
    created_at: datetime


def question(session: Session, asked: Asked) -> Question:
    """What `asked` means; three statements at most, however many features it has.

    Raises:
        NotFoundError: The model, a source or a feature is not hosted, or there is no such vector.
        InvalidInputError: A strength is missing.
        UnsupportedError: What is asked of a feature cannot be done to it.
    """
    own = vectors.named(session, asked.model, {(each.source, each.index) for each in asked.features})
    sources = dict.fromkeys(each.source for each in asked.features if (each.source, each.index) not in own)
    found = inference.places(session, asked.model, list(sources))
    greatest = max_activations(session, _clamped(asked, found))
    pushes = []
    for each in asked.features:
        vector = own.get((each.source, each.index))
        if vector is not None:
            pushes.append(_push_of_vector(asked, each, vector))
        else:
            pushes.append(_push_of_feature(asked, each, found.sources[each.source], greatest))
    return Question(asked, found, tuple(pushes))


def max_activations(session: Session, features: Collection[tuple[int, int]]) -> dict[tuple[int, int], float]:
    """The largest activations of features, by (revision, index), of those that have dashboards; one statement, or none."""
    if not features:
        return {}
    columns = (FeatureRow.revision_id, FeatureRow.index.label("number"), FeatureRow.max_activation)
    query = select(*columns).where(tuple_(FeatureRow.revision_id, FeatureRow.index).in_(features))
    return {(row.revision_id, row.number): row.max_activation for row in session.execute(query)}


def joined(so_far: messages.SteerReply | None, reply: messages.SteerReply) -> messages.SteerReply:
    """A streamed reply with the tokens of those before it."""
    if so_far is None:
        return reply
    steered = replace(reply.steered, tokens=so_far.steered.tokens + reply.steered.tokens)
    default = replace(reply.default, tokens=so_far.default.tokens + reply.default.tokens)
    return replace(reply, steered=steered, default=default)


# --- runs that are kept --------------------------------------------------------------------------------------------


def find(session: Session, asked: Question) -> Run | None:
    """The run in which who asks was answered the same before."""
    owner_id = access.viewer_of(session).account_id
    query = _RUNS.where(SteerRun.owner_id == owner_id, SteerRun.key == asked.key)
    row = session.execute(addressed(query)).one_or_none()
    return None if row is None else _run(row)


def save(session: Session, asked: Question, answer: messages.SteerReply, *, n_kept: int) -> str | None:
    """Keep a run of who asks, and the newest `n_kept` of theirs; its id, or None where a source is gone meanwhile."""
    source_ids = [place.id for place in asked.found.sources.values()]
    if not _are_hosted(session, asked.asked.model, source_ids):
        return None
    owner_id = access.viewer_of(session).account_id
    row = insert(SteerRun).values(
        id=secrets.token_urlsafe(_N_ID_BYTES), owner_id=owner_id, model_id=asked.asked.model, source_ids=source_ids,
        kind=asked.asked.kind, key=asked.key, request=zlib.compress(orjson.dumps(asked.asked)),
        outputs=zlib.compress(messages.write_reply(answer)),
    )  # fmt: skip
    # Asked twice at once, it was answered the same twice: the no-op update returns the row there is.
    added = row.on_conflict_do_update(index_elements=["owner_id", "key"], set_={"key": asked.key})
    run_id: str = session.execute(added.returning(SteerRun.id)).scalar_one()
    of_owner = select(SteerRun.id).where(SteerRun.owner_id == owner_id)
    old = of_owner.order_by(SteerRun.created_at.desc(), SteerRun.id.desc()).offset(n_kept)
    # those that another save deletes just now are skipped: two saves never wait for each other
    free = select(SteerRun.id).where(SteerRun.id.in_(old)).with_for_update(skip_locked=True)
    gone = deletion(SteerRun).where(SteerRun.id.in_(free)).execution_options(synchronize_session=False)
    session.execute(unrestricted(gone))
    return run_id


def load(session: Session, run_id: str) -> Run:
    """A run by its address; raises `NotFoundError`."""
    row = session.execute(addressed(_RUNS.where(SteerRun.id == run_id))).one_or_none()
    if row is None:
        raise _no_run(run_id)
    return _run(row)


def delete(session: Session, run_id: str) -> None:
    """Delete a run: its owner may, even where they may not see its sources any more, and admins.

    Raises `NotFoundError` for who may not see it, else as `access.check_may_change`.
    """
    viewer = access.viewer_of(session)
    row = session.execute(unrestricted(select(SteerRun.owner_id).where(SteerRun.id == run_id))).one_or_none()
    if row is None:
        raise _no_run(run_id)
    if not access.owns(viewer, row.owner_id):
        load(session, run_id)
    access.check_may_change(viewer, row.owner_id)
    session.execute(unrestricted(deletion(SteerRun).where(SteerRun.id == run_id)))


# --- below ---------------------------------------------------------------------------------------------------------


_RUNS = select(SteerRun.id, SteerRun.owner_id, SteerRun.request, SteerRun.outputs, SteerRun.created_at)
_asked: TypeAdapter[Asked] = TypeAdapter(Asked)


def _as_templates_have_it(chat: tuple[messages.Turn, ...]) -> tuple[messages.Turn, ...]:
    """Templates call the model's turns the assistant's, whatever they write."""
    return tuple(replace(turn, role="assistant") if turn.role == MODEL_ROLE else turn for turn in chat)


def _push_of_vector(asked: Asked, feature: SteeredFeature, vector: vectors.VectorView) -> messages.Push:
    method = feature.method or asked.method
    if method in _OF_AN_SAE:
        raise errors.UnsupportedError(
            f"'{vector.ref}' is a vector and has no activations, which {method} needs.",
            hint="Use SIMPLE_ADDITIVE, ORTHOGONAL_DECOMP, PROJECTION_CAP or ABLATE.",
        )
    strength = vector.default_strength if feature.strength is None else feature.strength
    return messages.Push(
        method=METHODS[method], strength=strength * asked.strength_multiplier, hook_point=vector.hook_point,
        vector=vector.values,
    )  # fmt: skip


def _push_of_feature(
    asked: Asked, feature: SteeredFeature, place: inference.Place, greatest: Mapping[tuple[int, int], float]
) -> messages.Push:
    ref = FeatureRef(asked.model, feature.source, feature.index)
    method = feature.method or asked.method
    if feature.index >= place.d_sae:
        raise errors.NotFoundError(
            f"'{ref.model}/{ref.source}' has no feature {ref.index}.", hint=f"It has 0 to {place.d_sae - 1}."
        )
    if method in WITHOUT_STRENGTH:
        return messages.Push(method=METHODS[method], source=ref.source, index=ref.index)
    if feature.strength is None:
        raise errors.InvalidInputError(f"'{ref}' has no strength.", hint=f"{method} needs one.")
    strength = feature.strength * asked.strength_multiplier
    if method == "CLAMP":
        strength *= _greatest(ref, place, greatest)
    return messages.Push(method=METHODS[method], strength=strength, source=ref.source, index=ref.index)


def _greatest(ref: FeatureRef, place: inference.Place, known: Mapping[tuple[int, int], float]) -> float:
    """The feature's largest activation on its corpus."""
    found = None if place.revision_id is None else known.get((place.revision_id, ref.index))
    if found is None:
        raise errors.UnsupportedError(
            f"CLAMP counts in multiples of the largest activation of '{ref}', which has no dashboard.",
            hint="Compute the dashboards of its source first, or use SIMPLE_ADDITIVE.",
        )
    if found <= 0:
        raise errors.UnsupportedError(
            f"CLAMP counts in multiples of the largest activation of '{ref}', which never fired on its corpus.",
            hint="Use SIMPLE_ADDITIVE.",
        )
    return found


def _clamped(asked: Asked, found: inference.Places) -> set[tuple[int, int]]:
    """Revision and index of the features to clamp, as far as they have dashboards."""
    features = [each for each in asked.features if (each.method or asked.method) == "CLAMP"]
    places = [(found.sources[each.source].revision_id, each.index) for each in features if each.source in found.sources]
    return {(revision_id, index) for revision_id, index in places if revision_id is not None}


def _are_hosted(session: Session, model: str, source_ids: list[int]) -> bool:
    """The model and all these sources of it; they stay until the transaction ends."""
    kept = select(Model.id).where(Model.id == model).with_for_update(read=True, key_share=True)
    sources = select(Source.id).where(Source.id.in_(source_ids), Source.model_id == model).order_by(Source.id)
    n_found = len(session.execute(unrestricted(sources.with_for_update(read=True))).all())
    return n_found == len(source_ids) and session.execute(unrestricted(kept)).one_or_none() is not None


def _run(row: Any) -> Run:
    return Run(
        row.id, row.owner_id, _asked.validate_json(zlib.decompress(row.request)),
        cast(messages.SteerReply, messages.read_reply(zlib.decompress(row.outputs))), row.created_at,
    )  # fmt: skip


def _no_run(run_id: str) -> errors.NotFoundError:
    return errors.NotFoundError(f"There is no saved run '{run_id[:40]}'.", hint="It may have been deleted.")
