from dataclasses import replace
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend import errors
from backend.services.features import FeatureQuery
from backend.services.progress import JobSourceView
from backend.web import links
from backend.web.pages import home, look, models, quality, sources
from tests.pages import dom, preview, samples

numbers = st.none() | st.floats(1e-7, 1e6)
queries = st.builds(
    FeatureQuery,
    sort=st.sampled_from(["index", "density", "max_activation", "logit_kurtosis"]),
    is_descending=st.booleans(),
    min_density=numbers,
    max_density=numbers,
    min_activation=numbers,
    min_kurtosis=numbers,
    token=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    with_dead=st.booleans(),
    page=st.integers(1, 10**6),
)


def read(url: str) -> FeatureQuery:
    return sources.feature_query(**dict(parse_qsl(urlsplit(url).query)))


@given(queries)
def test_the_whole_state_of_the_table_is_in_its_url(query):
    assert read(links.features_url("m", "s", query)) == query


@settings(deadline=None, max_examples=30)
@given(queries)
def test_the_form_sends_the_state_it_shows(query):
    """Percents are rounded to ten digits."""
    page = sources.context(samples.source(), None, query, samples.page(query))
    form = dom.parse(RENDERER.html("pages/source.html", page)).one("form", "filters")
    filled = [e for e in form.all("input") if e.get("type") != "checkbox" or e.get("checked") is not None]
    sent = {e["name"]: e.get("value") or "" for e in filled}
    again = sources.feature_query(**sent)
    for field in ("sort", "is_descending", "token", "with_dead"):
        assert getattr(again, field) == getattr(query, field)
    for field in ("min_density", "max_density", "min_activation", "min_kurtosis"):
        shown, read_back = getattr(query, field), getattr(again, field)
        assert read_back is shown is None or read_back == pytest.approx(shown, rel=1e-9)


@pytest.fixture(autouse=True, scope="module")
def _renderer(renderer):
    """Hypothesis runs one function many times; what it renders with does not change."""
    global RENDERER
    RENDERER = renderer


def test_a_bare_url_is_the_default_and_the_default_a_bare_url():
    assert sources.feature_query() == FeatureQuery()
    assert links.features_url("m", "s", FeatureQuery()) == "/m/s"
    assert links.features_api_url("m", "s", FeatureQuery(is_descending=True)) == "/api/features/m/s?descending=1"


@pytest.mark.parametrize(("text", "fraction"), [("0.1%", 0.001), ("0.001", 0.001), (" 2,5 % ", 0.025), ("1e-3", 0.001)])
def test_densities_may_be_typed_as_percent_or_fraction(text, fraction):
    assert sources.feature_query(min_density=text).min_density == pytest.approx(fraction)


def test_everything_that_cannot_be_read_is_named_at_once():
    with pytest.raises(errors.InvalidInputError) as caught:
        sources.feature_query(sort="colour", min_density="much", max_density="inf", page="1.5", token="x" * 201)
    for name in ("sort", "min_density", "max_density", "page", "token"):
        assert name in caught.value.message


@pytest.mark.parametrize("page", ["0", "-1", "nan", "1000001"])
def test_pages_are_counted_from_one(page):
    with pytest.raises(errors.InvalidInputError, match="page"):
        sources.feature_query(page=page)


def test_headings_sort_and_turn_the_order_round(rendered):
    page = rendered("source")
    headings = {th.one("a").text.strip("↓↑"): th for th in page.one("section", "features").all("th")[:4]}
    assert headings["density"]["aria-sort"] == "descending"
    assert read(headings["density"].one("a")["href"]).is_descending is False
    assert headings["max"].get("aria-sort") is None
    by_max = read(headings["max"].one("a")["href"])
    assert (by_max.sort, by_max.is_descending, by_max.min_density) == ("max_activation", True, 0.0001)
    assert read(headings["feature"].one("a")["href"]).is_descending is False


def test_bars_of_the_histogram_filter_and_keep_the_rest(rendered):
    page = rendered("source")
    query = read(page.one("section", aria_labelledby="densities").all("a")[-1]["href"])
    assert query.min_density is not None
    assert query.max_density == pytest.approx(query.min_density * 10 ** (5.5 / 44), rel=0.01)
    assert (query.sort, query.token) == ("density", preview.FILTERED.token)


