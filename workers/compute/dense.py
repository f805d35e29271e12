"""Sources with a value at every token: neurons, whose value is what the hook point has, and vectors, whose is x·v + b.

Values are as they are, not scaled by any norm: a neuron's are the model's own numbers, a vector's the exact inner product
rounded once to fp32 (`exact`), so no library, thread or block changes them. Directions, for the logit lens and neighbours,
are a neuron's row of W_out or W_O, and the vectors themselves.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from backend import errors
from backend.formats.sae_files import SaeDescription
from workers.compute import exact, language_model, screens
from workers.compute.jit import compiled


@dataclass(frozen=True, slots=True)
class DenseSource:
    """What is known of every feature; all on the CPU."""

    description: SaeDescription
    written: Float[Tensor, "d_sae d_out"]
    """What a feature of value 1 adds where it writes: its row of W_out or W_O; a vector itself."""
    decoder_norm: Float[Tensor, " d_sae"]
    """‖written‖ by row."""
    bias: Float[Tensor, " d_sae"]
    """Added to a vector's inner product; zero for neurons."""

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.description.d_sae

    def directions(self) -> Float[Tensor, "d_sae d_out"]:
        """What is written, at unit norm; a zero row stays zero."""
        return self.written / self.decoder_norm.clamp(min=1e-30)[:, None]


class DenseEncoder:
    """Gives the values of a dense source. Calls from several threads run side by side."""

    screen = "none"

    def __init__(self, sae: DenseSource) -> None:
        self.sae = sae
        self._weights = sae.written.contiguous().numpy()
        self._norm = screens.row_norms(self._weights)
        self._bias = sae.bias.numpy()

    def values(
        self, residuals: Float[Tensor, "n d_in"], first: int = 0, stop: int | None = None
    ) -> Float32[np.ndarray, "n n_features"]:
        """The values of features first:stop (all, if not given) on `n` tokens.

        Raises:
            InvalidInputError: A value is beyond fp32.
        """
        x = residuals.float().cpu().contiguous().numpy()
        stop = self.sae.d_sae if stop is None else stop
        if self.sae.description.kind == "neurons":
            return x[:, first:stop]
        found = np.empty((len(x), stop - first), np.float32)
        error = screens.row_norms(x) * (x.shape[1] + 2) * exact.FLOAT64_STEP
        weights, bias = self._weights[first:stop], self._bias[first:stop]
        _inner_products(x, error, weights, bias, self._norm[first:stop], found)
        for row, feature in np.argwhere(np.isnan(found)).tolist():
            found[row, feature] = exact.inner_product(x[row], weights[feature], float(bias[feature]))
        if not np.isfinite(found).all():
            raise errors.InvalidInputError(
                "inner products with the vectors are beyond what fp32 holds.", hint="Scale the vectors down."
            )
        return found


def neurons(model: language_model.LanguageModel, capture: language_model.Capture, of: SaeDescription) -> DenseSource:
    """The neurons at a hook point; raises `UnsupportedError` where they write nowhere."""
    written = language_model.residual_map(model, capture)
    written = torch.eye(of.d_sae) if written is None else written.float().cpu().contiguous()
    return DenseSource(of, written, written.norm(dim=-1), torch.zeros(of.d_sae))


def vectors(of: SaeDescription) -> DenseSource:
    """Load a described vector set; raises `InvalidInputError` for numbers that are not finite."""
    path: Path = of.folder
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            state = {name: torch.from_numpy(np.asarray(arrays[name], np.float32)) for name in arrays if name in _READ}
    else:
        state = {name: tensor.float() for name, tensor in load_file(path).items() if name in _READ}
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise errors.InvalidInputError(f"'{name}' of {path.name} holds NaN or infinity.", hint="Save it again.")
    written = state["vectors"].contiguous()
    return DenseSource(of, written, written.norm(dim=-1), state.get("bias", torch.zeros(of.d_sae)))


_READ = ("vectors", "bias")


@compiled
def _inner_products(
    x: NDArray[np.float32],
    error: NDArray[np.float64],
    weights: NDArray[np.float32],
    bias: NDArray[np.float32],
    norm: NDArray[np.float64],
    found: NDArray[np.float32],
) -> None:
    """Fill in what fp64 decides; NaN where it does not."""
    for row in range(len(x)):
        for feature in range(len(weights)):
            total = exact.dot(x[row], weights[feature])
            low, high = exact.bounds(total, bias[feature], error[row] * norm[feature])
            found[row, feature] = np.float32(low) if low == high else np.float32(np.nan)
