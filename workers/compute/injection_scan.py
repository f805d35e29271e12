"""How each component of the model answers to more and more of one vector: an injection coefficient scan.

1. The input is repeated once for each coefficient c, and c·v is added at the hook point, all rows in one forward pass
   (in several where memory demands it). Models are causal, so tokens after the one that is read are left out.
2. The residual stream at that token is taken apart, and each component's part in one logit is found with the final norm
   frozen at that row (`residual_parts`). The injected vector is a component of its own; attention or MLP, where it is
   added inside or after one, is without it.
3. `rest` is what is left of the logit: the biases of norms and unembedding, attention's output biases where heads stand
   apart, and rounding. Where it holds more than these, the components are not all of this architecture's: refused.

Logits are read at the unembedding's output, before a soft cap or a scaling of logits (Gemma 2, Cohere).
Source: the procedure is Joseph Bloom's.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from backend import errors
from workers.compute import intervention, language_model, residual_parts
from workers.compute.language_model import Capture, LanguageModel
from workers.compute.residual_parts import Attribution, Layout, Part, Place

MEMORY_BYTES = 2 << 30
"""What one forward pass may take beyond the model, roughly."""
MAX_UNEXPLAINED = 1e-3
"""Of the sum of the components' magnitudes, in a logit that is not theirs or of known biases; in fp32."""
MAX_UNEXPLAINED_HALF = 0.05
"""The same in bf16 and fp16, whose rounding is of that order."""
LARGEST_SCALE = 1e18
"""Norms square what they divide, in fp32."""
_INSIDE = {"attn.hook_z": "attention", "mlp.hook_post": "mlp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is added where, and what is read."""

    capture: Capture
    vector: Float[Tensor, " d_in"]
    """Added times each coefficient, in fp32."""
    coefficients: Float64[np.ndarray, " n"]
    ids: Sequence[int]
    """Tokens of the text, any BOS with them."""
    position: int
    """The token at which the residual stream is read, from 0."""
    token: int
    minus: int | None = None
    """The token whose logit is subtracted; None: the mean logit."""
    is_only_there_injected: bool = False
    """At `position` only; else at every token."""
    are_heads_apart: bool = False


@dataclass(frozen=True, slots=True)
class Scan:
    """At every coefficient the parts sum to the total."""

    parts: tuple[Part, ...]
    """Embedding, injected, block by block attention or its heads and MLP, rest."""
    total: Float64[Tensor, " n"]
    """The logit less the other token's, or less the mean logit."""
    scale: Float64[Tensor, " n"]
    """What the final norm divides by."""


def scan(
    model: LanguageModel,
    question: Question,
    *,
    memory_bytes: int = MEMORY_BYTES,
    before_pass: Callable[[], None] = lambda: None,
) -> Scan:
    """Attribute the logit at each coefficient; the forward pass is in the model's dtype, everything after it float64.

    `before_pass` is called before each forward pass and may raise to stop. The hooks come and go with the call, and mind
    this thread's forward passes only.

    Raises:
        UnsupportedError: The vector cannot be added there, the architecture cannot be taken apart, or what comes out is
            not finite.
    """
    intervention.check(question.capture)
    where = residual_parts.layout(model, are_heads_apart=question.are_heads_apart)
    write = injected_write(model, where, question.capture, question.vector)
    found = _read(model, where, question, memory_bytes, before_pass)
    direction = residual_parts.logit_direction(model, question.token, question.minus)
    attribution = residual_parts.attribute(model, where, found, direction)
    per_unit = float(write.cpu().double() @ direction.folded.cpu())
    injected = torch.from_numpy(question.coefficients) * per_unit / attribution.scale
    embedding, *others = _own(attribution.parts, question, injected)
    parts = (embedding, Part("injected", None, None, injected), *others)
    return Scan((*parts, _rest(model, attribution, parts)), attribution.total, attribution.scale)


def injected_write(
    model: LanguageModel, where: Layout, capture: Capture, vector: Float[Tensor, " d_in"]
) -> Float[Tensor, " d_model"]:
    """What the vector adds to the residual stream; `UnsupportedError` where a norm stands between."""
    kind = _INSIDE.get(capture.hook_point.place)
    if kind is not None:
        block = where.blocks[capture.hook_point.layer]
        outer = block.attention if kind == "attention" else block.mlp
        if not residual_parts.is_inside(capture, outer):
            raise errors.UnsupportedError(
                f"what is added at {capture.hook_point} reaches the residual stream through a norm in this model.",
                hint=f"Add at {outer.hook_point}, after the norm.",
            )
    residual_map = language_model.residual_map(model, capture)
    return vector if residual_map is None else vector.to(residual_map.device) @ residual_map


def _read(
    model: LanguageModel, where: Layout, question: Question, memory_bytes: int, before_pass: Callable[[], None]
) -> dict[Place, Float64[Tensor, "n _"]]:
    """What is at every place, at the token asked about, for each coefficient."""
    ids = torch.tensor([question.ids[: question.position + 1]])
    n_rows = max(1, memory_bytes // _row_bytes(model, ids.shape[1]))
    passes = []
    for coefficients in _runs(question.coefficients, n_rows):
        before_pass()
        passes.append(_pass(model, where, question, ids, coefficients))
    return {place: torch.cat([found[place] for found in passes]) for place in where.places}


def _pass(
    model: LanguageModel, where: Layout, question: Question, ids: Tensor, coefficients: Float64[np.ndarray, " n"]
) -> dict[Place, Tensor]:
    n_rows, n_tokens = len(coefficients), ids.shape[1]
    added = torch.from_numpy(coefficients).float()[:, None].to(model.device) * question.vector.to(model.device)

    def inject(x: Tensor) -> Tensor:
        if not question.is_only_there_injected:
            return x + added[:, None]
        x = x.clone()
        x[:, -1] += added
        return x

    def keep(x: Tensor) -> Tensor:
        return x.reshape(n_rows, n_tokens, -1)[:, -1].double().cpu()

    with language_model.reading(model, where.places, keep) as found:
        intervention.run_with(model, question.capture, ids.expand(n_rows, -1), inject)
    return found


def _runs(coefficients: Float64[np.ndarray, " n"], n_rows: int) -> Iterator[Float64[np.ndarray, " n_rows"]]:
    for start in range(0, len(coefficients), n_rows):
        yield coefficients[start : start + n_rows]


def _row_bytes(model: LanguageModel, n_tokens: int) -> int:
    """About what a row takes at once: the MLP's hidden layer four times, the stream eight times, two score matrices."""
    d_mlp = getattr(model.bridge.cfg, "d_mlp", None) or 4 * model.d_model
    numbers = 4 * d_mlp + 8 * model.d_model + 2 * model.n_heads * n_tokens
    return int(numbers * n_tokens * model.model.dtype.itemsize)


def _own(parts: Sequence[Part], question: Question, injected: Tensor) -> list[Part]:
    """The parts, without the injected vector where it went through one; heads are read before it is added."""
    hook_point = question.capture.hook_point
    through = (_INSIDE.get(hook_point.place), hook_point.layer)
    return [
        replace(part, values=part.values - injected) if (part.kind, part.layer) == through else part for part in parts
    ]


def _rest(model: LanguageModel, attribution: Attribution, parts: Sequence[Part]) -> Part:
    """What is left of the logit; raises where it is more than biases and rounding."""
    values = torch.stack([part.values for part in parts])
    rest = attribution.total - values.sum(dim=0)
    is_finite = bool(torch.isfinite(values).all() and torch.isfinite(rest).all())
    if not is_finite or attribution.scale.max() > LARGEST_SCALE:
        raise errors.UnsupportedError(
            "The residual stream is beyond what numbers hold at some coefficient.",
            hint="Ask for a smaller range, or compute the source in float32.",
        )
    unexplained = ((rest - attribution.biases).abs() / values.abs().sum(dim=0).clamp(min=1e-30)).max()
    if unexplained > (MAX_UNEXPLAINED if model.model.dtype.itemsize >= 4 else MAX_UNEXPLAINED_HALF):
        raise errors.UnsupportedError(
            f"The components of {type(model.model).__name__} do not add up to its logit: {unexplained:.1%} is missing.",
            hint="Its blocks write more, or otherwise, than attention and MLP as they are read here.",
        )
    return Part("rest", None, None, rest)
