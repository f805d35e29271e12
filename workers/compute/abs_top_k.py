"""Abs-top-k as top-k: the k largest pre-activations by magnitude are the k largest of every feature and its negative.

Feature f becomes two: 2f with its encoder row, and 2f + 1 with that row and its bias negated. At most one of a pair is
above zero, rounding to nearest is the same on both sides of zero, and ties go to the lower number, so to the lower
feature. The encoders for top-k, on a CPU or a GPU, are therefore exact for abs-top-k too, at twice the product.

Source of the semantics: sae_lens/saes/abstopk_sae.py, SAELens 6.54 ("AbsTopK: Rethinking Sparse Autoencoders For
Bidirectional Features").
"""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from workers.compute.sae import Sae


def is_needed(sae: Sae) -> bool:
    """Whether the SAE keeps the largest by magnitude."""
    return sae.description.architecture == "abstopk"


def as_top_k(sae: Sae) -> Sae:
    """The top-k SAE over 2·d_sae features that stands for an abs-top-k one; any other SAE as it is."""
    if not is_needed(sae):
        return sae
    description = dataclasses.replace(
        sae.description, architecture="topk", d_sae=2 * sae.d_sae, is_signed=False
    )  # fmt: skip
    W_enc, W_dec = _mirrored(sae.W_enc.T), _mirrored(sae.W_dec)
    return dataclasses.replace(
        sae, description=description, W_enc=W_enc.T, W_dec=W_dec, b_enc=_mirrored(sae.b_enc[:, None])[:, 0],
        threshold=torch.repeat_interleave(sae.threshold, 2), decoder_norm=torch.repeat_interleave(sae.decoder_norm, 2),
    )  # fmt: skip


def _mirrored(rows: Float[Tensor, "d_sae d"]) -> Float[Tensor, "two_d_sae d"]:
    """Each row followed by its negative."""
    return torch.stack([rows, -rows], dim=1).reshape(2 * len(rows), -1).contiguous()
