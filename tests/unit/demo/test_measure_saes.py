"""The metrics on a tiny model, against their definitions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from demo import measure_saes, topk_sae, train_model


@pytest.fixture
def model() -> GPT2LMHeadModel:
    """Random, width 16."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_positions=128, n_embd=16, n_layer=4, n_head=2, initializer_range=0.3)
    return GPT2LMHeadModel(config).eval()


@pytest.fixture
def sae() -> topk_sae.TopKSae:
    """Random, 40 features, one of which can never fire."""
    sae = topk_sae.initialize(16, 40, 4, torch.Generator().manual_seed(0))
    sae.b_enc[7] = -1e4
    return sae


@pytest.fixture
def tokens() -> np.ndarray:
    """Random tokens of the small vocabulary."""
    return np.random.default_rng(0).integers(1, 64, 5000).astype(np.uint16)


@torch.no_grad()
def test_true_residuals_give_the_clean_loss(model: GPT2LMHeadModel, tokens: np.ndarray) -> None:
    """Same as the model's own cross-entropy over the predictions of positions 1 to 126."""
    contexts = train_model.draw_contexts(tokens, 20, np.random.default_rng(0))
    logits = model(contexts).logits[:, 1:-1].flatten(0, 1)
    expected = float(torch.nn.functional.cross_entropy(logits, contexts[:, 2:].flatten()))
    assert measure_saes.patched_loss(model, 2, contexts, lambda x: x) == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_the_patch_leaves_position_0_alone_and_its_hook_behind(model: GPT2LMHeadModel, tokens: np.ndarray) -> None:
    """Zeroing the last block's output gives uniform logits only where it is zeroed."""
    contexts = train_model.draw_contexts(tokens, 3, np.random.default_rng(0))
    zeroed = measure_saes.patched_loss(model, 3, contexts, torch.zeros_like)
    bias_only = model.transformer.ln_f.bias @ model.lm_head.weight.T
    expected = float((bias_only.logsumexp(0) - bias_only[contexts[:, 2:]]).mean())
    assert zeroed == pytest.approx(expected, abs=1e-5)
    seen: list[torch.Tensor] = []
    handle = model.transformer.ln_f.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    measure_saes.patched_loss(model, 3, contexts, torch.zeros_like)
    handle.remove()
    assert (seen[0][:, 0] != 0).any()
    assert (seen[0][:, 1:] == 0).all()
    assert not model.transformer.h[3]._forward_hooks


def test_fit_follows_its_definitions_over_parts(sae: topk_sae.TopKSae) -> None:
    """Fed in two parts, the sums equal those over all rows at once."""
    x = torch.randn(300, 16, generator=torch.Generator().manual_seed(1)) + 2
    fit = measure_saes.Fit(sae)
    for part in x.split(200):
        fit.add(part)
    values, features = sae.encode(x)
    errors = (sae.decode(values, features) - x).double().square().sum()
    assert fit.explained_variance == pytest.approx(float(1 - errors / (x - x.mean(0)).double().square().sum()))
    assert fit.l0 == pytest.approx(float((values > 0).sum()) / 300)
    assert fit.n_fired[7] == 0
    torch.testing.assert_close(fit.mean, x.mean(0))


def test_card_line_describes_the_saved_files(
    model: GPT2LMHeadModel, sae: topk_sae.TopKSae, tokens: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses recovered are ratios of the losses beside them; the token counts and the model's digest are stated."""
    monkeypatch.setattr(measure_saes, "N_VALIDATION", 8)
    monkeypatch.setattr(measure_saes, "N_TRAINING", 20)
    model.save_pretrained(tmp_path / "model")
    topk_sae.save(sae, tmp_path / "sae", {})
    card = measure_saes.measure(tmp_path / "model", tmp_path / "sae", 1, tokens, tokens)
    assert (card["n_tokens_validation"], card["n_tokens_dead_fraction"]) == (8 * 127, 28 * 127)
    assert card["dead_fraction"] >= 1 / 40
    assert card["model_sha256"] == measure_saes.sha256(tmp_path / "model" / "model.safetensors")
    recovered = (card["loss_zero"] - card["loss_sae"]) / (card["loss_zero"] - card["loss_clean"])
    assert card["loss_recovered_zero"] == pytest.approx(recovered, abs=0.01)
