"""A quick look at an SAE on real activations: what was measured, what was tried instead, and what that means.

Owns the names and their form as JSON, which the database stores and REST sends. How they are measured is
`workers/compute/diagnosis.py`'s, and what counts as a finding `workers/compute/diagnosis_findings.py`'s.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["fatal", "warning", "note"]
"""fatal: dashboards of it would say nothing; warning: probably not what was meant; note: good to know."""
Kind = Literal["place", "output", "b_dec", "normalisation", "scale", "orientation", "threshold", "centring", "bos"]


@dataclass(frozen=True, slots=True)
class Fit:
    """How well the SAE rebuilds the activations of a sample."""

    explained_variance: float | None
    """1 − Σ‖x − x̂‖² / Σ‖x − mean‖²; below zero it is worse than the mean. None where activations do not vary."""
    l0: float
    """Features that fire on a token, on average."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Another way to run the same weights, on the same tokens."""

    kind: Kind
    what: str
    """Continues "run …", such as `at blocks.3.hook_resid_post`."""
    fit: Fit
    is_better: bool
    """So much better than what is declared that a mistake is likely."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing the look says."""

    severity: Severity
    sentence: str
    """With the figures it rests on."""
    advice: str
    """What to do about it."""


@dataclass(frozen=True, slots=True)
class Look:
    """A quick look at one source."""

    hook_point: str
    n_tokens: int
    """Tokens of the sample, all of which count."""
    fit: Fit
    """Run as declared."""
    d_sae: int
    n_fired: int
    """Features that fire on some token of the sample; a small sample leaves many out that are alive."""
    mean_norm: float
    """Of the activations at the hook point."""
    decoder_norms: tuple[float, float]
    """Least and greatest ‖W_dec‖ of a feature."""
    candidates: tuple[Candidate, ...]
    findings: tuple[Finding, ...]
    """Gravest first."""

    @property
    def fatal(self) -> tuple[Finding, ...]:
        """What makes computing dashboards pointless."""
        return tuple(finding for finding in self.findings if finding.severity == "fatal")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What is probably not as meant."""
        return tuple(finding for finding in self.findings if finding.severity == "warning")


def to_json(look: Look) -> dict[str, Any]:
    """As JSON has it."""
    return asdict(look)


def from_json(stored: Mapping[str, Any]) -> Look:
    """The inverse of `to_json`."""
    low, high = stored["decoder_norms"]
    known = {
        "fit": Fit(**stored["fit"]),
        "decoder_norms": (low, high),
        "candidates": tuple(Candidate(**each | {"fit": Fit(**each["fit"])}) for each in stored["candidates"]),
        "findings": tuple(Finding(**each) for each in stored["findings"]),
    }
    return Look(**{**stored, **known})
