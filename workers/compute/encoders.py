"""Which encoder an SAE gets: the one written for the device its weights are on."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from workers.compute.dense import DenseEncoder
from workers.compute.encoder import Encoder, ScreenName
from workers.compute.encoder_cuda import CudaEncoder
from workers.compute.sae import Sae

AnyEncoder = Encoder | CudaEncoder
"""Both encode residuals to the same firings."""
AnySource = AnyEncoder | DenseEncoder
"""What gives activations: an SAE's encoder, or the values of neurons or vectors."""


_BUFFERS_BYTES = 1 << 26
"""What a GPU's encoder of a few features may take; one of all features takes a share of what is free."""


def of(sae: Sae, *, screen: ScreenName = "auto") -> AnyEncoder:
    """`screen` is for a CPU; a GPU has one."""
    return Encoder(sae, screen=screen) if sae.W_enc.device.type == "cpu" else CudaEncoder(sae)


def of_few(encoder: AnyEncoder, features: Sequence[int]) -> tuple[AnyEncoder, NDArray[np.int64]]:
    """What encodes these features to the same activations with as little work as can be, and their numbers there.

    Top-k needs all the others to tell which fire: there it is the encoder itself.
    """
    if encoder.sae.description.architecture in ("topk", "abstopk"):
        return encoder, np.array(features, np.int64)
    sae = encoder.sae.only(features)
    few = Encoder(sae, screen="fp32") if isinstance(encoder, Encoder) else CudaEncoder(sae, memory_bytes=_BUFFERS_BYTES)
    return few, np.arange(len(features))
