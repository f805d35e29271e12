"""A quick look: does this SAE rebuild this model's activations, and if not, would it if it were run another way?

1. Some contexts of the corpus, evenly spaced, and of their tokens that count as many as the time allows (`n_tokens`).
2. One forward pass takes what passes the declared hook point, the same place up to `REACH` layers away, and the other
   places of the layer; a second one has the contexts with BOS where they had none, or without.
3. The SAE as declared and every candidate encode and decode the same tokens (`variants`); each gives an explained
   variance and an L0. Where nothing fits, all other layers are tried too.
4. `diagnosis_findings` says what that means.
Centred explained variance as in `quality`; sums in float64. Costs seconds, whatever the size of the SAE.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from backend import errors, names
from backend.formats.look import Candidate, Fit, Kind, Look
from backend.formats.quality import number
from workers.compute import corpus as corpora
from workers.compute import diagnosis_dense, language_model, quality
from workers.compute import diagnosis_findings as findings
from workers.compute import diagnosis_variants as variants
from workers.compute.language_model import Capture, LanguageModel
from workers.compute.sae import Sae

REACH = 2
"""Layers to either side that are always tried."""
PLACES = (
    "hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "attn.hook_z",
    "mlp.hook_post", "hook_mlp_in", "ln2.hook_normalized",
)  # fmt: skip
READ, WRITTEN = ("hook_resid_mid", "hook_mlp_in", "ln2.hook_normalized"), "hook_mlp_out"
"""Where transcoders read, and where they write."""
MAX_TOKENS, MIN_TOKENS = 512, 64
MULTIPLICATIONS = {"cpu": 1e11, "cuda": 5e12}
"""In encoders, of the whole look: some seconds on a usual machine."""
USUAL_CANDIDATES = 30
MAX_ACTIVATIONS = 1 << 25
"""Of one candidate, all features on all tokens."""
MIN_CONTEXTS = 8
MAX_POSITIONS = 256
"""Contexts are cut to their beginning: a look at long ones would be no quick one."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is looked at."""

    model: LanguageModel
    sae: Sae
    capture: Capture
    output: Capture | None = None
    """Where a transcoder writes; None: it is an SAE, and rebuilds what it reads."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """Contexts, and which of their tokens are looked at."""

    tokens: Int[Tensor, "n context"]
    chosen: Int[Tensor, " n_tokens"]
    """Into the flattened contexts."""

    def of(self, activations: Float[Tensor, "n context d"]) -> Float[Tensor, "n_tokens d"]:
        return activations.flatten(0, 1)[self.chosen.to(activations.device)]


def look(subject: Subject, corpus: corpora.Corpus, *, bos: int | None = None) -> Look:
    """Look at an SAE on a few contexts of a corpus; `bos` is the token to try contexts with and without.

    Raises:
        InvalidInputError: No token of the corpus counts, or the model's activations are not finite.
    """
    sample = _sample(corpus, n_tokens=n_tokens(subject.sae))
    found = _Activations(subject, sample)
    x = found.at(subject.capture)
    base = fit(subject.sae, x, None if subject.output is None else found.at(subject.output))
    n_fired = diagnosis_dense.run(subject.sae, x).n_fired
    if subject.output is None:
        candidates = [*_places(subject, found, REACH), *_outputs(subject, found), *_variants(subject, x)]
        candidates += _centring(subject, found) + _bos(subject, sample, bos)
    else:
        candidates = list(_transcoders(subject, subject.output, found))

    def rated() -> tuple[Candidate, ...]:
        return tuple(
            Candidate(
                each.kind, each.what, each.fit, findings.is_better(base, each.kind, each.fit, d_sae=subject.sae.d_sae)
            )
            for each in candidates
        )

    is_lost = subject.output is None and findings.is_broken(base)
    if is_lost and not any(candidate.is_better for candidate in rated()):
        candidates += _places(subject, found, subject.model.n_layers, beyond=REACH)
    norms = subject.sae.decoder_norm
    measured = Look(
        hook_point=str(subject.capture.hook_point), n_tokens=len(x), fit=base, d_sae=subject.sae.d_sae,
        n_fired=n_fired,
        mean_norm=findings.rounded(float(x.norm(dim=-1).mean())),
        decoder_norms=(findings.rounded(float(norms.min())), findings.rounded(float(norms.max()))),
        candidates=rated(), findings=(),
    )  # fmt: skip
    return findings.with_findings(measured, subject.sae)


def n_tokens(sae: Sae) -> int:
    """Tokens each candidate is run on, so that all of them take seconds together."""
    size = sae.W_enc.numel()
    affordable = MULTIPLICATIONS.get(sae.W_enc.device.type, MULTIPLICATIONS["cpu"]) / (USUAL_CANDIDATES * size)
    return min(max(MIN_TOKENS, int(affordable)), MAX_TOKENS, max(1, MAX_ACTIVATIONS // sae.d_sae))


def fit(sae: Sae, x: Float[Tensor, "n d_in"], target: Float[Tensor, "n d_out"] | None = None) -> Fit:
    """How well the SAE makes `target` (its own input, if none is given) out of `x`."""
    with torch.inference_mode():
        rebuilt = diagnosis_dense.run(sae, x)
    target = x if target is None else target
    error = (target.double() - rebuilt.output.double()).square().sum()
    deviation = (target.double() - target.double().mean(dim=0)).square().sum()
    share = float(1 - error / deviation) if float(deviation) > 0 else float("nan")
    return Fit(number(share), findings.rounded(rebuilt.l0))


def _sample(corpus: corpora.Corpus, *, n_tokens: int) -> _Sample:
    n_positions = min(corpus.rows.shape[1], MAX_POSITIONS)
    n_contexts = max(MIN_CONTEXTS, -(-n_tokens // max(1, n_positions - 1)))
    chosen = quality.sample(corpus.n_contexts, n_chosen=n_contexts, seed=0)
    rows = corpora.Corpus(corpus.rows[chosen, :n_positions], corpus.special_tokens, corpus.is_first_masked)
    counts = np.flatnonzero(rows.mask(0, rows.n_contexts))
    if len(counts) == 0:
        raise errors.InvalidInputError("every token of the corpus is masked.", hint="Give ordinary text.")
    spaced = counts[np.unique(np.linspace(0, len(counts) - 1, min(n_tokens, len(counts))).astype(np.int64))]
    return _Sample(torch.from_numpy(rows.rows.astype(np.int64)), torch.from_numpy(spaced))


class _Activations:
    """What passes places of the model on the sample; a forward pass a call of `take`, none for what was taken."""

    def __init__(self, subject: Subject, sample: _Sample) -> None:
        self._model, self._sample, self._taken = subject.model, sample, dict[Capture, Tensor]()
        self.take([subject.capture, *(each for each, _ in _neighbours(subject, REACH, beyond=0))])

    def take(self, captures: Sequence[Capture]) -> None:
        missing = [capture for capture in dict.fromkeys(captures) if capture not in self._taken]
        if missing:
            found = language_model.residuals_at(self._model, missing, self._sample.tokens)
            self._taken |= {c: self._sample.of(x) for c, x in zip(missing, found, strict=True)}

    def at(self, capture: Capture) -> Float[Tensor, "n_tokens d"]:
        """Raises `InvalidInputError` where the model itself gives no numbers."""
        self.take([capture])
        x = self._taken[capture]
        if not bool(torch.isfinite(x).all()):
            raise errors.InvalidInputError(
                f"the model's activations at {capture.hook_point} are not finite.",
                hint="float16 overflows in many models: use --dtype bfloat16 or float32.",
            )
        return x


@dataclass(frozen=True, slots=True)
class _Tried:
    """A candidate that has not been compared yet."""

    kind: Kind
    what: str
    fit: Fit


def _neighbours(subject: Subject, reach: int, *, beyond: int) -> Iterator[tuple[Capture, names.HookPoint]]:
    """The declared place in layers near it, nearest first, then the other places of the layer."""
    here = subject.capture.hook_point
    distances = [sign * d for d in range(beyond + 1, reach + 1) for sign in (-1, 1)]
    points = [names.HookPoint(here.layer + d, here.place) for d in distances if here.layer + d >= 0]
    if beyond == 0:
        points += [names.HookPoint(here.layer, place) for place in PLACES if place != here.place]
    for point in points:
        capture = _resolved(subject, point)
        if capture is not None:
            yield capture, point


def _resolved(subject: Subject, point: names.HookPoint) -> Capture | None:
    """The place, if this model has it."""
    try:
        return language_model.resolve(subject.model, point, is_centred=subject.capture.is_centred)
    except errors.UnsupportedError:
        return None


def _places(subject: Subject, found: _Activations, reach: int, *, beyond: int = 0) -> Iterator[_Tried]:
    """Other places of the same width that are not the same activations by another name."""
    seen = [found.at(subject.capture)]
    captures = list(_neighbours(subject, reach, beyond=beyond))
    found.take([capture for capture, _ in captures])
    for capture, point in captures:
        x = found.at(capture)
        if x.shape == seen[0].shape and not any(torch.equal(x, other) for other in seen):
            seen.append(x)
            yield _Tried("place", f"at {point}", fit(subject.sae, x))


def _outputs(subject: Subject, found: _Activations) -> Iterator[_Tried]:
    """A transcoder taken for an SAE: does it make the layer's MLP output of what it reads?"""
    layer = subject.capture.hook_point.layer
    output = _resolved(subject, names.HookPoint(layer, WRITTEN))
    inputs = [_resolved(subject, names.HookPoint(layer, place)) for place in READ]
    if output is None:
        return
    y, seen = found.at(output), list[Tensor]()
    for source in dict.fromkeys([subject.capture, *(each for each in inputs if each is not None)]):
        x = found.at(source)
        is_fitting = x.shape[1] == subject.sae.W_enc.shape[0] and y.shape[1] == subject.sae.W_dec.shape[1]
        if is_fitting and source != output and not any(torch.equal(x, other) for other in seen):
            seen.append(x)
            what = f"as a transcoder from {source.hook_point} to {output.hook_point}"
            yield _Tried("output", what, fit(subject.sae, x, y))


