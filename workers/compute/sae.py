"""An SAE's weights, as its encoder and decoder need them.

Reads every format `sae_files` describes. Does not own the arithmetic of encoding (`encoder`), nor which tokens count.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from backend.formats import sae_files
from workers.compute import weight_files


@dataclass(frozen=True, slots=True)
class Sae:
    """Weights in fp32 on one device."""

    description: sae_files.SaeDescription
    W_enc: Float[Tensor, "d_in d_sae"]
    """Stored feature by feature: its transpose is contiguous."""
    W_dec: Float[Tensor, "d_sae d_out"]
    b_dec: Float[Tensor, " d_out"]
    """Subtracted from the input too, where the description says so."""
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
    W_skip: Float[Tensor, "d_out d_in"] | None = None
    """Transcoders with a skip connection: added to the output, times the input."""

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
            W_skip=moved(self.W_skip),
        )  # fmt: skip

    def only(self, features: Sequence[int]) -> "Sae":
        """The same SAE with these features alone, in this order. Not for top-k: there a feature fires or not by the others."""
        chosen = torch.tensor(features, dtype=torch.int64, device=self.W_dec.device)

        def of_chosen(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[chosen]

        return dataclasses.replace(
            self, description=dataclasses.replace(self.description, d_sae=len(features)),
            W_enc=self.W_enc.T[chosen].T, W_dec=self.W_dec[chosen], b_enc=self.b_enc[chosen],
            threshold=self.threshold[chosen], b_gate=of_chosen(self.b_gate),
            magnitude_gain=of_chosen(self.magnitude_gain), decoder_norm=self.decoder_norm[chosen],
        )  # fmt: skip

    def directions(self, features: Int64[Tensor, " n"] | None = None) -> Float[Tensor, "n d_out"]:
        """Decoder rows at unit norm, all if not given; a zero row stays zero."""
        if features is None:
            return self.W_dec / self.decoder_norm.clamp(min=1e-30)[:, None]
        return self.W_dec[features] / self.decoder_norm[features].clamp(min=1e-30)[:, None]


def load(
    folder: Path,
    *,
    device: torch.device,
    declared: sae_files.Declared = sae_files.NOTHING_DECLARED,
    cache: Path | None = None,
) -> Sae:
    """Read a checked folder of any format into fp32; `cache` and what it raises as `weight_files.read`."""
    description = sae_files.describe(folder, declared)
    # what is derived from the weights is derived on the CPU, so that it has the same bits on every device
    return from_state(description, weight_files.read(description, cache=cache)).to(device)


def from_state(description: sae_files.SaeDescription, state: dict[str, Tensor]) -> Sae:
    """Build from fp32 tensors named as SAELens names them; what is missing is zero. Folds the training's input factor."""
    W_enc, W_dec, factor = state["W_enc"], state["W_dec"], description.input_factor
    norm = W_dec.norm(dim=-1)
    if factor != 1.0:
        W_enc, W_dec = W_enc * factor, W_dec / factor
    is_gated = description.architecture == "gated"
    b_dec = state.get("b_dec", W_dec.new_zeros(description.d_out))
    return Sae(
        description=description,
        W_enc=W_enc.T.contiguous().T,
        W_dec=W_dec.contiguous(),
        b_dec=b_dec / factor if factor != 1.0 else b_dec,
        b_enc=state["b_mag"] if is_gated else state.get("b_enc", W_dec.new_zeros(description.d_sae)),
        threshold=_threshold(description, state, norm),
        b_gate=state["b_gate"] if is_gated else None,
        magnitude_gain=state["r_mag"].exp() if is_gated else None,
        decoder_norm=W_dec.norm(dim=-1) if factor != 1.0 else norm,
        W_skip=state.get("W_skip"),
    )


def _threshold(description: sae_files.SaeDescription, state: dict[str, Tensor], norm: Tensor) -> Tensor:
    """Of each feature, on its pre-activation; `norm` is ‖W_dec‖ as in the file. A feature without direction never fires."""
    zeros = torch.zeros_like(norm)
    if description.architecture != "jumprelu":
        return zeros
    one = zeros if description.threshold is None else zeros + description.threshold
    threshold = (zeros + state["threshold"] if "threshold" in state else one).clamp(min=0)
    return torch.where(norm > 0, threshold / norm, torch.inf) if description.is_threshold_of_scaled else threshold
