"""Any size in a fixed memory, each axis apart: features, contexts, and an index larger than memory.

Firings are made up (a model would take days): log-normal densities, from a fixed seed, handed to the pass as an encoder
would. Then the pass as it is: gathered, transposed and spilled in parts under a budget, the parts joined and finished
block by block. What the weights give to a dashboard (logit lens, neighbours) is quadratic in features whatever the
corpus, so of many features `N_FINISHED` in ranges spread over all are finished; postings are of all.

Each axis runs in its own process, which samples its anonymous memory (`workers/compute/memory.py`); the peak beyond the
libraries is compared with the budget. `--write` keeps tests/bench/results/size.json.
"""

import json
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from backend.settings import REPOSITORY
from tests.bench import machine
from workers.compute import activation_index, dashboards, memory
from workers.compute.corpus import Corpus
from workers.compute.encoder import Encoder, Firings

RESULT = REPOSITORY / "tests" / "bench" / "results" / "size.json"
N_FINISHED = 8192
RANGE = dashboards.TILE
D_IN, D_VOCAB = 32, 512
SAMPLE_S = 0.01


@dataclass(frozen=True, slots=True)
class Axis:
    """One made-up job."""

    name: str
    n_features: int
    n_contexts: int
    context_size: int
    l0: float
    budget_mb: int


AXES = (
    Axis("features", 2**20, 16_384, 128, 20, 1536),
    Axis("contexts", 512, 10_000_000, 32, 0.25, 512),
    Axis("index larger than memory", 16_384, 16_384, 128, 60, 512),
)


class MadeUpEncoder:
    """Stands where an encoder does: firings of a log-normal dictionary, the same for the same batch."""

    def __init__(self, axis: Axis) -> None:
        self.sae = SimpleNamespace(d_sae=axis.n_features)
        density = np.random.default_rng(0).lognormal(0, 1.2, axis.n_features)
        self._cumulative = np.cumsum(density / density.sum())
        self._l0 = axis.l0

    def encode(self, x: torch.Tensor, counts: NDArray[np.bool_]) -> Firings:
        """About L0 firings on each row that counts; the batch's number stands in its first element."""
        rng = np.random.default_rng(int(x[0, 0]))
        n = rng.poisson(self._l0 * len(x))
        row, feature = rng.integers(0, len(x), n), np.searchsorted(self._cumulative, rng.random(n))
        feature = np.minimum(feature, len(self._cumulative) - 1)
        pair = np.unique(row * len(self._cumulative) + feature)
        row, feature = np.divmod(pair, len(self._cumulative))
        kept = counts[row]
        value = rng.lognormal(0, 0.7, len(row)).astype(np.float32)
        return Firings(row[kept].astype(np.uint32), feature[kept].astype(np.uint32), value[kept])


class Peak:
    """The most anonymous memory this process had beyond the floor."""

    def __init__(self, budget: memory.Budget) -> None:
        self.bytes = 0
        self._budget, self._is_over = budget, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._is_over.wait(SAMPLE_S):
            self.bytes = max(self.bytes, memory.taken() - self._budget.floor)

    def stop(self) -> int:
        """End sampling; the peak in bytes."""
        self._is_over.set()
        self._thread.join()
        return self.bytes


def run(axis: Axis, folder: Path) -> dict[str, Any]:
    """One axis in this process."""
    _compile_first(folder)
    budget = memory.Budget(axis.budget_mb * 2**20)
    peak = Peak(budget)
    # a file with a hole: all tokens 0, no disk, mapped as a corpus is
    rows = np.lib.format.open_memmap(
        folder / "rows.npy", mode="w+", dtype=np.uint16, shape=(axis.n_contexts, axis.context_size)
    )
    corpus = Corpus(rows, (), is_first_masked=True)
    size = 4096 // axis.context_size * 8
    made_up = cast(Encoder, MadeUpEncoder(axis))

    def residuals_of(start: int, stop: int) -> list[torch.Tensor]:
        return [torch.full((size, axis.context_size, 1), float(start // size))]

    started = time.process_time()
    parts = []
    for _, part in activation_index.index_residuals(
        residuals_of, [made_up], corpus, first_context=0, n_contexts=axis.n_contexts, batch_contexts=size,
        max_firings=lambda: budget.firings(activation_index.FIRING_BYTES),
    ):  # fmt: skip
        path = folder / f"{len(parts)}.postings"
        part.write(path, {})
        del part
        parts.append(activation_index.read(path))
    indexed = time.process_time()
    n_firings = sum(int(part.offset[-1]) for part in parts)
    directions = torch.nn.functional.normalize(torch.randn(axis.n_features, D_IN), dim=1)
    inputs = dashboards.FinishInputs(directions, torch.ones(axis.n_features), torch.randn(D_IN, D_VOCAB), seed=0)
    n_ranges = min(N_FINISHED, axis.n_features) // RANGE
    firsts = np.linspace(0, axis.n_features - RANGE, n_ranges).astype(int) // RANGE * RANGE
    n_finished = n_shown = 0
    for first in firsts.tolist():
        room = budget.firings(dashboards.FIRING_BYTES)
        for block in dashboards.finish(inputs, parts, corpus, first=first, stop=first + RANGE, max_firings=room):
            n_finished += len(block)
            n_shown += sum(d.n_firings for d in block)
    finished = time.process_time()
    most = peak.stop()
    return asdict(axis) | {
        "n_firings": n_firings,
        "n_parts": len(parts),
        "index_mb": round(sum(path.stat().st_size for path in folder.glob("*.postings")) / 2**20),
        "n_finished": n_finished,
        "firings_finished": n_shown,
        "index_cpu_s": round(indexed - started, 1),
        "finish_cpu_s": round(finished - indexed, 1),
        "floor_mb": round(budget.floor / 2**20),
        "peak_mb": round(most / 2**20),
        "peak_over_budget": round(most / budget.limit, 3),
    }


def _compile_first(folder: Path) -> None:
    """Load every compiled loop, so that the floor is that of the libraries and our own machine code."""
    tiny = Axis("tiny", 512, 64, 8, 4, 0)
    rows = np.zeros((tiny.n_contexts, tiny.context_size), np.uint16)
    corpus = Corpus(rows, (), is_first_masked=True)
    encoder = cast(Encoder, MadeUpEncoder(tiny))
    found = activation_index.index_residuals(
        lambda start, stop: [torch.zeros(64, 8, 1)],
        [encoder],
        corpus,
        first_context=0,
        n_contexts=64,
        batch_contexts=64,
    )
    parts = [part for _, part in found]
    directions = torch.nn.functional.normalize(torch.randn(512, D_IN), dim=1)
    inputs = dashboards.FinishInputs(directions, torch.ones(512), torch.randn(D_IN, D_VOCAB), seed=0)
    for _ in dashboards.finish(inputs, parts, corpus):
        pass


def main() -> None:
    """Each axis in a process of its own."""
    if sys.argv[1:2] == ["--axis"]:
        with TemporaryDirectory(dir=REPOSITORY / ".bench") as folder:
            print(json.dumps(run(AXES[int(sys.argv[2])], Path(folder))))
        return
    (REPOSITORY / ".bench").mkdir(exist_ok=True)
    found = []
    for number in range(len(AXES)):
        command = [sys.executable, "-m", "tests.bench.bench_size", "--axis", str(number)]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY).stdout
        found.append(json.loads(said.splitlines()[-1]))
        print(json.dumps(found[-1]))
    if "--write" in sys.argv:
        RESULT.write_text(json.dumps(machine.facts() | {"axes": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