def _transcoders(subject: Subject, output: Capture, found: _Activations) -> Iterator[_Tried]:
    """A transcoder in the layers near, reading from the other places before the MLP, and with b_dec handled otherwise."""
    here, there = subject.capture.hook_point, output.hook_point
    shifts = [sign * d for d in range(1, REACH + 1) for sign in (-1, 1) if here.layer + sign * d >= 0]
    ways = [
        (names.HookPoint(here.layer + d, here.place), names.HookPoint(there.layer + d, there.place)) for d in shifts
    ]
    ways += [(names.HookPoint(here.layer, place), there) for place in READ if place != here.place]
    seen = [(found.at(subject.capture), found.at(output))]
    for source, target in ways:
        captures = [place for point in (source, target) if (place := _resolved(subject, point)) is not None]
        if len(captures) < 2:
            continue
        x, y = map(found.at, captures)
        is_new = not any(torch.equal(x, a) and torch.equal(y, b) for a, b in seen)
        if is_new and (x.shape, y.shape) == (seen[0][0].shape, seen[0][1].shape):
            seen.append((x, y))
            yield _Tried("place", f"from {source} to {target}", fit(subject.sae, x, y))
    for each in variants.b_dec(subject.sae, seen[0][0]):
        yield _Tried(each.kind, each.what, fit(each.sae, *seen[0]))


