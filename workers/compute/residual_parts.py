"""The residual stream as a sum of what the components wrote, and what each gives one logit.

Before the final norm the stream at a token is the embedding plus what each block's attention and MLP wrote. The final
norm is frozen: what it divides by at that token is taken as a number, so the logit is linear in the sum. A component's
part is (write · d) ÷ scale, d being the unembedding's column of a token, less another's or less the mean column, with the
norm's gain folded in and centred under LayerNorm (`logit_direction`). Dot products in float64.

Attention may be taken apart into heads: a head's write is its slice of the output projection's input through the same
rows of W_O. Where a norm stands between projection and stream (Gemma 2), it is frozen at that token as well.
Source: direct logit attribution (Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from backend import errors, names
from workers.compute import language_model
from workers.compute.language_model import Capture, LanguageModel

Kind = Literal["embedding", "injected", "attention", "mlp", "head", "rest"]
Place = tuple[str, bool]
"""A module's path, and whether its input is meant."""
_ROWS_SUMMED = 1 << 13
"""Of the unembedding, in float64 at a time."""


@dataclass(frozen=True, slots=True)
class Heads:
    """Where attention can be taken apart."""

    z: Capture
    """The input of the output projection."""
    norm: str | None
    """A norm between the projection and the stream; None: there is none."""


@dataclass(frozen=True, slots=True)
class Block:
    """Where one block's writes are."""

    attention: Capture
    mlp: Capture
    heads: Heads | None


@dataclass(frozen=True, slots=True)
class Layout:
    """Where all that makes up the stream is found in one model."""

    embedding: Place
    blocks: tuple[Block, ...]
    final_norm: str

    @property
    def places(self) -> set[Place]:
        """All that has to be read."""
        found = {self.embedding, (self.final_norm, True), (self.final_norm, False)}
        for block in self.blocks:
            found |= {place_of(block.attention), place_of(block.mlp)}
            if block.heads is not None:
                found.add(place_of(block.heads.z))
                found |= set() if block.heads.norm is None else {(block.heads.norm, True)}
        return found


@dataclass(frozen=True, slots=True)
class LogitDirection:
    """What turns the normalised residual stream into one logit less another; float64."""

    unembedded: Float64[Tensor, " d_model"]
    """Of what the final norm gives out: a column of the unembedding less another's, or less the mean column."""
    folded: Float64[Tensor, " d_model"]
    """The same with the final norm's gain folded in, as in `language_model.unembedding`: of its input over its scale."""
    bias: float
    """What the unembedding's bias adds."""
    norm_bias: float
    """What the final norm's bias adds."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one component gives the logit, for each of `n` rows."""

    kind: Kind
    layer: int | None
    head: int | None
    values: Float64[Tensor, " n"]

    @property
    def name(self) -> str:
        """`embedding`, `injected`, `3.attention`, `3.mlp`, `3.head.5`, `rest`."""
        return ".".join(str(each) for each in (self.layer, self.kind, self.head) if each is not None)


@dataclass(frozen=True, slots=True)
class Attribution:
    """The logit of `n` rows, and its parts."""

    parts: tuple[Part, ...]
    """Embedding, then block by block attention or its heads, and MLP."""
    biases: Float64[Tensor, " n"]
    """Of both norms and projections that belong to no part, and of the unembedding."""
    total: Float64[Tensor, " n"]
    """What the model's own final norm gives out, along the direction."""
    scale: Float64[Tensor, " n"]
    """What the final norm divides by."""


def layout(model: LanguageModel, *, are_heads_apart: bool) -> Layout:
    """Find the writes of every block; raises `UnsupportedError` where the architecture has no such places."""
    embedding = language_model.resolve(model, names.HookPoint(0, "hook_resid_pre"))
    blocks = tuple(_block(model, layer, are_heads_apart=are_heads_apart) for layer in range(model.n_layers))
    return Layout(place_of(embedding), blocks, model.final_norm)


def logit_direction(model: LanguageModel, token: int, minus: int | None = None) -> LogitDirection:
    """Of one token's logit less another's, or less the mean of all; no matrix of the vocabulary's size is made."""
    norm, head = model.model.get_submodule(model.final_norm), model.model.get_output_embeddings()

    def column_of(weight: Tensor) -> Tensor:
        other = _mean_row(weight) if minus is None else weight[minus].double()
        return weight[token].double() - other

    unembedded = column_of(head.weight.detach())
    folded = unembedded * language_model.gain_of(norm)
    bias = 0.0 if getattr(head, "bias", None) is None else float(column_of(head.bias.detach()))
    norm_bias = getattr(norm, "bias", None)
    return LogitDirection(
        unembedded,
        folded - folded.mean() if model.is_layer_norm else folded,
        bias,
        0.0 if norm_bias is None else float(norm_bias.detach().double() @ unembedded),
    )


