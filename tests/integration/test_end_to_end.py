"""From text to firings, against TransformerLens's own residuals: they may differ only at the threshold."""

import warnings

import numpy as np
import pytest
import torch

from tests import tiny
from workers.compute import corpus as corpora
from workers.compute import language_model, sae
from workers.compute.encoder import Encoder

EPSILON = 1e-4
"""Fused attention differs from eager by about 1e-5 in the residuals (design of the capture path)."""


@pytest.mark.parametrize("name", ["jumprelu512", "batchtopk512", "standard512"])
def test_firings_differ_from_transformer_lens_only_at_the_threshold(name: str) -> None:
    if not tiny.SHARED.is_dir():
        pytest.skip(f"the shared data is not at {tiny.SHARED}")
    folder = tiny.SHARED / "models" / "tinystories-260k"
    model = language_model.load(str(folder), device=torch.device("cpu"), dtype=torch.float32)
    dictionary = sae.load(tiny.SHARED / "saes" / "tinystories-260k" / name, device=torch.device("cpu"))
    encoder = Encoder(dictionary)
    hook_point = dictionary.description.hook_point
    text = (tiny.SHARED / "corpora" / "tinystories-head.txt").read_text()[:60_000]
    corpus = corpora.from_documents(
        text.split(tiny.SEPARATOR), model.tokenizer, special_tokens=model.special_tokens,
        n_vocabulary=model.d_vocab, context_size=128, prepend_bos=True, max_tokens=8192,
    )  # fmt: skip
    tokens = torch.from_numpy(corpus.rows.astype(np.int64))
    ours = language_model.residuals(model, language_model.resolve(model, hook_point), tokens).flatten(0, 1)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        from transformer_lens.model_bridge import TransformerBridge

        bridge = TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float32)
        _, cache = bridge.run_with_cache(tokens, names_filter=[str(hook_point)])
    theirs = cache[str(hook_point)].flatten(0, 1)

    def fires(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = encoder.encode(x)
        values = torch.zeros(len(x), dictionary.d_sae)
        values[found.row.astype(np.int64), found.feature.astype(np.int64)] = torch.from_numpy(found.value)
        return values != 0, values

    (mine, my_values), (other, their_values) = fires(ours), fires(theirs)
    differing = mine != other
    n_differing, n_firings = int(differing.sum()), int(mine.sum())
    pre = (theirs - dictionary.b_dec) @ dictionary.W_enc + dictionary.b_enc
    distance = (pre - dictionary.threshold).abs()[differing]
    assert n_firings > 10_000
    assert bool((distance < EPSILON).all()), f"{n_differing} of {n_firings} differ, farthest by {distance.max()}"
    assert n_differing <= n_firings / 10_000, f"{n_differing} of {n_firings} firings differ"
    both = mine & other
    torch.testing.assert_close(my_values[both], their_values[both], rtol=1e-4, atol=2e-4)
