"""The training loop on a tiny model: same weights however layers are dealt, and it learns."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from demo import stdlib_text, topk_sae, train_model, train_saes

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


def test_a_run_over_some_layers_keeps_the_others_on_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers 1 and 3 anew, layer 2 as it was; jobs carry the command line."""
    jobs: list[train_saes.Job] = []

    def fake(job: train_saes.Job) -> dict[str, dict[str, object]]:
        jobs.append(job)
        return {f"{layer}-res-2k": {"tokens": job.n_tokens} for layer in job.layers}

    monkeypatch.setattr(train_saes, "train_and_measure", fake)
    monkeypatch.setattr(train_saes, "ProcessPoolExecutor", lambda n, mp_context: ThreadPoolExecutor(n))
    document = stdlib_text.Document("a.py", "print(1)\n" * 50)
    monkeypatch.setattr(stdlib_text, "documents", lambda *, with_tests=False: iter([document]))
    train_model.train_tokenizer([document.text], tmp_path / "stdlib-4l")
    (tmp_path / "sae_card.json").write_text('{"2-res-2k": {"tokens": 1}, "3-res-2k": {"tokens": 1}}')
    arguments = ["--weights", str(tmp_path), "--tokens", "6_000", "--seed", "5", "--layers", "3,1"]
    monkeypatch.setattr(sys, "argv", ["train_saes", *arguments])
    monkeypatch.setattr(train_model, "encode_documents", lambda tokenizer, texts: np.arange(len(texts)))
    train_saes.main()
    card = json.loads((tmp_path / "sae_card.json").read_text())
    assert list(card) == ["1-res-2k", "2-res-2k", "3-res-2k"]
    assert [entry["tokens"] for entry in card.values()] == [6000, 1, 6000]
    assert [(job.layers, job.seed, job.n_threads) for job in sorted(jobs, key=lambda job: job.layers)] == [
        ((1,), 5, 1),
        ((3,), 5, 1),
    ]
    assert len(jobs[0].train_tokens) == (0 if document.is_validation else 1)
