"""What an SAE makes of its input: the sum of the decoder rows of the features that fire, with their activations.

Decoding visits firings only, so its cost grows with L0 and not with d_sae.
Source of the semantics: `decode` and `run_time_activation_norm_fn_out` in sae_lens/saes/sae.py, and transcoder.py, SAELens 6.54.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workers.compute.encoders import AnyEncoder
from workers.compute.sae import Sae


class Reconstruction(NamedTuple):
    """Of `n` tokens, in fp32."""

    output: Float[Tensor, "n d_out"]
    """In the place of the SAE's input, its run-time normalisation undone; a transcoder's, in that of its target."""
    l0: Float[Tensor, " n"]
    """Features that fire."""
    l1: Float[Tensor, " n"]
    """Sum of the magnitudes of the activations, scaled by ‖W_dec‖ as everywhere."""


def reconstruct(
    encoder: AnyEncoder, residuals: Float[Tensor, "n d_in"], directions: Float[Tensor, "d_sae d_out"] | None = None
) -> Reconstruction:
    """Encode and decode: Σ activation · direction + b_dec, and W_skip @ input where there is one.

    `directions` are the decoder rows at unit norm; without them those of the features that fire are made, to the same
    result.
    """
    n = len(residuals)
    if n == 0:
        nothing = residuals.new_zeros(0)
        return Reconstruction(residuals.new_zeros(0, encoder.sae.description.d_out), nothing, nothing)
    firings = encoder.encode(residuals)
    row, feature = (
        torch.from_numpy(column.astype(np.int64)).to(residuals.device) for column in (firings.row, firings.feature)
    )
    value = torch.from_numpy(firings.value).to(residuals.device)
    if directions is None:
        fired, feature = torch.unique(feature, return_inverse=True)
        directions = encoder.sae.directions(fired)
    order = row.argsort(stable=True)
    counts = torch.bincount(row, minlength=n)
    decoded = torch.nn.functional.embedding_bag(
        feature[order],
        directions,
        counts.cumsum(0) - counts,
        mode="sum",
        per_sample_weights=value[order],
    )
    l1 = torch.zeros(n, dtype=torch.float64, device=residuals.device).index_add(0, row, value.abs().double())
    output: Tensor = denormalise(encoder.sae, residuals, decoded + encoder.sae.b_dec)
    return Reconstruction(output, counts.float(), l1.float())


def denormalise(dictionary: Sae, residuals: Tensor, decoded: Tensor) -> Tensor:
    """What was decoded, with the normalisation of its input undone, or W_skip @ input added."""
    if dictionary.description.kind == "transcoder":  # its target is on a scale of its own
        return decoded if dictionary.W_skip is None else decoded + residuals @ dictionary.W_skip.T
    scale = output_scale(dictionary, residuals)
    decoded = decoded if scale is None else decoded * scale
    if dictionary.description.normalize_activations == "layer_norm":
        return decoded + residuals.mean(dim=-1, keepdim=True)
    return decoded


def output_scale(dictionary: Sae, residuals: Float[Tensor, "n d_in"]) -> Float[Tensor, "n 1"] | None:
    """By how much more than in the SAE's own terms a feature writes at each token; None where it is the same."""
    match dictionary.description.normalize_activations:
        case "constant_norm_rescale":
            coefficient: Tensor = residuals.norm(dim=-1, keepdim=True) / dictionary.description.d_in**0.5
            return coefficient
        case "layer_norm":
            std: Tensor = (residuals - residuals.mean(dim=-1, keepdim=True)).std(dim=-1, keepdim=True)
            return std
    return None
