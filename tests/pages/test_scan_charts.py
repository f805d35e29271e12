import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.web import scan_charts
from backend.web.scan_charts import Curve
from tests.pages import dom

finite = st.floats(-1e6, 1e6)


def curve(name: str, *values: float, kind: str = "k1", number: int = 0) -> Curve:
    return Curve(name, values, kind, number)


def draw(coefficients: list[float], *lines: Curve, n_named: int = 9) -> dom.Element:
    return dom.parse(str(scan_charts.curves(coefficients, lines, ("logits", "gist"), height=100, n_named=n_named)))


def points(plot: dom.Element, number: int = 0) -> list[tuple[float, float]]:
    path = next(path for path in plot.all("path") if path["data-part"] == str(number))
    return [tuple(map(float, point.split())) for point in path["d"].removeprefix("M").split("L")]


def test_a_line_goes_through_its_values_from_the_lowest_coefficient_to_the_highest():
    plot = draw([-10.0, 0.0, 5.0, 10.0], curve("a", 0.0, 2.0, 1.0, 1.0))
    assert [x for x, _ in points(plot)] == [0, 500, 750, 1000]
    first, second, third, fourth = (y for _, y in points(plot))
    assert second < third == fourth < first, "upward is more"
    assert third == pytest.approx((first + second) / 2, abs=0.1)


def test_lines_share_one_scale():
    plot = draw([0.0, 1.0], curve("a", 0.0, 10.0), curve("b", 5.0, 5.0, number=1))
    assert points(plot, 1)[0][1] == pytest.approx(sum(y for _, y in points(plot)) / 2, abs=0.1)


@given(st.integers(2, 90).flatmap(lambda n: st.tuples(*(st.lists(finite, min_size=n, max_size=n) for _ in range(3)))))
def test_everything_lies_inside_the_plot(values):
    n = len(values[0])
    plot = draw([i - n / 3 for i in range(n)], *(curve("abc"[i], *values[i], number=i) for i in range(3)))
    for i in range(3):
        assert all(scan_charts.TOP <= y <= scan_charts.TOP + 100 for _, y in points(plot, i))
    names = [float(text["y"]) for text in plot.all("text", "name")]
    assert names == sorted(names)
    assert all(after - before >= scan_charts.LABEL_STEP - 0.11 for before, after in pairwise(names))
    assert names[-1] <= scan_charts.TOP + 104.1


def test_names_stand_at_the_lines_that_swing_most_in_the_order_of_their_ends():
    lines = [curve("still", 3.0, 3.0), curve("up", 0.0, 4.0, kind="k2", number=1), curve("down", 0.0, -2.0, number=2)]
    names = draw([0.0, 1.0], *lines, n_named=2).all("text", "name")
    assert [(name.text, name["data-part"], "k2" in name.classes) for name in names] == [
        ("up", "1", True), ("down", "2", False),
    ]  # fmt: skip


@pytest.mark.parametrize(("ends", "marks"), [((-5.0, 15.0), ["25.00%"]), ((0.0, 10.0), []), ((2.0, 3.0), [])])
def test_the_unmodified_model_is_marked_where_it_lies_inside(ends, marks):
    assert [line["x1"] for line in draw(list(ends), curve("a", 1.0, 2.0)).all("line", "trained")] == marks


def test_pointing_at_a_coefficient_says_the_values_of_the_lines_that_swing_most():
    lines = [curve(f"line {i}", 0.0, float(i), number=i) for i in range(9)]
    titles = [title.text for title in draw([-1.0, 1.0], *lines).all("title")]
    assert titles[1] == "coefficient 1: line 8 8.00, line 7 7.00, line 6 6.00, line 5 5.00, line 4 4.00, line 3 3.00"


def test_many_coefficients_are_pointed_at_in_runs_that_cover_the_plot():
    n = 512
    plot = draw([float(i) for i in range(n)], curve("a", *(math.sin(i) for i in range(n))))
    targets = [(float(rect["x"][:-1]), float(rect["width"][:-1])) for rect in plot.all("rect", "target")]
    assert len(targets) <= scan_charts.MAX_TARGETS
    ends = [x + width for x, width in targets]
    assert targets[0][0] == 0
    assert ends[-1] == pytest.approx(100, abs=0.02)
    assert [x for x, _ in targets[1:]] == pytest.approx(ends[:-1], abs=0.02)


@pytest.mark.parametrize("coefficients", [[], [1.0]])
def test_one_coefficient_makes_no_line(coefficients):
    assert scan_charts.curves(coefficients, [curve("a", *coefficients)], ("", ""), height=9, n_named=1) == ""


def test_a_name_cannot_break_out():
    assert "<b>" not in str(scan_charts.curves([0, 1], [curve("<b>", 0, 1)], ("<b>", "<b>"), height=9, n_named=1))
