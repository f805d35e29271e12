"""Activations in float64, from an SAE's files and either side's residuals: what both engines round in their own way.

Reads the weights itself, so it shares no code with what it judges. Residuals are memory-mapped or held in fp32; only
tokens that are asked for are computed.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from backend.names import HookPoint
from tests.bench.equality import Place, Token
from workers.compute import activation_index, language_model

UNIT_ROUNDOFF = 2.0**-24
EXTRA_ROUNDINGS = 8
"""Bias, decoder norm folded in or multiplied after, and the threshold scaled likewise."""


class Exact:
    """One JumpReLU SAE on the residuals of both engines, each (n_contexts, context_size, d_in) in fp32."""

    def __init__(self, sae_folder: Path, ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> None:
        weights = load_file(sae_folder / "sae_weights.safetensors")
        self._b_dec = weights["b_dec"]
        self._W_enc, self._b_enc = weights["W_enc"].astype(np.float64), weights["b_enc"].astype(np.float64)
        self._threshold = weights["threshold"].astype(np.float64)
        self._norm = np.linalg.norm(weights["W_dec"].astype(np.float64), axis=1)
        self._residuals = (ours, theirs)

    def token(self, feature: int, context: int, position: int) -> Token:
        """The feature at one token."""
        w, b, norm = self._W_enc[:, feature], self._b_enc[feature], self._norm[feature]
        inputs = [(side[context, position] - self._b_dec).astype(np.float64) for side in self._residuals]
        n = len(w) + EXTRA_ROUNDINGS
        gamma = n * UNIT_ROUNDOFF / (1 - n * UNIT_ROUNDOFF)
        # Higham, Accuracy and Stability of Numerical Algorithms, section 3.1: any order of summation
        bound = gamma * max(float(np.abs(x) @ np.abs(w)) + abs(b) for x in inputs) * norm
        ours, theirs = (float(x @ w + b) * norm for x in inputs)
        return Token(ours, theirs, float(bound), float(self._threshold[feature] * norm))


def our_residuals(model: Path, hook_point: HookPoint, rows: NDArray[np.integer]) -> NDArray[np.float32]:
    """Residuals as the engine computes them, in its batches."""
    loaded = language_model.load(str(model), device=torch.device("cpu"), dtype=torch.float32)
    capture = language_model.resolve(loaded, hook_point)
    batches = torch.split(torch.from_numpy(rows.astype(np.int64)), activation_index.BATCH_CONTEXTS)
    return np.concatenate([language_model.residuals(loaded, capture, batch).numpy() for batch in batches])


def peer_residuals(cache: Path, hook_point: str, n_files: int) -> NDArray[np.float32]:
    """What SAEDashboard cached in its first block: one file for each of its forward passes."""
    files: Sequence[Path] = [cache / f"model_activations_{i}.pt" for i in range(n_files)]
    return np.concatenate([torch.load(file, weights_only=True)[hook_point].numpy() for file in files])


def peer_places(examples: Path) -> dict[int, list[Place]]:
    """SAEDashboard's top examples by feature, in order of rank."""
    columns = np.load(examples)
    found: dict[int, list[Place]] = {}
    for feature, context, position, value in zip(
        *(columns[name].tolist() for name in ("feature", "context", "position", "value")), strict=True
    ):
        found.setdefault(feature, []).append(Place(context, position, value))
    return found
