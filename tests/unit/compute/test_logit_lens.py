"""The lens against plain sorting and sums: more rows than are summed up together, few tokens, a direction of zeros."""

import numpy as np
import pytest
import torch

from tests import reference
from workers.compute import logit_lens


@pytest.mark.parametrize(("n", "d_vocab"), [(40, 30_000), (7, 300), (3, 4)])
def test_it_equals_plain_loops_over_the_logits(n: int, d_vocab: int) -> None:
    generator = torch.Generator().manual_seed(d_vocab)
    directions, W_U = torch.randn(n, 8, generator=generator), torch.randn(8, d_vocab, generator=generator)
    directions[0] = 0
    W_U[:, d_vocab // 2] = W_U[:, 0]  # a tie
    logits = (directions @ W_U).numpy()
    lenses = logit_lens.of_directions(directions, W_U)
    assert len(lenses) == n
    for row, lens in zip(logits, lenses, strict=True):
        assert lens is not None
        top, bottom = (np.argsort(sign * row, kind="stable")[:10] for sign in (-1, 1))
        assert (lens.top_tokens.tolist(), lens.top_logits.tolist()) == (top.tolist(), row[top].tolist())
        assert (lens.bottom_tokens.tolist(), lens.bottom_logits.tolist()) == (bottom.tolist(), row[bottom].tolist())
        assert (lens.low, lens.high) == (row.min(), row.max())
        edges = np.linspace(float(row.min()), float(row.max()), 51)
        expected = np.bincount(np.searchsorted(edges[1:-1], row, side="right"), minlength=50).tolist()
        assert lens.histogram.tolist() == (expected if row.any() else [d_vocab] + [0] * 49)
        found = [lens.moments.mean, lens.moments.std, lens.moments.skewness, lens.moments.kurtosis]
        np.testing.assert_allclose(found, reference.moments(row.astype(float).tolist()), rtol=1e-9, atol=1e-12)


def test_no_path_to_the_logits_gives_no_lens() -> None:
    assert logit_lens.of_directions(torch.ones(2, 3), None) == [None, None]
