"""What the saved SAEs do to the language model: the numbers of `sae_card.json`.

Everything is measured on the half-precision files, on contexts of documents not trained on (the model's own validation
contexts), at positions 1 to 127; position 0 keeps its residual everywhere. Sums are in float64. The dead fraction alone
adds contexts of training documents, so that rare features get their chance.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPT2LMHeadModel

from demo import residuals, topk_sae, train_model

N_VALIDATION, N_TRAINING = 512, 2048


@torch.no_grad()
def measure(
    model_folder: Path, sae_folder: Path, layer: int, train_tokens: np.ndarray, val_tokens: np.ndarray
) -> dict[str, object]:
    """One SAE's metrics by name; fractions are 0 to 1, losses in nats per token."""
    stream = residuals.ResidualStream(model_folder, (layer,))
    sae = topk_sae.load(sae_folder)
    val = train_model.draw_contexts(val_tokens, N_VALIDATION, np.random.default_rng(1))
    fit = Fit(sae)
    for part in _parts(val):
        fit.add(stream.read(part)[layer])
    n_validation = fit.n_tokens
    result: dict[str, object] = {"explained_variance": round(fit.explained_variance, 4), "l0": round(fit.l0, 2)}
    model = GPT2LMHeadModel.from_pretrained(model_folder, dtype=torch.float32)
    result |= _losses(model, layer, sae, val, fit.mean)
    rare = train_model.draw_contexts(train_tokens, N_TRAINING, np.random.default_rng(2))
    for part in _parts(rare):
        fit.add(stream.read(part)[layer])
    result |= {"dead_fraction": round(int((fit.n_fired == 0).sum()) / len(fit.n_fired), 5)}
    result |= {"n_tokens_validation": n_validation, "n_tokens_dead_fraction": fit.n_tokens}
    return result | {"model_sha256": sha256(model_folder / "model.safetensors")}


class Fit:
    """Running sums of one SAE's errors and firings."""

    def __init__(self, sae: topk_sae.TopKSae) -> None:
        self._sae = sae
        self._sum = torch.zeros_like(sae.b_dec, dtype=torch.float64)
        self._squares = self._errors = 0.0
        self.n_fired = torch.zeros(len(sae.b_enc), dtype=torch.int64)
        self.n_tokens = 0

    def add(self, x: Tensor) -> None:
        """Count (n, d_in) residuals."""
        values, features = self._sae.encode(x)
        self._errors += float((self._sae.decode(values, features) - x).double().square().sum())
        self._squares += float(x.double().square().sum())
        self._sum += x.sum(0, dtype=torch.float64)
        self.n_fired += torch.bincount(features[values > 0], minlength=len(self.n_fired))
        self.n_tokens += len(x)

    @property
    def mean(self) -> Tensor:
        """Mean residual."""
        return (self._sum / self.n_tokens).float()

    @property
    def explained_variance(self) -> float:
        """1 - (sum of squared errors) / (sum of squared distances from the mean residual)."""
        return 1 - self._errors / (self._squares - float(self._sum.square().sum()) / self.n_tokens)

    @property
    def l0(self) -> float:
        """Mean number of active features per token."""
        return int(self.n_fired.sum()) / self.n_tokens


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def patched_loss(model: GPT2LMHeadModel, layer: int, contexts: Tensor, replace: Callable[[Tensor], Tensor]) -> float:
    """Mean loss of positions 1 to 126 with their residuals after `layer` replaced, (n, d_model) to (n, d_model)."""

    def hook(_module: object, _inputs: object, out: Tensor) -> Tensor:
        inner = out[:, 1:]
        return torch.cat([out[:, :1], replace(inner.flatten(0, 1)).view_as(inner)], dim=1)

    handle = model.transformer.h[layer].register_forward_hook(hook)
    losses = []
    for part in _parts(contexts):
        hidden = model.transformer(part, use_cache=False).last_hidden_state[:, 1:-1]
        logits = (hidden @ model.lm_head.weight.T).flatten(0, 1)
        losses.append(float(cross_entropy(logits, part[:, 2:].flatten(), reduction="sum")))
    handle.remove()
    return sum(losses) / contexts[:, 2:].numel()


def _parts(contexts: Tensor) -> Iterator[Tensor]:
    for start in range(0, len(contexts), residuals.FORWARD_CONTEXTS):
        yield contexts[start : start + residuals.FORWARD_CONTEXTS]


def _losses(
    model: GPT2LMHeadModel, layer: int, sae: topk_sae.TopKSae, contexts: Tensor, mean: Tensor
) -> dict[str, object]:
    """Losses with the true residual, the SAE's, zero and the mean; the share of the way back from the last two."""
    replacements: dict[str, Callable[[Tensor], Tensor]] = {
        "clean": lambda x: x,
        "sae": lambda x: sae.decode(*sae.encode(x)),
        "zero": torch.zeros_like,
        "mean": mean.expand_as,
    }
    loss = {name: patched_loss(model, layer, contexts, replace) for name, replace in replacements.items()}
    result: dict[str, object] = {f"loss_{name}": round(value, 4) for name, value in loss.items()}
    for name in ("zero", "mean"):
        result[f"loss_recovered_{name}"] = round((loss[name] - loss["sae"]) / (loss[name] - loss["clean"]), 4)
    return result
