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
    save_file(state, folder / "sae_weights.safetensors")
    with pytest.raises(errors.InvalidInputError, match=r"W_enc.*NaN"):
        sae.load(folder, device=torch.device("cpu"))
