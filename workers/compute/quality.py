"""How good an SAE is: its error, and what its reconstruction does to the model's predictions, by position.

1. Mean activation over the sample's tokens that count: one pass up to the hook point.
2. Batch by batch, four passes through the whole model: untouched, and with the activations of the tokens that count
   replaced by the SAE's reconstruction, by zero, and by that mean. Masked tokens keep their activations.
3. Each token gives a row of quantities (`QUANTITIES`); float64 sums by position, and sums of products over contexts for
   standard errors. Sums of parts of a sample add up to those of the whole (`merge`).
4. Every metric is a ratio of two sums.

Definitions follow sae_lens/evals.py of SAELens 6.54 and sae_bench/evals/core/main.py of SAEBench (10e0728); what differs
is in `docs/definitions.md`. Logits are kept for one batch, cross-entropy and KL are in fp32 slice by slice.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from backend import errors
from backend.formats import quality as formats
from workers.compute import intervention, language_model, reconstruction
from workers.compute.encoders import AnyEncoder

LOGITS_BYTES = 1 << 28
"""fp32 logits of a batch; about three times as much is in use at once."""
SLICE_BYTES = 1 << 24
"""fp32 logits that cross-entropy and KL are taken of at a time."""
MAX_BATCH_CONTEXTS = 32
SPLICED = ("sae", "zero", "mean")

QUANTITIES = (
    "n", "squared_error", "squared_deviation", "cosine", "l0", "l1",
    "n_next", "loss_clean", *(f"loss_{name}" for name in SPLICED), *(f"kl_{name}" for name in SPLICED),
)  # fmt: skip
"""Of one token that counts. Losses belong to the token the prediction is made at; a context's last token has none."""
_AT = {name: i for i, name in enumerate(QUANTITIES)}


class Ratio(NamedTuple):
    """A metric as weights over `QUANTITIES`: numerator ÷ denominator, or one less that."""

    numerator: dict[str, int]
    denominator: dict[str, int]
    is_complement: bool = False


METRICS: dict[str, Ratio] = {
    "l0": Ratio({"l0": 1}, {"n": 1}),
    "l1": Ratio({"l1": 1}, {"n": 1}),
    "mse": Ratio({"squared_error": 1}, {"n": 1}),
    "explained_variance": Ratio({"squared_error": 1}, {"squared_deviation": 1}, is_complement=True),
    "cosine": Ratio({"cosine": 1}, {"n": 1}),
    **{f"loss_{name}": Ratio({f"loss_{name}": 1}, {"n_next": 1}) for name in ("clean", *SPLICED)},
    **{
        f"loss_recovered_{name}": Ratio({f"loss_{name}": 1, "loss_sae": -1}, {f"loss_{name}": 1, "loss_clean": -1})
        for name in ("zero", "mean")
    },
    **{f"kl_{name}": Ratio({f"kl_{name}": 1}, {"n": 1}) for name in SPLICED},
}


@dataclass(frozen=True, slots=True)
class Sums:
    """What merges exactly: sums over the contexts of a sample, float64."""

    by_position: NDArray[np.float64]
    """(context_size, len(QUANTITIES))."""
    products: NDArray[np.float64]
    """(len(QUANTITIES), len(QUANTITIES)): over contexts, the products of a context's sums."""
    n_contexts: int


@dataclass(frozen=True, slots=True)
class Subject:
    """What is evaluated."""

    model: language_model.LanguageModel
    capture: language_model.Capture
    encoder: AnyEncoder
    """Of what is captured."""
    written: language_model.Capture | None = None
    """Where a transcoder's decoder writes; None: where the SAE reads."""

    @property
    def target(self) -> language_model.Capture:
        """The activations that are reconstructed, and replaced by the reconstruction."""
        return self.written or self.capture


def sample(n_contexts: int, *, n_chosen: int, seed: int) -> NDArray[np.int64]:
    """Indexes of `n_chosen` contexts (all, if fewer), evenly spaced from a start the seed decides; ascending."""
    n_chosen = min(n_chosen, n_contexts)
    start = np.random.default_rng(seed & 0xFFFFFFFFFFFFFFFF).random()
    return np.floor((np.arange(n_chosen) + start) * n_contexts / max(n_chosen, 1)).astype(np.int64)


def merge(a: Sums, b: Sums) -> Sums:
    """The sums over both samples, given the same mean and context size."""
    return Sums(a.by_position + b.by_position, a.products + b.products, a.n_contexts + b.n_contexts)


def mean_activation(
    subject: Subject, rows: NDArray[np.integer], counts: NDArray[np.bool_], *, on_batch: Callable[[int], None]
) -> Float[Tensor, " d_out"]:
    """Mean of the activations to be reconstructed over tokens that count, summed in float64."""
    total = torch.zeros(subject.encoder.sae.description.d_out, dtype=torch.float64)
    for tokens, kept in _batches(subject.model, rows, counts):
        x = language_model.residuals(subject.model, subject.target, tokens)
        total += x[kept.to(x.device)].cpu().double().sum(dim=0)
        on_batch(tokens.numel())
    return (total / max(1, int(counts.sum()))).float()


