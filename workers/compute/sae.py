"""An SAE's weights, as its encoder and decoder need them.

Reads SAELens folders. Does not own the arithmetic of encoding (`encoder`), nor which tokens count.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from backend import errors
from backend.formats import sae_files


@dataclass(frozen=True, slots=True)
class Sae:
    """Weights in fp32 on one device."""

    description: sae_files.SaeDescription
    W_enc: Float[Tensor, "d_in d_sae"]
    """Stored feature by feature: its transpose is contiguous."""
    W_dec: Float[Tensor, "d_sae d_in"]
    b_dec: Float[Tensor, " d_in"]
    b_enc: Float[Tensor, " d_sae"]
    """Gated: the magnitude path's bias."""
    threshold: Float[Tensor, " d_sae"]
    """A feature fires where its pre-activation is greater; 0 except for jumprelu."""
    b_gate: Float[Tensor, " d_sae"] | None
    """Gated only."""
    magnitude_gain: Float[Tensor, " d_sae"] | None
    """Gated only: exp(r_mag)."""
    decoder_norm: Float[Tensor, " d_sae"]
    """‖W_dec‖ by row."""

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.description.d_sae

    def to(self, device: torch.device) -> "Sae":
        """The same weights on another device, bit for bit."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return dataclasses.replace(
            self, W_enc=self.W_enc.to(device), W_dec=self.W_dec.to(device), b_dec=self.b_dec.to(device),
            b_enc=self.b_enc.to(device), threshold=self.threshold.to(device), b_gate=moved(self.b_gate),
            magnitude_gain=moved(self.magnitude_gain), decoder_norm=self.decoder_norm.to(device),
        )  # fmt: skip

    def directions(self) -> Float[Tensor, "d_sae d_in"]:
        """Decoder rows at unit norm; a zero row stays zero."""
        return self.W_dec / self.decoder_norm.clamp(min=1e-30)[:, None]


def load(folder: Path, *, device: torch.device) -> Sae:
    """Read a checked SAELens folder into fp32; raises `InvalidInputError` for weights that are not finite."""
    description = sae_files.describe(folder)
    state = {key: tensor.float() for key, tensor in load_file(folder / sae_files.WEIGHTS_NAME).items()}
    for key in sae_files.WEIGHT_KEYS[description.architecture]:
        if not bool(torch.isfinite(state[key]).all()):
            raise errors.InvalidInputError(
                f"'{key}' of {folder.name} holds NaN or infinity.", hint="Train or save it again."
            )
    # what is derived from the weights is derived on the CPU, so that it has the same bits on every device
    return from_state(description, state).to(device)


def from_state(description: sae_files.SaeDescription, state: dict[str, Tensor]) -> Sae:
    """Build from fp32 tensors named as SAELens names them."""
    is_gated = description.architecture == "gated"
    zeros = torch.zeros(description.d_sae, device=state["W_dec"].device)
    return Sae(
        description=description,
        W_enc=state["W_enc"].T.contiguous().T,
        W_dec=state["W_dec"].contiguous(),
        b_dec=state["b_dec"],
        b_enc=state["b_mag"] if is_gated else state["b_enc"],
        threshold=state["threshold"].clamp(min=0) if description.architecture == "jumprelu" else zeros,
        b_gate=state["b_gate"] if is_gated else None,
        magnitude_gain=state["r_mag"].exp() if is_gated else None,
        decoder_norm=state["W_dec"].norm(dim=-1),
    )
