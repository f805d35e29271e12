"""What a push does to the activations at one hook point: each method as a change of every token's vector x.

With c the strength, v the vector, |v| its norm, u = v / |v|, and x·u the part of x along it:

  add          x + c v
  orthogonal   x - (x·u) u + c v
  cap          x - max(x·u - c, 0) u
  ablate       x - (x·u) u for a vector; x - a s u for an SAE's feature
  clamp        x + (c - x·u) u for a vector; x + (c - a) s u for an SAE's feature
  reconstruct  what the SAE makes of x

For a vector of one's own v is as given. For an SAE's feature it is the decoder row at unit norm; a is its activation on
x by the source's own encoder, in the units shown everywhere (scaled by the decoder row's norm), and s what undoes the
normalisation of the SAE's input at this token (1 for most).

What other sources understand:

  transcoders  add, orthogonal, cap, where they write. They read elsewhere, so the rest would need x there.
  neurons      all but reconstruct, at their own hook point. v is the neuron's own coordinate: add raises its value by c,
               ablate and clamp set it to 0 and c.
  vector sets  all but reconstruct. v is the vector at unit norm; ablate takes the part along it out, clamp makes the
               feature's value, x·vector + bias, c.

Where writing weights are centred, x is x less its mean wherever it is read. The cap is Neuronpedia's PROJECTION_CAP: the
projection on the unit vector is at most the strength, at every token (hijohnnylin/neuronpedia, commit ebb8426,
apps/inference endpoints/steer/completion.py and scripts/vllm_steer_check.py).
How changes of many rows are applied together is in `batch_edits`.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from backend import errors, names
from backend.formats.messages import Push
from workers.compute import intervention, language_model
from workers.compute.dense import DenseEncoder, DenseSource
from workers.compute.encoders import AnyEncoder, AnySource
from workers.compute.language_model import Capture, LanguageModel


@dataclass(frozen=True, slots=True)
class Source:
    """A source at its place in the model."""

    encoder: AnySource
    capture: Capture
    """Where it reads."""
    written: Capture
    """Where its decoder writes: for all but transcoders where it reads."""


@dataclass(frozen=True, slots=True, eq=False)
class Shift:
    """x + vector."""

    capture: Capture
    vector: Float[Tensor, " d_in"]


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """x with its part along a unit vector, p, moved to the nearest number from `low` to `high`: x + (p' - p) write."""

    capture: Capture
    read: Float[Tensor, " d_in"]
    """p = x · read; `write`, less its mean where writing weights are centred."""
    write: Float[Tensor, " d_in"]
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class Activation:
    """x with what one SAE feature writes as if its activation were `target`."""

    capture: Capture
    encoder: AnyEncoder
    index: int
    target: float


@dataclass(frozen=True, slots=True, eq=False)
class Splice:
    """The SAE's reconstruction of x."""

    capture: Capture
    encoder: AnyEncoder


_IN_STREAM = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")
"""Places as wide as the residual stream."""
Change = Shift | Projection | Activation | Splice


@dataclass(frozen=True, slots=True)
class _Direction:
    """What is pushed along."""

    capture: Capture
    vector: Float[Tensor, " d_in"]
    """v."""
    name: str
    """For errors."""
    scale: float = 1.0
    bias: float = 0.0
    """A clamp to c makes (x·u) `scale` + `bias` equal c."""


def of_push(model: LanguageModel, push: Push, source: Source | None = None) -> Change:
    """The change a push asks for; `source` is the one it names, None where it gives a vector.

    Raises:
        InvalidInputError: The strength or the vector is not finite, or the vector has no direction or another width than
            the hook point.
        NotFoundError: The source has no such feature.
        UnsupportedError: The source does not know the method, or the hook point does not exist or cannot be replaced.
    """
    if not math.isfinite(push.strength):
        raise errors.InvalidInputError(f"The strength is {push.strength}.", hint="Give a finite number.")
    if source is None:
        change = _along(push, _of_vector(model, push))
    elif push.index not in range(source.encoder.sae.d_sae):
        raise errors.NotFoundError(f"There is no feature {push.index}.", hint=f"It has {source.encoder.sae.d_sae}.")
    elif isinstance(source.encoder, DenseEncoder):
        change = _along(push, _of_dense(model, push, source.encoder.sae, source.capture))
    else:
        change = _of_sae(push, source.encoder, source)
    intervention.check(change.capture)
    return change


def _along(push: Push, direction: _Direction) -> Change:
    capture, v, c = direction.capture, direction.vector, push.strength
    norm = float(v.norm())
    if norm == 0 or not math.isfinite(norm):
        raise errors.InvalidInputError(
            f"{direction.name} has no direction: its norm is {norm}.",
            hint="Give finite numbers that are not all 0, or another feature.",
        )
    match push.method:
        case "add":
            return Shift(capture, c * v)
        case "orthogonal":
            low, high = c * norm, c * norm
        case "cap":
            low, high = -math.inf, c
        case "ablate":
            low, high = 0.0, 0.0
        case "clamp":
            low = high = (c - direction.bias) / direction.scale
        case "reconstruct":
            raise errors.UnsupportedError(
                f"{direction.name} has no reconstruction.", hint="Name an SAE as the push's source."
            )
    write = v / norm
    read = write - write.mean() if capture.is_centred else write
    return Projection(capture, read, write, low, high)


def _of_vector(model: LanguageModel, push: Push) -> _Direction:
    capture = language_model.resolve(model, names.parse_hook_point(push.hook_point))
    intervention.check(capture)
    is_stream = capture.hook_point.place in _IN_STREAM
    width = model.d_model if is_stream else language_model.width(model, capture)
    if len(push.vector) != width:
        raise errors.InvalidInputError(
            f"The vector has {len(push.vector)} numbers; {capture.hook_point} of this model has {width}.",
            hint="Check the model, and the hook point.",
        )
    return _Direction(capture, torch.tensor(push.vector, dtype=torch.float32, device=model.device), "The vector")


def _of_dense(model: LanguageModel, push: Push, dense: DenseSource, capture: Capture) -> _Direction:
    name = f"Feature {push.index}"
    if dense.description.kind == "neurons":
        coordinate = torch.nn.functional.one_hot(torch.tensor(push.index), dense.d_sae).float()
        return _Direction(capture, coordinate.to(model.device), name)
    norm = dense.decoder_norm[push.index].clamp(min=1e-30)
    unit = (dense.written[push.index] / norm).to(model.device)
    return _Direction(capture, unit, name, float(norm), float(dense.bias[push.index]))


def _of_sae(push: Push, encoder: AnyEncoder, source: Source) -> Change:
    sae = encoder.sae
    is_transcoder = sae.description.kind == "transcoder"
    if is_transcoder and push.method not in ("add", "orthogonal", "cap"):
        raise errors.UnsupportedError(
            f"{push.method} is not for transcoders: they read at {source.capture.hook_point} and write at "
            f"{source.written.hook_point}.",
            hint="Use add, orthogonal or cap.",
        )
    if push.method == "reconstruct":
        return Splice(source.capture, encoder)
    if push.method in ("ablate", "clamp"):
        return Activation(source.capture, encoder, push.index, push.strength if push.method == "clamp" else 0.0)
    unit = sae.directions(torch.tensor([push.index], device=sae.W_dec.device))[0]
    return _along(push, _Direction(source.written, unit, f"Feature {push.index}"))
