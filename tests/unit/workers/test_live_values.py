"""What the live worker answers, beside plain Hugging Face with eager attention and sae-lens, on published models.

Values agree within 1e-4 relative; a firing may be there or not only where it is at its threshold, and that is counted.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from tests import tiny
from tests.unit.compute.test_encoder import exact_sae_lens_activations
from workers import runtime
from workers.compute import text_activations

TOLERANCE = 1e-4
DEMO = Path(__file__).resolve().parents[3] / "demo" / "weights"
CASES = {
    f"demo/{name}": (DEMO / "stdlib-4l", DEMO / "saes" / name) for name in ("1-res-2k", "2-res-2k", "3-res-2k")
} | {
    f"tinystories/{name}": (
        tiny.SHARED / "models" / "tinystories-260k", tiny.SHARED / "saes" / "tinystories-260k" / name
    )
    for name in ("jumprelu512", "batchtopk512", "standard512")
}  # fmt: skip


@dataclass
class Counted:
    n_firings: int = 0
    n_differing: int = 0

    def add(self, found: np.ndarray, expected: np.ndarray, least: np.ndarray) -> None:
        """(token, feature) values; `least` is what a firing of each feature is worth at least, as far as is known."""
        both = (found != 0) & (expected != 0)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found[both], expected[both], rtol=TOLERANCE, atol=TOLERANCE * scale)
        one = (found != 0) ^ (expected != 0)
        value = np.maximum(found, expected)[one]
        limit = np.broadcast_to(least, found.shape)[one]
        assert (value <= limit + TOLERANCE * scale).all(), "it fires well above its threshold in one of the two"
        self.n_firings += int(both.sum())
        self.n_differing += int(one.sum())


@pytest.mark.parametrize("case", CASES)
def test_activations_equal_brute_force_alone_and_among_31_others(case: str) -> None:
    model_folder, sae_folder = CASES[case]
    if not model_folder.is_dir():
        pytest.skip(f"the shared data is not at {tiny.SHARED}")
    loaded = runtime.load(str(model_folder), [sae_folder], runtime.Spec(corpus="", threads=1))
    (source,) = loaded.sources
    text = (DEMO.parent / "README.md").read_text() + (DEMO.parent / "stdlib_text.py").read_text()
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(32):
        start, length = int(rng.integers(0, 2000)), int(rng.integers(10, 250))
        texts.append(text_activations.tokenise(text[start : start + length], loaded.model.tokenizer, prepend_bos=True))
    oracle = transformers.AutoModelForCausalLM.from_pretrained(
        model_folder, attn_implementation="eager", dtype=torch.float32
    ).eval()
    assert source.capture.hook_point.place == "hook_resid_post"
    passed: list[torch.Tensor] = []
    block = oracle.get_submodule(source.capture.module)
    block.register_forward_hook(lambda _, __, output: passed.append(output[0] if isinstance(output, tuple) else output))
    together = text_activations.firings(loaded.model, {"x": source}, texts, [("x",)] * 32)
    by_brute_force, by_company = Counted(), Counted()
    for ids, among_others in zip(texts, together, strict=True):
        with torch.no_grad():
            oracle(torch.tensor([ids]))
        expected = exact_sae_lens_activations(sae_folder, passed.pop()[0]).numpy()
        alone = text_activations.firings(loaded.model, {"x": source}, [ids], [("x",)])[0]["x"]
        least = _least(source.sae, expected)
        by_brute_force.add(_dense(alone, expected.shape), expected, least)
        by_company.add(_dense(among_others["x"], expected.shape), _dense(alone, expected.shape), least)
    for counted in (by_brute_force, by_company):
        assert counted.n_firings > 5_000
        assert counted.n_differing <= counted.n_firings / 1_000, counted


def _least(sae: runtime.sae.Sae, expected: np.ndarray) -> np.ndarray:
    """Threshold of each feature, or for top-k the k-th value of each token."""
    if sae.description.architecture == "topk":
        return np.where(expected > 0, expected, np.inf).min(axis=1, keepdims=True)
    return (sae.threshold.clamp(min=0) * sae.decoder_norm).numpy()[None]


def _dense(found: text_activations.TextFirings, shape: tuple[int, ...]) -> np.ndarray:
    values = np.zeros(shape, np.float32)
    values[found.position, found.feature] = found.value
    return values
