"""The training loop on a tiny model: same weights however layers are dealt, and it learns."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from demo import topk_sae, train_saes

N_TOKENS = 6000


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A random model of width 16 in a folder, and sizes to match."""
    for name, value in {"D_SAE": 48, "K": 4, "BUFFER_CONTEXTS": 16, "BATCH_TOKENS": 127, "WARMUP": 2}.items():
        monkeypatch.setattr(train_saes, name, value)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_positions=128, n_embd=16, n_layer=4, n_head=2, initializer_range=0.3)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "stdlib-4l")
    return tmp_path


@pytest.fixture
def tokens() -> np.ndarray:
    """Random tokens of the small vocabulary."""
    return np.random.default_rng(0).integers(1, 64, 5000).astype(np.uint16)


def job(weights: Path, tokens: np.ndarray, *layers: int) -> train_saes.Job:
    """A job of these layers."""
    return train_saes.Job(weights, layers, N_TOKENS, 0, 1, tokens, tokens)


def test_weights_do_not_depend_on_how_layers_are_dealt(weights: Path, tokens: np.ndarray) -> None:
    """Trained together or one at a time, each file is the same bit for bit."""
    train_saes.train(job(weights, tokens, 1, 2))
    together = [load_file(train_saes.sae_folder(weights, layer) / "sae_weights.safetensors") for layer in (1, 2)]
    for layer in (1, 2):
        train_saes.train(job(weights, tokens, layer))
    alone = [load_file(train_saes.sae_folder(weights, layer) / "sae_weights.safetensors") for layer in (1, 2)]
    for first, second in zip(together, alone, strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_training_raises_explained_variance_and_keeps_unit_rows(
    weights: Path, tokens: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last batch is explained better than the first, and saved decoder rows have norm 1 to half precision."""
    monkeypatch.setattr(train_saes, "LEARNING_RATE", 1e-2)
    history = train_saes.train(job(weights, tokens, 3))[3]
    assert history[-1]["explained_variance"] > history[0]["explained_variance"] + 0.1
    norms = topk_sae.load(train_saes.sae_folder(weights, 3)).W_dec.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(48), rtol=0, atol=2e-3)


def test_a_feature_counts_as_dead_after_enough_silent_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two features active per token on a constant direction, most of the others go silent."""
    for name, value in {"D_SAE": 48, "K": 2, "DEAD_TOKENS": 50}.items():
        monkeypatch.setattr(train_saes, name, value)
    residuals = torch.randn(100, 1, generator=torch.Generator().manual_seed(0)) * torch.ones(1, 16)
    trainer = train_saes.Trainer(0, residuals, 10, 0)
    assert trainer.n_dead == 0
    trainer.step(residuals)
    assert 40 < trainer.n_dead < 48


@pytest.mark.parametrize(
    ("n_processes", "dealt"),
    [(1, [(1, 2, 3)]), (2, [(3,), (1, 2)]), (3, [(3,), (2,), (1,)]), (5, [(3,), (2,), (1,)])],
)
def test_layers_are_dealt_deepest_first(n_processes: int, dealt: list[tuple[int, ...]]) -> None:
    """Two processes: the last layer alone, the two shallower ones together."""
    assert train_saes.deal_layers([1, 2, 3], n_processes) == dealt


def test_learning_rate_warms_up_holds_and_falls_to_zero() -> None:
    """Factors at the start, in the middle and at the last step."""
    factors = [train_saes.learning_rate_factor(step, 1000) for step in (0, 500, 999)]
    assert factors == pytest.approx([1 / train_saes.WARMUP, 1.0, 1 / (train_saes.DECAY * 1000)])
