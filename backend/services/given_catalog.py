"""Models, source sets, sources and releases as rows of Neuronpedia describe them: imported, or made over its API.

Owns the making of what is bare: a model or source whose weights nobody has named, so that it can be described and have
dashboards but answers no live question until `hosting` attaches weights to it. What a row says beyond the identity of
what it describes is kept in `given` and served again (`formats.neuronpedia`). Rows may be put twice: the later one's
keys are added, or replace those of the same name. Does not own features, nor weights.

Keys and defaults of rows: hijohnnylin/neuronpedia at ebb8426f, `apps/webapp/prisma/schema.prisma`.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import exists, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backend import errors, names
from backend.db.tables import Model, Release, Source, SourceSet
from backend.services import access, catalog
from backend.services.access import Viewer, Visibility
from backend.services.visibility import unrestricted

MOST_LAYERS = 10_000
"""More than any model has; a number beyond it is a mistake."""
_OURS = frozenset({"visibility", "hasDashboards", "inferenceEnabled", "allowInferenceSearch"})
"""What this site says of itself, whatever another did."""
_LAYER = re.compile(r"(\d{1,4})(?:-|$)", re.ASCII)


def put_release(session: Session, viewer: Viewer, row: Mapping[str, Any]) -> str:
    """Add a release, or to what is known of one the viewer may change, and return its name.

    Somebody else's is left as it is. Raises `InvalidInputError` for a name none can have, and as `check_may_write`.
    """
    access.check_may_write(viewer)
    name = _identity(row, "name", "release")
    given = _given(row, "name")
    session.execute(insert(Release).values(name=name, owner_id=viewer.account_id).on_conflict_do_nothing())
    owner_id = session.execute(_locked(select(Release.owner_id).where(Release.name == name))).scalar_one()
    if access.may_change(viewer, owner_id):
        of = update(Release).where(Release.name == name)
        session.execute(unrestricted(of.values(given=Release.given.concat(given))))
    return name


def put_model(session: Session, viewer: Viewer, row: Mapping[str, Any]) -> str:
    """Add a bare model, or to what is known of one the viewer may change, and return its id.

    Somebody else's is left as it is. `row` is Neuronpedia's Model row, or a part of it with `id`. Raises
    `InvalidInputError` for an id none can have, and as `check_may_write`.
    """
    access.check_may_write(viewer)
    model_id = _identity(row, "id", "model")
    given = _given(row, "id")
    label = str(given.get("displayName") or model_id)
    made = insert(Model).values(id=model_id, display_name=label, owner_id=viewer.account_id)
    session.execute(made.on_conflict_do_nothing())
    known = _locked(select(Model.owner_id, Model.weights).where(Model.id == model_id))
    found = session.execute(known).one()
    if access.may_change(viewer, found.owner_id):
        sizes = _sizes(n_layers=row.get("layers"), d_model=row.get("dimension")) if found.weights is None else {}
        of = update(Model).where(Model.id == model_id)
        session.execute(unrestricted(of.values(given=Model.given.concat(given), **sizes)))
    return model_id


def put_source_set(session: Session, viewer: Viewer, row: Mapping[str, Any]) -> None:
    """Add a source set to a hosted model, or to what is known of one.

    One with sources that the viewer may not change is left as it is. Its release is the one that `releaseName` names,
    where there is such a release. Raises `NotFoundError` without the model, `InvalidInputError` for a name none can
    have, and as `check_may_write`.
    """
    access.check_may_write(viewer)
    model_id, name = _identity(row, "modelId", "model"), _identity(row, "name", "source set")
    _check_model(session, model_id)
    session.execute(insert(SourceSet).values(model_id=model_id, name=name).on_conflict_do_nothing())
    key = (SourceSet.model_id == model_id, SourceSet.name == name)
    session.execute(_locked(select(SourceSet.name).where(*key)))
    of_set = select(Source.owner_id).where(Source.model_id == model_id, Source.set_name == name).distinct()
    owners = session.scalars(unrestricted(of_set)).all()
    if not all(access.may_change(viewer, owner_id) for owner_id in owners):
        return
    given = _given(row, "modelId", "name")
    changed: dict[str, Any] = {"given": SourceSet.given.concat(given)}
    if isinstance(given.get("description"), str):
        changed["description"] = given["description"]
    release = str(given.get("releaseName") or "")
    if release and session.scalar(unrestricted(select(exists().where(Release.name == release)))):
        changed["release_name"] = release
    session.execute(unrestricted(update(SourceSet).where(*key).values(**changed)))


def put_source(
    session: Session,
    viewer: Viewer,
    row: Mapping[str, Any],
    *,
    hook_point: str = "",
    d_in: int = 0,
    d_sae: int = 0,
    visibility: Visibility | None = None,
) -> int:
    """Add a bare source and its set to a hosted model, or to what is known of a source, and return its row's id.

    `row` is Neuronpedia's Source row, or a part of it with `id` and `modelId`. Hook point and sizes are those of a
    source without weights; empty and 0 leave what is known. `visibility` None leaves that of a source as it is, and
    makes a new one public.

    Raises:
        NotFoundError: The model is not hosted.
        InvalidInputError: An id, a size or the hook point is none that can be.
        ForbiddenError: The source is somebody else's; and as `check_may_write`.
    """
    access.check_may_write(viewer)
    model_id, name = _identity(row, "modelId", "model"), _identity(row, "id", "source")
    _check_model(session, model_id)
    place = names.parse_hook_point(hook_point) if hook_point else None
    set_name = _set_name(row, name)
    session.execute(insert(SourceSet).values(model_id=model_id, name=set_name).on_conflict_do_nothing())
    bare = {
        "hook_point": "", "layer": place.layer if place else _layer(name), "architecture": "", "d_in": 0, "d_sae": 0,
        "config": {}, "visibility": visibility or "public", "owner_id": viewer.account_id,
    }  # fmt: skip
    made = insert(Source).values(model_id=model_id, name=name, set_name=set_name, **bare)
    session.execute(made.on_conflict_do_nothing())
    known = select(Source.id, Source.owner_id, Source.weights)
    found = session.execute(_locked(known.where(Source.model_id == model_id, Source.name == name))).one()
    access.check_may_change(viewer, found.owner_id)
    given = _given(row, "id", "modelId", "setName", "saelensConfig")
    changed: dict[str, Any] = {"given": Source.given.concat(given)}
    if visibility is not None:
        changed["visibility"] = visibility
    if found.weights is None:
        changed |= _sizes(d_in=d_in, d_sae=d_sae)
        if place is not None:
            changed |= {"hook_point": hook_point, "layer": place.layer}
        if isinstance(row.get("saelensConfig"), Mapping):
            changed["config"] = _storable(row["saelensConfig"])
    session.execute(unrestricted(update(Source).where(Source.id == found.id).values(**changed)))
    return int(found.id)


def _locked(query: Any) -> Any:
    """Whoever puts the same row at the same time waits for this transaction."""
    return unrestricted(query.with_for_update(key_share=True))


def _check_model(session: Session, model_id: str) -> None:
    if not session.scalar(unrestricted(select(exists().where(Model.id == model_id)))):
        raise catalog.no_model(model_id)


def _identity(row: Mapping[str, Any], key: str, what: str) -> str:
    value = row.get(key)
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise errors.InvalidInputError(
            f"'{key}' of a {what} is missing or no text.", hint=f"Give the {what}'s name as '{key}'."
        )
    return names.check_id(str(value), what)


def _set_name(row: Mapping[str, Any], source: str) -> str:
    """The one that the row names, else Neuronpedia's rule."""
    return _identity(row, "setName", "source set") if row.get("setName") else names.source_set_of(source)


