"""Real SAEs, and the same with one mistake each: what the quick look must leave alone, and what it must name.

The demo's model and SAEs are part of the repository; tinystories-260k and its SAEs are shared data, which may be absent.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backend import names
from backend.settings import REPOSITORY
from demo import stdlib_text
from tests import tiny
from workers.compute import corpus as corpora
from workers.compute import language_model, sae
from workers.compute.diagnosis import Subject
from workers.compute.language_model import LanguageModel

CPU = torch.device("cpu")
N_CONTEXTS = 64
DEMO = ("1-res-2k", "2-res-2k", "3-res-2k")
SHARED = ("standard512", "batchtopk512", "jumprelu512")


@dataclass(frozen=True)
class Good:
    """A model, an SAE of it where it was trained, and contexts as it was trained on."""

    name: str
    subject: Subject
    corpus: corpora.Corpus
    plain: corpora.Corpus
    """Contexts of the same text that do not open with BOS."""
    bos: int

    def activations(self) -> Tensor:
        """Where the SAE reads, on the contexts' tokens that count."""
        tokens = torch.from_numpy(self.corpus.rows.astype(np.int64))
        counts = torch.from_numpy(self.corpus.mask(0, self.corpus.n_contexts))
        return language_model.residuals(self.subject.model, self.subject.capture, tokens)[counts]


@dataclass(frozen=True)
class Mistake:
    """A way to get it wrong, and how the look must name what is right."""

    name: str
    kind: str
    named: str
    """Part of what fits better."""
    subject: Subject
    corpus: corpora.Corpus


def good(name: str) -> Good:
    """One of `DEMO` or `SHARED`."""
    if name in DEMO:
        model, text = _demo()
        return _good(name, model, text, REPOSITORY / "demo" / "weights" / "saes" / name)
    model = _model(tiny.SHARED / "models" / "tinystories-260k")
    text = (tiny.SHARED / "corpora" / "tinystories-head.txt").read_text()[:200_000]
    return _good(name, model, text, tiny.SHARED / "saes" / "tinystories-260k" / name)


def _good(name: str, model: LanguageModel, text: str, folder: Path) -> Good:
    dictionary = sae.load(folder, device=CPU)
    description = dictionary.description
    cut = [
        corpora.from_documents(
            text.split(stdlib_text.SEPARATOR), model.tokenizer, special_tokens=model.special_tokens,
            n_vocabulary=len(model.tokenizer), context_size=128, prepend_bos=has_bos, max_tokens=128 * N_CONTEXTS,
        )
        for has_bos in (True, False)
    ]  # fmt: skip
    capture = language_model.resolve(model, description.hook_point, is_centred=description.is_centred)
    return Good(name, Subject(model, dictionary, capture), *cut, bos=model.tokenizer.bos_token_id)


@cache
def _model(folder: Path) -> LanguageModel:
    return language_model.load(str(folder), device=CPU, dtype=torch.float32)


@cache
def _demo() -> tuple[LanguageModel, str]:
    documents = [document.text for document in stdlib_text.documents() if document.is_validation]
    return _model(REPOSITORY / "demo" / "weights" / "stdlib-4l"), stdlib_text.SEPARATOR.join(documents)[:400_000]


def of(right: Good) -> Iterator[Mistake]:
    """Every mistake that can be made with this SAE."""
    for make in (_places, _b_dec, _scales, _normalisation, _thresholds, _bos):
        yield from make(right)


def described(subject: Subject, **changes: object) -> Subject:
    """The subject with something else declared."""
    description = dataclasses.replace(subject.sae.description, **changes)
    return dataclasses.replace(subject, sae=dataclasses.replace(subject.sae, description=description))


def trained_on(subject: Subject, factor: float) -> Subject:
    """As if it had been trained on activations times `factor`, which nobody wrote down."""
    old = subject.sae
    W_dec = old.W_dec * factor
    scaled = dataclasses.replace(
        old, W_enc=old.W_enc / factor, W_dec=W_dec, b_dec=old.b_dec * factor, decoder_norm=W_dec.norm(dim=-1)
    )
    return dataclasses.replace(subject, sae=scaled)


def _places(right: Good) -> Iterator[Mistake]:
    subject = right.subject
    here = subject.capture.hook_point
    points = [names.HookPoint(here.layer + d, here.place) for d in (-2, -1, 1, 2)]
    points += [names.HookPoint(here.layer, place) for place in ("hook_resid_mid", "hook_mlp_out", "hook_attn_out")]
    points += [names.HookPoint(here.layer, "hook_resid_pre")]
    for point in points:
        if 0 <= point.layer < subject.model.n_layers:
            wrong = dataclasses.replace(subject, capture=language_model.resolve(subject.model, point))
            named = here
            if point.place == "hook_resid_pre" and here.layer + 1 < subject.model.n_layers:
                named = names.HookPoint(here.layer + 1, "hook_resid_pre")  # the same activations by another name
            yield Mistake(f"at {point}", "place", f"at {named}", wrong, right.corpus)


