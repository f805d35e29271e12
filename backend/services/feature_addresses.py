"""From the addresses of features to the sources they are of, for what people keep and say about features.

A feature is there as soon as its source is hosted; that its dashboard is computed is not asked.
"""

from collections.abc import Collection

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Source
from backend.names import FeatureRef
from backend.services import catalog
from backend.services.visibility import addressed


def source_id(session: Session, ref: FeatureRef) -> int:
    """The row of the feature's source; raises `NotFoundError` where there is no such feature."""
    found = source_ids(session, (ref,)).get(ref)
    if found is None:
        raise not_there(ref)
    return found


def source_ids(session: Session, refs: Collection[FeatureRef]) -> dict[FeatureRef, int]:
    """Those of the features that there are, with the rows of their sources; one statement, or none."""
    if not refs:
        return {}
    wanted = {(catalog.as_key(ref.model), catalog.as_key(ref.source)) for ref in refs}
    query = select(Source.model_id, Source.name, Source.id, Source.d_sae)
    rows = session.execute(addressed(query.where(tuple_(Source.model_id, Source.name).in_(wanted))))
    known = {(row.model_id, row.name): (row.id, row.d_sae) for row in rows}
    found = {ref: known.get((ref.model, ref.source)) for ref in refs}
    return {ref: place[0] for ref, place in found.items() if place is not None and 0 <= ref.index < place[1]}


def not_there(ref: FeatureRef) -> errors.NotFoundError:
    """What is raised for a feature that is not hosted."""
    return errors.NotFoundError(
        f"There is no feature '{ref}' here.", hint="A feature is written model/source/index; see the source's page."
    )
