"""Whether an API key is good for anything here: what SAELens asks before it uploads."""

from fastapi import APIRouter, Request

from backend import errors
from backend.services import keys
from backend.settings import Access
from backend.web import callers
from backend.web.dependencies import DbSession
from backend.web.neuronpedia_schemas import KeyTest, KeyTested

router = APIRouter(tags=["account"])


@router.post("/test")
def try_key(request: Request, session: DbSession, asked: KeyTest | None = None) -> KeyTested:
    """Answers 200 for a key of this site's, in the body or the header, and 401 for any other.

    Without accounts there are no keys, and any is taken.
    """
    settings = request.app.state.settings
    if settings.access is Access.OPEN:
        return KeyTested(message="There are no accounts here, so any key is taken.")
    key = (asked.apiKey if asked else "").strip() or callers.api_key(request.headers)
    if key is None:
        raise errors.UnauthorizedError("No API key is given.", hint="Send it as apiKey, or in the header x-api-key.")
    who = keys.viewer(session, key, settings)
    return KeyTested(message=f"This key is of the account '{who.name}'.")
