"""Which token comes next, for many rows at once, each with settings and a seed of its own.

1. Frequency penalty: a token's logit less the penalty for each time the row has generated it (OpenAI's definition).
2. Temperature 0: the likeliest token; ties go to the lower id.
3. Else weights p = exp((logit - greatest) / temperature), in fp32. Top-p keeps the fewest tokens, likeliest first, that
   have that share of the total.
4. A race: every token i has an exponential time E_i / p_i, in fp64, and the first to arrive is drawn. E_i is made from
   the seed, the number of the step and i, and from nothing else. So a draw does not depend on what else is in the batch,
   and two rows with one seed, such as with and without steering, draw the same token unless their distributions differ:
   with a probability of at most 2 d / (1 + d), d their distance in total variation.

Log-probabilities are of the model's own distribution: temperature 1, no penalty, all tokens.

Sources: the race is the Gumbel-max trick, written with exponentials (J. I. Yellott, J. Math. Psychol. 15, 1977). The
random bits are SplitMix64's (G. Steele, D. Lea, C. Flood, OOPSLA 2014): a hash of a counter, so any can be had alone.
The loops over the vocabulary are in `sampling_kernels`, and for a GPU in `sampling_device`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt64
from numpy.typing import NDArray
from torch import Tensor

from backend import errors
from backend.formats.messages import Sampling
from workers.compute import sampling_device, sampling_kernels

_WORD = 1 << 64


@dataclass(frozen=True, slots=True)
class Choices:
    """The settings of the rows of a batch, a number for each row."""

    temperature: Float64[np.ndarray, " n"]
    top_p: Float64[np.ndarray, " n"]
    frequency_penalty: Float64[np.ndarray, " n"]
    seed: UInt64[np.ndarray, " n"]
    n_alternatives: Int64[np.ndarray, " n"]

    @classmethod
    def of(cls, samplings: Sequence[Sampling]) -> "Choices":
        """Those of these rows, which have passed `check`."""
        return cls(
            np.array([each.temperature for each in samplings], np.float64),
            np.array([each.top_p for each in samplings], np.float64),
            np.array([each.frequency_penalty for each in samplings], np.float64),
            np.array([each.seed % _WORD for each in samplings], np.uint64),
            np.array([each.n_alternatives for each in samplings], np.int64),
        )


@dataclass(frozen=True, slots=True)
class Drawn:
    """One token for each row."""

    token: Int64[np.ndarray, " n"]
    logprob: Float64[np.ndarray, " n"]
    alternatives: Int64[np.ndarray, "n most"]
    """The likeliest tokens, as many as any row asked for, likeliest first; ties go to the lower id."""
    alternative_logprobs: Float64[np.ndarray, "n most"]
    is_finite: Bool[np.ndarray, " n"]
    """False where the logits are NaN or infinite: nothing was drawn."""


def check(sampling: Sampling, *, d_vocab: int) -> None:
    """Raise `InvalidInputError` for settings that mean nothing."""
    wrong = []
    if sampling.n_tokens < 1:
        wrong.append(f"n_tokens is {sampling.n_tokens}, expected at least 1")
    if not (math.isfinite(sampling.temperature) and sampling.temperature >= 0):
        wrong.append(f"temperature is {sampling.temperature}, expected 0 or more")
    if not 0 < sampling.top_p <= 1:
        wrong.append(f"top_p is {sampling.top_p}, expected above 0 and at most 1")
    if not math.isfinite(sampling.frequency_penalty):
        wrong.append(f"frequency_penalty is {sampling.frequency_penalty}, expected a finite number")
    if not 0 <= sampling.n_alternatives <= d_vocab:
        wrong.append(f"n_alternatives is {sampling.n_alternatives}, expected 0 to {d_vocab}")
    if wrong:
        raise errors.InvalidInputError(f"No text can be generated so: {'; '.join(wrong)}.", hint="Change these.")


def draw(
    logits: Float[Tensor, "n d_vocab"],
    choices: Choices,
    step: Int64[np.ndarray, " n"],
    generated: Int64[np.ndarray, "n longest"],
) -> Drawn:
    """The next token of each row, its `step`-th from 0; `generated` are its tokens until now, filled up with -1."""
    x = logits.float()
    total = torch.logsumexp(x, dim=-1)
    is_finite = total.isfinite()
    if not bool(is_finite.all()):
        x = torch.where(is_finite[:, None], x, 0.0)
    token = _next(_penalised(x, choices, generated), choices, step)
    found = x.gather(1, torch.from_numpy(token).to(x.device)[:, None])[:, 0]
    ids, values = _largest(x, int(choices.n_alternatives.max(initial=0)))
    total64 = total.double().cpu().numpy()
    return Drawn(token, found.double().cpu().numpy() - total64, ids, values - total64[:, None], is_finite.cpu().numpy())


def _penalised(
    x: Float32[Tensor, "n d_vocab"], choices: Choices, generated: Int64[np.ndarray, "n longest"]
) -> Float32[Tensor, "n d_vocab"]:
    if generated.shape[1] == 0 or not choices.frequency_penalty.any():
        return x
    amount = np.where(generated >= 0, -choices.frequency_penalty[:, None], 0.0).astype(np.float32)
    places = torch.from_numpy(np.maximum(generated, 0)).to(x.device)
    return x.scatter_add(1, places, torch.from_numpy(amount).to(x.device))


def _next(x: Float32[Tensor, "n d_vocab"], choices: Choices, step: Int64[np.ndarray, " n"]) -> NDArray[np.int64]:
    is_greedy = choices.temperature == 0
    if is_greedy.all():
        greedy: NDArray[np.int64] = x.argmax(dim=-1).cpu().numpy()
        return greedy
    rows = np.flatnonzero(~is_greedy)
    weights = _weights(x, rows, choices.temperature)
    weights = _nucleus(weights, choices.top_p[rows])
    drawn = _race(weights, _keys(choices.seed[rows], step[rows]))
    if len(rows) == len(x):
        return drawn
    token: NDArray[np.int64] = x.argmax(dim=-1).cpu().numpy()
    token[rows] = drawn
    return token


def _weights(
    x: Float32[Tensor, "n d_vocab"], rows: Int64[np.ndarray, " m"], temperature: Float64[np.ndarray, " n"]
) -> Float32[Tensor, "m d_vocab"]:
    """Probabilities of some rows times a number; the greatest is 1."""
    x = x if len(rows) == len(x) else x[torch.from_numpy(rows).to(x.device)]
    weights = x - x.amax(dim=-1, keepdim=True)
    if (temperature[rows] != 1).any():
        # a temperature fp32 cannot hold is as good as the least it can
        least = np.maximum(temperature[rows], np.finfo(np.float32).tiny).astype(np.float32)
        weights = weights.div_(torch.from_numpy(least).to(x.device)[:, None])
    return weights.exp_()


def _nucleus(weights: Float32[Tensor, "n d_vocab"], top_p: Float64[np.ndarray, " n"]) -> Float32[Tensor, "n d_vocab"]:
    """The weights with those outside top-p set to zero."""
    rows = np.flatnonzero(top_p < 1)
    if weights.device.type != "cpu":
        if len(rows):
            on_device = torch.from_numpy(rows).to(weights.device)
            weights[on_device] = sampling_device.nucleus(weights[on_device], top_p[rows])
        return weights
    values = weights.numpy()
    for row in rows.tolist():
        sampling_kernels.cut_to_nucleus(values, values.view(np.int32), row, float(top_p[row]))
    return weights


def _race(weights: Float32[Tensor, "n d_vocab"], keys: UInt64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    if weights.device.type == "cpu":
        return sampling_kernels.first_to_arrive(weights.numpy(), keys)
    drawn: NDArray[np.int64] = sampling_device.first_to_arrive(weights, keys).cpu().numpy()
    return drawn


def _largest(
    values: Float32[Tensor, "n d_vocab"], k: int
) -> tuple[Int64[np.ndarray, "n k"], Float32[np.ndarray, "n k"]]:
    if k == 0 or values.device.type == "cpu":
        ids, found = np.empty((len(values), k), np.int64), np.empty((len(values), k), np.float32)
        if k:
            sampling_kernels.largest(values.numpy(), ids, found)
        return ids, found
    on_device = sampling_device.largest(values, k)
    return on_device[0].cpu().numpy(), on_device[1].cpu().numpy()


def _keys(seed: UInt64[np.ndarray, " n"], step: Int64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """A state of SplitMix64 for each seed and step."""
    gamma = np.uint64(sampling_kernels.GAMMA)
    return _mixed_words(_mixed_words(seed + gamma) + (step.astype(np.uint64) + np.uint64(1)) * gamma)


def _mixed_words(z: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(sampling_kernels.MIX_1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(sampling_kernels.MIX_2)
    mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed
