"""What everything after encoding costs: joined postings to packed rows, on synthetic firings, in CPU seconds.

Directions of 256 dimensions, 5,000 tokens, four shards; one thread. Each step apart and the whole, for growing
numbers of firings and of features. Beside it, in the same run: the two matrix products alone in fp32 (logit lens and
neighbours), and the plain loops of tests/reference.py on a sample of features, whose
answers are compared. Printed, and written with --write to tests/bench/results/finish.json.
"""

import json
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from backend.formats import dashboards as packed
from backend.settings import REPOSITORY
from tests import reference
from workers.compute import corpus as corpora
from workers.compute import dashboards, examples, logit_lens, merge, statistics
from workers.compute.activation_index import Postings
from workers.compute.neighbours import Neighbours

N_CONTEXTS, CONTEXT_SIZE, D_IN, D_VOCAB, N_SHARDS, N_SAMPLED = 4096, 128, 256, 5000, 4, 256
WORKLOADS = [(4_096, 5_000_000), (16_384, 10_000_000), (16_384, 20_000_000), (16_384, 40_000_000)]
"""(features, firings)."""


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    warm_up = Workload(512, 500_000)
    warm_up.measure()
    warm_up.by_reference()
    measured = []
    for n_features, n_firings in WORKLOADS:
        workload = Workload(n_features, n_firings)
        measured.append(workload.measure())
        print(json.dumps(measured[-1]))
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, 1 thread, torch {torch.__version__}",
        "workloads": measured,
        "reference": workload.by_reference(),
    }
    print(json.dumps(result["reference"]))
    if "--write" in sys.argv:
        (REPOSITORY / "tests" / "bench" / "results" / "finish.json").write_text(json.dumps(result, indent=1) + "\n")


