import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.web import numerals


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0, "0%"),
        (0.00213, "0.21%"),
        (0.5, "50%"),
        (1, "100%"),
        (3.2e-7, "0.000032%"),
        (0.0999, "10%"),
        (-0.01, "−1.0%"),
    ],
)
def test_percent_keeps_two_digits(fraction, text):
    assert numerals.percent(fraction) == text


@given(st.floats(1e-9, 1))
def test_exact_percent_reads_back_as_the_same_fraction(fraction):
    assert float(numerals.exact_percent(fraction).removesuffix("%")) / 100 == pytest.approx(fraction, rel=1e-9)


@pytest.mark.parametrize(
    ("n", "text"),
    [(999, "999"), (1000, "1k"), (1500, "1.5k"), (635_000, "635k"), (1_234_567, "1.2M"), (2 * 10**9, "2B")],
)
def test_short_count(n, text):
    assert numerals.short_count(n) == text


@pytest.mark.parametrize(
    ("maximum", "decimals"), [(0, 2), (math.inf, 2), (0.0123, 4), (0.5, 3), (1, 2), (14.2, 2), (99.9, 2), (120, 1)]
)
def test_decimals_give_a_column_three_or_four_digits(maximum, decimals):
    assert numerals.decimals_for(maximum) == decimals


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.012345, "0.0123"),
        (8123.4, "8,120"),
        (0.99996, "1.00"),
        (0, "0"),
        (-2.5, "−2.50"),
        (math.nan, "–"),
        (math.inf, "–"),
    ],
)
def test_significant_digits(value, text):
    assert numerals.significant(value) == text


def test_signs_are_written_and_minus_is_a_minus():
    assert [numerals.signed(x) for x in (3.75, 0, -0.71, math.nan)] == ["+3.75", "0.00", "−0.71", "–"]
    assert numerals.fixed(-0.5) == "−0.50"
    assert [numerals.signed(x) for x in (-0.0001, 0.0001)] == ["0.00", "0.00"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s"), (4.4, "4 s"), (75, "1 min 15 s"), (3600, "1 h 0 min"), (7322, "2 h 2 min")]
)
def test_duration_has_two_units(seconds, text):
    assert numerals.duration(seconds) == text


def test_moments_are_in_utc():
    paris = timezone(timedelta(hours=1))
    assert numerals.moment(datetime(2025, 11, 1, 0, 5, tzinfo=paris)) == "31 Oct 2025, 23:05 UTC"
    assert numerals.moment(datetime(2025, 1, 2, 3, 4, tzinfo=UTC)) == "2 Jan 2025, 03:04 UTC"
    assert numerals.count(1234567) == "1,234,567"
