import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.services.features import HistogramView
from backend.web import charts
from tests.pages import dom, samples

MAXIMUM = 14.2134


def number(text: str) -> float:
    return float(text.removesuffix("%"))


@pytest.mark.parametrize("is_log", [True, False])
def test_every_bar_of_a_histogram_says_its_range_and_count(is_log):
    histogram = samples.feature().log_histogram if is_log else samples.feature().linear_histogram
    plot = dom.parse(str(charts.activations(histogram, MAXIMUM, is_log=is_log)))
    bins = plot.all("g", "bin")
    assert len(bins) == len(histogram.counts)
    assert bins[0].one("title").text == "0.0213 to 0.0251: 0 firings" if is_log else "0.0213 to 0.305: 220 firings"
    assert plot.one("svg")["aria-label"].startswith("Histogram of ")


def test_bars_are_as_high_as_their_counts_and_side_by_side():
    plot = dom.parse(str(charts.activations(HistogramView((0.0, 1.0, 2.0, 3.0), (4, 0, 2)), 3.0, is_log=False)))
    bars = plot.all("rect", "activation")
    tops = [number(bar["y"]) + number(bar["height"]) for bar in bars]
    assert tops == [charts.TOP + charts.PLOT] * 3
    heights = [number(bar["height"]) for bar in bars]
    assert heights[0] == charts.PLOT
    assert heights[1] == 0
    assert heights[2] == pytest.approx(charts.PLOT * math.log(4) / math.log(8), abs=0.1)
    lefts = [number(bar["x"]) for bar in bars]
    assert lefts == sorted(lefts)
    assert number(bars[-1]["x"]) + number(bars[-1]["width"]) <= 100


@pytest.mark.parametrize("is_log", [True, False])
def test_the_strip_of_shades_covers_the_axis(is_log):
    histogram = samples.feature().log_histogram
    plot = dom.parse(str(charts.activations(histogram, MAXIMUM, is_log=is_log)))
    strip = [e for e in plot.all("rect") if e.classes and e.classes[0][0] == "s" and e.classes[0][1:].isdigit()]
    assert sum(number(e["width"]) for e in strip) == pytest.approx(100, abs=0.1)


def test_logits_are_blue_left_of_zero_and_amber_right_of_it():
    plot = dom.parse(str(charts.logits(HistogramView((-1.0, 0.0, 1.0), (3, 5)))))
    assert plot.one("rect", "suppressed")["x"] == "3.00%"
    assert plot.one("rect", "promoted")["x"] == "53.00%"
    assert [g.one("title").text for g in plot.all("g", "bin")] == ["−1 to 0: 3 tokens", "0 to 1: 5 tokens"]


def test_bars_of_densities_lead_to_their_features_and_fade_outside_the_chosen_range():
    plot = dom.parse(
        str(charts.densities((-4.0, 0.0), (1, 0, 3, 2), (0.01, 1.0), lambda low, high: f"/?{low:.4g},{high:.4g}"))
    )
    assert [a["href"] for a in plot.all("a")] == ["/?0.0001,0.001", "/?0.01,0.1", "/?0.1,1"]
    assert all(a["aria-label"] == a.one("title").text for a in plot.all("a"))
    assert plot.all("a")[0].one("title").text == "1 feature of density 0.010% to 0.10%"
    assert [len(a.all("rect", "faded")) for a in plot.all("a")] == [1, 0, 0]
    assert plot.one("svg")["role"] == "group"


def test_a_single_value_is_one_bar():
    plot = dom.parse(str(charts.activations(HistogramView((0.1, 0.1), (1,)), 0.1, is_log=True)))
    assert number(plot.one("rect", "activation")["height"]) == charts.PLOT


@pytest.mark.parametrize(("fraction", "width"), [(0.25, "25.0%"), (-0.3, "0.0%"), (7.0, "100.0%")])
def test_small_bars_stay_in_their_cell(fraction, width):
    assert dom.parse(str(charts.bar(fraction, "plain"))).one("rect")["width"] == width


def test_the_legend_says_where_the_intervals_end():
    legend = dom.parse(str(charts.legend(MAXIMUM)))
    assert [t.text for t in legend.all("text")] == ["0", "2.84", "5.69", "8.53", "11.37", "14.21"]
    assert len(legend.all("rect")) == 10


def test_sparks_are_left_out_where_there_is_nothing():
    assert str(charts.spark(())) == str(charts.spark((0, 0))) == ""
    assert len(dom.parse(str(charts.spark((0, 2, 1)))).all("rect")) == 2


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_round_and_inside(low, width):
    ticks = charts.round_values(low, low + width)
    assert len(ticks) <= 7
    slack = 1e-6 * width + 1e-12 * abs(low)
    assert all(low - slack <= tick <= low + width + slack for tick in ticks)


@given(st.floats(1e-6, 1e4), st.floats(1.01, 1e6))
def test_log_ticks_are_few_but_not_none_and_inside(low, ratio):
    ticks = charts._log_ticks(low, low * ratio)
    assert 2 <= len(ticks) <= 9
    assert all(low <= tick <= low * ratio for tick in ticks)


@pytest.mark.parametrize(
    ("tallest", "levels"), [(0, []), (1, [1]), (2, [1, 2]), (47, [20, 40]), (95, [20, 40, 60, 80])]
)
def test_levels_of_counts(tallest, levels):
    assert charts._linear_levels(tallest) == levels


def test_axes_without_length():
    assert charts.round_values(3.0, 3.0) == charts._log_ticks(3.0, 3.0) == [3.0]
    assert charts._log_levels(7) == [7.0]
    assert charts._log_levels(10**6) == [10.0, 1e3, 1e5]
