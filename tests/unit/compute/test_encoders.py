"""A few features of an SAE encoded alone, and reconstructions from the rows that are needed."""

import numpy as np
import pytest
import torch

from tests.unit.compute import encoding
from workers.compute import encoder, encoder_cuda, encoders, reconstruction


@pytest.mark.parametrize("architecture", encoding.ARCHITECTURES)
@pytest.mark.parametrize("kind", [encoder.Encoder, encoder_cuda.CudaEncoder])
def test_a_few_features_encoded_alone_have_the_same_activations(architecture: str, kind: type) -> None:
    dictionary, x, _ = encoding.wide(architecture, n=60, d=96, d_sae=300)
    whole = kind(dictionary)
    expected = whole.encode(x)
    by_firings = np.bincount(expected.feature, minlength=300).argsort()
    features = by_firings[[-1, 0, -6]].tolist()
    few, numbers = encoders.of_few(whole, features)
    assert isinstance(few, kind)
    assert (few is whole) == (architecture in ("topk", "abstopk"))
    found = few.encode(x)
    n_firings = 0
    for feature, number in zip(features, numbers.tolist(), strict=True):
        mine, theirs = (
            dict(zip(each.row[each.feature == i].tolist(), each.value[each.feature == i].tolist(), strict=True))
            for each, i in ((found, number), (expected, feature))
        )
        assert mine == theirs
        n_firings += len(mine)
    assert n_firings > 0


@pytest.mark.parametrize("architecture", encoding.ARCHITECTURES)
def test_a_reconstruction_needs_only_the_rows_of_what_fires(architecture: str) -> None:
    dictionary, x, _ = encoding.wide(architecture, n=20, d=96, d_sae=300)
    made = encoder.Encoder(dictionary, screen="fp32")
    expected = reconstruction.reconstruct(made, x, dictionary.directions())
    found = reconstruction.reconstruct(made, x)
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine, theirs)


def test_where_nothing_fires_the_reconstruction_is_the_bias() -> None:
    dictionary, x, _ = encoding.wide("standard", n=5, d=96, d_sae=300)
    dictionary.b_enc.sub_(1e6)
    made = encoder.Encoder(dictionary, screen="fp32")
    found = reconstruction.reconstruct(made, x)
    assert torch.equal(found.output, dictionary.b_dec.expand(5, 96))
    assert np.all(found.l0.numpy() == 0)
    assert reconstruction.reconstruct(made, x[:0]).output.shape == (0, 96)
