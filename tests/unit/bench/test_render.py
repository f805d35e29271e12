"""The page shows the committed results."""

import json
from typing import Any

import pytest

from tests.bench import bench_engine, bench_import, bench_live, bench_scaling, render, soak_live
from tests.bench.equality import Reason

MACHINE: dict[str, Any] = {
    "date": "2026-11-21",
    "machine": {"processor": "Some CPU", "n_cores": 2, "memory_gb": 25, "system": "Linux"},
    "versions": {"python": "3.11.7", "torch": "2.13.0", "transformers": "5.23.0", "numpy": "2.4.6", "numba": "0.68.1"},
}
CASE: dict[str, Any] = {
    "name": "jumprelu-4096-4096", "architecture": "jumprelu", "d_sae": 4096, "n_contexts": 4096, "mean_l0": 39.62,
    "peer": {
        "total": {"wall_s": 500.0, "cpu_s": 417.9}, "n_blocks": 32, "n_measured": 4, "peak_rss_bytes": 1.7e9,
    },
    "ours": {"cpu_s": 50.0, "span_cpu_s": 49.0, "wall_s": 51.0, "peak_rss_bytes": 1.4e9},
    "ratio": 8.358, "ratio_wall": 9.8, "target": 8,
    "fp32": {"span_cpu_s": 60.0},
    "limit": {"cpu_s": 56.0, "forward_cpu_s": 40.0, "product_cpu_s": 16.0},
    "overhead": 60 / 56 - 1,
}  # fmt: skip
ENGINE: dict[str, Any] = MACHINE | {
    "peer_versions": {"sae-dashboard": "0.8.0", "sae-lens": "6.54.12", "transformer-lens": "2.17.0", "torch": "2.13.0"},
    "cases": [CASE],
    "equality": {
        "case": "jumprelu-4096-4096", "n_features": 512, "n_places": 10240, "n_identical": 70,
        "n_identical_but_for_ranking_tokens": 500, "largest_residual_difference": 3.8e-5,
        "differences": dict.fromkeys((reason.value for reason in Reason), 7),
    },
    "targets": [{"what": "≥ 8 × somewhere", "measured": 7.5, "is_reached": False}],
}  # fmt: skip


def committed(path):
    if not path.exists():
        pytest.skip(f"not measured yet: {path.name} is absent from tests/bench/results")
    return json.loads(path.read_text())


def test_page_and_drawing_show_the_committed_results() -> None:
    """Run `python -m tests.bench.render` when this fails."""
    engine, scaling = committed(bench_engine.RESULT), committed(bench_scaling.RESULT)
    live, soak = committed(bench_live.RESULT), committed(soak_live.RESULT)
    imported = committed(bench_import.RESULT)
    page = render.PAGE.read_text()
    assert page == render.with_sections(page, render.render(engine, scaling, live, soak, imported))
    assert bench_scaling.DRAWING.read_text() == bench_scaling.draw(scaling)


def test_committed_results_are_of_every_case_and_of_enough_features() -> None:
    engine = committed(bench_engine.RESULT)
    assert [case["name"] for case in engine["cases"]] == [case.name for case in bench_engine.CASES]
    assert engine["equality"]["n_features"] >= 200
    assert engine["equality"]["differences"][Reason.UNEXPLAINED.value] == 0


def test_every_number_of_a_case_is_in_its_rows() -> None:
    rendered = render.render_engine(ENGINE)
    assert (
        "| JumpReLU | 4,096 × 4,096 | 39.6 | 418 s | 4 of 32 blocks | 50.0 s | **8.4** | 9.8 | 1.70 GB, ours 1.40 GB |"
        in rendered
    )
    assert "| 40.0 + 16.0 = 56.0 s | 60.0 s | **+7.1%** | 49.0 s (-12.5%) |" in rendered
    assert "| ≥ 8 × somewhere | 7.5 | **missed** |" in rendered
    assert "2026-11-21, Some CPU, 2 cores, 25 GB, one thread; Python 3.11.7" in rendered


