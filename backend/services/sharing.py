"""Who may see a source: its owner or an admin says."""

from sqlalchemy import update
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Source
from backend.services import access, catalog
from backend.services.access import VISIBILITIES
from backend.services.visibility import addressed


def set_visibility(session: Session, model: str, source: str, visibility: str) -> None:
    """From now on the source is private, unlisted or public, for whoever asks next.

    Raises `NotFoundError`, `InvalidInputError`, or as `access.check_may_change`.
    """
    view = catalog.source(session, model, source)
    access.check_may_change(access.viewer_of(session), view.owner_id)
    if visibility not in VISIBILITIES:
        raise errors.InvalidInputError(
            f"'{visibility[:40]}' is not a visibility.", hint=f"Choose {', '.join(VISIBILITIES[:-1])} or {VISIBILITIES[-1]}."
        )  # fmt: skip
    of = update(Source).where(Source.model_id == model, Source.name == source)
    session.execute(addressed(of.values(visibility=visibility)))
