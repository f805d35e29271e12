"""The workload that both engines are given: a model, token rows and SAEs, made on the spot and kept below `.bench`.

Nothing is downloaded, and the same interpreter makes the same workload again.
- Text: the standard library of this Python, documents in order of a hash of their names.
- Model: the demo's (GPT-2 layout, 4 layers, d_model 256, 4 heads, 4,096 tokens, trained on that text), in fp32. Its
  final norm's gain, on which no residual depends, is scaled so that every feature promotes some token by more than
  `MIN_TOP_LOGIT`: SAEDashboard wastes 17 ms on each one that does not (it lists up to 300,000 axis ticks).
- Tokens: unique contexts of BOS and 127 tokens.
- SAEs at `blocks.2.hook_resid_post`: not trained, made to cost what trained ones cost. A feature looks for one token's
  residual, whitened and blurred by noise; its bias and threshold are set so that densities are log-normal with mean
  the L0 asked for, activations start at a tenth of their range, and 2 % never fire. Top-k SAEs have the same directions, no bias.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer, GPT2LMHeadModel

from backend import names
from backend.settings import REPOSITORY
from demo import stdlib_text
from workers.compute import corpus as corpora
from workers.compute import documents, language_model

ROOT = REPOSITORY / ".bench"
"""What the benches make and keep: this workload, the peer's environment, scratch files of a run."""
DEMO_MODEL = REPOSITORY / "demo" / "weights" / "stdlib-4l"
HOOK_POINT = names.HookPoint(2, "hook_resid_post")
CONTEXT_SIZE, N_CONTEXTS = 128, 8192
TEXT_BYTES = 6_000_000
SEED, DENSITY_SIGMA, DEAD_FRACTION = 0, 1.0, 0.02
N_CALIBRATION_CONTEXTS = 256
FINAL_GAIN, MIN_TOP_LOGIT = 4.0, 0.6
TYPICAL_L0, MAX_DENSITY = 40, 0.5
BLOCK_FEATURES = 1024


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """What an SAE's cost depends on."""

    d_sae: int
    l0: int = 40
    """Mean number of features that fire on a token; k of the top-k SAE."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Where its files lie."""

    folder: Path

    @property
    def model(self) -> Path:
        """A Hugging Face folder."""
        return self.folder / "bench-4l"

    @property
    def tokens(self) -> Path:
        """uint16 of (N_CONTEXTS, CONTEXT_SIZE); a run of n contexts takes the first n."""
        return self.folder / "tokens.npy"

    def sae(self, architecture: str, shape: Shape) -> Path:
        """A SAELens folder; `architecture` is jumprelu or topk."""
        return self.folder / "saes" / f"{architecture}-{shape.d_sae}-l0-{shape.l0}"


@dataclass(frozen=True, slots=True)
class Sample:
    """Residuals to calibrate on, and how to whiten them: z = (x - mean) @ whiten."""

    x: Tensor
    """(n, d_in)."""
    mean: Tensor
    whiten: Tensor
    """(d_in, d_in), symmetric."""


def ensure(root: Path, shapes: Iterable[Shape]) -> Workload:
    """The workload below `root` with SAEs of these shapes, made where they are not there yet."""
    workload = Workload(root / f"workload-{_key()}")
    if not workload.tokens.is_file():
        _build(workload.folder, _make_model_and_tokens)
    missing = sorted({shape for shape in shapes if not workload.sae("topk", shape).is_dir()})
    if missing:
        print(f"making SAEs: {missing}", file=sys.stderr)
        model = language_model.load(str(workload.model), device=torch.device("cpu"), dtype=torch.float32)
        sample = _sample(model, np.load(workload.tokens))
        for shape in missing:
            for architecture, weights in calibrated(sample, shape).items():
                _check_top_logits(model, weights["W_dec"])
                save_sae(workload.sae(architecture, shape), architecture, weights, shape.l0)
    return workload


def calibrated(sample: Sample, shape: Shape) -> dict[str, dict[str, Tensor]]:
    """Weights by SAELens's names of the JumpReLU and the top-k SAE of one shape."""
    d_sae = shape.d_sae
    generator = torch.Generator().manual_seed(SEED + d_sae)
    z = (sample.x - sample.mean) @ sample.whiten
    chosen = torch.randperm(len(z), generator=generator)[:d_sae]
    atoms = torch.nn.functional.normalize(z[chosen], dim=1)
    noise = torch.randn(atoms.shape, generator=generator) / atoms.shape[1] ** 0.5
    atoms = torch.nn.functional.normalize(atoms + noise, dim=1)
    # one unit of activation moves the residual by about its share of so many orthogonal steps
    gain = float((sample.x - sample.mean).norm(dim=1).median()) / TYPICAL_L0**0.5 / 3
    W_enc = (sample.whiten @ atoms.T * gain).contiguous()
    directions = torch.nn.functional.normalize(atoms @ torch.linalg.inv(sample.whiten), dim=1)
    norms = torch.empty(d_sae).uniform_(0.8, 1.25, generator=generator)
    cut, highest = _cuts((sample.x - sample.mean), W_enc, _densities(shape, generator))
    margin = 0.1 * (highest - cut)
    dead = torch.randperm(d_sae, generator=generator)[: int(DEAD_FRACTION * d_sae)]
    threshold = margin.clone()
    threshold[dead] += 1.5 * (highest - cut)[dead]
    shared = {"W_enc": W_enc, "W_dec": directions * norms[:, None], "b_dec": sample.mean}
    return {
        "jumprelu": shared | {"b_enc": margin - cut, "threshold": threshold},
        "topk": shared | {"b_enc": torch.zeros(d_sae)},
    }


