"""Steering vectors of one's own: adding, finding and deleting them.

A vector's address is like a feature's, with `{layer}-neuronpedia-resid-post|pre` for the source and a random index, so
that clients steer with both alike. Its owner and admins see it in lists; whoever has the address, and sees the model in
lists, may steer with it (`visibility`). In `open` mode all of them are the operator's.
"""

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import delete as deletion
from sqlalchemy import select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Model, Vector
from backend.names import FeatureRef, HookPoint
from backend.services import access, limits
from backend.services.visibility import addressed

HookType = Literal["hook_resid_pre", "hook_resid_post"]
_LOWEST, _HIGHEST = 10_000_000, 999_999_999
"""Of the indexes drawn: eight digits or nine, as Neuronpedia's."""
_N_VALUE_BYTES = 8
_N_DRAWS = 10


@dataclass(frozen=True, slots=True)
class VectorView:
    """A vector as it was added."""

    model: str
    source: str
    index: int
    owner_id: int | None
    """None: the host's operator's."""
    label: str
    hook_point: str
    values: tuple[float, ...]
    """(d_model,), as given: nobody normalised them."""
    default_strength: float
    created_at: datetime

    @property
    def ref(self) -> FeatureRef:
        """Its address."""
        return FeatureRef(self.model, self.source, self.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVector:
    """A vector to add."""

    model: str
    layer: int
    hook_type: HookType
    label: str
    values: tuple[float, ...]
    default_strength: float


def add(session: Session, given: NewVector) -> VectorView:
    """Add a vector of who asks.

    Raises:
        NotFoundError: No such model is hosted.
        UnauthorizedError, ForbiddenError: Who asks may not add anything, or nothing more.
        InvalidInputError: The layer or the length does not fit the model, or the vector is zero.
    """
    facts = select(Model.n_layers, Model.d_model).where(Model.id == given.model)
    model = session.execute(facts).one_or_none()
    if model is None:
        raise errors.NotFoundError(f"No model '{given.model}' is hosted.", hint="The home page lists those that are.")
    viewer = access.viewer_of(session)
    access.check_may_write(viewer)
    _check(given, model.n_layers, model.d_model)
    limits.check_bytes(session, viewer, _N_VALUE_BYTES * len(given.values))
    row = {
        "model_id": given.model, "source": f"{given.layer}-neuronpedia-{given.hook_type[5:].replace('_', '-')}",
        "owner_id": viewer.account_id, "label": given.label, "hook_point": str(HookPoint(given.layer, given.hook_type)),
        "values": list(given.values), "default_strength": given.default_strength,
    }  # fmt: skip
    for _ in range(_N_DRAWS):
        index = _LOWEST + secrets.randbelow(_HIGHEST - _LOWEST + 1)
        added = insert(Vector).values(index=index, **row).on_conflict_do_nothing().returning(*_COLUMNS)
        found = session.execute(added).one_or_none()
        if found is not None:
            return _view(found)
    raise errors.UnavailableError("Every index that was drawn is taken.", hint="Ask again.")


def get(session: Session, ref: FeatureRef) -> VectorView:
    """The vector at an address; raises `NotFoundError`."""
    found = named(session, ref.model, {(ref.source, ref.index)})
    if not found:
        raise errors.NotFoundError(f"There is no vector '{ref}'.", hint="POST /api/vector/list-owned lists yours.")
    return found[ref.source, ref.index]


def named(session: Session, model: str, addresses: Collection[tuple[str, int]]) -> dict[tuple[str, int], VectorView]:
    """Those of a model that are vectors, of addresses (source, index); one statement, or none."""
    if not addresses:
        return {}
    query = _VECTORS.where(Vector.model_id == model, tuple_(Vector.source, Vector.index).in_(set(addresses)))
    views = [_view(row) for row in session.execute(addressed(query))]
    return {(view.source, view.index): view for view in views}


def owned(session: Session, *, model: str | None = None) -> tuple[VectorView, ...]:
    """All vectors of who asks, newest first, of one model or of all; the host's operator's are all there are."""
    viewer = access.viewer_of(session)
    query = _VECTORS if viewer.account_id is None else _VECTORS.where(Vector.owner_id == viewer.account_id)
    if model is not None:
        query = query.where(Vector.model_id == model)
    return tuple(_view(row) for row in session.execute(query.order_by(Vector.created_at.desc(), Vector.index)))


def delete(session: Session, ref: FeatureRef) -> None:
    """Delete a vector; raises `NotFoundError`, or as `access.check_may_change`."""
    view = get(session, ref)
    access.check_may_change(access.viewer_of(session), view.owner_id)
    of = deletion(Vector).where(Vector.model_id == ref.model, Vector.source == ref.source, Vector.index == ref.index)
    session.execute(addressed(of))


_COLUMNS = (
    Vector.model_id, Vector.source, Vector.index.label("number"), Vector.owner_id, Vector.label, Vector.hook_point,
    Vector.values.label("numbers"), Vector.default_strength, Vector.created_at,
)  # fmt: skip
# A row has methods `index` and `values`, so columns of those names are read under others.
_VECTORS = select(*_COLUMNS)


def _check(given: NewVector, n_layers: int | None, d_model: int | None) -> None:
    """Facts are None before a worker has loaded the model; it then checks."""
    if n_layers is not None and given.layer >= n_layers:
        raise errors.InvalidInputError(
            f"'{given.model}' has no layer {given.layer}.", hint=f"It has 0 to {n_layers - 1}."
        )
    if d_model is not None and len(given.values) != d_model:
        raise errors.InvalidInputError(
            f"The vector has {len(given.values)} numbers; the residual stream of '{given.model}' has {d_model}.",
            hint="Give one number for each of its dimensions.",
        )
    if not any(given.values):
        raise errors.InvalidInputError("The vector is zero.", hint="Give one that points somewhere.")


def _view(row: Any) -> VectorView:
    return VectorView(
        row.model_id, row.source, row.number, row.owner_id, row.label, row.hook_point, tuple(row.numbers),
        row.default_strength, row.created_at,
    )  # fmt: skip
