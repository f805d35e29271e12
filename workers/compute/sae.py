"""An SAE's weights and its encoder: residuals in, firings out.

Owns the arithmetic of encoding, in SAELens's order of operations so that equal inputs give equal bits. Firing is
decided by the SAE's own weights; only then is the value scaled by ‖W_dec‖, as if decoder rows had unit norm (what
SAEDashboard and Neuronpedia show). Does not own which tokens count, nor what is done with the firings.

Source of the semantics: sae_lens/saes/{sae,standard_sae,topk_sae,jumprelu_sae,gated_sae}.py, SAELens 6.54.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from backend import errors
from backend.formats import sae_files

ROW_TILE = 512
FEATURE_TILE = 2048
"""Dense activations exist for one tile of tokens and features only: 4 MB, which stays in cache."""


@dataclass(frozen=True, slots=True)
class Firings:
    """Non-zero activations of a run of tokens, ascending by row for each feature."""

    row: Int[Tensor, " n"]
    feature: Int[Tensor, " n"]
    value: Float[Tensor, " n"]
    """Scaled by ‖W_dec‖ unless the source is kept raw."""


@dataclass(frozen=True, slots=True)
class Sae:
    """Weights in fp32 on one device."""

    description: sae_files.SaeDescription
    W_enc: Float[Tensor, "d_in d_sae"]
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

    def directions(self) -> Float[Tensor, "d_sae d_in"]:
        """Decoder rows at unit norm; a zero row stays zero."""
        return self.W_dec / self.decoder_norm.clamp(min=1e-30)[:, None]


def load(folder: Path, *, device: torch.device) -> Sae:
    """Read a checked SAELens folder into fp32; raises `InvalidInputError` for weights that are not finite."""
    description = sae_files.describe(folder)
    state = {
        key: tensor.to(device, torch.float32) for key, tensor in load_file(folder / sae_files.WEIGHTS_NAME).items()
    }
    for key in sae_files.WEIGHT_KEYS[description.architecture]:
        if not bool(torch.isfinite(state[key]).all()):
            raise errors.InvalidInputError(
                f"'{key}' of {folder.name} holds NaN or infinity.", hint="Train or save it again."
            )
    return from_state(description, state)


def from_state(description: sae_files.SaeDescription, state: dict[str, Tensor]) -> Sae:
    """Build from fp32 tensors named as SAELens names them."""
    is_gated = description.architecture == "gated"
    zeros = torch.zeros(description.d_sae, device=state["W_dec"].device)
    return Sae(
        description=description,
        W_enc=state["W_enc"].contiguous(),
        W_dec=state["W_dec"].contiguous(),
        b_dec=state["b_dec"],
        b_enc=state["b_mag"] if is_gated else state["b_enc"],
        threshold=state["threshold"].clamp(min=0) if description.architecture == "jumprelu" else zeros,
        b_gate=state["b_gate"] if is_gated else None,
        magnitude_gain=state["r_mag"].exp() if is_gated else None,
        decoder_norm=state["W_dec"].norm(dim=-1),
    )


def encode(sae: Sae, residuals: Float[Tensor, "n d_in"]) -> Firings:
    """Firings of every feature on `n` tokens; dense activations exist for one tile at a time.

    Rows come in ascending order for each feature. Ties of top-k go to the lower feature index.
    """
    parts = [
        _encode_tile(sae, residuals[start : start + ROW_TILE], start) for start in range(0, len(residuals), ROW_TILE)
    ]
    rows, features, values = (torch.cat(column) for column in zip(*parts, strict=True))
    if not sae.description.is_scaled_by_decoder_norm:
        values = values * sae.decoder_norm[features]
    return Firings(rows, features, values)


def _encode_tile(sae: Sae, residuals: Tensor, first_row: int) -> tuple[Tensor, Tensor, Tensor]:
    x = _normalize(sae, residuals)
    if sae.description.architecture == "topk":
        return _top_k(sae, x, first_row)
    rows, features, values = [], [], []
    for start in range(0, sae.d_sae, FEATURE_TILE):
        columns = slice(start, start + FEATURE_TILE)
        if sae.b_gate is not None and sae.magnitude_gain is not None:
            W_enc = sae.W_enc[:, columns]
            gate = x @ W_enc + sae.b_gate[columns]
            pre = x @ (W_enc * sae.magnitude_gain[columns]) + sae.b_enc[columns]
            fires = (gate > 0) & (pre > 0)
        else:
            pre = x @ sae.W_enc[:, columns] + sae.b_enc[columns]
            fires = pre > sae.threshold[columns]
        row, feature = fires.nonzero(as_tuple=True)
        rows.append(row + first_row)
        features.append(feature + start)
        values.append(pre[fires])
    return torch.cat(rows), torch.cat(features), torch.cat(values)


def _normalize(sae: Sae, x: Tensor) -> Tensor:
    """The SAE's run-time normalisation of its input, then minus b_dec where it says so."""
    match sae.description.normalize_activations:
        case "constant_norm_rescale":
            x = x * (sae.description.d_in**0.5 / x.norm(dim=-1, keepdim=True))
        case "layer_norm":
            x = x - x.mean(dim=-1, keepdim=True)
            x = x / (x.std(dim=-1, keepdim=True) + 1e-5)
    return x - sae.b_dec if sae.description.is_b_dec_subtracted else x


def _top_k(sae: Sae, x: Tensor, first_row: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest pre-activations of each token, those above zero.

    A running top-k over feature tiles: candidates stay in order of index and the sort is stable, so ties keep the
    lower index whatever the tile width.
    """
    k = sae.description.k or 0
    best = x.new_empty((len(x), 0))
    index = torch.empty((len(x), 0), dtype=torch.int64, device=x.device)
    for start in range(0, sae.d_sae, FEATURE_TILE):
        columns = slice(start, start + FEATURE_TILE)
        pre = x @ sae.W_enc[:, columns] + sae.b_enc[columns]
        if sae.description.is_scaled_by_decoder_norm:
            pre = pre * sae.decoder_norm[columns]
        values, local = _stable_top_k(pre, k)
        best = torch.cat([best, values], dim=1)
        index = torch.cat([index, local + start], dim=1)
        if best.shape[1] > k:
            best, chosen = _stable_top_k(best, k)
            index = index.gather(1, chosen)
    fires = best > 0
    row, _ = fires.nonzero(as_tuple=True)
    return row + first_row, index[fires], best[fires]


def _stable_top_k(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Top k of each row in order of index; among equals at the k-th value the lowest indexes win."""
    if values.shape[1] <= k:
        return values, torch.arange(values.shape[1], device=values.device).expand(len(values), -1)
    top, chosen = values.topk(k, dim=1)
    kth = top[:, -1:]
    is_tied = (values == kth).sum(dim=1) > (top == kth).sum(dim=1)
    if bool(is_tied.any()):
        order = values[is_tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
        chosen[is_tied] = order
    chosen = chosen.sort(dim=1).values
    return values.gather(1, chosen), chosen
