"""Which encoder an SAE gets: the one written for the device its weights are on."""

from workers.compute.dense import DenseEncoder
from workers.compute.encoder import Encoder, ScreenName
from workers.compute.encoder_cuda import CudaEncoder
from workers.compute.sae import Sae

AnyEncoder = Encoder | CudaEncoder
"""Both encode residuals to the same firings."""
AnySource = AnyEncoder | DenseEncoder
"""What gives activations: an SAE's encoder, or the values of neurons or vectors."""


def of(sae: Sae, *, screen: ScreenName = "auto") -> AnyEncoder:
    """`screen` is for a CPU; a GPU has one."""
    return Encoder(sae, screen=screen) if sae.W_enc.device.type == "cpu" else CudaEncoder(sae)