class Workload:
    """Random postings in shards, random weights."""

    def __init__(self, n_features: int, n_firings: int) -> None:
        rng = np.random.default_rng(0)
        self.parts = [_shard(rng, n_features, n_firings // N_SHARDS, number) for number in range(N_SHARDS)]
        rows = rng.integers(0, D_VOCAB, (N_CONTEXTS, CONTEXT_SIZE)).astype(np.uint16)
        self.corpus = corpora.Corpus(rows, (), is_first_masked=True)
        generator = torch.Generator().manual_seed(0)
        directions = torch.nn.functional.normalize(torch.randn(n_features, D_IN, generator=generator))
        self.W_U = torch.randn(D_IN, D_VOCAB, generator=generator)
        self.inputs = dashboards.FinishInputs(directions, torch.ones(n_features), self.W_U, seed=0)

    def measure(self) -> dict[str, Any]:
        """CPU seconds of the whole and of each step."""
        found, whole_s = _timed(self.finish)
        _, pack_s = _timed(lambda: [packed.pack(d) for d in found])
        seconds = {"finish": whole_s, "pack": pack_s} | self._steps()
        n_firings = sum(d.n_firings for d in found)
        rounded = {name: round(value, 3) for name, value in seconds.items()}
        return {"n_features": len(found), "n_firings": n_firings, "cpu_s": rounded}

    def finish(self) -> list[packed.Dashboard]:
        """All dashboards."""
        return [d for block in dashboards.finish(self.inputs, self.parts, self.corpus) for d in block]

    def _steps(self) -> dict[str, float]:
        directions, tile = self.inputs.directions, dashboards.TILE
        neighbours, prepare_s = _timed(lambda: Neighbours(directions))
        seconds = dict.fromkeys(("join", "summaries", "examples", "logit_lens", "neighbours", "products_alone"), 0.0)
        seconds["neighbours"] = prepare_s
        for start in range(0, len(directions), tile):
            stop = min(start + tile, len(directions))
            block, seconds_ = _timed(lambda a=start, b=stop: merge.join(self.parts, a, b))
            seconds["join"] += seconds_
            seconds["summaries"] += _timed(lambda x=block: summaries(x))[1]
            seconds["examples"] += _timed(lambda x=block, a=start: self._examples(x, a))[1]
            some = directions[start:stop]
            seconds["logit_lens"] += _timed(lambda x=some: logit_lens.of_directions(x, self.W_U))[1]
            seconds["neighbours"] += _timed(lambda a=start, b=stop: neighbours.nearest(a, b, n=10))[1]
            seconds["products_alone"] += _timed(lambda x=some: (x @ self.W_U, x @ directions.T))[1]
        return seconds

    def _examples(self, block: Postings, first_feature: int) -> None:
        maxima = statistics.extremes(block.offset, block.value)[:, 1]
        edges = statistics.interval_edges(maxima, packed.N_INTERVALS)
        chosen = examples.choose(block, edges, first_feature=first_feature, seed=0)
        examples.firings(block, chosen)
        examples.top_tokens(block, chosen, self.corpus.rows)

    def by_reference(self) -> dict[str, Any]:
        """Nanoseconds a firing of plain loops and of ours, on the first features; their answers are the same."""
        block = merge.join(self.parts, 0, N_SAMPLED)
        (linear, chosen), ours_s = _timed(lambda: (summaries(block), self._choose(block)))
        plain_s = 0.0
        for f in range(N_SAMPLED):
            of = slice(block.offset[f], block.offset[f + 1])
            contexts, values = block.context[of].tolist(), block.value[of].tolist()
            (histogram, shown), seconds = _timed(lambda c=contexts, v=values, f=f: _plain(c, v, f))
            plain_s += seconds
            assert histogram == linear[f].tolist()
            assert [context for _, context in shown] == chosen[f]
        n = len(block.value)
        return {
            "n_features": N_SAMPLED,
            "n_firings": n,
            "plain_ns_per_firing": round(plain_s / n * 1e9),
            "ours_ns_per_firing": round(ours_s / n * 1e9, 1),
            "ratio": round(plain_s / ours_s),
        }

    def _choose(self, block: Postings) -> list[list[int]]:
        edges = statistics.interval_edges(statistics.extremes(block.offset, block.value)[:, 1], packed.N_INTERVALS)
        chosen = examples.choose(block, edges, first_feature=0, seed=0)
        runs = zip(chosen.run[:, :, examples.START], chosen.count.tolist(), strict=True)
        return [block.context[start[:n]].tolist() for start, n in runs]


def summaries(block: Postings) -> np.ndarray:
    """Every summary of a block's columns; the linear histogram is given back."""
    column = block.offset, block.value
    ends = statistics.extremes(*column)
    statistics.moments(*column, ends)
    statistics.log_histogram(*column, ends, packed.N_LOG_BINS)
    statistics.interval_counts(*column, statistics.interval_edges(ends[:, 1], packed.N_INTERVALS))
    return statistics.linear_histogram(*column, ends, packed.N_LINEAR_BINS)


def _plain(contexts: list[int], values: list[float], feature: int) -> tuple[list[int], list[tuple[int, int]]]:
    reference.moments(values)
    low, high = min(values, default=0.0), max(values, default=0.0)
    is_spread = low < high
    log = np.geomspace(low, high, packed.N_LOG_BINS + 1).tolist() if is_spread else [0.0] * (packed.N_LOG_BINS + 1)
    reference.histogram(values, log)
    linear = reference.histogram(values, np.linspace(low, high, packed.N_LINEAR_BINS + 1).tolist())
    return linear, reference.examples(contexts, values, feature=feature, seed=0)


def _shard(rng: np.random.Generator, n_features: int, n_firings: int, number: int) -> Postings:
    """Features of log-normal density; on average three firings a context."""
    n_contexts = N_CONTEXTS // N_SHARDS
    density = np.exp(np.random.default_rng(7).normal(0, 1.2, n_features))
    n_runs = np.minimum(density / density.sum() * n_firings / 3, n_contexts - 1).astype(np.int64)
    feature = np.repeat(np.arange(n_features), n_runs)
    # a sorted sample with gaps of random length, for all features at once
    gap = rng.exponential(1, len(feature))
    total = np.cumsum(gap)
    ends = np.cumsum(n_runs)
    before = np.concatenate([[0.0], total])[ends - n_runs]
    span = np.concatenate([[0.0], total])[ends] - before
    rank = np.arange(len(feature)) - np.repeat(ends - n_runs, n_runs)
    share = (total - np.repeat(before, n_runs)) / np.repeat(np.maximum(span, 1e-9), n_runs)
    context = number * n_contexts + (share * (n_contexts - np.repeat(n_runs, n_runs) - 1)).astype(np.int64) + rank
    first = rng.integers(1, CONTEXT_SIZE - 8, len(feature))
    length = rng.integers(1, 6, len(feature))
    position = np.repeat(first, length) + np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    offset = np.concatenate([[0], np.cumsum(np.bincount(feature, weights=length, minlength=n_features))])
    return Postings(
        offset.astype(np.int64), np.repeat(context, length).astype(np.uint32), position.astype(np.uint16),
        (rng.standard_exponential(len(position), np.float32) + np.float32(0.1)),
    )  # fmt: skip


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    started = time.process_time()
    result = run()
    return result, time.process_time() - started


if __name__ == "__main__":
    main()
