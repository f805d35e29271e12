"""An SAE run the plain way, every activation of every feature in memory: for a few tokens, and no need of the last bit.

The encoders of dashboards (`encoders`) give the same but for rounding, are exact, and are slow where a wrong
configuration makes half the features fire. Semantics and their sources as in `encoder`; tests hold the two equal.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from workers.compute.encoder import normalise
from workers.compute.reconstruction import denormalise
from workers.compute.sae import Sae


class Run(NamedTuple):
    """What became of `n` tokens."""

    output: Float[Tensor, "n d_out"]
    l0: float
    """Features that fire on a token, on average."""
    n_fired: int
    """Features that fire on some token."""


def run(sae: Sae, residuals: Float[Tensor, "n d_in"]) -> Run:
    """Encode and decode."""
    activations = _activations(sae, normalise(sae, residuals))
    fires = activations != 0
    output = denormalise(sae, residuals, activations @ sae.W_dec + sae.b_dec)
    return Run(output, float(fires.sum(dim=1, dtype=torch.float64).mean()), int(fires.any(dim=0).sum()))


def _activations(sae: Sae, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_sae"]:
    """Of features as the weights have them, not scaled by ‖W_dec‖."""
    pre = x @ sae.W_enc
    description = sae.description
    if description.k is not None:
        pre = pre + sae.b_enc
        rank = pre * sae.decoder_norm if description.is_scaled_by_decoder_norm else pre
        size = rank.abs() if description.is_signed else rank.clamp(min=0)
        chosen = torch.zeros_like(size, dtype=torch.bool).scatter_(
            1, size.topk(description.k or 1, dim=1).indices, True
        )
        return torch.where(chosen & (size > 0), pre, 0.0)
    if sae.b_gate is not None and sae.magnitude_gain is not None:
        return torch.where(pre + sae.b_gate > 0, pre * sae.magnitude_gain + sae.b_enc, 0.0).clamp(min=0)
    pre = pre + sae.b_enc
    return torch.where(pre > sae.threshold, pre, 0.0)