def place_of(capture: Capture) -> Place:
    """Its module, and whether its input is meant."""
    return capture.module, capture.is_input


def is_inside(inner: Capture, outer: Capture) -> bool:
    """Whether the module of one is that of the other or a part of it."""
    return f"{inner.module}.".startswith(f"{outer.module}.")


def attribute(
    model: LanguageModel, where: Layout, found: Mapping[Place, Float64[Tensor, "n _"]], direction: LogitDirection
) -> Attribution:
    """What each part gives the logit, from what was read at one token of `n` rows; all on the CPU."""
    x, folded = found[where.final_norm, True], direction.folded.cpu()
    scale = language_model.norm_before_gain(model, where.final_norm).scale(x)
    parts = [Part("embedding", None, None, found[where.embedding] @ folded / scale)]
    biases = torch.full_like(scale, direction.bias + direction.norm_bias)
    for layer, block in enumerate(where.blocks):
        if block.heads is None:
            parts.append(Part("attention", layer, None, found[place_of(block.attention)] @ folded / scale))
        else:
            by_head, bias = _by_head(model, block.heads, found, direction)
            parts += [Part("head", layer, head, values / scale) for head, values in enumerate(by_head.T)]
            biases += bias / scale
        parts.append(Part("mlp", layer, None, found[place_of(block.mlp)] @ folded / scale))
    total = found[where.final_norm, False] @ direction.unembedded.cpu() + direction.bias
    return Attribution(tuple(parts), biases, total, scale)


def _block(model: LanguageModel, layer: int, *, are_heads_apart: bool) -> Block:
    attention, mlp = (
        language_model.resolve(model, names.HookPoint(layer, place)) for place in ("hook_attn_out", "hook_mlp_out")
    )
    return Block(attention, mlp, _heads(model, layer, attention) if are_heads_apart else None)


def _heads(model: LanguageModel, layer: int, attention: Capture) -> Heads:
    z = language_model.resolve(model, names.HookPoint(layer, "attn.hook_z"))
    if not z.is_input:
        raise errors.UnsupportedError(
            f"the heads of block {layer} do not reach the residual stream through one projection.",
            hint="Ask for attention as a whole.",
        )
    return Heads(z, None if is_inside(z, attention) else attention.module)


def _mean_row(weight: Tensor) -> Tensor:
    """In float64, of which only a block of rows is made at a time."""
    starts = range(0, len(weight), _ROWS_SUMMED)
    return torch.stack([weight[i : i + _ROWS_SUMMED].double().sum(dim=0) for i in starts]).sum(dim=0) / len(weight)


def _by_head(
    model: LanguageModel, heads: Heads, found: Mapping[Place, Tensor], direction: LogitDirection
) -> tuple[Float64[Tensor, "n n_heads"], Float64[Tensor, " n"]]:
    """The heads' writes and the biases after them, along the direction; not yet over the final norm's scale."""
    z, along, bias = found[place_of(heads.z)], direction.folded, 0.0
    scale = torch.ones(len(z), dtype=torch.float64)
    if heads.norm is not None:
        norm = model.model.get_submodule(heads.norm)
        before_gain = language_model.norm_before_gain(model, heads.norm)
        scale = before_gain.scale(found[heads.norm, True])
        bias = _bias_along(norm, along)
        along = along * language_model.gain_of(norm)
        along = along - along.mean() if before_gain.is_layer_norm else along
    projection = model.model.get_submodule(heads.z.module)
    W_O = language_model.residual_map(model, heads.z)
    assert W_O is not None  # as it is for every hook_z
    read = (W_O.double() @ along).cpu()
    by_head = (z * read).reshape(len(z), model.n_heads, -1).sum(dim=-1)
    return by_head / scale[:, None], bias + _bias_along(projection, along) / scale


def _bias_along(module: torch.nn.Module, along: Tensor) -> float:
    bias = getattr(module, "bias", None)
    return 0.0 if bias is None else float(bias.detach().double() @ along)
