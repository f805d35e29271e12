"""The same firings on a GPU as on a CPU."""

from pathlib import Path

import pytest
import torch

from tests import tiny
from workers.compute import sae

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]


@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "topk", "gated"])
def test_encoding_equals_the_cpu_s(tmp_path: Path, architecture: str) -> None:
    folder = tiny.save_sae(tmp_path / "sae", architecture=architecture)
    x = torch.randn(300, 16, generator=torch.Generator().manual_seed(1))
    here = sae.encode(sae.load(folder, device=torch.device("cpu")), x)
    there = sae.encode(sae.load(folder, device=torch.device("cuda")), x.cuda())
    found = {(int(r), int(f)): float(v) for r, f, v in zip(there.row, there.feature, there.value, strict=True)}
    expected = {(int(r), int(f)): float(v) for r, f, v in zip(here.row, here.feature, here.value, strict=True)}
    assert len(set(found) ^ set(expected)) <= len(expected) // 1000, "only at the threshold"
    for key in set(found) & set(expected):
        assert found[key] == pytest.approx(expected[key], rel=1e-4, abs=1e-5)
