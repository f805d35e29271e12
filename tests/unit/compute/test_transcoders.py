"""Transcoders read at one place and are judged at another, beside SAELens's own forward pass in TransformerLens."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from backend import names
from tests import saes, tiny
from workers.compute import encoders, language_model, quality, sae

CPU = torch.device("cpu")


@pytest.mark.parametrize("architecture", ["jumprelu_transcoder", "jumprelu_skip_transcoder"])
def test_quality_is_that_of_the_output_rebuilt_and_put_in_its_place(tmp_path: Path, architecture: str) -> None:
    folder = tiny.save_model(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sae_lens import SAE
        from transformer_lens.model_bridge import TransformerBridge

        written = saes.EXAMPLES[f"SAELens {architecture}"].write(tmp_path / "sae", 16, 64)
        theirs = SAE.load_from_disk(str(written.folder))
        bridge = TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float32)
    model = language_model.load(str(folder), device=CPU, dtype=torch.float32)
    dictionary = sae.load(written.folder, device=CPU)
    description = dictionary.description
    assert (description.kind, description.has_skip) == ("transcoder", "skip" in architecture)
    read, out = (language_model.resolve(model, place) for place in (description.hook_point, description.hook_point_out))
    subject = quality.Subject(model, read, encoders.of(dictionary, screen="fp32"), out)
    rows = np.random.default_rng(0).integers(1, 200, (6, tiny.N_CONTEXT))
    counts = np.ones(rows.shape, np.bool_)
    mean = quality.mean_activation(subject, rows, counts, on_batch=lambda n: None)
    found = quality.evaluation(quality.sums(subject, rows, counts, mean)).metrics

    tokens = torch.from_numpy(rows)
    at_in, at_out = str(description.hook_point), str(description.hook_point_out)
    with torch.no_grad():
        clean, cache = bridge.run_with_cache(tokens, names_filter=[at_in, at_out])
        rebuilt = theirs(cache[at_in])
        spliced = bridge.run_with_hooks(tokens, fwd_hooks=[(at_out, lambda x, hook: rebuilt)])
        losses = [
            torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).item()
            for logits in (clean, spliced)
        ]
    error = (cache[at_out] - rebuilt).square().sum(dim=-1)
    variance = (cache[at_out] - cache[at_out].flatten(0, 1).mean(dim=0)).square().sum(dim=-1)
    expected = {
        "mse": error.mean().item(),
        "explained_variance": 1 - (error.sum() / variance.sum()).item(),
        "loss_clean": losses[0],
        "loss_sae": losses[1],
    }
    assert abs(losses[1] - losses[0]) > 1e-3
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, rel=1e-3, abs=1e-5), name


def test_the_place_before_the_second_norm_is_the_residual_stream(tmp_path: Path) -> None:
    model = language_model.load(str(tiny.save_model(tmp_path / "model")), device=CPU, dtype=torch.float32)
    tokens = torch.randint(1, 200, (2, tiny.N_CONTEXT), generator=torch.Generator().manual_seed(0))
    forked, stream = (
        language_model.residuals(model, language_model.resolve(model, names.HookPoint(1, place)), tokens)
        for place in ("hook_mlp_in", "hook_resid_mid")
    )
    assert torch.equal(forked, stream)
