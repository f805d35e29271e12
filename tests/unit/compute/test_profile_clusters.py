"""Clusters of profiles against SciPy's average linkage, and the rules SciPy does not have."""

import numpy as np
import pytest

from workers.compute import profile_clusters
from workers.compute.profile_clusters import NONE


@pytest.mark.parametrize("seed", range(40))
def test_they_are_scipys(seed: int) -> None:
    hierarchy, distance = pytest.importorskip("scipy.cluster.hierarchy"), pytest.importorskip("scipy.spatial.distance")
    random = np.random.default_rng(seed)
    n, n_clusters = int(random.integers(2, 30)), int(random.integers(1, 9))
    profiles = random.normal(size=(n, 12)) * random.lognormal(size=(n, 1)) + random.normal(size=(n, 1))
    tree = hierarchy.average(distance.pdist(profiles, "correlation"))
    expected = hierarchy.fcluster(tree, n_clusters, "maxclust")
    found = profile_clusters.clusters(profiles, n_clusters)
    assert len(set(found)) == len(set(expected)) == min(n, n_clusters)
    assert len(set(zip(found.tolist(), expected.tolist(), strict=True))) == len(set(found)), "the same groups"


def test_shape_counts_and_not_size_or_level() -> None:
    x = np.linspace(-3, 3, 31)
    profiles = np.stack([x, 100 * x + 7, np.tanh(x) ** 2, -x, 0.01 * np.tanh(x) ** 2 - 5])
    assert profile_clusters.clusters(profiles, 3).tolist() == [0, 0, 2, 1, 2]


def test_the_greatest_swing_comes_first_and_ties_keep_their_order() -> None:
    x = np.linspace(-1, 1, 9)
    assert profile_clusters.clusters(np.stack([x, 5 * x**2, -x]), 3).tolist() == [1, 0, 2]
    assert profile_clusters.clusters(np.stack([-x, x]), 2).tolist() == [0, 1]


def test_one_shape_is_never_split_however_many_are_asked_for() -> None:
    x = np.linspace(-1, 1, 9)
    noise = np.random.default_rng(0).normal(size=(30, 9)) * 1e-7
    profiles = np.arange(1, 31)[:, None] * x + noise
    assert set(profile_clusters.clusters(profiles, 5).tolist()) == {0}


def test_what_does_not_change_or_is_not_finite_stands_apart() -> None:
    x = np.linspace(-1, 1, 9)
    profiles = np.stack([x, np.full(9, 3.0), x * 1e-8, np.full(9, np.nan), np.where(x > 0.5, np.inf, 0.0), x**2])
    assert profile_clusters.clusters(profiles, 4).tolist() == [0, NONE, NONE, NONE, NONE, 1]


@pytest.mark.parametrize(
    "profiles",
    [np.ones((4, 1)), np.zeros((4, 5)), np.zeros((0, 5)), np.full((2, 3), np.nan), np.zeros((3, 0))],
    ids=["one coefficient", "all zero", "no profiles", "no numbers", "no coefficients"],
)
def test_nothing_to_tell_apart(profiles: np.ndarray) -> None:
    assert profile_clusters.clusters(profiles, 4).tolist() == [NONE] * len(profiles)


def test_a_lone_profile_is_a_cluster() -> None:
    assert profile_clusters.clusters(np.arange(4.0)[None], 4).tolist() == [0]
    assert profile_clusters.clusters(np.array([[1e-300, 3e-300], [2e-300, 1e-300]]), 4).tolist() == [0, 1]