def _layer(source: str) -> int:
    """What a source's id begins with; 0 where that is no number, as in the id of an embedding's SAE."""
    match = _LAYER.match(source)
    return int(match[1]) if match else 0


def _sizes(**given: Any) -> dict[str, int]:
    """Those that are known; a row has null or 0 for one that is not."""
    known = {name: size for name, size in given.items() if size}
    for name, size in known.items():
        most = MOST_LAYERS if name == "n_layers" else 2**31 - 1
        if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= most:
            raise errors.InvalidInputError(
                f"{name} of {size!r:.40} cannot be.", hint=f"Give a whole number from 1 to {most:,}, or leave it out."
            )
    return known


def _given(row: Mapping[str, Any], *identity: str) -> dict[str, Any]:
    """What the row says of what it describes. Null says nothing, and so do a model's sizes of 0."""
    kept = {key: value for key, value in row.items() if key not in _OURS and key not in identity and value is not None}
    return {
        key: value
        for key, value in _storable(kept).items()
        if not (value == 0 and key in ("layers", "neuronsPerLayer", "dimension"))
    }


def _storable(value: Any) -> Any:
    """As jsonb holds it: no U+0000 (a space, as Neuronpedia's importer writes), no half of a surrogate pair, no NaN."""
    if isinstance(value, str):
        return value.replace("\0", " ").encode("utf-8", "replace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_storable(str(key)): _storable(each) for key, each in value.items()}
    return [_storable(each) for each in value] if isinstance(value, list | tuple) else value
