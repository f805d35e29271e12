"""How long residuals take: TransformerLens's bridge with its cache against the plain module with one hook.

Both run the demo's model up to the middle of it, on the same tokens and one thread, in turn; the median of each and
their ratio are printed, and written with --write to tests/bench/results/capture.json (docs/decisions/0002-capture.md).
"""

import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime

import torch
from transformer_lens.model_bridge import TransformerBridge

from backend import names
from backend.settings import REPOSITORY
from workers.compute import language_model

WEIGHTS = REPOSITORY / "demo" / "weights" / "stdlib-4l"
HOOK_POINT = names.HookPoint(2, "hook_resid_post")
N_CONTEXTS, CONTEXT_SIZE, N_ROUNDS = 32, 128, 9


def main() -> None:
    """Measure and print."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    model = language_model.load(str(WEIGHTS), device=torch.device("cpu"), dtype=torch.float32)
    capture = language_model.resolve(model, HOOK_POINT)
    bridge = TransformerBridge.boot_transformers(str(WEIGHTS), device="cpu", dtype=torch.float32)
    tokens = torch.randint(1, 4096, (N_CONTEXTS, CONTEXT_SIZE), generator=torch.Generator().manual_seed(0))

    def by_bridge() -> torch.Tensor:
        with torch.no_grad():
            _, cache = bridge.run_with_cache(
                tokens, names_filter=[str(HOOK_POINT)], stop_at_layer=HOOK_POINT.layer + 1, return_type=None
            )
        return cache[str(HOOK_POINT)]

    def by_module() -> torch.Tensor:
        return language_model.residuals(model, capture, tokens)

    difference = float((by_bridge() - by_module()).abs().max())
    seconds: dict[str, list[float]] = {"bridge": [], "module": []}
    for _ in range(N_ROUNDS):
        seconds["bridge"].append(_time(by_bridge))
        seconds["module"].append(_time(by_module))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, 1 thread, torch {torch.__version__}",
        "bridge_ms": round(medians["bridge"] * 1000, 1),
        "module_ms": round(medians["module"] * 1000, 1),
        "ratio": round(medians["bridge"] / medians["module"], 2),
        "largest_difference": difference,
    }
    print(json.dumps(result))
    if "--write" in sys.argv:
        (REPOSITORY / "tests" / "bench" / "results" / "capture.json").write_text(json.dumps(result, indent=1) + "\n")


def _time(run: Callable[[], torch.Tensor]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
