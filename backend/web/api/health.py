"""Whether the site can work, for people and for whatever restarts it."""

from fastapi import APIRouter, Request, Response

from backend.services import health
from backend.web import schemas
from backend.web.dependencies import DbSession

router = APIRouter(tags=["health"])


@router.get("/health", responses={503: {"model": schemas.Health}})
def show(request: Request, response: Response, session: DbSession) -> schemas.Health:
    """The database, the queue and the workers; 503 while the database is down."""
    view = health.check(session, request.app.state.settings)
    response.status_code = 503 if view.database.state == "down" else 200
    return schemas.Health.model_validate(view)
