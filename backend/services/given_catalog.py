"""Models, source sets, sources and releases as rows of Neuronpedia describe them: imported, or made over its API.

Owns the making of what is bare: a model or source whose weights nobody has named, so that it can be described and have
dashboards but answers no live question until `hosting` attaches weights to it. What a row says beyond the identity of
what it describes is kept in `given` and served again (`formats.neuronpedia`). Rows may be put twice: the later one's
keys are added, or replace those of the same name. Does not own features, nor weights.

Keys and defaults of rows: hijohnnylin/neuronpedia at ebb8426f, `apps/webapp/prisma/schema.prisma`.
"""

import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import exists, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backend import errors, names
from backend.db.tables import Model, Release, Source, SourceSet
from backend.formats import given_rows
from backend.services import access, catalog
from backend.services.access import Viewer, Visibility
from backend.services.visibility import REACHABLE, unrestricted

MOST_LAYERS = 10_000
"""More than any model has; a number beyond it is a mistake."""
_LAYER = re.compile(r"(\d{1,4})(?:-|$)", re.ASCII)


def new_model(session: Session, viewer: Viewer, row: Mapping[str, Any]) -> str:
    """Add a bare model and return its id; raises `ConflictError` where there is one, and as `put_model`."""
    access.check_may_write(viewer)
    model_id = _identity(row, "id", "model")
    if session.scalar(unrestricted(select(exists().where(Model.id == model_id)))):
        raise errors.ConflictError(f"There is a model '{model_id}' already.", hint="Choose another id.")
    return put_model(session, viewer, row)


def new_source_set(session: Session, viewer: Viewer, row: Mapping[str, Any]) -> None:
    """Add a source set to a model, and one bare, unlisted source for each of the model's layers: `{layer}-{name}`.

    Raises:
        NotFoundError: The viewer sees no such model in lists.
        ConflictError: The model has such a set, or such a source.
        InvalidInputError: The model's layers are not known; and as `put_source_set`.
    """
    model = catalog.model(session, _identity(row, "modelId", "model"))
    access.check_may_write(viewer)
    name = _identity(row, "name", "source set")
    if model.n_layers is None:
        raise errors.InvalidInputError(
            f"How many layers '{model.id}' has is not known, so its sources cannot be made.",
            hint="It is once a source of it was computed.",
        )
    sources = [names.check_id(f"{layer}-{name}", "source") for layer in range(model.n_layers)]
    of_set = (SourceSet.model_id == model.id, SourceSet.name == name)
    of_ids = (Source.model_id == model.id, Source.name.in_(sources))
    if session.scalar(unrestricted(select(exists().where(*of_set) | exists().where(*of_ids)))):
        raise errors.ConflictError(
            f"'{model.id}' has a source set '{name}' already, or a source of such a name.", hint="Choose another name."
        )
    put_source_set(session, viewer, row)
    for source in sources:
        of_source = {"id": source, "modelId": model.id, "setName": name}
        put_source(session, viewer, of_source, visibility="unlisted")


def put_release(session: Session, viewer: Viewer, row: Mapping[str, Any]) -> str:
    """Add a release, or to what is known of one the viewer may change, and return its name.

    Somebody else's is left as it is. Raises `InvalidInputError` for a name none can have, and as `check_may_write`.
    """
    access.check_may_write(viewer)
    name = _identity(row, "name", "release")
    given = given_rows.read(row, "release")
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
    given = given_rows.read(row, "model")
    made = insert(Model).values(id=model_id, display_name=model_id, owner_id=viewer.account_id)
    session.execute(made.on_conflict_do_nothing())
    known = _locked(select(Model.owner_id, Model.weights).where(Model.id == model_id))
    found = session.execute(known).one()
    if access.may_change(viewer, found.owner_id):
        changed: dict[str, Any] = {"given": Model.given.concat(given)}
        if found.weights is None:
            changed |= _sizes(n_layers=given.get("layers"), d_model=given.get("dimension"))
            changed |= {"display_name": given["displayName"]} if given.get("displayName") else {}
        session.execute(unrestricted(update(Model).where(Model.id == model_id).values(**changed)))
    return model_id


