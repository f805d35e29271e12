"""Which profiles have the same shape: average linkage (UPGMA) on correlation distance, 1 − r.

Shape alone counts: a profile and ten times it are at distance 0, a profile and its mirror image at 2. Profiles that do
not change have no correlation and stand apart. The tree is built along chains of nearest neighbours, which gives the
same merges as looking for the closest pair each time, in O(n²) (Murtagh, "A Survey of Recent Advances in Hierarchical
Clustering Algorithms", 1983); average linkage is reducible, as that needs. In float64.
"""

import numpy as np
from jaxtyping import Float64, Int64

FLAT = 1e-5
"""Of the greatest magnitude of all profiles: one that swings less does not change (fp32 rounds about there)."""
SAME = 1e-6
"""Profiles at this distance or less are of one shape however many clusters are asked for: the rest is rounding."""
NONE = -1
"""The cluster of a profile that does not change."""


def clusters(profiles: Float64[np.ndarray, "n n_coefficients"], n_clusters: int) -> Int64[np.ndarray, " n"]:
    """A cluster for each profile, numbered from 0 by their greatest swing (max − min), ties by the first profile.

    There are as many as asked for, or as shapes if those are fewer. A profile that does not change, or is not finite,
    gets `NONE`.
    """
    found = np.full(len(profiles), NONE, np.int64)
    if profiles.size == 0 or n_clusters < 1:
        return found
    is_finite = np.isfinite(profiles).all(axis=1)
    swing = np.zeros(len(profiles))
    swing[is_finite] = np.ptp(profiles[is_finite], axis=1)
    largest = float(np.abs(profiles[is_finite]).max(initial=0.0))
    changing = np.flatnonzero(swing > FLAT * largest)
    if len(changing):
        merges = _merges(_distances(profiles[changing] / swing[changing, None]))
        found[changing] = _by_swing(_cut(merges, n_clusters), swing[changing])
    return found


def _distances(profiles: Float64[np.ndarray, "n n_coefficients"]) -> Float64[np.ndarray, "n n"]:
    centred = profiles - profiles.mean(axis=1, keepdims=True)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    distances: Float64[np.ndarray, "n n"] = np.clip(1.0 - unit @ unit.T, 0.0, 2.0)
    return distances


def _merges(distances: Float64[np.ndarray, "n n"]) -> list[tuple[float, int, int]]:
    """(height, a profile of one side, a profile of the other) for each of the n − 1 merges, lowest first."""
    distances = distances.copy()
    np.fill_diagonal(distances, np.inf)
    size = np.ones(len(distances))
    merges: list[tuple[float, int, int]] = []
    chain: list[int] = []
    while len(merges) < len(distances) - 1:
        if not chain:
            chain.append(int(np.argmax(size > 0)))
        last = chain[-1]
        nearest = int(distances[last].argmin())
        if len(chain) == 1 or distances[last, nearest] < distances[last, chain[-2]]:
            chain.append(nearest)
            continue
        kept, gone = chain[-2], last
        del chain[-2:]
        merges.append((float(distances[kept, gone]), kept, gone))
        joined = (size[kept] * distances[kept] + size[gone] * distances[gone]) / (size[kept] + size[gone])
        distances[kept], distances[:, kept] = joined, joined
        distances[gone], distances[:, gone], distances[kept, kept] = np.inf, np.inf, np.inf
        size[kept], size[gone] = size[kept] + size[gone], 0
    return sorted(merges)


def _cut(merges: list[tuple[float, int, int]], n_clusters: int) -> Int64[np.ndarray, " n"]:
    """The tree cut where `n_clusters` are left, or all shapes; labelled by one profile of each."""
    n = len(merges) + 1
    label = np.arange(n)
    for i, (height, a, b) in enumerate(merges):
        if i < n - n_clusters or height <= SAME:
            label[label == label[b]] = label[a]
    return label


def _by_swing(label: Int64[np.ndarray, " n"], swing: Float64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Labels renumbered in order of the greatest swing under each."""
    in_order = np.argsort(-swing, kind="stable")
    number: dict[int, int] = {}
    for each in label[in_order].tolist():
        number.setdefault(each, len(number))
    return np.array([number[each] for each in label.tolist()], np.int64)
