"""Quality against SAELens's own evals on the same model, SAE and tokens, and against plain sums by hand."""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from backend import errors
from tests import tiny
from workers.compute import intervention, language_model, quality, reconstruction, sae
from workers.compute.encoder import Encoder

CPU = torch.device("cpu")
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("gpt2", "jumprelu", {}),
    ("gpt2", "topk", {"rescale_acts_by_decoder_norm": True, "metadata": {"hook_name": "blocks.1.hook_resid_pre"}}),
    ("gpt2", "gated", {"metadata": {"hook_name": "blocks.1.attn.hook_z"}, "reshape_activations": "hook_z"}),
    ("llama", "standard", {"normalize_activations": "layer_norm"}),
    ("llama", "jumprelu", {"normalize_activations": "constant_norm_rescale"}),
]


@dataclass(frozen=True)
class Case:
    """Both tools' view of the same weights and tokens."""

    subject: quality.Subject
    bridge: Any
    oracle: Any
    rows: NDArray[np.int64]
    special: tuple[int, ...]

    def counts(self) -> NDArray[np.bool_]:
        return ~np.isin(self.rows, self.special)

    def sums(self, counts: NDArray[np.bool_], **options: Any) -> quality.Sums:
        mean = quality.mean_activation(self.subject, self.rows, counts, on_batch=lambda n: None)
        return quality.sums(self.subject, self.rows, counts, mean, **options)

    def metrics(self, counts: NDArray[np.bool_], **options: Any) -> dict[str, float]:
        found = quality.evaluation(self.sums(counts, **options)).metrics
        return {name: metric.value for name, metric in found.items() if metric.value is not None}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The oracle warns while it loads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def case(model_folder: Path, sae_folder: Path, rows: NDArray[np.int64]) -> Case:
    from sae_lens import SAE
    from transformer_lens.model_bridge import TransformerBridge

    model = language_model.load(str(model_folder), device=CPU, dtype=torch.float32)
    dictionary = sae.load(sae_folder, device=CPU)
    capture = language_model.resolve(model, dictionary.description.hook_point)
    bridge = TransformerBridge.boot_transformers(str(model_folder), device="cpu", dtype=torch.float32)
    oracle = SAE.load_from_disk(sae_folder)
    oracle.cfg.metadata.hook_name = str(dictionary.description.hook_point)
    return Case(quality.Subject(model, capture, Encoder(dictionary)), bridge, oracle, rows, model.special_tokens)


def tiny_case(folder: Path, kind: str, architecture: str, config: dict[str, Any]) -> Case:
    rng = np.random.default_rng(0)
    rows = rng.integers(1, 200, (12, tiny.N_CONTEXT))
    rows[:, 0] = 0
    rows[rng.random(rows.shape) < 0.05] = 0
    return case(
        sharp_model(folder / "model", kind),
        tiny.save_sae(folder / "sae", architecture=architecture, **config),
        rows,
    )


def sharp_model(folder: Path, kind: str) -> Path:
    """A random model whose predictions depend on what its blocks do: weights ten times as large."""
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny.save_model(folder, kind=kind))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)
    model.save_pretrained(folder)
    return folder


def sae_lens_metrics(at: Case, ignore_tokens: list[int]) -> dict[str, float]:
    """SAELens's downstream and sparsity-and-variance metrics over all rows as one batch."""
    from sae_lens import evals
    from sae_lens.training.activation_scaler import ActivationScaler

    store: Any = SimpleNamespace(get_batch_tokens=lambda n: torch.from_numpy(at.rows))
    if "hook_z" in at.oracle.cfg.metadata.hook_name:
        at.oracle.turn_off_forward_pass_hook_z_reshaping()
    common: dict[str, Any] = {"n_batches": 1, "eval_batch_size_prompts": len(at.rows), "ignore_tokens": ignore_tokens}
    with torch.no_grad():
        downstream = evals.get_downstream_reconstruction_metrics(
            at.oracle, at.bridge, store, ActivationScaler(), compute_kl=True, compute_ce_loss=True, **common
        )
        if not getattr(at.oracle.cfg, "rescale_acts_by_decoder_norm", False):
            at.oracle.fold_W_dec_norm()  # L1 is of activations scaled by ‖W_dec‖
        local, _ = evals.get_sparsity_and_variance_metrics(
            at.oracle, at.bridge, store, ActivationScaler(), compute_l2_norms=False, compute_sparsity_metrics=True,
            compute_variance_metrics=True, compute_featurewise_density_statistics=True, model_kwargs={}, **common,
        )  # fmt: skip
    return downstream | local


