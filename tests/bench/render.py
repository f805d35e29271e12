"""The tables and the drawing of `docs/performance.md`, rendered from the committed results.

Owns the lines between the markers and `docs/scaling.svg`; a unit test fails when they differ from the results.

Run: `python -m tests.bench.render` after a bench was run with --write.
"""

import json
from typing import Any

from backend.settings import REPOSITORY
from tests.bench import bench_engine, bench_import, bench_live, bench_scaling, soak_live
from tests.bench.equality import Reason

PAGE = REPOSITORY / "docs" / "performance.md"
SECTIONS = ("engine", "equality", "scaling", "live", "import")


def main() -> None:
    """Rewrite the page and the drawing."""
    results = (bench_engine.RESULT, bench_scaling.RESULT, bench_live.RESULT, soak_live.RESULT, bench_import.RESULT)
    engine, scaling, live, soak, imported = (json.loads(path.read_text()) for path in results)
    PAGE.write_text(with_sections(PAGE.read_text(), render(engine, scaling, live, soak, imported)))
    bench_scaling.DRAWING.write_text(bench_scaling.draw(scaling))


def render(
    engine: dict[str, Any],
    scaling: dict[str, Any],
    live: dict[str, Any],
    soak: dict[str, Any],
    imported: dict[str, Any],
) -> dict[str, str]:
    """Markdown by section."""
    return {
        "engine": render_engine(engine), "equality": render_equality(engine), "scaling": render_scaling(scaling),
        "live": render_live(live, soak), "import": render_import(imported),
    }  # fmt: skip


def with_sections(page: str, sections: dict[str, str]) -> str:
    """The page with each section between its markers.

    Raises:
        ValueError: A marker is missing or doubled.
    """
    for name, text in sections.items():
        begin, end = markers(name)
        if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
            raise ValueError(f"{PAGE.name} must have one line {begin!r} and, below it, one line {end!r}")
        before, rest = page.split(begin)
        page = f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"
    return page


def markers(name: str) -> tuple[str, str]:
    """What opens and closes a section."""
    return f"<!-- {name}: begin (python -m tests.bench.render) -->", f"<!-- {name}: end -->"


def render_engine(result: dict[str, Any]) -> str:
    """Conditions, the table of cases, and which targets were reached."""
    peer = result["peer_versions"]
    lines = [
        f"{_conditions(result)} SAEDashboard {peer['sae-dashboard']} with sae-lens {peer['sae-lens']}, "
        f"transformer-lens {peer['transformer-lens']}, torch {peer['torch']}.",
        "",
        "| SAE | features × contexts | L0 | SAEDashboard | of it measured | Eyepiece | times faster | wall | peak memory |",
        "|---|---|---|---|---|---|---|---|---|",
        *map(_case_row, result["cases"]),
        "",
        "| SAE | features × contexts | fp32 limit: forward + product | Eyepiece, fp32 screen | over limit | any screen |",
        "|---|---|---|---|---|---|",
        *(_overhead_row(case) for case in result["cases"] if "overhead" in case),
        "",
        "| Target | Measured | |",
        "|---|---|---|",
        *(
            f"| {target['what']} | {target['measured']:g} | {'reached' if target['is_reached'] else '**missed**'} |"
            for target in result["targets"]
        ),
    ]
    return "\n".join(lines)


def render_equality(result: dict[str, Any]) -> str:
    """How the top activations of both compare."""
    found = result["equality"]
    if found is None:
        return "Not compared in this run."
    ranked = found["n_identical_but_for_ranking_tokens"]
    lines = [
        f"{found['n_features']} features of `{found['case']}`, {found['n_places']:,} of SAEDashboard's places: the lists of "
        f"{ranked} features agree but for its ranking of tokens, those of {found['n_identical']} even without this "
        f"allowance. Residuals of the two forward passes differ by at most {found['largest_residual_difference']:.1g}.",
        "",
        "| Why two places differ | Places |",
        "|---|---|",
        *(f"| {reason.value} | {found['differences'][reason.value]:,} |" for reason in Reason),
    ]
    return "\n".join(lines)


def render_scaling(result: dict[str, Any]) -> str:
    """Ranges, and how far points lie from their lines."""
    lines = [
        f"{_conditions(result)}",
        "",
        "| Axis | from | to | CPU seconds | off a line by at most | peak memory | off a line by at most |",
        "|---|---|---|---|---|---|---|",
    ]
    for axis, found in result["axes"].items():
        first, *_, last = found["points"]
        lines.append(
            f"| {bench_scaling.LABELS[axis]} | {first['x']:,.4g} | {last['x']:,.7g} "
            f"| {first['cpu_s']:.1f} to {last['cpu_s']:.1f} | {found['lines']['cpu_s']['worst_error']:.0%} "
            f"| {_gb(first['peak_rss_bytes'])} to {_gb(last['peak_rss_bytes'])} "
            f"| {found['lines']['peak_rss_bytes']['worst_error']:.0%} |"
        )
    drawing = bench_scaling.DRAWING.name
    return "\n".join([*lines, "", f"![CPU seconds and peak memory against tokens, features and L0]({drawing})"])