def sums(
    subject: Subject,
    rows: NDArray[np.integer],
    counts: NDArray[np.bool_],
    mean: Float[Tensor, " d_out"],
    *,
    ablates_masked: bool = False,
    on_batch: Callable[[int], None] = lambda n_tokens: None,
) -> Sums:
    """Sums of every quantity over contexts `rows` (n, context); `counts` says which tokens count.

    Where the hook point can be read but not replaced (`intervention.check`), losses and divergences are 0, and `n_next`
    with them. `ablates_masked` lets zero and mean replace masked tokens too, as SAELens's zero ablation does.
    `on_batch` hears tokens run through the model and may raise to stop.

    Raises:
        InvalidInputError: The activations or a loss are not finite.
    """
    is_spliced = can_splice(subject.target)
    directions = subject.encoder.sae.directions()
    total = np.zeros((rows.shape[1], len(QUANTITIES)))
    products = np.zeros((len(QUANTITIES), len(QUANTITIES)))
    for tokens, kept in _batches(subject.model, rows, counts):
        batch = _Batch(subject, tokens.to(subject.model.device), kept.to(subject.model.device))
        values = {"n": kept.double()}
        with torch.inference_mode():
            x, logits = batch.clean() if is_spliced else (batch.residuals(subject.target), None)
            read = x if subject.written is None else batch.residuals(subject.capture)
            rebuilt = batch.reconstruct(read, x, directions)
            values |= _errors(x, rebuilt, mean.to(x.device))
            if logits is not None:
                replacements = {"sae": rebuilt.output, "zero": torch.zeros_like(x), "mean": mean.to(x).expand_as(x)}
                values |= batch.losses(x, logits, replacements, ablates_masked=ablates_masked)
        per_token = _stack(values, kept)
        total += per_token.sum(axis=0)
        of_context = per_token.sum(axis=1)
        products += of_context.T @ of_context
        on_batch(tokens.numel())
    return Sums(total, products, len(rows))


def can_splice(capture: language_model.Capture) -> bool:
    """The activations at the hook point can be replaced."""
    try:
        intervention.check(capture)
    except errors.UnsupportedError:
        return False
    return True


def evaluation(found: Sums) -> formats.Evaluation:
    """The metrics of a sample; those of losses are left out where none was measured."""
    totals = found.by_position.sum(axis=0)
    has_losses = totals[_AT["n_next"]] > 0
    names = formats.RECONSTRUCTION + (formats.LOSS if has_losses else ())
    metrics = {}
    for name in names:
        ratio = METRICS[name]
        value = formats.number(_value(ratio, totals))
        error = _standard_error(ratio, found, totals) if value is not None else None
        by_position = tuple(formats.number(_value(ratio, at)) for at in found.by_position)
        metrics[name] = formats.Metric(value, error, by_position)
    return formats.Evaluation(len(found.by_position), found.n_contexts, int(totals[_AT["n"]]), metrics)


class _Batch:
    """Some contexts and which of their tokens count, on the model's device."""

    def __init__(self, subject: Subject, tokens: Int[Tensor, "n context"], counts: Bool[Tensor, "n context"]) -> None:
        self.subject, self.tokens, self.counts = subject, tokens, counts

    def residuals(self, capture: language_model.Capture) -> Tensor:
        return _checked(language_model.residuals(self.subject.model, capture, self.tokens), self.counts, "activations")

    def clean(self) -> tuple[Tensor, Tensor]:
        """The activations to be reconstructed, and the untouched model's logits."""
        caught: list[Tensor] = []

        def look(x: Tensor) -> Tensor:
            caught.append(x.clone())  # the rest of the model may write into it
            return x

        logits = self._logits(look)
        return _checked(caught[0], self.counts, "activations"), logits

    def reconstruct(self, read: Tensor, x: Tensor, directions: Tensor) -> reconstruction.Reconstruction:
        """The SAE's output from `read`, and sizes in the shape of the batch; masked tokens keep `x` and have sizes 0."""
        found = reconstruction.reconstruct(self.subject.encoder, read[self.counts], directions)
        output = x.clone()
        output[self.counts] = found.output
        l0, l1 = (torch.zeros(self.counts.shape, device=x.device) for _ in range(2))
        l0[self.counts], l1[self.counts] = found.l0, found.l1
        return reconstruction.Reconstruction(output, l0, l1)

    def losses(
        self, x: Tensor, clean: Tensor, replacements: dict[str, Tensor], *, ablates_masked: bool
    ) -> dict[str, Tensor]:
        """Cross-entropies and divergences of every way through the model."""
        values = {"n_next": self._has_next().double(), "loss_clean": self._cross_entropy(clean)}
        for name, replacement in replacements.items():
            where = self.counts if name == "sae" or not ablates_masked else torch.ones_like(self.counts)
            spliced = torch.where(where[..., None], replacement, x)
            logits = self._logits(partial(_instead, spliced))
            values[f"loss_{name}"] = self._cross_entropy(logits)
            values[f"kl_{name}"] = _checked(_divergence(clean, logits), self.counts, f"logits with {name} spliced in")
            del logits
        return values

    def _logits(self, edit: intervention.Edit) -> Tensor:
        return intervention.run_with(self.subject.model, self.subject.target, self.tokens, edit)

    def _has_next(self) -> Tensor:
        has_next = self.counts.clone()
        has_next[:, -1] = False
        return has_next

    def _cross_entropy(self, logits: Tensor) -> Tensor:
        """Of the next token, at each token that has one."""
        targets = self.tokens.roll(-1, dims=1)
        loss = torch.zeros(self.tokens.shape, device=logits.device)
        for part in _slices(logits):
            loss.view(-1)[part] = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1)[part].float(), targets.flatten()[part], reduction="none"
            )
        return torch.where(self._has_next(), _checked(loss, self._has_next(), "losses"), 0.0)


