"""Lines through points, and their drawing."""

import re
import xml.etree.ElementTree as ET

import pytest

from tests.bench import bench_scaling, plot

SVG = "{http://www.w3.org/2000/svg}"


def test_points_on_a_line_have_no_error() -> None:
    found = bench_scaling.fit([1, 2, 4, 8, 16], [3 + 2 * x for x in (1, 2, 4, 8, 16)])
    assert found["intercept"] == pytest.approx(3)
    assert found["slope"] == pytest.approx(2)
    assert found["worst_error"] < 1e-12


def test_square_cost_is_far_from_every_line() -> None:
    assert bench_scaling.fit([1, 2, 4, 8, 16], [x * x for x in (1, 2, 4, 8, 16)])["worst_error"] > 0.3


def test_every_axis_spans_sixteen_times() -> None:
    for points in bench_scaling.AXES.values():
        first, last = points[0], points[-1]
        ratios = {
            last.n_contexts / first.n_contexts, last.shape.d_sae / first.shape.d_sae, last.shape.l0 / first.shape.l0,
        }  # fmt: skip
        assert ratios == {1, 16}


@pytest.mark.parametrize(
    ("highest", "expected"), [(10, [0, 2.5, 5, 7.5, 10]), (16384, [0, 5000, 10000, 15000, 20000]), (0.9, [0, 0.25, 0.5, 0.75, 1])]
)  # fmt: skip
def test_ticks_are_round_and_reach_the_highest(highest, expected) -> None:
    assert plot.ticks(highest) == pytest.approx(expected)


def test_a_drawing_has_each_point_inside_its_panel() -> None:
    axis = {
        "points": [{"x": x, "cpu_s": 1.5 * x, "peak_rss_bytes": 1e9 + x} for x in (1.0, 4.0, 16.0)],
        "lines": {
            "cpu_s": {"intercept": 0.0, "slope": 1.5, "worst_error": 0.0},
            "peak_rss_bytes": {"intercept": 1e9, "slope": 1.0, "worst_error": 0.01},
        },
    }
    drawn = bench_scaling.draw({"axes": {"tokens": axis, "l0": axis}})
    root = ET.fromstring(drawn)
    panels = root.findall(f"{SVG}g")
    assert len(panels) == 4
    for panel in panels:
        circles = panel.findall(f"{SVG}circle")
        assert len(circles) == 3
        for circle in circles:
            assert plot.LEFT <= float(circle.get("cx")) <= plot.PANEL_WIDTH - plot.RIGHT
            assert plot.TOP <= float(circle.get("cy")) <= plot.PANEL_HEIGHT - plot.BOTTOM
        assert float(circles[0].get("cx")) < float(circles[2].get("cx"))
    text = " ".join(re.findall(r">([^<>]+)</text>", drawn))
    assert "line fits within 1%" in text
    assert "CPU seconds" in text
