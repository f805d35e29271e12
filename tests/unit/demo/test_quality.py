"""The numbers of the demo's card, which its own script measured, are what the evaluation gives for the same contexts."""

from pathlib import Path

import numpy as np
import pytest
import torch

from backend.settings import REPOSITORY
from demo import measure_saes, residuals, topk_sae
from workers.compute import language_model, quality, sae
from workers.compute.encoder import Encoder

WEIGHTS = REPOSITORY / "demo" / "weights"


def contexts() -> np.ndarray:
    """Sixteen of this very file's tokens."""
    tokenizer = language_model.transformers.AutoTokenizer.from_pretrained(WEIGHTS / "stdlib-4l")
    text = (Path(__file__).read_text() + Path(measure_saes.__file__).read_text()) * 2
    ids = np.array(tokenizer(text, verbose=False)["input_ids"][: 16 * 127]).reshape(16, 127)
    return np.concatenate([np.zeros((16, 1), np.int64), ids], axis=1)


def test_the_card_and_the_evaluation_agree() -> None:
    rows = contexts()
    folder = WEIGHTS / "saes" / "2-res-2k"
    stream = residuals.ResidualStream(WEIGHTS / "stdlib-4l", (2,))
    fit = measure_saes.Fit(topk_sae.load(folder))
    fit.add(stream.read(torch.from_numpy(rows))[2])
    model = language_model.load(str(WEIGHTS / "stdlib-4l"), device=torch.device("cpu"), dtype=torch.float32)
    with torch.no_grad():
        expected = measure_saes._losses(model.model, 2, topk_sae.load(folder), torch.from_numpy(rows), fit.mean)

    dictionary = sae.load(folder, device=torch.device("cpu"))
    capture = language_model.resolve(model, dictionary.description.hook_point)
    subject = quality.Subject(model, capture, Encoder(dictionary))
    counts = np.ones(rows.shape, np.bool_)
    counts[:, 0] = False
    mean = quality.mean_activation(subject, rows, counts, on_batch=lambda n: None)
    found = quality.evaluation(quality.sums(subject, rows, counts, mean)).metrics
    assert found["explained_variance"].value == pytest.approx(fit.explained_variance, abs=1e-4)
    assert found["l0"].value == pytest.approx(fit.l0, abs=0.01)
    for name in ("clean", "sae", "zero", "mean", "recovered_zero", "recovered_mean"):
        assert found[f"loss_{name}"].value == pytest.approx(expected[f"loss_{name}"], abs=2e-4), name
