"""The kernels without a GPU: run by Triton's interpreter, and compiled for one.

Each in a process of its own, since Triton decides when it is imported whether it interprets.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed (it comes for Linux on x86-64)"
)
HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
H200_SHARED_BYTES = 227 * 1024


def run(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=REPOSITORY, env=os.environ | environment, capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip


@pytest.mark.slow
def test_interpreted_kernels_give_the_firings_of_their_twins() -> None:
    file = str(HERE / "interpreted_kernels.py")
    result = run(["-m", "pytest", "-q", file], TRITON_INTERPRET="1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert " passed" in result.stdout


@pytest.mark.slow
def test_kernels_compile_for_an_h200(tmp_path: Path) -> None:
    module = "tests.unit.compute.compiled_kernels"
    result = run(["-m", module], TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
    assert result.returncode == 0, result.stderr
    kernels = {line.pop("name"): line for line in map(json.loads, result.stdout.splitlines())}
    assert len(kernels) == 4
    for name, kernel in kernels.items():
        assert kernel["shared_bytes"] <= H200_SHARED_BYTES
        assert kernel["stack_bytes"] == 0, f"{name} spills registers"
        assert not kernel["flushes_denormals"]
        assert kernel["is_on_tensor_cores"] == (name != "totals")
    assert kernels["totals"]["has_fp64"]
