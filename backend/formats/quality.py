"""How good a source is: the numbers an evaluation gives, each over its sample and by position in the context.

Owns the names of the metrics and their form as JSON, which the database stores and REST sends. What they mean and how
they are computed is `workers/compute/quality.py`'s. Undefined numbers (a share of nothing) are null, never NaN.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

RECONSTRUCTION = ("l0", "l1", "mse", "explained_variance", "cosine")
LOSS = (
    "loss_clean", "loss_sae", "loss_zero", "loss_mean", "loss_recovered_zero", "loss_recovered_mean",
    "kl_sae", "kl_zero", "kl_mean",
)  # fmt: skip
"""They need the reconstruction spliced into the model, and are missing where the hook point cannot be replaced."""

DENSE = 0.1
"""A feature is dense if its density is above this (SAEBench's freq_over_10_percent)."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of an evaluation."""

    value: float | None
    """Over all tokens of the sample that count."""
    standard_error: float | None
    """Of the value, contexts taken as independent draws; None for a single context."""
    by_position: tuple[float | None, ...]
    """The same over the tokens at each position of the context, from position 0."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics over one sample of contexts of equal length."""

    context_size: int
    n_contexts: int
    n_tokens: int
    """Tokens that count."""
    metrics: Mapping[str, Metric]
    """By name: `RECONSTRUCTION`, and `LOSS` where it could be had."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What an evaluation says of a source."""

    trained_context_size: int | None
    """Tokens in a context the SAE was trained on; None where its configuration does not say."""
    seed: int
    corpus: Evaluation
    """Over contexts of the corpus, evenly spaced."""
    longer: Evaluation | None
    """Over stretches of single documents, longer than what the SAE was trained on."""
    notes: tuple[str, ...]
    """What is missing and why, in sentences."""


def number(value: float) -> float | None:
    """A finite number to seven digits, else None."""
    return float(f"{value:.7g}") if math.isfinite(value) else None


def to_json(quality: Quality) -> dict[str, Any]:
    """As JSON has it."""
    return asdict(quality)


def from_json(stored: Mapping[str, Any]) -> Quality:
    """The inverse of `to_json`."""
    longer = stored["longer"]
    return Quality(
        stored["trained_context_size"],
        stored["seed"],
        _evaluation(stored["corpus"]),
        _evaluation(longer) if longer else None,
        tuple(stored["notes"]),
    )


def _evaluation(stored: Mapping[str, Any]) -> Evaluation:
    metrics = {
        name: Metric(metric["value"], metric["standard_error"], tuple(metric["by_position"]))
        for name, metric in stored["metrics"].items()
    }
    return Evaluation(stored["context_size"], stored["n_contexts"], stored["n_tokens"], metrics)
