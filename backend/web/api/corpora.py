"""Corpora of a model, and tokens of the services they and models come from, over REST."""

from datetime import datetime

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from backend import errors
from backend.services import access, catalog, corpora, secrets
from backend.web.dependencies import DbSession, Viewing

router = APIRouter(tags=["corpora"])


class CorpusFacts(BaseModel):
    """A prepared corpus: give its id to `POST /api/sources` and nothing is read or tokenised again."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str
    context_size: int
    n_contexts: int
    n_tokens: int
    has_documents: bool
    """Examples say which document they are from."""
    used_by: list[str]
    created_at: datetime


class Token(BaseModel):
    """That a token is kept; it is never shown."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    created_at: datetime


class NewToken(BaseModel):
    """A token to keep, sealed."""

    token: str = Field(repr=False)


@router.get("/corpora/{model}")
def list_corpora(session: DbSession, model: str) -> list[CorpusFacts]:
    """The corpora sources of the model were computed on, newest first."""
    found = corpora.of_model(session, catalog.model(session, model).id)
    return [CorpusFacts.model_validate(each) for each in found]


@router.get("/tokens")
def list_tokens(session: DbSession, viewer: Viewing) -> list[Token]:
    """For which services you gave a token."""
    access.check_may_write(viewer)
    return [Token.model_validate(found) for found in secrets.of_owner(session, viewer.account_id)]


@router.put("/tokens/{service}")
def put_token(request: Request, session: DbSession, viewer: Viewing, service: str, given: NewToken) -> list[Token]:
    """Keep your token of a service (`huggingface`), instead of the one there was; your jobs read with it."""
    access.check_may_write(viewer)
    secrets.put(session, request.app.state.settings, service, given.token, viewer.account_id)
    return list_tokens(session, viewer)


@router.delete("/tokens/{service}")
def forget_token(session: DbSession, viewer: Viewing, service: str) -> list[Token]:
    """Forget your token of a service; those that are left."""
    access.check_may_write(viewer)
    if not secrets.forget(session, service, viewer.account_id):
        raise errors.NotFoundError(f"You gave no {service} token.", hint=f"PUT /api/tokens/{service} keeps one.")
    return list_tokens(session, viewer)
