import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.web import line_charts
from backend.web.line_charts import Line
from tests.pages import dom

values = st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=300)


def draw(*lines: Line, trained: int | None = None) -> dom.Element:
    return dom.parse(str(line_charts.by_position("loss, nats", lines, trained=trained)))


def path(plot: dom.Element, kind: str) -> list[list[tuple[float, float]]]:
    """The pieces of a line as points."""
    pieces = plot.one("path", kind)["d"].split("M")[1:]
    return [[tuple(map(float, point.split())) for point in piece.split("L")] for piece in pieces]


def test_a_line_goes_through_its_values_left_to_right_and_upward():
    [points] = path(draw(Line("with SAE", (1.0, 3.0, 2.0, 2.0))), "shown")
    assert [x for x, _ in points] == [125, 375, 625, 875]
    first, second, third, fourth = (y for _, y in points)
    assert second < third == fourth < first
    assert third == pytest.approx((first + second) / 2, abs=0.1)
    assert all(0 < y < line_charts.PLOT for _, y in points)


def test_undefined_positions_are_gaps():
    assert [len(piece) for piece in path(draw(Line("x", (None, 1.0, 2.0, None, 3.0))), "shown")] == [2, 1]


def test_pointing_at_a_position_says_its_numbers():
    plot = draw(Line("with SAE", (None, 3.4567)), Line("alone", (None, 3.1)))
    assert [g.one("title").text for g in plot.all("g", "bin")] == [
        "position 0: nothing counts", "position 1: with SAE 3.46, alone 3.1",
    ]  # fmt: skip
    assert plot.one("path", "compared")


def test_many_positions_are_drawn_as_means_of_runs():
    plot = draw(Line("x", tuple(float(p) for p in range(512))))
    titles = [g.one("title").text for g in plot.all("g", "bin")]
    assert len(titles) == line_charts.MAX_POINTS
    assert titles[1] == "positions 8 to 15: x 11.5"


@pytest.mark.parametrize(("trained", "marks"), [(128, ["25.00%"]), (512, []), (1024, []), (None, [])])
def test_the_trained_length_is_marked_where_it_lies_inside(trained, marks):
    plot = draw(Line("x", tuple(float(p % 7) for p in range(512))), trained=trained)
    assert [mark["x1"] for mark in plot.all("line", "trained")] == marks
    assert (f"Trained on {trained} tokens." in plot.all("svg")[0]["aria-label"]) == (trained is not None)


def test_the_label_says_where_the_line_begins_and_ends():
    label = draw(Line("with SAE", (None, 3.0, 2.5, None))).all("svg")[0]["aria-label"]
    assert label == "loss, nats, by position in the context. with SAE: 3 at position 1, 2.5 at 2."


def test_nothing_known_draws_nothing():
    assert str(line_charts.by_position("x", [Line("x", (None, None))], trained=3)) == ""


@given(values, values)
def test_whatever_the_values_the_drawing_stays_inside(first, second):
    plot = line_charts.by_position("x", [Line("a", first), Line("b", second)], trained=5)
    for piece in re.findall(r'd="([^"]*)"', str(plot)):
        for x, y in re.findall(r"([-\d.]+) ([-\d.]+)", piece):
            assert 0 <= float(x) <= 1000
            assert 0 <= float(y) <= line_charts.PLOT
    assert "nan" not in str(plot)
    assert "inf" not in str(plot)