def _variants(subject: Subject, x: Tensor) -> Iterator[_Tried]:
    for each in variants.of(subject.sae, x):
        yield _Tried(each.kind, each.what, fit(each.sae, x * each.factor))


def _centring(subject: Subject, found: _Activations) -> list[_Tried]:
    """The model with its writing weights centred, where they were not, or the other way round."""
    flipped = not subject.capture.is_centred
    try:
        capture = language_model.resolve(subject.model, subject.capture.hook_point, is_centred=flipped)
    except errors.UnsupportedError:
        return []
    what = "with the model's writing weights centred" if flipped else "with the model's writing weights as they are"
    return [_Tried("centring", what, fit(subject.sae, found.at(capture)))]


def _bos(subject: Subject, sample: _Sample, bos: int | None) -> list[_Tried]:
    """The same tokens in contexts that open with BOS where they did not, or the other way round."""
    if bos is None:
        return []
    tokens, size = sample.tokens, sample.tokens.shape[1]
    has_bos = bool((tokens[:, 0] == bos).all())
    row, position = sample.chosen // size, sample.chosen % size
    if has_bos:
        tokens, position = tokens[:, 1:], position - 1
        is_there = position > 0  # a context's first token is an attention sink whatever it is
    else:
        tokens = torch.cat([torch.full((len(tokens), 1), bos), tokens[:, :-1]], dim=1)
        position = position + 1
        is_there = position < size
    if not bool(is_there.any()):
        return []
    chosen = (row * tokens.shape[1] + position)[is_there]
    other = _Sample(tokens, chosen)
    x = other.of(language_model.residuals(subject.model, subject.capture, tokens))
    what = "on contexts without a BOS token" if has_bos else "on contexts that open with a BOS token"
    return [_Tried("bos", what, fit(subject.sae, x))]
