"""Residuals of the demo's language model, read as cheaply as the layers asked for allow.

A layer L names the output of block L (blocks count from 0), before the final norm: `blocks.L.hook_resid_post`.
"""

from pathlib import Path

import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

FORWARD_CONTEXTS = 16
"""Contexts per forward pass: 2,048 tokens, whose activations stay in a CPU's cache."""


class ResidualStream:
    """The language model cut after the last of `layers`."""

    def __init__(self, folder: Path, layers: tuple[int, ...]) -> None:
        self._model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).transformer
        self._model.h = self._model.h[: max(layers) + 1]
        self._found: dict[int, Tensor] = {}
        for layer in layers:
            block = self._model.h[layer]
            block.register_forward_hook(lambda _m, _i, out, layer=layer: self._found.update({layer: out}))

    @torch.no_grad()
    def read(self, contexts: Tensor) -> dict[int, Tensor]:
        """Residuals after each layer, position 0 left out: (n_contexts * 127, d_model)."""
        chunks: list[dict[int, Tensor]] = []
        for start in range(0, len(contexts), FORWARD_CONTEXTS):
            self._model(contexts[start : start + FORWARD_CONTEXTS], use_cache=False)
            chunks.append({layer: out[:, 1:].flatten(0, 1) for layer, out in self._found.items()})
        return {layer: torch.cat([chunk[layer] for chunk in chunks]) for layer in self._found}
