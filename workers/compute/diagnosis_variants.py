"""Other ways to run the same weights on the same activations: the mistakes that configurations are known to make.

Each variant is an SAE and a factor for its input. Factors are the norms that training code brings activations to:
√d_in on average (SAELens's expected_average_only_in, Llama Scope; Anthropic's "Towards Monosemanticity" updates) and a
mean square of 1 (dictionary_learning's normalize_activations).
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from backend.formats.look import Kind
from workers.compute.sae import Sae

NORMALISATIONS = {
    "none": "with activations as they are",
    "constant_norm_rescale": "with every activation brought to norm √d_in (constant_norm_rescale)",
    "layer_norm": "with every activation normalised (layer_norm)",
}
SAME = 1.25
"""A factor nearer to 1 than this makes no difference worth trying."""
FACTORS = tuple(4.0**power for power in (-4, -3, -2, -1, 1, 2, 3, 4))
"""For activations scaled by a number nobody wrote down."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One other way."""

    kind: Kind
    what: str
    sae: Sae
    factor: float = 1.0
    """What the activations are multiplied by; the SAE is to rebuild the product."""


def of(sae: Sae, x: Float[Tensor, "n d_in"]) -> Iterator[Variant]:
    """All that make sense for this SAE."""
    yield from b_dec(sae, x)
    yield from _normalisations(sae)
    yield from _scales(sae, x)
    yield from _orientations(sae)
    yield from _thresholds(sae)


def b_dec(sae: Sae, x: Float[Tensor, "n d_in"]) -> Iterator[Variant]:
    """b_dec subtracted where it was not, or the other way round, if it is of any size."""
    if sae.b_dec.shape == x.shape[1:] and float(sae.b_dec.norm()) > 1e-3 * float(x.norm(dim=-1).mean()):
        flipped = not sae.description.is_b_dec_subtracted
        what = "with b_dec subtracted from the input" if flipped else "with b_dec not subtracted from the input"
        yield Variant("b_dec", what, _described(sae, is_b_dec_subtracted=flipped))


def _described(sae: Sae, **changes: object) -> Sae:
    return dataclasses.replace(sae, description=dataclasses.replace(sae.description, **changes))  # type: ignore[arg-type] # by name


def _normalisations(sae: Sae) -> Iterator[Variant]:
    for name, what in NORMALISATIONS.items():
        if name != sae.description.normalize_activations:
            yield Variant("normalisation", what, _described(sae, normalize_activations=name))


def _scales(sae: Sae, x: Tensor) -> Iterator[Variant]:
    """A norm per token makes any factor of the whole moot."""
    if sae.description.normalize_activations != "none":
        return
    norms = x.norm(dim=-1).double()
    wanted = (
        (float(sae.description.d_in**0.5 / norms.mean()), "their mean norm is √d_in"),
        (float(1 / norms.square().mean().sqrt()), "their mean square norm is 1"),
    )
    for factor, why in wanted:
        if not 1 / SAME < factor < SAME:
            yield Variant("scale", f"with activations multiplied by {factor:.4g}, so that {why}", sae, factor)
    for factor in FACTORS:
        yield Variant("scale", f"with activations multiplied by {factor:.4g}", sae, factor)


def _orientations(sae: Sae) -> Iterator[Variant]:
    """Where d_in = d_sae, the shapes cannot tell."""
    if sae.W_enc.shape[0] != sae.W_enc.shape[1] or sae.W_dec.shape != sae.W_enc.shape:
        return
    W_enc, W_dec = sae.W_enc.T.contiguous().T.T, sae.W_dec.T.contiguous()
    encoder = dataclasses.replace(sae, W_enc=W_enc)
    yield Variant("orientation", "with W_enc transposed", encoder)
    for what, base in (("with W_dec transposed", sae), ("with W_enc and W_dec transposed", encoder)):
        yield Variant(
            "orientation", what, dataclasses.replace(base, W_dec=W_dec, decoder_norm=W_dec.norm(dim=-1))
        )  # fmt: skip


def _thresholds(sae: Sae) -> Iterator[Variant]:
    """Thresholds of activations as they are, or of those multiplied by ‖W_dec‖."""
    norms = sae.decoder_norm.clamp(min=1e-30)
    if sae.description.architecture != "jumprelu" or not bool(torch.any((norms - 1).abs() > SAME - 1)):
        return
    for what, threshold in (("multiplied", sae.threshold * norms), ("divided", sae.threshold / norms)):
        yield Variant("threshold", f"with thresholds {what} by ‖W_dec‖", dataclasses.replace(sae, threshold=threshold))
