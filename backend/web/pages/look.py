"""The part of a source's page that shows the quick look: what it says, its figures, and the best other ways that were tried."""

from dataclasses import dataclass

from backend.formats.look import Candidate, Look

N_SHOWN = 8


@dataclass(frozen=True, slots=True)
class LookPanel:
    """What `parts/look.html` shows."""

    look: Look
    tried: tuple[Candidate, ...]
    """Those that explain most, best first."""


def panel(look: Look) -> LookPanel:
    """Of the other ways, the best; all of them are sent by REST."""
    known = [each for each in look.candidates if each.fit.explained_variance is not None]
    best = sorted(known, key=lambda each: each.fit.explained_variance or 0.0, reverse=True)
    return LookPanel(look, tuple(best[:N_SHOWN]))
