"""The quick look at a source over REST."""

from typing import Literal

from fastapi import APIRouter

from backend import errors
from backend.services import catalog
from backend.web.dependencies import DbSession
from backend.web.schemas import Answer

router = APIRouter(tags=["catalog"])


class LookFit(Answer):
    """How well the SAE rebuilds the activations of the sample."""

    explained_variance: float | None
    l0: float


class LookCandidate(Answer):
    """Another way to run the same weights, on the same tokens."""

    kind: Literal["place", "output", "b_dec", "normalisation", "scale", "orientation", "threshold", "centring", "bos"]
    what: str
    fit: LookFit
    is_better: bool


class LookFinding(Answer):
    """One thing the look says, and what to do about it."""

    severity: Literal["fatal", "warning", "note"]
    sentence: str
    advice: str


class SourceLook(Answer):
    """What a quick look at a source found on a few contexts of its corpus."""

    hook_point: str
    n_tokens: int
    fit: LookFit
    """Run as declared."""
    d_sae: int
    n_fired: int
    mean_norm: float
    decoder_norms: tuple[float, float]
    candidates: list[LookCandidate]
    findings: list[LookFinding]
    """Gravest first."""


@router.get("/source/{model}/{source}/look")
def show_look(session: DbSession, model: str, source: str) -> SourceLook:
    """What the newest job's quick look found: figures, other ways to run the SAE that were tried, and what that means."""
    found = catalog.look(session, model, source)
    if found is None:
        raise errors.NotFoundError(
            f"No job has looked at '{model}/{source}' yet.", hint="A job looks before it computes; see /jobs."
        )
    return SourceLook.model_validate(found)
