"""Reading weights."""

from pathlib import Path

import pytest
import torch

from backend import errors
from tests import tiny
from workers.compute import sae


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    folder = tiny.save_sae(tmp_path / "sae")
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "sae_weights.safetensors")
    state["W_enc"][0, 0] = float("nan")
    state["b_dec"][:2] = float("inf")
    save_file(state, folder / "sae_weights.safetensors")
    with pytest.raises(errors.ProblemsError) as caught:
        sae.load(folder, device=torch.device("cpu"))
    assert sorted(caught.value.problems) == [
        "'W_enc' holds 1 NaN and 0 infinite of 640 values.",
        "'b_dec' holds 0 NaN and 2 infinite of 16 values.",
    ]
