"""A TopK SAE whose backward pass touches only active features, and its SAELens folder.

Owns the parameters, encode, decode, gradients and file format; the training loop is in `train_saes`, the metrics are in
`measure_saes`. Of the five dense products of autograd only the encoder's forward is left:
1. encode in chunks of `ENCODE_ROWS` tokens, so that top-k reads pre-activations still in cache;
2. decode as an embedding bag, whose gradient for the activations is a sparse dot product;
3. transpose the (token, feature) pairs once by a radix sort; both weight gradients are then embedding bags over tokens.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import embedding_bag

ENCODE_ROWS = 256
SAELENS_VERSION = "6.54.12"
"""The release whose folder layout `save` writes; a unit test loads the folder with the installed one."""


@dataclass(frozen=True, slots=True)
class Gradients:
    """One tensor per parameter of `TopKSae`, in the same layout."""

    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor
    b_dec: Tensor


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one batch says about the SAE."""

    gradients: Gradients
    squared_error: float
    """Sum over the batch, without the auxiliary loss."""
    fired: Tensor
    """(d_sae,) bool: active on at least one token."""


@dataclass(slots=True)
class TopKSae:
    """`decode(relu(topk((x - b_dec) W_enc + b_enc)))`; a feature's weights are contiguous in both matrices."""

    W_enc: Tensor
    """(d_sae, d_in): the transpose of the saved file's."""
    W_dec: Tensor
    """(d_sae, d_in), rows of unit norm."""
    b_enc: Tensor
    b_dec: Tensor
    k: int

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Activations (at least 0) and features of the k largest pre-activations, both (n, k), unsorted."""
        values, features, _ = self._encode(x - self.b_dec, torch.empty(0, dtype=torch.int64), 0)
        return values, features

    def decode(self, values: Tensor, features: Tensor) -> Tensor:
        """(n, d_in) reconstructions."""
        return embedding_bag(features, self.W_dec, mode="sum", per_sample_weights=values) + self.b_dec

    def step(self, x: Tensor, dead: Tensor, k_aux: int, aux_coefficient: float) -> StepResult:
        """Gradients of the mean squared error per entry of `x`, plus AuxK on the `dead` features (int64 indices).

        AuxK: the top `k_aux` dead features reconstruct the (detached) error; its squared error per entry counts
        `aux_coefficient` times. Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", appendix A.2.
        """
        centred = x - self.b_dec
        values, features, aux = self._encode(centred, dead, min(k_aux, len(dead)))
        error = self.decode(values, features) - x
        d_out = error * (2 / x.numel())
        gradients = self._backward(centred, values, features, d_out)
        gradients.b_dec.add_(d_out.sum(0))
        if aux is not None:
            left = embedding_bag(aux[1], self.W_dec, mode="sum", per_sample_weights=aux[0]).add_(error)
            extra = self._backward(centred, *aux, left.mul_(2 * aux_coefficient / x.numel()))
            for name in Gradients.__slots__:
                getattr(gradients, name).add_(getattr(extra, name))
        fired = torch.bincount(features.reshape(-1), values.reshape(-1), len(self.b_enc)) > 0
        return StepResult(gradients, float(error.square().sum()), fired)

    def _encode(self, centred: Tensor, dead: Tensor, k_aux: int) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        values, features, aux_values, aux_features = [], [], [], []
        for start in range(0, len(centred), ENCODE_ROWS):
            pre = torch.addmm(self.b_enc, centred[start : start + ENCODE_ROWS], self.W_enc.T)
            top = torch.topk(pre, self.k, sorted=False)
            values.append(top.values.relu())
            features.append(top.indices)
            if k_aux:
                top = torch.topk(pre[:, dead], k_aux, sorted=False)
                aux_values.append(top.values.relu())
                aux_features.append(dead[top.indices])
        aux = (torch.cat(aux_values), torch.cat(aux_features)) if k_aux else None
        return torch.cat(values), torch.cat(features), aux

    def _backward(self, centred: Tensor, values: Tensor, features: Tensor, d_out: Tensor) -> Gradients:
        """Gradients given that of the reconstruction; `b_dec`'s is only the part through the encoder's input."""
        d_values = self._values_gradient(values, features, d_out)
        order = torch.from_numpy(np.argsort(features.numpy().astype(np.uint16), axis=None, kind="stable"))
        ends = torch.bincount(features.reshape(-1), minlength=len(self.b_enc)).cumsum(0)
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])
        tokens = torch.div(order, features.shape[1], rounding_mode="floor")

        def per_feature(vectors: Tensor, weights: Tensor) -> Tensor:
            return embedding_bag(tokens, vectors, starts, mode="sum", per_sample_weights=weights.reshape(-1)[order])

        b_enc = torch.bincount(features.reshape(-1), d_values.reshape(-1), len(self.b_enc)).to(d_out.dtype)
        W_enc, W_dec = per_feature(centred, d_values), per_feature(d_out, values)
        return Gradients(W_enc, W_dec, b_enc, -(b_enc @ self.W_enc))

    def _values_gradient(self, values: Tensor, features: Tensor, d_out: Tensor) -> Tensor:
        """`d_out[token] . W_dec[feature]` of each pair, by the embedding bag's own backward; 0 where relu cut."""
        weights = values.detach().requires_grad_()
        with torch.enable_grad():
            out = embedding_bag(features, self.W_dec, mode="sum", per_sample_weights=weights)
        (gradient,) = torch.autograd.grad(out, weights, d_out)
        return gradient * (values > 0)


def initialize(d_in: int, d_sae: int, k: int, generator: torch.Generator) -> TopKSae:
    """Random unit decoder rows, encoder equal to the decoder, biases 0."""
    W_dec = torch.randn(d_sae, d_in, generator=generator)
    W_dec /= W_dec.norm(dim=1, keepdim=True)
    return TopKSae(W_dec.clone(), W_dec, torch.zeros(d_sae), torch.zeros(d_in), k)


def unscaled(sae: TopKSae, mean: Tensor, scale: float) -> TopKSae:
    """What `sae` is on `(x - mean) * scale`, as an SAE on `x`; activations become `1 / scale` times as large."""
    return TopKSae(sae.W_enc.clone(), sae.W_dec.clone(), sae.b_enc / scale, mean + sae.b_dec / scale, sae.k)


def save(sae: TopKSae, folder: Path, metadata: dict[str, object]) -> None:
    """Write a SAELens folder in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"W_enc": sae.W_enc.T, "W_dec": sae.W_dec, "b_enc": sae.b_enc, "b_dec": sae.b_dec}
    halves = {name: tensor.to(torch.float16).contiguous() for name, tensor in tensors.items()}
    save_file(halves, folder / "sae_weights.safetensors")
    d_sae, d_in = sae.W_dec.shape
    config = {
        "architecture": "topk", "k": sae.k, "d_in": d_in, "d_sae": d_sae, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "metadata": metadata | {"sae_lens_version": SAELENS_VERSION},
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(config, indent=1) + "\n")


def load(folder: Path) -> TopKSae:
    """Read such a folder back, in single precision."""
    tensors = {name: t.float() for name, t in load_file(folder / "sae_weights.safetensors").items()}
    k = json.loads((folder / "cfg.json").read_text())["k"]
    return TopKSae(tensors["W_enc"].T.contiguous(), tensors["W_dec"], tensors["b_enc"], tensors["b_dec"], k)
