"""The explanations on a feature's page, and what its forms do: explain, edit, delete, vote.

Every form leads back to the feature's page; the script there sends them aside and puts the fresh panel in place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form
from fastapi.responses import HTMLResponse, RedirectResponse

from backend import names
from backend.names import FeatureRef
from backend.services import access, explanations
from backend.services.access import Viewer
from backend.services.explanations import ExplanationView, NewExplanation
from backend.web.dependencies import DbSession

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
Words = Annotated[str, Form()]


@dataclass(frozen=True, slots=True)
class ShownExplanation:
    """An explanation as one reader sees it."""

    view: ExplanationView
    may_change: bool
    """The reader wrote it, or is an admin."""
    has_vote: bool
    """Of the reader."""


def shown(viewer: Viewer, views: Sequence[ExplanationView]) -> tuple[ShownExplanation, ...]:
    """A feature's explanations, in their order."""
    may_vote = "write" in viewer.scopes
    return tuple(
        ShownExplanation(
            view, access.may_change(viewer, view.author_id), may_vote and view.has_vote_of(viewer.account_id)
        )
        for view in views
    )


@router.post("/{model}/{source}/{index:int}/explanations")
def add(session: DbSession, model: str, source: str, index: int, description: Words = "") -> RedirectResponse:
    """Explains the feature."""
    return _back(explanations.add(session, FeatureRef(model, source, index), NewExplanation(description=description)))


@router.post("/explanations/{explanation_id}/edit")
def edit(session: DbSession, explanation_id: str, description: Words = "") -> RedirectResponse:
    """Replaces the words."""
    return _back(explanations.edit(session, explanation_id, description))


@router.post("/explanations/{explanation_id}/delete")
def delete(session: DbSession, explanation_id: str) -> RedirectResponse:
    """Deletes it."""
    return _back(explanations.delete(session, explanation_id))


@router.post("/explanations/{explanation_id}/vote")
def vote(session: DbSession, explanation_id: str) -> RedirectResponse:
    """Says that the reader finds it good."""
    return _back(explanations.vote(session, explanation_id))


@router.post("/explanations/{explanation_id}/unvote")
def unvote(session: DbSession, explanation_id: str) -> RedirectResponse:
    """Takes the reader's vote back."""
    return _back(explanations.unvote(session, explanation_id))


def _back(view: ExplanationView) -> RedirectResponse:
    return RedirectResponse(names.feature_url(view.ref.model, view.ref.source, view.ref.index), 303)
