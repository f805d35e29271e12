"""Deleting over REST."""

from fastapi import APIRouter

from backend.services import removal
from backend.web.api import job_schemas
from backend.web.dependencies import DbSession

router = APIRouter(tags=["catalog"])


@router.delete("/source/{model}/{source}")
def delete_source(session: DbSession, model: str, source: str) -> job_schemas.SourceDeleted:
    """Delete a source: gone for readers at once; a job about it alone is cancelled; workers free what it took."""
    removal.remove(session, model, source)
    return job_schemas.SourceDeleted(model=model, source=source)