def put_source_set(session: Session, viewer: Viewer, row: Mapping[str, Any]) -> None:
    """Add a source set to a hosted model, or to what is known of one.

    One with sources that the viewer may not change is left as it is. Its release is the one that `releaseName` names,
    where there is such a release of the viewer's own, or a public one. Raises `NotFoundError` for a model that the
    viewer does not see, `InvalidInputError` for a name none can have, and as `check_may_write`.
    """
    access.check_may_write(viewer)
    model_id, name = _identity(row, "modelId", "model"), _identity(row, "name", "source set")
    _check_model(session, viewer, model_id)
    session.execute(insert(SourceSet).values(model_id=model_id, name=name).on_conflict_do_nothing())
    key = (SourceSet.model_id == model_id, SourceSet.name == name)
    session.execute(_locked(select(SourceSet.name).where(*key)))
    of_set = select(Source.owner_id).where(Source.model_id == model_id, Source.set_name == name).distinct()
    owners = session.scalars(unrestricted(of_set)).all()
    if not all(access.may_change(viewer, owner_id) for owner_id in owners):
        return
    given = given_rows.read(row, "source set")
    changed: dict[str, Any] = {"given": SourceSet.given.concat(given)}
    if "description" in given:
        changed["description"] = given["description"]
    release = given.get("releaseName")
    if release and _may_join(session, viewer, release):
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

    `row` is Neuronpedia's Source row, or a part of it with `id` and `modelId`. Its `saelensConfig` is the source's
    configuration while there are no weights, which bring their own. Hook point and sizes are those of a
    source without weights; empty and 0 leave what is known. `visibility` None leaves that of a source as it is, and
    makes a new one public.

    Raises:
        NotFoundError: The viewer sees no such model.
        InvalidInputError: An id, a size or the hook point is none that can be.
        ForbiddenError: The source is somebody else's; and as `check_may_write`.
    """
    access.check_may_write(viewer)
    model_id, name = _identity(row, "modelId", "model"), _identity(row, "id", "source")
    _check_model(session, viewer, model_id)
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
    given = given_rows.read(row, "source")
    config = given.pop("saelensConfig", None)
    changed: dict[str, Any] = {"given": Source.given.concat(given)}
    if visibility is not None:
        changed["visibility"] = visibility
    if found.weights is None:
        changed |= _sizes(d_in=d_in, d_sae=d_sae)
        if place is not None:
            changed |= {"hook_point": hook_point, "layer": place.layer}
        if config is not None:
            changed["config"] = config
    session.execute(unrestricted(update(Source).where(Source.id == found.id).values(**changed)))
    return int(found.id)


def _locked(query: Any) -> Any:
    """Whoever puts the same row at the same time waits for this transaction."""
    return unrestricted(query.with_for_update(key_share=True))


def _check_model(session: Session, viewer: Viewer, model_id: str) -> None:
    """Raise `NotFoundError` for a model that the viewer does not see: who adds to one sees it from then on.

    Asked of the viewer, not of the session: an import's may have none.
    """
    row = session.execute(unrestricted(select(Model.owner_id).where(Model.id == model_id))).one_or_none()
    seen = or_(Source.visibility.in_(REACHABLE), Source.owner_id == viewer.account_id)
    of_model = exists().where(Source.model_id == model_id, seen)
    if row is None or not (access.owns(viewer, row.owner_id) or session.scalar(unrestricted(select(of_model)))):
        raise catalog.no_model(model_id)


def _may_join(session: Session, viewer: Viewer, release: str) -> bool:
    """There is such a release, and it is the viewer's own or has a public source: its row is shown to who joins it."""
    row = session.execute(unrestricted(select(Release.owner_id).where(Release.name == release))).one_or_none()
    of_set = (Source.model_id == SourceSet.model_id, Source.set_name == SourceSet.name, Source.visibility == "public")
    is_public = select(exists().where(SourceSet.release_name == release, *of_set))
    return row is not None and (access.owns(viewer, row.owner_id) or bool(session.scalar(unrestricted(is_public))))


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
