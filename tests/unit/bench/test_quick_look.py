"""The table in docs/checks.md: rendered from the committed figures, which have no alarm too many and none too few."""

import json

from tests.bench import quick_look


def test_the_page_shows_the_committed_figures():
    page = quick_look.PAGE.read_text()
    assert quick_look.with_table(page, json.loads(quick_look.RESULTS.read_text())) == page


def test_every_look_said_the_right_thing():
    rows = json.loads(quick_look.RESULTS.read_text())
    assert [row for row in rows if not row["is_right"]] == []
    assert {row["sae"] for row in rows if not row["mistake"]} == {row["sae"] for row in rows}