def render_live(result: dict[str, Any], soak: dict[str, Any]) -> str:
    """Answers a second by callers, at the worker and over HTTP; then how it held up."""
    lines = [
        f"{_conditions(result)}",
        "",
        "| Model | what | tokens | forward alone | 1 caller, HTTP (p50) | over forward | worker, answers/s at 1, 8, 32 | gain "
        "| HTTP, answers/s at 1, 8, 32 | gain | 32 callers, HTTP (p50, p99) |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for model, found in result["cases"].items():
        for what, rows in found.items():
            bare = rows.get("bare_forward_ms")
            one, many = rows["http"]["1"], rows["http"]["32"]
            cells = [
                model,
                what.replace("_", ", "),
                f"{bare['n_tokens']:.0f}" if bare else "",
                f"{bare['p50']:.1f} ms" if bare else "",
                f"{one['p50']:.1f} ms",
                f"{rows['overhead_ms']:.1f} ms" if bare else "",
                *(cell for where in ("worker", "http") for cell in _gain(rows[where])),
                f"{many['p50']:.0f} ms, {many['p99']:.0f} ms",
            ]
            lines.append(_row(cells))
    memory = soak["memory_mb"]
    times = ", ".join(f"{kind} {found['p50']:.0f} / {found['p95']:.0f}" for kind, found in soak["ms"].items())
    statuses = ", ".join(f"{n:,} × {status}" for status, n in soak["statuses"].items())
    return "\n".join(
        [
            *lines,
            "",
            f"{soak['n_callers']} callers for {soak['minutes']:g} minutes beside a dashboard job ({soak['date']}): {statuses}. "
            f"Milliseconds, p50 / p95: {times}. Memory grew by {memory['live']['grown']:.0f} MB in the live worker (to "
            f"{memory['live']['late']:,.0f}) and {memory['web']['grown']:.0f} MB in the web server (to "
            f"{memory['web']['late']:,.0f}) from the second fifth of the time to the last.",
        ]
    )


def render_import(result: dict[str, Any]) -> str:
    """Seconds by stage, beside what reading the files takes by itself, and memory."""
    stages = ", ".join(f"{name} {result['stage_s'][name]:.1f} s" for name in ("prepare", "read", "merge", "store"))
    limits = ", ".join(f"{seconds:.1f} s" for seconds in result["limit_s"])
    of = result["machine"]
    more, idle = _gb(result["peak_bytes_more"]), _gb(result["idle_worker_bytes"])
    return (
        f"{result['date']}, {of['processor']}, {of['n_cores']} cores: {result['n_features']:,} features with "
        f"{result['n_activations']:,} activations of {result['n_contexts']:,} texts, {_gb(result['compressed_bytes'])} "
        f"compressed, in {result['seconds']:.1f} s: **{result['features_per_s']:,} features a second** ({stages}). Unpacking "
        f"and parsing the same lines and doing nothing with them, in as many processes, before and after: {limits}; the "
        f"import takes **{result['times_the_limit']:.2f} ×** that. Once more, with nothing new: {result['again_s']:.1f} s. "
        f"Worker and readers held {more} more than the idle worker, which is {idle} of libraries."
    )


def _gain(rows: dict[str, Any]) -> tuple[str, str]:
    """Answers a second, and 32 callers' over one's."""
    return ", ".join(f"{rows[n]['requests_per_s']:,.0f}" for n in ("1", "8", "32")), f"**{rows['gain']['32']:.1f} ×**"


def _conditions(result: dict[str, Any]) -> str:
    machine, versions = result["machine"], result["versions"]
    return (
        f"{result['date']}, {machine['processor']}, {machine['n_cores']} cores, {machine['memory_gb']} GB, "
        f"one thread; Python {versions['python']}, torch {versions['torch']}, transformers {versions['transformers']}."
    )


def _case_row(case: dict[str, Any]) -> str:
    peer, mine = case["peer"], case["ours"]
    is_complete = peer["n_measured"] == peer["n_blocks"]
    cells = [
        *_shape(case),
        f"{case['mean_l0']:.1f}",
        f"{peer['total']['cpu_s']:,.0f} s",
        "all" if is_complete else f"{peer['n_measured']} of {peer['n_blocks']} blocks",
        f"{mine['cpu_s']:.1f} s",
        f"**{case['ratio']:.1f}**",
        f"{case['ratio_wall']:.1f}",
        f"{_gb(peer['peak_rss_bytes'])}, ours {_gb(mine['peak_rss_bytes'])}",
    ]
    return _row(cells)


def _overhead_row(case: dict[str, Any]) -> str:
    limit = case["limit"]
    parts = f"{limit['forward_cpu_s']:.1f} + {limit['product_cpu_s']:.1f} = {limit['cpu_s']:.1f} s"
    return _row([
        *_shape(case), parts, f"{case['fp32']['span_cpu_s']:.1f} s", f"**{case['overhead']:+.1%}**",
        f"{case['ours']['span_cpu_s']:.1f} s ({case['ours']['span_cpu_s'] / limit['cpu_s'] - 1:+.1%})",
    ])  # fmt: skip


def _shape(case: dict[str, Any]) -> list[str]:
    return [
        {"jumprelu": "JumpReLU", "topk": "TopK"}[case["architecture"]],
        f"{case['d_sae']:,} × {case['n_contexts']:,}",
    ]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.2f} GB"


if __name__ == "__main__":
    main()