def save_sae(folder: Path, architecture: str, weights: dict[str, Tensor], k: int) -> None:
    """Write a SAELens folder; it appears whole or not at all."""
    d_sae, d_in = weights["W_dec"].shape
    config = {
        "architecture": architecture, "d_in": d_in, "d_sae": d_sae, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {
            "model_name": "bench-4l", "hook_name": str(HOOK_POINT), "hook_head_index": None, "prepend_bos": True,
            "context_size": CONTEXT_SIZE, "dataset_path": "", "sae_lens_version": "6.54.12",
        },
    }  # fmt: skip
    if architecture == "topk":
        # SAEDashboard folds decoder norms into the encoder, which SAELens refuses for other top-k SAEs
        config |= {"k": k, "rescale_acts_by_decoder_norm": True}

    def write(into: Path) -> None:
        (into / "cfg.json").write_text(json.dumps(config, indent=1))
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, into / "sae_weights.safetensors")

    _build(folder, write)


def _key() -> str:
    """What the workload depends on."""
    digest = hashlib.sha256((DEMO_MODEL / "model.safetensors").read_bytes())
    digest.update(repr((sys.version_info[:3], Path(__file__).read_text())).encode())
    return digest.hexdigest()[:12]


def _build(folder: Path, write: Callable[[Path], None]) -> None:
    """Fill a folder through one beside it, so a killed build leaves nothing that looks finished."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    partial.rename(folder)


def _make_model_and_tokens(folder: Path) -> None:
    print(f"making the workload's model and tokens in {folder.parent}", file=sys.stderr)
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    model = GPT2LMHeadModel.from_pretrained(DEMO_MODEL, dtype=torch.float32)
    model.transformer.ln_f.weight.data *= FINAL_GAIN
    model.save_pretrained(folder / "bench-4l")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO_MODEL / name, folder / "bench-4l" / name)  # as saved anew, older readers do not know its class
    text = folder / "text.txt"
    stdlib_text.write(text, max_bytes=TEXT_BYTES)
    corpus = corpora.from_documents(
        documents.read(documents.files_of(text)), tokenizer, special_tokens=(tokenizer.bos_token_id,),
        n_vocabulary=len(tokenizer), context_size=CONTEXT_SIZE, prepend_bos=True, max_tokens=N_CONTEXTS * CONTEXT_SIZE,
    )  # fmt: skip
    if corpus.n_contexts < N_CONTEXTS:
        raise SystemExit(f"this Python's library fills {corpus.n_contexts} contexts; the workload needs {N_CONTEXTS}.")
    np.save(folder / "tokens.npy", corpus.rows)


def _sample(model: language_model.LanguageModel, rows: np.ndarray) -> Sample:
    """Residuals of contexts spread over the corpus, special tokens and position 0 left out."""
    capture = language_model.resolve(model, HOOK_POINT)
    chosen = rows[:: len(rows) // N_CALIBRATION_CONTEXTS][:N_CALIBRATION_CONTEXTS].astype(np.int64)
    parts = [language_model.residuals(model, capture, torch.from_numpy(part)) for part in np.split(chosen, 16)]
    counts = torch.from_numpy(~np.isin(chosen, model.special_tokens))
    counts[:, 0] = False
    x = torch.cat(parts)[counts]
    mean = x.mean(dim=0)
    variance, axes = torch.linalg.eigh(torch.cov((x - mean).T))
    variance = variance.clamp(min=float(variance.mean()) * 1e-2)
    return Sample(x, mean, axes @ torch.diag(variance**-0.5) @ axes.T)


def _densities(shape: Shape, generator: torch.Generator) -> Tensor:
    """Log-normal shares of tokens that sum to L0 over the features that are not dead."""
    drawn = torch.exp(DENSITY_SIGMA * torch.randn(shape.d_sae, generator=generator))
    return (drawn / drawn.mean() * (shape.l0 / shape.d_sae / (1 - DEAD_FRACTION))).clamp(max=MAX_DENSITY)


def _cuts(x: Tensor, W_enc: Tensor, densities: Tensor) -> tuple[Tensor, Tensor]:
    """For each feature the pre-activation that its density of tokens exceeds, and the largest."""
    n_below = len(x) - (densities * len(x)).round().long().clamp(min=1)
    cuts, highest = np.empty(len(densities), np.float32), np.empty(len(densities), np.float32)
    for start in range(0, len(densities), BLOCK_FEATURES):
        for i, row in enumerate((W_enc[:, start : start + BLOCK_FEATURES].T @ x.T).numpy(), start):
            at = int(n_below[i])
            row.partition((at - 1, at))
            cuts[i] = (row[at - 1] + row[at]) / 2  # between two tokens, lest one lie at every threshold
            highest[i] = row[at:].max()
    return torch.from_numpy(cuts), torch.from_numpy(highest)


def _check_top_logits(model: language_model.LanguageModel, W_dec: Tensor) -> None:
    """Fail where SAEDashboard would list axis ticks by the hundred thousand."""
    top = torch.nn.functional.normalize(W_dec, dim=1) @ language_model.unembedding(model)
    weakest = float(top.amax(dim=1).min())
    assert weakest > MIN_TOP_LOGIT, f"a feature's best logit is {weakest:.3f}: raise FINAL_GAIN"