def _batches(
    model: language_model.LanguageModel, rows: NDArray[np.integer], counts: NDArray[np.bool_]
) -> Iterator[tuple[Int[Tensor, "n context"], Bool[Tensor, "n context"]]]:
    n = min(MAX_BATCH_CONTEXTS, max(1, LOGITS_BYTES // (4 * rows.shape[1] * model.d_vocab)))
    for start in range(0, len(rows), n):
        tokens = torch.from_numpy(np.asarray(rows[start : start + n]).astype(np.int64))
        yield tokens, torch.from_numpy(np.ascontiguousarray(counts[start : start + n]))


def _instead(replacement: Tensor, _: Tensor) -> Tensor:
    return replacement


def _errors(x: Tensor, rebuilt: reconstruction.Reconstruction, mean: Tensor) -> dict[str, Tensor]:
    """Of each token; the cosine with a vector of no length is 0."""
    norms = x.norm(dim=-1) * rebuilt.output.norm(dim=-1)
    cosine = (x * rebuilt.output).sum(dim=-1) / norms
    return {
        "squared_error": (x - rebuilt.output).square().sum(dim=-1),
        "squared_deviation": (x - mean).square().sum(dim=-1),
        "cosine": torch.where(norms > 0, cosine, 0.0),
        "l0": rebuilt.l0,
        "l1": rebuilt.l1,
    }


def _divergence(clean: Tensor, other: Tensor) -> Tensor:
    """KL(clean ‖ other) of the distributions over the vocabulary, at each token, in nats."""
    divergence = torch.zeros(clean.shape[:2], device=clean.device)
    for part in _slices(clean):
        log_p = clean.flatten(0, 1)[part].float().log_softmax(dim=-1)
        log_q = other.flatten(0, 1)[part].float().log_softmax(dim=-1)
        divergence.view(-1)[part] = (log_p.exp() * (log_p - log_q)).sum(dim=-1)
    return divergence


def _slices(logits: Tensor) -> Iterator[slice]:
    """Runs of tokens whose fp32 logits take `SLICE_BYTES`."""
    n = max(1, SLICE_BYTES // (4 * logits.shape[-1]))
    for start in range(0, logits.shape[0] * logits.shape[1], n):
        yield slice(start, start + n)


def _checked(values: Tensor, counts: Tensor, what: str) -> Tensor:
    if not bool(torch.isfinite(values[counts]).all()):
        raise errors.InvalidInputError(
            f"the model's {what} are not finite in the evaluation.",
            hint="float16 overflows in many models: use --dtype bfloat16 or float32.",
        )
    return values


def _stack(values: dict[str, Tensor], counts: Tensor) -> NDArray[np.float64]:
    """(n, context, quantity), zero where a token does not count or the quantity was not measured."""
    stacked = np.zeros((*counts.shape, len(QUANTITIES)))
    for name, value in values.items():
        stacked[..., _AT[name]] = np.where(counts.numpy(), value.cpu().double().numpy(), 0.0)
    return stacked


def _value(ratio: Ratio, of: NDArray[np.float64]) -> float:
    denominator = _weighted(ratio.denominator, of)
    if denominator == 0:
        return float("nan")
    value = _weighted(ratio.numerator, of) / denominator
    return 1 - value if ratio.is_complement else value


def _weighted(weights: dict[str, int], of: NDArray[np.float64]) -> float:
    return float(sum(weight * of[_AT[name]] for name, weight in weights.items()))


def _standard_error(ratio: Ratio, found: Sums, totals: NDArray[np.float64]) -> float | None:
    """By linearisation of the ratio, contexts as clusters (Cochran, Sampling Techniques, 3rd ed., section 6.3).

    The mean activation that deviations are taken from is held fixed.
    """
    if found.n_contexts < 2:
        return None
    gradient = np.zeros(len(QUANTITIES))
    denominator = _weighted(ratio.denominator, totals)
    slope = _weighted(ratio.numerator, totals) / denominator
    for name, weight in ratio.numerator.items():
        gradient[_AT[name]] += weight / denominator
    for name, weight in ratio.denominator.items():
        gradient[_AT[name]] -= slope * weight / denominator
    variance = float(gradient @ found.products @ gradient) * found.n_contexts / (found.n_contexts - 1)
    return formats.number(max(0.0, variance) ** 0.5)
