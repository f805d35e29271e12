"""Texts generated on a GPU: the tokens are those of a CPU, whatever is pushed how."""

from pathlib import Path

import numpy as np
import pytest
import torch

from backend.formats.messages import Push, Sampling
from tests import architectures, tiny
from workers import runtime
from workers.compute import edits, language_model, sampling
from workers.compute.generation import Generation, Token
from workers.compute.running_rows import Row

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
METHODS = ("add", "orthogonal", "cap", "ablate", "clamp", "reconstruct")


def texts(folder: Path, sae: Path, device: torch.device) -> dict[object, list[int]]:
    """Drawn with every method at once, each row with a seed of its own."""
    model = language_model.load(str(folder), device=device, dtype=torch.float32)
    found = runtime.source_at(model, runtime.SaeFiles(str(sae)))
    source = edits.Source(found.encoder, found.capture, runtime.written_at_hook(model, found))
    changes = [
        edits.of_push(model, Push(method=method, strength=1.5, source="s", index=7), source)  # type: ignore[arg-type]
        for method in METHODS
    ]
    rows = [
        Row(
            owner=i, prompt=tuple(range(1, 3 + i)), sampling=Sampling(n_tokens=10, seed=i, top_p=1 - i / 20),
            changes=(change,) if i else (),
        )
        for i, change in enumerate([changes[0], *changes])
    ]  # fmt: skip
    running = Generation(model)
    assert running.uncached_because == ""
    running.add(rows)
    tokens: dict[object, list[int]] = {row.owner: [] for row in rows}
    while running.n_rows:
        for event in running.step():
            assert isinstance(event, Token)
            tokens[event.row.owner].append(event.id)
    return tokens


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("architecture", ["jumprelu", "topk"])
def test_texts_are_those_of_a_cpu(tmp_path: Path, kind: str, architecture: str) -> None:
    folder = architectures.save(tmp_path / "model", kind)
    sae = tiny.save_sae(tmp_path / "sae", architecture=architecture)
    assert texts(folder, sae, CUDA) == texts(folder, sae, CPU)


def test_draws_are_those_of_a_cpu() -> None:
    n, vocab = 64, 50_257
    logits = torch.randn(n, vocab, generator=torch.Generator().manual_seed(0)) * 3
    chosen = sampling.Choices.of(
        [Sampling(n_tokens=1, seed=i // 2, top_p=1 - (i % 4) / 8, n_alternatives=5) for i in range(n)]
    )
    nothing = np.zeros((n, 0), np.int64)
    here, there = (sampling.draw(logits.to(device), chosen, np.arange(n), nothing) for device in (CPU, CUDA))
    assert here.token.tolist() == there.token.tolist()
    assert here.alternatives.tolist() == there.alternatives.tolist()
    np.testing.assert_allclose(here.logprob, there.logprob, rtol=1e-5)
