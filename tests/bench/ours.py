"""Eyepiece as the benches run it: `eyepiece compute`'s module in a fresh process, on one thread."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backend.formats import dashboards as packed
from tests.bench import spans, workload
from tests.bench.equality import Place

SPAN = ("encode", "finish", "write")
"""Stages that the bare limit is compared with; `prepare` loads model, SAE and tokens, as the limit does untimed."""
NOT_COMPUTE = ("import", "export")


def files(made: workload.Workload, architecture: str, shape: workload.Shape) -> list[str | Path]:
    """The arguments that say which model, SAE and tokens; the peer's runner and the limit take the same."""
    return ["--model", made.model, "--sae", made.sae(architecture, shape), "--tokens", made.tokens]


def run(files: Sequence[str | Path], out: Path, n_contexts: int, extra: Sequence[str]) -> dict[str, Any]:
    """Seconds, by stage and in sum, and peak memory of one run on the first `n_contexts` contexts."""
    limit = ["--tokens-limit", str(n_contexts * workload.CONTEXT_SIZE), "--threads", "1", "--quality-tokens", "0"]
    command = [sys.executable, "-m", "workers.standalone", *files, *limit, *extra, "--out", out]
    said, peak = spans.run(command, log=out.with_suffix(".log"), environment=dict(os.environ))
    line = json.loads(said)
    return {
        "cpu_s": _sum(line["cpu_s"], line["cpu_s"].keys() - NOT_COMPUTE),
        "wall_s": _sum(line["wall_s"], line["wall_s"].keys() - NOT_COMPUTE),
        "span_cpu_s": _sum(line["cpu_s"], SPAN),
        "stages_cpu_s": line["cpu_s"],
        "mean_l0": line["mean_l0"],
        "n_firings": line["n_firings"],
        "peak_rss_bytes": peak,
        "arguments": list(extra),
    }


def warm_up(files: Sequence[str | Path], out: Path, extra: Sequence[str]) -> None:
    """One batch, so that compiled loops are in their cache before anything is timed."""
    run(files, out, 32, extra)


def top_contexts(out: Path, features: Sequence[int]) -> dict[int, list[list[Place]]]:
    """For each feature its top contexts in order of rank, each with all its firings."""
    offsets, blob = np.load(out / "offsets.npy"), (out / "dashboards.bin").read_bytes()
    return {feature: _places(packed.unpack(blob[offsets[feature] : offsets[feature + 1]])) for feature in features}


def _places(dashboard: packed.Dashboard) -> list[list[Place]]:
    examples = dashboard.examples
    found = []
    for i in np.flatnonzero(examples.group == packed.TOP_GROUP):
        span = range(examples.offset[i], examples.offset[i + 1])
        context = int(examples.context[i])
        found.append([Place(context, int(examples.position[at]), float(examples.value[at])) for at in span])
    return found


def _sum(seconds: dict[str, float], stages: Any) -> float:
    return sum(seconds[stage] for stage in stages)
