"""Eyepiece beside SAEDashboard 0.8.0 on one workload, one thread each, in one run: `make bench-engine`.

For each case, one process after the other:
1. ours: `python -m workers.standalone`; what counts is prepare, encode, finish and write (imports and export do not);
2. the peer's first blocks of features, extrapolated: what counts is `NeuronpediaRunner.run`, its JSON included, its
   imports and loading not (`tests/bench/peer`);
3. ours again with the fp32 screen, and the bare limit (`tests/bench/limit.py`): overhead is encode, finish and write
   over forward and matrix product.
Ratios are of CPU seconds, which a busy machine distorts less than wall seconds; both are kept. Then the top activations
of every feature in the peer's blocks of `EQUALITY_CASE` are compared (`tests/bench/equality.py`); a difference that
nothing explains fails the command. `--write` keeps the result for the docs; `--quick` takes a few minutes.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from backend.settings import REPOSITORY
from tests.bench import equality, exact, machine, ours, spans, workload
from tests.bench.peer import environment

RESULT = REPOSITORY / "tests" / "bench" / "results" / "engine.json"
MAX_OVERHEAD = 0.10
N_EQUAL_FEATURES = 200


@dataclass(frozen=True, slots=True)
class Case:
    """One SAE on the first contexts of the workload."""

    architecture: str
    d_sae: int
    n_contexts: int
    target: float | None = None
    """Times faster than the peer, at least."""
    has_overhead: bool = False
    """The fp32 screen and the bare limit are measured too."""

    @property
    def shape(self) -> workload.Shape:
        """Of its SAE."""
        return workload.Shape(self.d_sae)

    @property
    def name(self) -> str:
        """As given to --cases."""
        return f"{self.architecture}-{self.d_sae}-{self.n_contexts}"


CASES = (
    Case("jumprelu", 4096, 4096, target=8, has_overhead=True),
    Case("jumprelu", 4096, 8192),
    Case("jumprelu", 16384, 4096, target=20, has_overhead=True),
    Case("jumprelu", 16384, 8192, target=24),
    Case("topk", 4096, 1024, has_overhead=True),
    Case("topk", 16384, 1024, target=150, has_overhead=True),
)
QUICK_CASES = (Case("jumprelu", 4096, 1024, has_overhead=True), Case("topk", 4096, 256))
EQUALITY_CASE = "jumprelu-4096-4096"


def main() -> None:
    """Measure, compare, print; write with --write. Ends with 1 where a difference is unexplained."""
    args = _arguments()
    spans.stop_with_us()
    cases = QUICK_CASES if args.quick else tuple(case for case in CASES if case.name in args.cases)
    python = environment.ensure(workload.ROOT / "peer-venv")
    made = workload.ensure(workload.ROOT, (case.shape for case in cases))
    scratch = workload.ROOT / "runs" / "engine"
    shutil.rmtree(scratch, ignore_errors=True)
    options = Options(python, made, scratch, args.blocks, args.rounds, tuple(args.ours), tuple(args.ours_fp32))
    results: list[dict[str, Any]] = []
    compared: dict[str, Any] | None = None
    versions: dict[str, str] = {}
    for case in cases:
        result, versions, peer_run = measure(case, options)
        results.append(result)
        print(json.dumps(result))
        if case.name == EQUALITY_CASE or (args.quick and case is cases[0]):
            compared = compare(case, options, peer_run) | {"case": case.name}
            print(json.dumps(compared))
        shutil.rmtree(scratch / case.name)
    line = {
        **machine.facts(),
        "peer_versions": versions,
        "options": {"blocks": args.blocks, "rounds": args.rounds, "ours": args.ours, "ours_fp32": args.ours_fp32},
        "workload": made.folder.name,
        "cases": results,
        "equality": compared,
        "targets": targets(results, compared),
    }
    for target in line["targets"]:
        print(f"{'reached' if target['is_reached'] else 'MISSED '}  {target['what']}: {target['measured']}")
    if args.write:
        RESULT.write_text(json.dumps(line, indent=1) + "\n")
    if compared and compared["differences"][equality.Reason.UNEXPLAINED.value]:
        sys.exit("top activations differ from SAEDashboard's where nothing explains it")


@dataclass(frozen=True, slots=True)
class Options:
    """What all cases share."""

    python: Path
    made: workload.Workload
    scratch: Path
    n_blocks: int
    n_rounds: int
    ours: tuple[str, ...]
    ours_fp32: tuple[str, ...]


def measure(case: Case, options: Options) -> tuple[dict[str, Any], dict[str, str], dict[str, Any]]:
    """One case's result, the peer's versions and its run; files stay in the case's scratch folder."""
    folder = options.scratch / case.name
    files = ours.files(options.made, case.architecture, case.shape)
    for extra in {options.ours, options.ours_fp32}:
        ours.warm_up(files, folder / "warm", extra)
    rounds = [_round(case, files, folder, options) for _ in range(options.n_rounds)]
    screened = _median(run["ours"] for run in rounds)
    print(
        f"{case.name}: ours {screened['cpu_s']:.1f} CPU s; SAEDashboard's first {options.n_blocks} blocks",
        file=sys.stderr,
    )
    runner: list[str | Path] = [options.python, environment.RUNNER, *files, "--contexts", str(case.n_contexts)]
    said, peak_bytes = spans.run(
        [*runner, "--blocks", str(options.n_blocks), "--out", folder / "peer"],
        log=folder / "peer.log",
        environment=environment.variables(),
    )
    peer = json.loads(said)
    before, *blocks = (spans.Seconds(**span) for span in (peer["before_first_block"], *peer["blocks"]))
    estimate = spans.estimate(before, blocks, peer["n_blocks"])
    result: dict[str, Any] = {
        "name": case.name, "architecture": case.architecture, "d_sae": case.d_sae, "n_contexts": case.n_contexts,
        "n_tokens": case.n_contexts * workload.CONTEXT_SIZE, "mean_l0": screened["mean_l0"],
        "peer": asdict(estimate) | {"peak_rss_bytes": peak_bytes},
        "ours": screened,
        "ratio": estimate.total.cpu_s / screened["cpu_s"],
        "ratio_wall": estimate.total.wall_s / screened["wall_s"],
        "target": case.target,
    }  # fmt: skip
    if case.has_overhead:
        result |= {name: _median(run[name] for run in rounds) for name in ("fp32", "limit")}
        result["overhead"] = result["fp32"]["span_cpu_s"] / result["limit"]["cpu_s"] - 1
    return result, peer["versions"], peer


