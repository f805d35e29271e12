"""Seconds and memory against tokens, features and L0, each over a 16-fold range: `make bench-scaling`.

One run of `workers.standalone` for each point, on one thread, the other two held. To each axis a straight line is
fitted by least squares of relative errors; how far a point lies from it says how linear the cost is. `--write` keeps
the points in `results/scaling.json` and draws them into `docs/scaling.svg`; `--quick` takes three points of small runs.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.settings import REPOSITORY
from tests.bench import machine, ours, plot, spans, workload

RESULT = REPOSITORY / "tests" / "bench" / "results" / "scaling.json"
DRAWING = REPOSITORY / "docs" / "scaling.svg"


@dataclass(frozen=True, slots=True)
class Point:
    """One run."""

    n_contexts: int
    shape: workload.Shape


STEPS = (1, 2, 4, 8, 16)
AXES = {
    "tokens": [Point(256 * step, workload.Shape(4096)) for step in STEPS],
    "features": [Point(512, workload.Shape(1024 * step)) for step in STEPS],
    "l0": [Point(512, workload.Shape(4096, 10 * step)) for step in STEPS],
}
LABELS = {"tokens": "tokens", "features": "features", "l0": "mean L0 (firings per token)"}
QUICK_AXES = {"tokens": [Point(64 * step, workload.Shape(4096)) for step in (1, 2, 4)]}


def main() -> None:
    """Measure, print, and with --write keep and draw."""
    parser = argparse.ArgumentParser(description="Cost against tokens, features and L0.")
    parser.add_argument("--ours", type=str.split, default=[], help="more arguments for ours, in one string")
    parser.add_argument("--quick", action="store_true", help="one axis of three small runs")
    parser.add_argument("--write", action="store_true", help="keep the result and draw it")
    args = parser.parse_args()
    if args.quick and args.write:
        parser.error("--quick leaves out what is drawn: run without it to --write")
    spans.stop_with_us()
    axes = QUICK_AXES if args.quick else AXES
    made = workload.ensure(workload.ROOT, (point.shape for points in axes.values() for point in points))
    found = {name: measure(name, points, made, args.ours) for name, points in axes.items()}
    line = {**machine.facts(), "arguments": args.ours, "axes": found}
    print(json.dumps(line))
    if args.write:
        RESULT.write_text(json.dumps(line, indent=1) + "\n")
        DRAWING.write_text(draw(line))


def measure(axis: str, points: Sequence[Point], made: workload.Workload, extra: Sequence[str]) -> dict[str, Any]:
    """The points of one axis and the lines through them."""
    scratch = workload.ROOT / "runs" / f"scaling-{axis}"
    shutil.rmtree(scratch, ignore_errors=True)
    found = []
    for point in points:
        files = ours.files(made, "jumprelu", point.shape)
        ours.warm_up(files, scratch / "warm", extra)
        run = ours.run(files, scratch / "run", point.n_contexts, extra)
        n_tokens = point.n_contexts * workload.CONTEXT_SIZE
        at = {"tokens": n_tokens, "features": point.shape.d_sae, "l0": run["mean_l0"]}
        found.append({"x": at[axis], "cpu_s": run["span_cpu_s"], "peak_rss_bytes": run["peak_rss_bytes"]})
        print(f"{axis} {at[axis]:g}: {run['span_cpu_s']:.1f} CPU s", file=sys.stderr)
    xs = [point["x"] for point in found]
    return {
        "points": found,
        "lines": {key: fit(xs, [point[key] for point in found]) for key in ("cpu_s", "peak_rss_bytes")},
    }


def fit(xs: Sequence[float], ys: Sequence[float]) -> dict[str, float]:
    """The straight line with the least squares of relative errors, and the largest of these errors."""
    x, y = np.asarray(xs, np.float64), np.asarray(ys, np.float64)
    (intercept, slope), *_ = np.linalg.lstsq(np.stack([1 / y, x / y], axis=1), np.ones(len(y)), rcond=None)
    errors = (intercept + slope * x) / y - 1
    return {"intercept": float(intercept), "slope": float(slope), "worst_error": float(np.abs(errors).max())}


def draw(result: dict[str, Any]) -> str:
    """The drawing of a result: seconds above, memory below, one column an axis."""
    return plot.svg([
        [_panel(axis, found, "cpu_s", "CPU seconds", 1) for axis, found in result["axes"].items()],
        [_panel(axis, found, "peak_rss_bytes", "peak memory, GB", 1e9) for axis, found in result["axes"].items()],
    ])  # fmt: skip


def _panel(axis: str, found: dict[str, Any], key: str, label: str, unit: float) -> plot.Panel:
    line = found["lines"][key]
    points = found["points"]
    return plot.Panel(
        f"line fits within {line['worst_error']:.0%}",
        LABELS[axis],
        label,
        [point["x"] for point in points],
        [point[key] / unit for point in points],
        line["intercept"] / unit,
        line["slope"] / unit,
    )


if __name__ == "__main__":
    main()