OF_SAE_LENS = {
    "l0": "l0", "l1": "l1", "mse": "mse", "explained_variance": "explained_variance", "cosine": "cossim",
    "loss_clean": "ce_loss_without_sae", "loss_sae": "ce_loss_with_sae", "loss_zero": "ce_loss_with_ablation",
    "loss_recovered_zero": "ce_loss_score", "kl_sae": "kl_div_with_sae", "kl_zero": "kl_div_with_ablation",
}  # fmt: skip


@pytest.mark.parametrize(("kind", "architecture", "config"), CASES)
@pytest.mark.parametrize("is_masked", [True, False])
def test_equal_to_sae_lens(
    tmp_path: Path, kind: str, architecture: str, config: dict[str, Any], is_masked: bool
) -> None:
    """Without a mask, and with special tokens masked and its zero ablation, which spares no token."""
    at = tiny_case(tmp_path, kind, architecture, config)
    counts = at.counts() if is_masked else np.ones(at.rows.shape, np.bool_)
    found = at.metrics(counts, ablates_masked=True)
    expected = sae_lens_metrics(at, list(at.special) if is_masked else [])
    assert min(found["kl_sae"], found["kl_zero"]) > 0.01, "the interventions would not show"
    for ours, theirs in OF_SAE_LENS.items():
        assert found[ours] == pytest.approx(expected[theirs], rel=2e-4, abs=2e-5), ours


@pytest.mark.parametrize("name", ["standard512", "batchtopk512", "jumprelu512"])
def test_equal_to_sae_lens_on_published_weights(name: str) -> None:
    folder = tiny.SHARED
    if not folder.is_dir():
        pytest.skip(f"the shared data is not at {folder}")
    text = (folder / "corpora" / "tinystories-head.txt").read_text()[:20_000]
    at = case(
        folder / "models" / "tinystories-260k", folder / "saes" / "tinystories-260k" / name, np.zeros((1, 1), np.int64)
    )
    ids = at.subject.model.tokenizer(text, add_special_tokens=False)["input_ids"][: 16 * 127]
    rows = np.concatenate(
        [np.full((16, 1), at.subject.model.tokenizer.bos_token_id), np.reshape(ids, (16, 127))], axis=1
    )
    at = replace(at, rows=rows)
    found, expected = at.metrics(at.counts(), ablates_masked=True), sae_lens_metrics(at, list(at.special))
    for ours, theirs in OF_SAE_LENS.items():
        assert found[ours] == pytest.approx(expected[theirs], rel=2e-4, abs=2e-5), ours
    assert found["loss_recovered_zero"] > 0.8
    assert found["loss_clean"] < 2.5


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Case:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tiny_case(tmp_path_factory.mktemp("case"), "gpt2", "jumprelu", {})


def masked(at: Case) -> NDArray[np.bool_]:
    counts = at.counts()
    counts[:, 0] = False
    return counts


def test_ablations_are_what_they_are_by_hand(at: Case) -> None:
    """Losses and divergences from plain softmaxes, masked tokens left as they are."""
    counts, model = masked(at), at.subject.model
    tokens, kept = torch.from_numpy(at.rows), torch.from_numpy(masked(at))
    x = language_model.residuals(model, at.subject.capture, tokens)
    mean = x[kept].double().mean(dim=0).float()
    found = at.metrics(counts)
    with torch.inference_mode():
        clean = model.model(input_ids=tokens).logits.double().log_softmax(-1)
    has_next = kept[:, :-1]
    for name, replacement in (("zero", torch.zeros(16)), ("mean", mean)):
        logits = intervention.run_with(
            model, at.subject.capture, tokens, lambda x, to=replacement: torch.where(kept[..., None], to, x)
        )
        log_q = logits.double().log_softmax(-1)
        loss = -log_q[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0][has_next].mean()
        kl = (clean.exp() * (clean - log_q)).sum(-1)[kept].mean()
        assert found[f"loss_{name}"] == pytest.approx(float(loss), rel=1e-5)
        assert found[f"kl_{name}"] == pytest.approx(float(kl), rel=1e-4)
        recovered = (loss - found["loss_sae"]) / (loss - found["loss_clean"])
        assert found[f"loss_recovered_{name}"] == pytest.approx(float(recovered), rel=1e-4)


