import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.services.features import ExampleView
from backend.web import concordance
from tests.pages import dom, samples


@given(st.floats(0.001, 1000), st.floats(0, 1))
def test_shades_are_ten_equal_steps_of_the_range_to_the_maximum(maximum, share):
    step = concordance.shade(maximum * share, maximum)
    assert 1 <= step <= 10
    assert (step - 1) / 10 - 1e-9 <= share <= step / 10 + 1e-9 or share == 0


def test_an_interval_of_the_dashboard_is_two_shades():
    assert [concordance.shade(x, 10) for x in (1.0, 2.0, 2.01, 4.0, 10.0, 11.0)] == [1, 2, 3, 4, 10, 10]
    assert concordance.shade(1.0, 0.0) == 1


def test_a_line_is_what_stands_before_then_the_strongest_firing():
    line = concordance.line(samples.example(3, peak=7.0), 14.0)
    after = dom.parse(str(line.after))
    first = after.children[0]
    assert isinstance(first, dom.Element)
    assert (first.tag, first.classes, first["title"], first.text) == ("mark", ["a5"], "7.000", " brigade")
    assert line.value == "7.00"
    assert "\n" not in line.before + line.after
    assert dom.parse(str(line.before)).text.endswith("The general sent for the second")


def test_the_full_text_holds_every_token_and_every_firing():
    example = samples.example(5, which=3)
    full = dom.parse(str(concordance.line(example, 20.0).full))
    assert full.text.replace("↵", "").replace("⇥", "") == "".join(example.tokens)
    assert len(full.all("mark")) == len(example.positions) == concordance.line(example, 20.0).n_firings


def test_a_line_is_cut_to_what_a_wide_screen_shows():
    tokens = tuple(" word" for _ in range(1000))
    line = concordance.line(ExampleView(0, tokens, (500,), (1.0,), 1.0, 500), 1.0)
    for side, limit in ((line.before, concordance.BEFORE_CHARACTERS), (line.after, concordance.AFTER_CHARACTERS)):
        assert limit < len(dom.parse(str(side)).text) <= limit + 2 * len(" word")


@pytest.mark.parametrize("at", [0, 2])
def test_a_firing_at_either_end_has_nothing_on_that_side(at):
    line = concordance.line(ExampleView(0, ("a", "b", "c"), (at,), (1.0,), 1.0, at), 1.0)
    assert dom.parse(str(line.before)).text == "abc"[:at]
    assert dom.parse(str(line.after)).text == "abc"[at:]


def test_a_firing_on_nothing_can_still_be_seen():
    line = concordance.line(ExampleView(0, ("a", "", "b"), (1,), (1.0,), 1.0, 1), 1.0)
    assert dom.parse(str(line.after)).one("mark").text == "∅"


@given(st.lists(st.text(max_size=5), min_size=1, max_size=30), st.randoms())
def test_before_and_after_join_without_a_gap(tokens, random):
    n = random.randint(1, len(tokens))
    positions = tuple(sorted(random.sample(range(len(tokens)), n)))
    values = tuple(float(np.float32(random.uniform(0.1, 9))) for _ in positions)
    top = int(np.argmax(values))
    line = concordance.line(ExampleView(0, tuple(tokens), positions, values, values[top], positions[top]), max(values))
    parts = dom.parse(str(line.before) + str(line.after))
    assert len(parts.all("mark")) == n
    assert parts.all("mark", "a10")