def test_a_complete_run_is_not_called_extrapolated() -> None:
    complete = CASE | {"peer": CASE["peer"] | {"n_measured": 32}}
    assert "| 418 s | all |" in render.render_engine(ENGINE | {"cases": [complete]})


def test_every_reason_has_its_row() -> None:
    rendered = render.render_equality(ENGINE)
    assert all(f"| {reason.value} | 7 |" in rendered for reason in Reason)
    assert "512 features of `jumprelu-4096-4096`, 10,240 of SAEDashboard's places" in rendered


def test_the_ends_of_an_axis_and_the_drawing_are_shown() -> None:
    points = [{"x": x, "cpu_s": x / 1000, "peak_rss_bytes": 1e9 + x} for x in (4096, 8192, 65536)]
    line = {"intercept": 0.0, "slope": 1.0, "worst_error": 0.034}
    result = MACHINE | {"axes": {"features": {"points": points, "lines": {"cpu_s": line, "peak_rss_bytes": line}}}}
    rendered = render.render_scaling(result)
    assert "| features | 4,096 | 65,536 | 4.1 to 65.5 | 3% | 1.00 GB to 1.00 GB | 3% |" in rendered
    assert "(scaling.svg)" in rendered


def test_answers_a_second_and_what_callers_gain_are_shown() -> None:
    def series(*rates: float) -> dict[str, Any]:
        measured = zip((1, 8, 32), rates, strict=True)
        rows = {str(n): {"p50": 7.25, "p95": 8.0, "p99": 99.6, "requests_per_s": rate} for n, rate in measured}
        return rows | {"gain": {"8": rates[1] / rates[0], "32": rates[2] / rates[0]}}

    search = {
        "worker": series(100, 300, 512.4), "http": series(80, 200, 320), "overhead_ms": 4.14,
        "bare_forward_ms": {"p50": 3.1, "p95": 4.0, "p99": 5.0, "n_tokens": 22.0},
    }  # fmt: skip
    steer = {"worker": series(2, 10, 20), "http": series(2, 9, 18)}
    soak = MACHINE | {
        "minutes": 10.0, "n_callers": 32, "statuses": {"search 200": 1234, "search 429": 5},
        "ms": {"page": {"p50": 12.0, "p95": 45.0, "p99": 80.0}},
        "memory_mb": {"live": {"late": 1024.0, "grown": 1.2}, "web": {"late": 200.0, "grown": -0.4}},
    }  # fmt: skip
    rendered = render.render_live(MACHINE | {"cases": {"demo": {"search_short": search, "steer": steer}}}, soak)
    assert (
        "| demo | search, short | 22 | 3.1 ms | 7.2 ms | 4.1 ms | 100, 300, 512 | **5.1 ×** | 80, 200, 320 | **4.0 ×** "
        "| 7 ms, 100 ms |" in rendered
    )
    assert (
        "| demo | steer |  |  | 7.2 ms |  | 2, 10, 20 | **10.0 ×** | 2, 9, 18 | **9.0 ×** | 7 ms, 100 ms |" in rendered
    )
    assert "32 callers for 10 minutes" in rendered
    assert "1,234 × search 200, 5 × search 429" in rendered
    assert "page 12 / 45" in rendered


def test_only_the_lines_between_the_markers_change() -> None:
    begin, end = render.markers("engine")
    page = f"before\n{begin}\nold\n{end}\nafter\n"
    assert render.with_sections(page, {"engine": "new"}) == f"before\n{begin}\nnew\n{end}\nafter\n"
    with pytest.raises(ValueError, match="must have one line"):
        render.with_sections(f"{end}\n{begin}\n", {"engine": "new"})


def test_targets_say_what_was_reached() -> None:
    found = bench_engine.targets([CASE | {"overhead": 0.11}], ENGINE["equality"])
    assert [(target["measured"], target["is_reached"]) for target in found] == [
        (8.358, True),
        (0.11, False),
        (7, False),
    ]
