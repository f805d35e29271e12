"""Postings made of nothing but numbers, for tests of what is done with them."""

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from backend.formats import activation_index as files
from workers.compute import index_packing, merge
from workers.compute.activation_index import Postings


def of(firings: list[dict[int, float]], context_size: int) -> Postings:
    """From {token: value} of each feature."""
    offset = np.cumsum([0, *map(len, firings)]).astype(np.int64)
    token = np.array([t for of_one in firings for t in sorted(of_one)], np.int64)
    value = np.array([of_one[t] for of_one in firings for t in sorted(of_one)], np.float32)
    return Postings(offset, (token // context_size).astype(np.uint32), (token % context_size).astype(np.uint16), value)


def random(
    *, n_features: int, n_contexts: int, context_size: int, l0: float, seed: int = 0, first: int = 1
) -> list[dict[int, float]]:
    """Firings {token: value} of features as unevenly dense as an SAE's; feature 0 is dead, 1 always on, 2 fires once.

    Positions before `first` are masked.
    """
    rng = np.random.default_rng(seed)
    tokens = np.arange(n_contexts * context_size).reshape(n_contexts, context_size)[:, first:].ravel()
    density = rng.lognormal(0, 1.5, n_features)
    density = np.minimum(density * l0 / density.sum(), 0.9)
    density[:3] = 0, 1, 0
    out = []
    for p in density:
        at = tokens[rng.random(tokens.size) < p]
        out.append(dict(zip(at.tolist(), (rng.gamma(1.5, 2, at.size) + 0.05).astype(np.float32).tolist(), strict=True)))
    out[2] = {int(tokens[-1]): 1e-30}
    return out


def write(
    folder: Path, postings: Postings, *, n_contexts: int, context_size: int, ranges: list[int], shards: list[int]
) -> dict[str, list[str]]:
    """Files of an index cut at these features and these contexts; their names, by kind."""
    folder.mkdir(parents=True, exist_ok=True)
    names: dict[str, list[str]] = {"features": [], "tokens": []}
    n_tokens = n_contexts * context_size
    for low, high in itertools.pairwise(ranges):
        middle = (low + high) // 2  # two blocks
        blocks = [merge.join([postings], low, middle), merge.join([postings], middle, high)]
        packed = [index_packing.pack_features(b, context_size=context_size, n_tokens=n_tokens) for b in blocks]
        names["features"].append(f"{low}.features")
        write_features(folder / f"{low}.features", packed, first=low, n_tokens=n_tokens)
    for low, high in itertools.pairwise(shards):
        part = contexts(postings, low, high)
        tokens = index_packing.pack_tokens(part, first_context=low, n_contexts=high - low, context_size=context_size)
        names["tokens"].append(f"{low}.tokens")
        files.write_tokens(
            folder / f"{low}.tokens", tokens, first_token=low * context_size, n_features=postings.n_features
        )
    return names


def write_features(path: Path, blocks: Iterable[files.PackedFeatures], *, first: int, n_tokens: int) -> int:
    """Bytes written."""
    with files.FeaturesWriter(path, first=first, n_tokens=n_tokens) as writer:
        for block in blocks:
            writer.add(block)
    return writer.n_bytes


def contexts(postings: Postings, low: int, high: int) -> Postings:
    """The firings in contexts low:high."""
    kept = (postings.context >= low) & (postings.context < high)
    feature = np.repeat(np.arange(postings.n_features), np.diff(postings.offset))[kept]
    offset = np.zeros(postings.n_features + 1, np.int64)
    np.cumsum(np.bincount(feature, minlength=postings.n_features), out=offset[1:])
    return Postings(offset, postings.context[kept], postings.position[kept], postings.value[kept])
