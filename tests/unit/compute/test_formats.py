"""Every format's SAEs: the same activations, at the same tokens and features, as another's code gives."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import saes
from workers.compute import encoders, sae

D_IN, D_SAE = 16, 64


@pytest.mark.parametrize("name", saes.EXAMPLES)
def test_activations_equal_the_oracles(tmp_path: Path, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of SAELens's imports
        written = saes.EXAMPLES[name].write(tmp_path / "sae", D_IN, D_SAE)
    dictionary = sae.load(written.folder, device=torch.device("cpu"), declared=written.declared)
    x = torch.randn(200, D_IN, generator=torch.Generator().manual_seed(1)) * 2
    found = encoders.of(dictionary, screen="fp32").encode(x)
    values = torch.zeros(len(x), D_SAE)
    values[found.row.astype(np.int64), found.feature.astype(np.int64)] = torch.from_numpy(found.value)
    expected = written.oracle(x)
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=2e-6)
    assert bool((values.count_nonzero(dim=0) > 0).float().mean() > 0.5), (
        "too little fires for the test to mean anything"
    )