def _b_dec(right: Good) -> Iterator[Mistake]:
    wrong = described(right.subject, is_b_dec_subtracted=False)
    yield Mistake("b_dec not subtracted", "b_dec", "with b_dec subtracted", wrong, right.corpus)


def _scales(right: Good) -> Iterator[Mistake]:
    x = right.activations()
    d_in = right.subject.sae.description.d_in
    wanted = {
        "trained on mean norm √d_in": (float(d_in**0.5 / x.norm(dim=-1).mean()), "√d_in"),
        "trained on mean square norm 1": (float(1 / x.norm(dim=-1).square().mean().sqrt()), "mean square norm is 1"),
        "trained on 1/256 of the activations": (1 / 256, "multiplied by 0.003906"),
    }
    for name, (factor, named) in wanted.items():
        if not 0.7 < factor < 1.4:
            yield Mistake(name, "scale", named, trained_on(right.subject, factor), right.corpus)


def _normalisation(right: Good) -> Iterator[Mistake]:
    """Declared where there is none; where the norm is near √d_in anyway, that is no mistake to be seen."""
    ratio = float(right.subject.sae.description.d_in**0.5 / right.activations().norm(dim=-1).mean())
    if not 0.7 < ratio < 1.4:
        wrong = described(right.subject, normalize_activations="constant_norm_rescale")
        yield Mistake("constant_norm_rescale", "normalisation", "activations as they are", wrong, right.corpus)


def _thresholds(right: Good) -> Iterator[Mistake]:
    dictionary = right.subject.sae
    norms = dictionary.decoder_norm
    if dictionary.description.architecture == "jumprelu" and float(norms.min()) < 0.75:
        for name, named, threshold in (
            ("thresholds times ‖W_dec‖", "divided by ‖W_dec‖", dictionary.threshold * norms),
            ("thresholds over ‖W_dec‖", "multiplied by ‖W_dec‖", dictionary.threshold / norms),
        ):
            wrong = dataclasses.replace(right.subject, sae=dataclasses.replace(dictionary, threshold=threshold))
            yield Mistake(name, "threshold", named, wrong, right.corpus)


def _bos(right: Good) -> Iterator[Mistake]:
    """tinystories-260k reads the same with BOS and without."""
    if right.name in DEMO:
        yield Mistake("contexts without BOS", "bos", "open with a BOS token", right.subject, right.plain)


def square(right: Good) -> Subject:
    """An SAE with as many features as dimensions: both signs of the main directions, the other features dead."""
    x = right.activations()
    mean, d = x.mean(dim=0), x.shape[1]
    directions = torch.linalg.svd(x - mean, full_matrices=False).Vh[: d // 8]
    W_dec = torch.cat([directions, -directions, torch.zeros(d - 2 * len(directions), d)])
    return _made(right, W_dec.T.contiguous(), W_dec, mean)


def transcoder(right: Good) -> Subject:
    """The MLP of the layer as a linear map of the residual stream before it, by least squares; most features are dead."""
    subject, layer = right.subject, right.subject.capture.hook_point.layer
    tokens = torch.from_numpy(right.corpus.rows.astype(np.int64))
    counts = torch.from_numpy(right.corpus.mask(0, right.corpus.n_contexts))
    captures = [
        language_model.resolve(subject.model, names.HookPoint(layer, place))
        for place in ("hook_resid_mid", "hook_mlp_out")
    ]
    x, y = (found[counts] for found in language_model.residuals_at(subject.model, captures, tokens))
    A = torch.linalg.lstsq(x - x.mean(dim=0), y - y.mean(dim=0)).solution
    d = x.shape[1]
    W_enc, W_dec = torch.zeros(d, 16 * d), torch.zeros(16 * d, d)
    W_enc[:, :d], W_enc[:, d : 2 * d] = torch.eye(d), -torch.eye(d)
    W_dec[:d], W_dec[d : 2 * d] = A, -A
    made = _made(right, W_enc, W_dec, y.mean(dim=0) - x.mean(dim=0) @ A)
    made = described(made, is_b_dec_subtracted=False)
    return dataclasses.replace(made, capture=captures[0])


def untrained(right: Good) -> Subject:
    """Random directions."""
    generator = torch.Generator().manual_seed(0)
    W_dec = torch.randn(right.subject.sae.W_dec.shape, generator=generator) * 0.1
    return _made(right, W_dec.T.contiguous(), W_dec, torch.zeros(W_dec.shape[1]))


def _made(right: Good, W_enc: Tensor, W_dec: Tensor, b_dec: Tensor) -> Subject:
    d_in, d_sae = W_enc.shape
    description = dataclasses.replace(
        right.subject.sae.description, architecture="standard", k=None, d_in=d_in, d_sae=d_sae, is_b_dec_subtracted=True
    )
    state = {"W_enc": W_enc, "W_dec": W_dec, "b_dec": b_dec, "b_enc": torch.zeros(d_sae)}
    return dataclasses.replace(right.subject, sae=sae.from_state(description, state))