def test_sparing_masked_tokens_matters(at: Case) -> None:
    spared, not_spared = at.metrics(masked(at)), at.metrics(masked(at), ablates_masked=True)
    assert spared["loss_zero"] != pytest.approx(not_spared["loss_zero"], rel=1e-3)
    assert spared["loss_sae"] == not_spared["loss_sae"]


def test_positions_add_up_to_the_whole(at: Case) -> None:
    counts = masked(at)
    found = quality.evaluation(at.sums(counts))
    n = counts.sum(axis=0)
    assert found.n_tokens == n.sum()
    assert found.metrics["l0"].by_position[0] is None
    assert found.metrics["loss_sae"].by_position[-1] is None
    for name, weights in (("mse", n), ("cosine", n), ("kl_sae", n), ("loss_mean", np.append(n[:-1], 0))):
        metric = found.metrics[name]
        terms = [weight * value for weight, value in zip(weights, metric.by_position, strict=True) if value is not None]
        assert sum(terms) / weights.sum() == pytest.approx(metric.value, rel=1e-5), name


def test_a_position_by_itself_is_a_sample_of_that_position(at: Case) -> None:
    counts, only = masked(at), np.zeros(at.rows.shape, np.bool_)
    only[:, 5] = counts[:, 5]
    mean = quality.mean_activation(at.subject, at.rows, counts, on_batch=lambda n: None)
    whole = quality.evaluation(quality.sums(at.subject, at.rows, counts, mean)).metrics
    alone = quality.evaluation(quality.sums(at.subject, at.rows, only, mean)).metrics
    for name in ("l0", "l1", "mse", "explained_variance", "cosine"):
        assert whole[name].by_position[5] == pytest.approx(alone[name].value, rel=1e-6)


def test_parts_of_a_sample_merge_into_the_whole(at: Case) -> None:
    counts = masked(at)
    mean = quality.mean_activation(at.subject, at.rows, counts, on_batch=lambda n: None)

    def part(rows: slice) -> quality.Sums:
        return quality.sums(at.subject, at.rows[rows], counts[rows], mean)

    merged = quality.evaluation(quality.merge(part(slice(0, 5)), part(slice(5, 12))))
    whole = quality.evaluation(part(slice(0, 12)))
    assert (merged.n_contexts, merged.n_tokens) == (whole.n_contexts, whole.n_tokens)
    for name, metric in whole.metrics.items():
        assert merged.metrics[name].value == pytest.approx(metric.value, rel=1e-5), name
        assert merged.metrics[name].standard_error == pytest.approx(metric.standard_error, rel=1e-3), name


