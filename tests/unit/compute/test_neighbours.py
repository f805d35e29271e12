"""Nearest features against all cosines at once: ties, dead rows, ranges, more than one tile each way."""

import numpy as np
import pytest
import torch

from workers.compute import neighbours


def directions(n: int) -> torch.Tensor:
    """Corners of a cube, so that every cosine is exact and most are tied; one row is zero."""
    corners = torch.randint(0, 2, (n, 4), generator=torch.Generator().manual_seed(0)) * 1.0 - 0.5
    corners[n // 2] = 0
    return corners


@pytest.mark.parametrize("n", [2, 5, 256, 2300])
def test_nearest_equal_a_stable_sort_of_every_cosine(n: int) -> None:
    given = directions(n)
    cosines = (given @ given.T).numpy()
    np.fill_diagonal(cosines, -np.inf)
    expected = np.argsort(-cosines, axis=1, kind="stable")[:, : min(10, n - 1)]
    index, found = neighbours.nearest(given, 0, n, n=10)
    assert index.tolist() == expected.tolist()
    assert found.tolist() == np.take_along_axis(cosines, expected, 1).tolist()


def test_a_range_gets_what_the_whole_gets_to_the_last_bit() -> None:
    given = torch.nn.functional.normalize(torch.randn(2300, 24, generator=torch.Generator().manual_seed(1)))
    index, cosines = neighbours.nearest(given, 0, 2300, n=10)
    for first, stop in [(0, 1), (255, 258), (700, 1400), (2047, 2300), (9, 9)]:
        part, of_part = neighbours.nearest(given, first, stop, n=10)
        assert part.tolist() == index[first:stop].tolist()
        assert of_part.tobytes() == cosines[first:stop].tobytes()


def test_a_lone_feature_has_none() -> None:
    index, cosines = neighbours.nearest(torch.ones(1, 3), 0, 1, n=10)
    assert index.shape == cosines.shape == (1, 0)
