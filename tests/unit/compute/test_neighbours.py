"""Nearest features against all cosines at once, rounded once: ties, dead rows, ranges, more than one tile each way."""

import numpy as np
import pytest
import torch

from tests import reference
from workers.compute import screens
from workers.compute.neighbours import Neighbours


def corners(n: int) -> torch.Tensor:
    """Corners of a cube, so that every cosine is exact and most are tied; one row is zero."""
    found = torch.randint(0, 2, (n, 4), generator=torch.Generator().manual_seed(0)) * 1.0 - 0.5
    found[n // 2] = 0
    return found


def random_directions(n: int) -> torch.Tensor:
    """Unit rows; some of them twice."""
    found = torch.nn.functional.normalize(torch.randn(n, 24, generator=torch.Generator().manual_seed(1)))
    found[n // 3 : n // 3 + 20] = found[:20]
    return found


def check(directions: torch.Tensor, cosines: np.ndarray) -> None:
    n = min(10, len(directions) - 1)
    np.fill_diagonal(cosines, -np.inf)
    expected = np.argsort(-cosines, axis=1, kind="stable")[:, :n]
    index, found = Neighbours(directions).nearest(0, len(directions), n=10)
    assert index.tolist() == expected.tolist()
    assert found.tolist() == np.take_along_axis(cosines, expected, 1).tolist()


@pytest.mark.parametrize("n", [2, 5, 256, 1300])
@pytest.mark.parametrize("is_int8", [True, False])
def test_nearest_equal_a_stable_sort_of_every_cosine(n: int, is_int8: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_int8:
        monkeypatch.setattr(screens, "is_int8_exact", lambda d: False)
    given = corners(n)
    check(given, (given @ given.T).numpy())
    check(-given.abs(), (given.abs() @ given.abs().T).numpy())


def test_cosines_are_exact_and_rounded_once() -> None:
    """Fractions decide; float64 is near enough to compare everything."""
    given = random_directions(1100)
    cosines = (given.double() @ given.double().T).float().numpy()
    index, found = Neighbours(given).nearest(0, 1100, n=10)
    np.fill_diagonal(cosines, -np.inf)
    assert index.tolist() == np.argsort(-cosines, axis=1, kind="stable")[:, :10].tolist()
    for i in range(0, 1100, 29):
        for k in range(10):
            expected = reference.pre_activation(given[i].numpy(), given[index[i, k]].numpy(), np.float32(0))
            assert found[i, k] == expected


def test_opposite_directions_have_negative_cosines() -> None:
    given = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.6, 0.8]])
    index, found = Neighbours(given).nearest(0, 3, n=10)
    assert index.tolist() == [[2, 1], [2, 0], [0, 1]]
    assert found[1].tolist() == [np.float32(-0.6), -1.0]


def test_a_range_gets_what_the_whole_gets_to_the_last_bit() -> None:
    neighbours = Neighbours(random_directions(2300))
    index, cosines = neighbours.nearest(0, 2300, n=10)
    for first, stop in [(0, 1), (255, 258), (700, 1400), (2047, 2300), (9, 9)]:
        part, of_part = neighbours.nearest(first, stop, n=10)
        assert part.tolist() == index[first:stop].tolist()
        assert of_part.tobytes() == cosines[first:stop].tobytes()


def test_a_lone_feature_has_none() -> None:
    index, cosines = Neighbours(torch.ones(1, 3)).nearest(0, 1, n=10)
    assert index.shape == cosines.shape == (1, 0)
