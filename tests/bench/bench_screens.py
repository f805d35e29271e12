"""What the encoder's choices are worth: products, bounds, floors and threads, each beside what was not chosen.

On the demo's model and SAEs and one core, medians of CPU seconds in turn; wall seconds for threads, all cores. Ratios
are printed, and kept with --write in tests/bench/results/screens.json (docs/decisions/0006-encoding.md cites them).
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import torch

from backend.settings import REPOSITORY
from tests.bench import machine
from workers.compute import activation_index, language_model, sae, screens
from workers.compute import encoder as encoders
from workers.compute.corpus import Corpus

RESULT = REPOSITORY / "tests" / "bench" / "results" / "screens.json"
WEIGHTS = REPOSITORY / "demo" / "weights"
ROWS, D, FEATURES = 512, 256, 512
N_ROUNDS = 15
N_CONTEXTS, SIZE = 16 * activation_index.BATCH_CONTEXTS, 128


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    folders = sorted(path for path in (WEIGHTS / "saes").iterdir() if (path / "cfg.json").is_file())
    dictionary = sae.load(folders[-1], device=torch.device("cpu"))
    model = language_model.load(str(WEIGHTS / "stdlib-4l"), device=torch.device("cpu"), dtype=torch.float32)
    capture = language_model.resolve(model, dictionary.description.hook_point)
    tokens = torch.randint(1, 4000, (64, SIZE), generator=torch.Generator().manual_seed(0))
    x = encoders.normalise(dictionary, language_model.residuals(model, capture, tokens).flatten(0, 1))
    found = machine.facts() | {
        "products": _products(),
        "bound": _bound(dictionary, x.numpy()),
        "floor": _floor(dictionary, x),
        "threads": _threads(model, capture, dictionary),
    }
    print(json.dumps(found))
    if "--write" in sys.argv:
        RESULT.write_text(json.dumps(found, indent=1) + "\n")


def _products() -> dict[str, Any]:
    """One tile's product in three arithmetics: GFLOP/s on a core."""
    x, w = torch.randn(ROWS, D), torch.randn(FEATURES, D)
    xb, wb = x.bfloat16(), w.bfloat16()
    xi, wi = (torch.randint(-127, 128, t.shape, dtype=torch.int8) for t in (x, w))
    outs = {kind: torch.empty((ROWS, FEATURES), dtype=kind) for kind in (torch.float32, torch.bfloat16, torch.int32)}
    seconds = _medians(
        {
            "fp32": lambda: torch.mm(x, w.T, out=outs[torch.float32]),
            "bf16": lambda: torch.mm(xb, wb.T, out=outs[torch.bfloat16]),
            "int8": lambda: torch._int_mm(xi, wi.T, out=outs[torch.int32]),
        },
        repeat=20,
    )
    speed = {name: 20 * 2e-9 * ROWS * D * FEATURES / s for name, s in seconds.items()}
    return {
        "gflops": {name: round(s) for name, s in speed.items()},
        "bf16_over_fp32": round(speed["bf16"] / speed["fp32"], 2),
        "int8_over_fp32": round(speed["int8"] / speed["fp32"], 2),
    }


def _bound(dictionary: sae.Sae, x: np.ndarray) -> dict[str, Any]:
    """‖what int8 loses‖ ÷ ‖row‖: as it is, without the turn, and without taking a mean off. Medians over rows."""
    weights, mean = dictionary.W_enc.T.contiguous(), x[:512].mean(axis=0, dtype=np.float64)
    norm = screens.row_norms(x)
    lost = {}
    for name, taken, is_turned in (
        ("turned, mean off", mean, True),
        ("mean off", mean, False),
        ("turned", 0 * mean, True),
    ):
        made = screens.Int8Screen(weights[:8], taken)
        if not is_turned:
            made._block = 1
        lost[name] = round(float(np.median(made.rows(x).b / norm)), 5)
    return {"lost_share_of_row": lost}


def _floor(dictionary: sae.Sae, x: torch.Tensor) -> dict[str, Any]:
    """Top-k from a floor learned from other tokens, and from none."""
    guessing, plain = encoders.Encoder(dictionary, screen="int8"), encoders.Encoder(dictionary, screen="int8")
    guessing.encode(x)

    def without() -> None:
        plain._guess = 0.0
        plain.encode(x)

    seconds = _medians({"learned": lambda: guessing.encode(x), "none": without})
    return {"none_over_learned": round(seconds["none"] / seconds["learned"], 2)}


def _threads(model: Any, capture: Any, dictionary: sae.Sae) -> dict[str, Any]:
    """All cores inside one batch against one batch a core; wall seconds over one core's."""
    cores = psutil.cpu_count(logical=False) or 1
    rows = np.random.default_rng(0).integers(1, 4000, (N_CONTEXTS, SIZE)).astype(np.uint16)
    corpus, made = Corpus(rows, (), is_first_masked=True), encoders.Encoder(dictionary, screen="int8")

    def run(inside: int, beside: int) -> None:
        torch.set_num_threads(inside)
        places = [(capture, made)]
        for _ in activation_index.index_shard(
            model, places, corpus, first_context=0, n_contexts=N_CONTEXTS, n_threads=beside
        ):
            pass
        torch.set_num_threads(1)

    ways = {"one": (1, 1), "inside": (cores, 1), "beside": (1, cores)}
    seconds = _medians(
        {name: lambda way=way: run(*way) for name, way in ways.items()}, clock=time.perf_counter, rounds=3
    )
    return {
        "cores": cores,
        "speedup_inside_a_batch": round(seconds["one"] / seconds["inside"], 2),
        "speedup_batches_beside": round(seconds["one"] / seconds["beside"], 2),
    }


def _medians(
    ways: dict[str, Callable[[], Any]],
    *,
    repeat: int = 1,
    rounds: int = N_ROUNDS,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, float]:
    """Seconds of each way, taken in turn after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        for name, run in ways.items():
            started = clock()
            for _ in range(repeat):
                run()
            if round_:
                seconds[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
