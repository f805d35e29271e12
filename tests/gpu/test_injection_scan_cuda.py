"""A scan on a GPU is the one on a CPU, within what the order of sums in a forward pass changes."""

from pathlib import Path

import pytest
import torch

from tests import tiny
from tests.unit.compute.test_injection_scan import question
from workers.compute import injection_scan, language_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")]


@pytest.mark.parametrize("are_heads_apart", [False, True])
@pytest.mark.parametrize("place", ["hook_resid_post", "hook_resid_mid", "hook_mlp_out"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
def test_a_gpu_says_the_same(kind: str, place: str, are_heads_apart: bool, tmp_path: Path) -> None:
    folder = str(tiny.save_model(tmp_path, kind=kind))
    on_cpu, on_gpu = (
        language_model.load(folder, device=torch.device(name), dtype=torch.float32) for name in ("cpu", "cuda")
    )
    expected, found = (
        injection_scan.scan(each, question(each, place, are_heads_apart=are_heads_apart)) for each in (on_cpu, on_gpu)
    )
    torch.testing.assert_close(found.total, expected.total, rtol=1e-3, atol=1e-4)
    for mine, other in zip(found.parts, expected.parts, strict=True):
        assert mine.name == other.name
        torch.testing.assert_close(mine.values, other.values, rtol=1e-3, atol=1e-4)
