"""What the figures of a quick look mean: when another way fits better, and the sentences.

Every limit is here, and `docs/checks.md` says how it was chosen; `tests/bench/quick_look.py` prints the figures it
was chosen by. A fit is compared by what it leaves unexplained, 1 − explained variance, since SAEs differ there by factors:
a candidate must leave a good deal less, and not buy it with many more features.
"""

import dataclasses

from backend.formats.look import Candidate, Finding, Fit, Kind, Look
from workers.compute.sae import Sae

BROKEN = 0.2
"""Explained variance below which the SAE does not fit at all."""
WORTH_NAMING = 0.3
"""Least explained variance of something that may be said to fit."""
BETTER = 0.75
"""A better way leaves less than this share of what the declared one leaves unexplained (some kinds: `BETTER_OF`). Its L0
may be greater by the share's inverse square: to halve what is left, with four times the features."""
BETTER_OF: dict[Kind, float] = {"place": 0.9, "b_dec": 0.95}
"""Places resemble their neighbours and b_dec's part is small, so mistakes with them are; the right way is still best."""
DENSE = 0.25
"""A token on which more than this share of the features fires is not coded sparsely."""
ZERO_THRESHOLDS = 0.05
"""Share of a jumprelu SAE's thresholds at or below zero that training does not leave."""
UNIT = 0.05
"""Decoder rows this near to norm 1 count as unit vectors."""

ADVICE: dict[Kind, str] = {
    "place": "Check the hook point, and give the one it was trained on (--hook).",
    "output": "If it is a transcoder, its configuration has to say where it reads and where it writes.",
    "b_dec": "Check apply_b_dec_to_input in the configuration.",
    "normalisation": "Check normalize_activations in the configuration.",
    "scale": "It was trained on scaled activations: fold the factor into the weights "
    "(W_enc · s, W_dec / s, b_dec / s) and save it again.",
    "orientation": "The weights are stored the other way round: transpose them and save it again.",
    "threshold": "Check in which units the thresholds were saved.",
    "centring": "Check center_writing_weights in model_from_pretrained_kwargs of the configuration.",
    "bos": "Check prepend_bos in the configuration.",
}
_GRAVITY = ("fatal", "warning", "note")


def rounded(value: float) -> float:
    """To seven digits, as JSON keeps it."""
    return float(f"{value:.7g}")


def is_broken(fit: Fit) -> bool:
    """The SAE does not rebuild the activations at all."""
    return fit.explained_variance is None or fit.explained_variance < BROKEN


def is_better(base: Fit, kind: Kind, tried: Fit, *, d_sae: int) -> bool:
    """So much better than `base` that the configuration is probably wrong."""
    if tried.explained_variance is None or tried.explained_variance < WORTH_NAMING:
        return False
    left = (1 - tried.explained_variance) / (1 - (base.explained_variance or 0.0))
    if is_broken(base):
        return left < BETTER and tried.l0 <= DENSE * d_sae
    return left < BETTER_OF.get(kind, BETTER) and tried.l0 * left**2 <= base.l0


def with_findings(look: Look, sae: Sae) -> Look:
    """The look, and what it means; gravest first."""
    found = [*_firing(look), *_fitting(look), *_weights(look, sae)]
    return dataclasses.replace(look, findings=tuple(sorted(found, key=lambda each: _GRAVITY.index(each.severity))))


def best(look: Look) -> Candidate | None:
    """Of the candidates that fit better, the one that leaves least for its L0, by the measure of `BETTER`."""
    better = [each for each in look.candidates if each.is_better]
    return min(better, key=lambda each: (1 - (each.fit.explained_variance or 0.0)) ** 2 * each.fit.l0, default=None)


def _firing(look: Look) -> list[Finding]:
    if look.fit.l0 == 0:
        said = f"no feature fires on any of {look.n_tokens:,} tokens."
        return [Finding("fatal", said, "Check model, hook point and the weights; --force computes it all the same.")]
    if look.fit.l0 == look.d_sae:
        said = f"all {look.d_sae:,} features fire on every one of {look.n_tokens:,} tokens."
        return [Finding("fatal", said, "Check activation function and weights; --force computes it all the same.")]
    if look.fit.l0 > DENSE * look.d_sae:
        said = f"{look.fit.l0:,.1f} of {look.d_sae:,} features fire on a token ({look.fit.l0 / look.d_sae:.0%}): not sparse."
        return [Finding("warning", said, "Check activation function, threshold and the scale of activations.")]
    return []


def _fitting(look: Look) -> list[Finding]:
    better = best(look)
    if better is not None:
        said = f"run as declared, at {look.hook_point}, it explains {_figures(look.fit)}; {better.what} {_figures(better.fit)}."
        return [Finding("warning", said, ADVICE[better.kind])]
    if is_broken(look.fit):
        said = (
            f"it explains {_figures(look.fit)} at {look.hook_point}, and none of {len(look.candidates)} other ways "
            f"to run it explains as much as {WORTH_NAMING:.0%}: it is untrained, or of another model."
        )
        return [Finding("warning", said, "Check that the SAE was trained on this model.")]
    return []


def _figures(fit: Fit) -> str:
    share = "nothing" if fit.explained_variance is None else f"{fit.explained_variance:.1%} of the variance"
    return f"{share} with L0 {fit.l0:,.1f}"


def _weights(look: Look, sae: Sae) -> list[Finding]:
    found = []
    n_zero = int((sae.threshold <= 0).sum())
    if sae.description.architecture == "jumprelu" and n_zero > ZERO_THRESHOLDS * look.d_sae:
        said = f"{n_zero:,} of {look.d_sae:,} thresholds are zero or less."
        found.append(Finding("warning", said, "They may be saved as logarithms; save exp(log_threshold)."))
    low, high = look.decoder_norms
    if low < 1 - UNIT or high > 1 + UNIT:
        said = f"the decoder's rows have norms from {low:.3g} to {high:.3g}."
        found.append(Finding("note", said, "Activations are shown multiplied by them, as if the rows had norm 1."))
    return found