def test_rows_lead_to_their_features(rendered):
    rows = rendered("source").one("section", "features").all("tr")[1:]
    assert len(rows) == 50
    assert rows[2].one("a")["href"] == "/gpt2-small/6-res-jb/122"
    assert [cell.text for cell in rows[2].all("td", "number")] == ["122", "0.032%", "11.2", "6.7"]


def test_the_pager_goes_on_and_back():
    query = FeatureQuery(page=3)
    page = sources.context(samples.source(), None, query, samples.page(query, n_total=120))
    assert (page.n_pages, page.first, page.last) == (3, 101, 120)
    assert (read(page.previous_url).page, page.next_url) == (2, "")


def test_a_page_past_the_end_leads_to_the_last(rendered):
    section = rendered("past-the-end").one("section", "features")
    assert "Page 600 is past the last" in section.text
    assert read(section.one("p").one("a")["href"]).page == 3


def test_no_match_says_so_and_leads_back(rendered):
    section = rendered("nothing-found").one("section", "features")
    assert "No feature is like that" in section.text
    assert section.one("p").one("a")["href"] == "/gpt2-small/6-res-jb?sort=density&descending=1"


def test_quality_stands_in_figures_for_both_lengths_and_in_charts(rendered):
    section = rendered("quality").one("section", "quality")
    head, *rows = section.all("tr")
    assert [cell.text for cell in head.all("th")] == ["contexts of", "128 tokens", "512 tokens"]
    figures = {row.one("th").text: [cell.text for cell in row.all("td")] for row in rows}
    measured = samples.quality()
    for name, metric in (("MSE", "mse"), ("loss with SAE", "loss_sae"), ("recovered, mean", "loss_recovered_mean")):
        for text, of in zip(figures[name], (measured.corpus, measured.longer), strict=True):
            value, error = text.replace(",", "").split(" ±")
            assert float(value) == pytest.approx(of.metrics[metric].value, rel=1e-3)
            assert float(error) == pytest.approx(of.metrics[metric].standard_error, rel=0.5)
    assert len(rows) == len(measured.corpus.metrics)
    assert len(section.all("svg", "plot")) == 7
    assert len(section.all("line", "trained")) == 7, "the trained length lies inside the longer contexts"
    assert "128 contexts of 512 tokens within single documents" in section.text


def test_the_quick_look_says_what_is_wrong_and_what_fits_better(rendered):
    section = rendered("looked").one("section", "look")
    (warning,) = section.all("p", "warning")
    assert "at blocks.7.hook_resid_pre 91.3%" in warning.text
    rows = {row.one("th").text: [cell.text for cell in row.all("td")] for row in section.all("tr")[1:]}
    assert rows["as declared"] == ["0.724", "32.0"]
    assert rows["at blocks.7.hook_resid_pre"] == ["0.913", "31.4"]
    assert [row.one("th").text for row in section.all("tr", "better")] == ["at blocks.7.hook_resid_pre"]
    assert len(rows) == 1 + look.N_SHOWN < len(samples.look().candidates) + 1
    assert section.all("a")[-1]["href"] == "/api/source/gpt2-small/6-res-jb/look"


def test_a_source_that_failed_its_look_shows_it(rendered):
    assert rendered("looked-uncomputed").one("section", "look").all("p", "warning")
    assert not rendered("source").all("section", "look"), "no job has looked"


def test_a_look_that_finds_nothing_says_so(rendered):
    assert rendered("looked-right").one("section", "look").all("p")[0].text == "Nothing looks wrong."


def test_quality_over_one_length_says_why(rendered):
    page = rendered("quality-short")
    section = page.one("section", "quality")
    assert not section.all("line", "trained")
    assert "the model takes 128 tokens" in section.text
    assert "mean L1" not in page.one("dl", "numbers").text, "the revision is from before it was counted"