def _round(case: Case, files: list[str | Path], folder: Path, options: Options) -> dict[str, dict[str, Any]]:
    """Ours, ours with the fp32 screen and the limit, once each."""
    found = {"ours": ours.run(files, folder / "ours", case.n_contexts, options.ours)}
    if case.has_overhead:
        found["fp32"] = ours.run(files, folder / "fp32", case.n_contexts, options.ours_fp32)
        command = [sys.executable, "-m", "tests.bench.limit", *files, "--contexts", str(case.n_contexts)]
        said, _ = spans.run(command, log=folder / "limit.log", environment=dict(os.environ))
        found["limit"] = json.loads(said)
    return found


def compare(case: Case, options: Options, peer: dict[str, Any]) -> dict[str, Any]:
    """Counts of agreement and of each reason, over every feature of the peer's blocks."""
    folder = options.scratch / case.name
    rows = np.load(options.made.tokens)[: case.n_contexts]
    hook_point = workload.HOOK_POINT
    sides = (
        exact.our_residuals(options.made.model, hook_point, rows),
        exact.peer_residuals(
            Path(peer["activations"]), str(hook_point), -(-case.n_contexts // peer["forward_contexts"])
        ),
    )
    residual_difference = float(np.abs(sides[0] - sides[1]).max())
    truth = exact.Exact(options.made.sae(case.architecture, case.shape), *sides)
    theirs = exact.peer_places(folder / "peer" / "examples.npz")
    assert len(theirs) >= N_EQUAL_FEATURES, f"{len(theirs)} features compared; {N_EQUAL_FEATURES} are asked for"
    mine = ours.top_contexts(folder / "ours", list(theirs))
    compared = {
        feature: equality.compare(feature, places, mine[feature], partial(truth.token, feature))
        for feature, places in theirs.items()
    }
    unexplained = [
        asdict(difference)
        for differences in compared.values()
        for difference in differences
        if difference.reason is equality.Reason.UNEXPLAINED
    ]
    return equality.summarise(compared) | {
        "n_places": sum(map(len, theirs.values())),
        "largest_residual_difference": residual_difference,
        "unexplained": unexplained[:20],
    }


def targets(results: list[dict[str, Any]], compared: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Each thing the issue asks for that was measured, and whether it is reached."""
    found = [
        _target(f"≥ {result['target']:g} × at {result['name']}", result["ratio"], result["ratio"] >= result["target"])
        for result in results
        if result["target"] is not None
    ]
    found += [
        _target(
            f"fp32 overhead ≤ {MAX_OVERHEAD:.0%} at {result['name']}",
            result["overhead"],
            result["overhead"] <= MAX_OVERHEAD,
        )
        for result in results
        if "overhead" in result
    ]
    if compared:
        n = compared["differences"][equality.Reason.UNEXPLAINED.value]
        found.append(_target(f"no unexplained difference in {compared['n_features']} features", n, n == 0))
    return found


def _target(what: str, measured: float, is_reached: bool) -> dict[str, Any]:
    return {"what": what, "measured": round(measured, 3), "is_reached": is_reached}


def _median(runs: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The run whose CPU seconds are in the middle; of an even number, the lower one of the two."""
    ordered = sorted(runs, key=lambda run: run["cpu_s"])
    return ordered[(len(ordered) - 1) // 2]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Eyepiece beside SAEDashboard 0.8.0.")
    parser.add_argument("--cases", nargs="+", choices=[case.name for case in CASES], default=[c.name for c in CASES])
    parser.add_argument("--blocks", type=int, default=4, help="feature blocks the peer computes; 2 at least")
    parser.add_argument("--rounds", type=int, default=1, help="how often ours and the limit run; the median counts")
    parser.add_argument("--ours", type=str.split, default=[], help="more arguments for ours, in one string")
    parser.add_argument(
        "--ours-fp32", type=str.split, default=["--screen", "fp32"], help="those of the run that overhead is taken from"
    )
    parser.add_argument("--quick", action="store_true", help="two small cases, a few minutes")
    parser.add_argument("--write", action="store_true", help=f"keep the result in {RESULT.relative_to(REPOSITORY)}")
    args = parser.parse_args()
    if args.blocks < 2:
        parser.error("--blocks must be 2 or more: the first block carries what comes once")
    if args.write and (args.quick or len(args.cases) < len(CASES)):
        parser.error("the docs show every case: run without --quick and --cases to --write")
    return args


if __name__ == "__main__":
    main()
