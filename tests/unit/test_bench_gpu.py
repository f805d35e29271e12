"""The GPU's bench runs, on a toy shape and wherever we are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backend.settings import REPOSITORY


@pytest.mark.slow
def test_the_toy_shape_is_measured_from_tokens_to_dashboards(tmp_path: Path) -> None:
    kept = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "tests.bench.gpu.bench_gpu", "--small", "--out", str(kept)]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert abs(result["whole"]["l0"] - 10) < 1
    assert result["whole"]["dashboards_bytes"] > 100_000
    assert {"forward", "screen", "rescore", "sort", "copy", "write"} <= result["breakdown_s"].keys()
    assert result["limit_s"].keys() == {"forward", "bf16 product"}
    assert not kept.exists()