def test_the_top_of_the_page_has_the_gist_of_it(rendered):
    numbers = {div.one("dt").text: div.one("dd").text for div in rendered("quality").one("dl", "numbers").all("div")}
    assert numbers["explained variance"] == f"{samples.quality().corpus.metrics['explained_variance'].value:.3f}"
    assert numbers["loss recovered"] == f"{samples.quality().corpus.metrics['loss_recovered_zero'].value:.3f}"
    assert (numbers["dense"], numbers["mean L1"]) == ("12, 0.049%", "240")
    assert not rendered("source").all("section", "quality"), "it was not measured"


def test_undefined_figures_and_missing_losses_are_left_out():
    measured = samples.quality(longer=0)
    bare = replace(measured.corpus.metrics["mse"], value=None, standard_error=None)
    metrics = {"mse": bare, "explained_variance": bare, "l0": measured.corpus.metrics["l0"]}
    found = quality.panel(replace(measured, corpus=replace(measured.corpus, metrics=metrics)))
    assert [row.name for row in found.rows] == ["explained variance", "MSE", "L0"]
    assert found.gist == ()
    assert len(found.charts) == 3


def test_a_running_job_shows_and_refreshes_without_scripts(rendered):
    page = rendered("running")
    progress = page.one("section", "progress")
    assert progress["data-url"] == "/jobs/7/progress"
    assert progress.get("data-live") is not None
    assert "1 min 13 s left" in progress.text
    assert "10,412 tokens/s" in progress.text
    assert page.one("progress")["value"] == "0.43"
    assert page.one("noscript").one("meta")["http-equiv"] == "refresh"
    assert not page.all("form", "filters")


def test_a_source_nothing_was_computed_of_says_what_to_do(rendered):
    page = rendered("uncomputed")
    assert "nothing of it has been computed" in page.text
    assert " add " in page.one(id="command").text
    assert not page.all("noscript")


def test_a_finished_job_is_not_shown():
    done = samples.job(state="done", fraction=1.0)
    assert sources.context(samples.source(), done, FeatureQuery(), samples.page()).job is None
    assert (
        sources.context(samples.source(), samples.job(state="failed"), FeatureQuery(), samples.page()).job is not None
    )


def test_a_failed_job_says_why_and_can_be_tried_again(rendered):
    page = rendered("failed")
    assert page.one("p", "error").text == "Shard 3 failed 5 times: out of <memory>."
    assert page.one("form", method="post")["action"] == "/jobs/7/retry"
    assert rendered("job").one("form", method="post")["action"] == "/jobs/7/cancel"


def test_home_tells_each_source_and_the_work_at_it(rendered):
    rows = rendered("home").one("table", "sources").all("tr")[1:]
    assert [row.one("a", "ref").text for row in rows] == ["6-res-jb", "7-res-jb", "6-mlp-topk"]
    assert "computing anew, 43%" in rows[0].text
    assert "queued" in rows[1].text
    assert "2.7%" in rows[2].text
    assert rows[2].all("svg", "spark")
    assert "Nothing is hosted yet" in rendered("empty").text


def test_a_model_without_facts_is_told_without_them():
    known = samples.model()
    assert home.model_facts(known) == "GPT2LMHeadModel, 12 blocks, d_model 768, 3 sources"
    bare = type(known)(known.id, "x", "w", None, None, None, None, samples.AT, sources=known.sources[:1])
    assert home.model_facts(bare) == "1 source"


def test_only_the_newest_job_of_a_source_counts():
    latest = (
        samples.job(id=9, state="done"),
        samples.job(id=8),
        samples.job(id=7, sources=(JobSourceView("x", 8, 0, is_published=False),), state="cancelled"),
    )
    assert home.under_way(latest) == {}
    assert home.under_way(latest[1:2]) == {(samples.MODEL, samples.SOURCE): latest[1]}


def test_sources_of_a_model_stand_by_set():
    sets = models.context(samples.model(), ()).sets
    assert [(name, [s.name for s in sources]) for name, sources in sets] == [
        ("mlp-topk", ["6-mlp-topk"]),
        ("res-jb", ["6-res-jb", "7-res-jb"]),
    ]