def test_batches_and_slices_do_not_change_the_numbers(at: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = at.metrics(masked(at))
    monkeypatch.setattr(quality, "MAX_BATCH_CONTEXTS", 5)
    monkeypatch.setattr(quality, "SLICE_BYTES", 7 * 4 * at.subject.model.d_vocab)
    for name, value in at.metrics(masked(at)).items():
        assert value == pytest.approx(whole[name], rel=1e-5), name


def test_standard_errors_are_those_of_repeated_samples() -> None:
    """Against the spread of the metric over many samples, drawn from made-up contexts of unequal length."""
    rng = np.random.default_rng(0)

    def draw(n_contexts: int) -> quality.Sums:
        of_context = np.zeros((n_contexts, len(quality.QUANTITIES)))
        length, shift = rng.integers(20, 60, n_contexts), rng.normal(0, 0.5, n_contexts)
        for name, base, noise in (("loss_clean", 2, 1), ("loss_sae", 2.3, 1.1), ("loss_zero", 9, 2)):
            of_context[:, quality._AT[name]] = length * (base + shift + rng.normal(0, noise, n_contexts) / length**0.5)
        of_context[:, quality._AT["n"]] = of_context[:, quality._AT["n_next"]] = length
        return quality.Sums(of_context.sum(axis=0)[None], of_context.T @ of_context, n_contexts)

    found = [quality.evaluation(draw(200)).metrics for _ in range(400)]
    for name in ("loss_clean", "loss_recovered_zero"):
        spread = float(np.std([metrics[name].value for metrics in found]))
        stated = float(np.mean([metrics[name].standard_error for metrics in found]))
        assert stated == pytest.approx(spread, rel=0.1), name


def test_undefined_numbers_are_none(at: Case) -> None:
    """One context has no standard error, no deviation from the mean no explained variance."""
    found = quality.evaluation(at.sums(np.zeros(at.rows.shape, np.bool_)))
    assert found.n_tokens == 0
    assert all(metric.value is metric.standard_error is None for metric in found.metrics.values())
    single = quality.evaluation(replace(at, rows=at.rows[:1]).sums(masked(at)[:1]))
    assert single.metrics["mse"].value is not None
    assert single.metrics["mse"].standard_error is None


def test_a_silent_sae_with_no_bias_has_cosine_zero(at: Case) -> None:
    silent = replace(
        at.subject.encoder.sae, threshold=torch.full((40,), 1e9), b_dec=torch.zeros(16), b_enc=torch.zeros(40)
    )
    metrics = replace(at, subject=replace_subject(at.subject, silent)).metrics(masked(at))
    assert (metrics["l0"], metrics["l1"], metrics["cosine"]) == (0, 0, 0)
    assert metrics["loss_sae"] == pytest.approx(metrics["loss_zero"], rel=1e-6)
    assert metrics["loss_recovered_zero"] == pytest.approx(0, abs=1e-5)


def replace_subject(subject: quality.Subject, dictionary: sae.Sae) -> quality.Subject:
    return quality.Subject(subject.model, subject.capture, Encoder(dictionary))


@pytest.mark.parametrize(("parameter", "what"), [("h.0.mlp.c_proj.bias", "activations"), ("ln_f.bias", "losses")])
def test_what_is_not_finite_is_refused(at: Case, parameter: str, what: str) -> None:
    weights = at.subject.model.model.transformer.get_parameter(parameter).data
    kept = weights.clone()
    try:
        weights[3] = math.inf
        with pytest.raises(errors.InvalidInputError, match=f"{what} are not finite"):
            at.sums(masked(at))
    finally:
        weights.copy_(kept)


def test_a_place_that_cannot_be_replaced_still_has_its_error(at: Case) -> None:
    from backend import names

    capture = language_model.resolve(at.subject.model, names.HookPoint(1, "ln2.hook_in"))
    subject = quality.Subject(at.subject.model, capture, at.subject.encoder)
    found = replace(at, subject=subject).metrics(masked(at))
    assert set(found) == {"l0", "l1", "mse", "explained_variance", "cosine"}


def test_samples_are_evenly_spaced_seeded_and_without_repeats() -> None:
    chosen = quality.sample(1000, n_chosen=30, seed=3)
    assert np.array_equal(chosen, quality.sample(1000, n_chosen=30, seed=3))
    assert not np.array_equal(chosen, quality.sample(1000, n_chosen=30, seed=4))
    assert set(np.diff(chosen)) <= {33, 34}
    assert chosen[0] >= 0
    assert chosen[-1] < 1000
    assert quality.sample(5, n_chosen=30, seed=0).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("architecture", "config"), [(a, c) for _, a, c in CASES if "metadata" not in c])
def test_reconstruction_equals_sae_lens(tmp_path: Path, architecture: str, config: dict[str, Any]) -> None:
    from sae_lens import SAE

    folder = tiny.save_sae(tmp_path / "sae", architecture=architecture, **config)
    x = torch.randn(70, 16, generator=torch.Generator().manual_seed(1)) * 2
    dictionary = sae.load(folder, device=CPU)
    found = reconstruction.reconstruct(Encoder(dictionary), x, dictionary.directions())
    with torch.no_grad():
        expected = SAE.load_from_disk(folder)(x)
    torch.testing.assert_close(found.output, expected, rtol=1e-4, atol=1e-4)
