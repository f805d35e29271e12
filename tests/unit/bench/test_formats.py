"""The page's table of formats is the one of the committed results, and they have a row for every format."""

import json

from tests import saes
from tests.bench import formats


def test_the_page_shows_the_committed_results() -> None:
    results = json.loads(formats.RESULTS.read_text())
    assert formats.BEGIN + formats.table(results) + formats.END in formats.PAGE.read_text()


def test_every_example_has_a_row_without_differences() -> None:
    rows = json.loads(formats.RESULTS.read_text())["rows"]
    assert [(row["format"], row["by"]) for row in rows] == [(name, each.by) for name, each in saes.EXAMPLES.items()]
    for row in rows:
        assert row["n_top_equal"] == row["n_top"] > 0, row["format"]
        assert row["n_firings_differing"] <= row["n_firings"] / 100_000, row["format"]
        assert row["max_difference"] < 1e-4 * row["max_activation"], row["format"]
