import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select, update

from backend import errors
from backend.db.tables import Corpus, Feature, Revision, Vocabulary
from backend.formats import copy_rows, dashboards
from backend.names import FeatureRef
from backend.services import catalog, features
from backend.services.features import FeatureQuery
from tests import hosted
from tests.database import statements
from tests.hosted import DEAD, LAST, MODEL, N_TOKENS, NO_LENS, RICH, SINGLE, SOURCE, TEXTS


@pytest.fixture
def made(session):
    return hosted.host(session)


def get(session, index):
    return features.get(session, FeatureRef(MODEL, SOURCE, index))


def browse(session, **query):
    return features.browse(session, MODEL, SOURCE, FeatureQuery(**query))


def indexes(session, **query):
    return [row.index for row in browse(session, **query).rows]


# One dashboard


def test_a_feature_shows_what_was_computed(session, made):
    view = get(session, RICH)
    assert view.source == catalog.source(session, MODEL, SOURCE)
    assert (view.index, view.n_firings, view.n_contexts, view.is_dead) == (RICH, 1000, 400, False)
    assert (view.max_value, view.min_value, view.decoder_norm) == (10.0, 0.5, 1.5)
    assert view.density == pytest.approx(1000 / N_TOKENS, rel=1e-7)
    assert (view.moments.mean, view.moments.kurtosis) == (3.0, 3.25)
    assert view.fires_on == TEXTS[1:4]


def test_the_masked_token_is_left_out_and_positions_count_without_it(session, made):
    example = get(session, RICH).groups[0].examples[1]
    assert example.context == 1
    assert example.tokens == tuple(TEXTS[i] for i in hosted.tokens_of(1)[1:])
    assert "<|endoftext|>" not in example.tokens
    assert (example.positions, example.values) == ((1, 6), (9.75, 4.875))
    assert (example.max_value, example.max_position) == (9.75, 1)


def test_an_unmasked_first_token_is_shown(session):
    hosted.host(session, is_first_masked=False)
    [group] = get(session, RICH).groups
    assert group.examples[0].tokens[0] == "<|endoftext|>"
    assert (group.examples[0].positions, group.examples[0].max_position) == ((0, 2), 0)


def test_groups_are_the_top_and_then_the_intervals_from_the_highest(session, made):
    groups = get(session, RICH).groups
    assert [group.is_top for group in groups] == [True] + [False] * 5
    assert [len(group.examples) for group in groups] == [20] + [5] * 5
    assert (groups[0].low, groups[0].high) == (5.25, 10.0)
    assert [(group.low, group.high) for group in groups[1:]] == [(8, 10), (6, 8), (4, 6), (2, 4), (0, 2)]
    assert [group.fraction for group in groups[1:]] == [0.025, 0.1, 0.125, 0.25, 0.5]
    assert all(group.low < example.max_value <= group.high for group in groups[1:] for example in group.examples)


def test_intervals_without_examples_are_left_out(session, made):
    [top] = get(session, SINGLE).groups
    assert top.is_top


def test_histograms_lie_between_the_smallest_and_the_largest_firing(session, made):
    view = get(session, RICH)
    assert view.linear_histogram.counts == tuple(range(50))
    np.testing.assert_allclose(view.linear_histogram.edges, np.linspace(0.5, 10, 51))
    assert view.log_histogram.counts == tuple(range(39, -1, -1))
    np.testing.assert_allclose(view.log_histogram.edges, np.geomspace(0.5, 10, 41))
    assert (view.log_histogram.edges[0], view.log_histogram.edges[-1]) == (0.5, 10.0)


def test_a_single_firing_is_a_single_bar(session, made):
    view = get(session, SINGLE)
    value = float(np.float32(0.1))
    assert view.linear_histogram == view.log_histogram == features.HistogramView((value, value), (1,))
    assert math.isnan(view.moments.kurtosis)


def test_a_dead_feature_has_nothing_but_its_weights(session, made):
    view = get(session, DEAD)
    assert view.is_dead
    assert (view.max_value, view.min_value, view.density, view.groups, view.fires_on) == (0, 0, 0, (), ())
    assert view.linear_histogram == view.log_histogram == features.HistogramView((), ())
    assert view.logit_lens is not None
    assert [near.index for near in view.neighbours] == [1, 2]


def test_the_logit_lens_names_its_tokens(session, made):
    lens = get(session, RICH).logit_lens
    assert lens.top == tuple(zip(TEXTS[1:11], np.linspace(2, 1, 10).astype(np.float32).tolist(), strict=True))
    assert lens.bottom[0] == (TEXTS[11], -2.0)
    assert (lens.histogram.edges[0], lens.histogram.edges[-1], len(lens.histogram.edges)) == (-2.0, 2.0, 51)
    assert (lens.histogram.counts[0], lens.histogram.counts[-1], lens.moments.kurtosis) == (5, 7, 2.5)
    assert get(session, NO_LENS).logit_lens is None


def test_a_token_the_vocabulary_lacks_is_shown_by_its_id(session, made):
    padded = next(d for d in hosted.every_kind() if d.index == RICH)
    padded.logit_lens.top_tokens[0] = 50_300
    packed = dashboards.pack(padded)
    table = features.Dashboard
    session.execute(update(table).where(table.index == RICH).values(packed=packed))
    assert get(session, RICH).logit_lens.top[0][0] == "<50300>"


def test_neighbours_say_when_they_fire(session, made):
    near = get(session, RICH).neighbours
    assert [(n.index, n.fires_on) for n in near] == [(SINGLE, (TEXTS[2],)), (LAST, TEXTS[4:7])]
    assert near[0].cosine == float(np.float32(0.9))
    assert [n.density for n in near] == pytest.approx([1 / N_TOKENS, 0.4])


def test_the_features_beside_are_alive(session, made):
    beside = {index: (get(session, index).previous_index, get(session, index).next_index) for index in range(6)}
    assert beside == {0: (None, 1), 1: (None, 2), 2: (1, 3), 3: (2, 5), 4: (3, 5), 5: (3, None)}


@pytest.mark.parametrize("n_tokens", [2**16, 2**16 + 1])
def test_contexts_are_read_as_wide_as_the_vocabulary_needs(session, made, n_tokens):
    texts = (*TEXTS, *(str(i) for i in range(len(TEXTS), n_tokens)))
    vocabulary_id = hosted.add_vocabulary(session, texts)
    session.execute(update(Corpus).values(vocabulary_id=vocabulary_id))
    if n_tokens > 2**16:
        wide = hosted.tokens_of(0).astype("<u4")
        wide[1] = n_tokens - 1
        session.execute(update(features.Context).where(features.Context.index == 0).values(tokens=wide.tobytes()))
        session.execute(update(features.Context).where(features.Context.index > 0).values(tokens=wide.tobytes()))
    tokens = get(session, RICH).groups[0].examples[0].tokens
    assert tokens[0] == (TEXTS[1] if n_tokens == 2**16 else str(n_tokens - 1))
    assert len(tokens) == 7


@pytest.mark.parametrize("index", [-1, 6, 2**31, 2**80])
def test_an_index_the_source_lacks_is_not_found(session, made, index):
    with pytest.raises(errors.NotFoundError, match="no feature"):
        get(session, index)


def test_what_is_not_hosted_or_not_computed_is_not_found(session, made):
    hosted.add_source(session, source="3-tiny-sae")
    with pytest.raises(errors.NotFoundError, match="not computed"):
        features.get(session, FeatureRef(MODEL, "3-tiny-sae", 0))
    with pytest.raises(errors.NotFoundError, match="is hosted"):
        features.get(session, FeatureRef("none", SOURCE, 0))


def test_readers_follow_the_source_to_its_new_revision(session, made):
    revision_id = hosted.add_revision(session, made.source_id, made.corpus_id)
    with pytest.raises(errors.NotFoundError):
        get(session, RICH)
    for each in hosted.every_kind():
        hosted.add_feature(session, revision_id, each)
    assert get(session, RICH).source.revision_id == revision_id


def test_a_dashboard_costs_five_statements_whatever_the_feature(session, made):
    with statements(session.connection()) as cold:
        get(session, RICH)
    assert len(cold) == 6
    for index in (RICH, SINGLE, DEAD, NO_LENS, LAST):
        with statements(session.connection()) as warm:
            get(session, index)
        assert len(warm) == 5, index


# A run of dashboards


def test_features_from_an_offset_are_those_that_fire(session, made):
    assert [view.index for view in features.offset(session, MODEL, SOURCE, 0)] == [1, 2, 3, 5]
    assert [view.index for view in features.offset(session, MODEL, SOURCE, 1, n=2)] == [2, 3]
    assert features.offset(session, MODEL, SOURCE, 4) == ()


@pytest.mark.parametrize("offset", range(4))
@pytest.mark.parametrize("n", [1, 2, 25])
def test_features_from_an_offset_are_what_each_is_alone(session, made, offset, n):
    views = features.offset(session, MODEL, SOURCE, offset, n=n)
    assert [repr(view) for view in views] == [repr(get(session, view.index)) for view in views]


def test_features_from_an_offset_cost_four_statements(session, made):
    get(session, RICH)
    for offset, n in ((0, 4), (2, 4), (9, 2)):
        with statements(session.connection()) as seen:
            features.offset(session, MODEL, SOURCE, offset)
        assert len(seen) == n


# Several features of several sources


def refs(*given, model=MODEL):
    return [FeatureRef(model, source, index) for source, index in given]


def as_shown_first(view):
    """As alone, but with one context, and without the features beside it."""
    top = [replace(group, examples=group.examples[:1], low=group.examples[0].max_value) for group in view.groups[:1]]
    return replace(view, groups=tuple(top), previous_index=None, next_index=None)


def test_several_features_are_what_each_is_alone_with_its_first_contexts(session, made):
    views = features.several(session, refs(*((SOURCE, index) for index in (LAST, DEAD, RICH, SINGLE, NO_LENS))))
    assert [view.index for view in views] == [LAST, DEAD, RICH, SINGLE, NO_LENS]
    assert [repr(view) for view in views] == [repr(as_shown_first(get(session, view.index))) for view in views]
    [three] = features.several(session, refs((SOURCE, RICH)), n_examples=3)
    assert three.groups[0].examples == get(session, RICH).groups[0].examples[:3]
    [none] = features.several(session, refs((SOURCE, RICH)), n_examples=0)
    assert none.groups == ()


def test_several_features_may_be_of_several_sources_and_corpora(session, made):
    other = hosted.add_source(session, source="3-other")
    with_first = hosted.add_corpus(session, MODEL, hosted.add_vocabulary(session, TEXTS[::-1]), is_first_masked=False)
    revision = hosted.add_revision(session, other, with_first)
    hosted.add_feature(session, revision, hosted.every_kind(with_first=True)[RICH])
    found = features.several(session, refs(("3-other", RICH), (SOURCE, RICH), ("3-other", LAST), (SOURCE, RICH)))
    alone = [features.get(session, FeatureRef(MODEL, source, RICH)) for source in ("3-other", SOURCE)]
    assert [None if view is None else view.source.name for view in found] == ["3-other", SOURCE, None, SOURCE]
    assert [repr(view) for view in found[:2]] == [repr(as_shown_first(view)) for view in alone]


def test_what_has_no_dashboard_is_none_among_several(session, made):
    hosted.add_source(session, source="3-other")
    asked = refs((SOURCE, 99), (SOURCE, RICH), ("3-other", RICH), ("none", 1)) + refs((SOURCE, 1), model="none")
    found = features.several(session, asked)
    assert [view is None for view in found] == [True, False, True, True, True]
    assert features.several(session, []) == ()


def test_several_features_cost_four_statements(session, made):
    get(session, RICH)
    for indexes in ((RICH,), (RICH, SINGLE, NO_LENS, LAST)):
        with statements(session.connection()) as seen:
            features.several(session, refs(*((SOURCE, index) for index in indexes)))
        assert len(seen) == 4


def test_a_random_feature_is_one_that_fires(session, made):
    assert {features.random_index(session, MODEL, SOURCE) for _ in range(100)} == {1, 2, 3, 5}


def test_no_feature_is_drawn_where_none_fires(session, made):
    session.execute(update(Feature).values(n_firings=0))
    session.execute(update(Revision).values(n_alive=0))
    with pytest.raises(errors.NotFoundError, match="fires"):
        features.random_index(session, MODEL, SOURCE)


# The table


def test_the_table_has_a_line_for_every_feature_that_fires(session, made):
    page = browse(session)
    assert [row.index for row in page.rows] == [1, 2, 3, 5]
    assert (page.n_total, page.query) == (4, FeatureQuery())
    row = page.rows[0]
    assert (row.fires_on, row.promotes, row.logit_kurtosis) == (TEXTS[1:4], TEXTS[1:11], 2.5)
    assert (row.max_activation, row.density) == (10.0, pytest.approx(0.1))
    assert indexes(session, with_dead=True) == list(range(6))


@pytest.mark.parametrize(
    ("sort", "ascending", "descending"),
    [
        ("index", [1, 2, 3, 5], [5, 3, 2, 1]),
        ("density", [2, 1, 3, 5], [5, 1, 3, 2]),
        ("max_activation", [2, 1, 3, 5], [1, 3, 5, 2]),
        ("logit_kurtosis", [1, 2, 5, 3], [5, 1, 2, 3]),
    ],
)
def test_the_table_sorts_with_ties_by_index_and_unknown_last(session, made, sort, ascending, descending):
    assert indexes(session, sort=sort) == ascending
    assert indexes(session, sort=sort, is_descending=True) == descending


def test_pages_follow_one_another_and_know_the_total(session, made):
    pages = [browse(session, sort="density", per_page=3, page=page) for page in (1, 2, 3)]
    assert [[row.index for row in page.rows] for page in pages] == [[2, 1, 3], [5], []]
    assert {page.n_total for page in pages} == {4}
    assert browse(session, token="not there").n_total == 0


def test_limits_include_the_number_shown(session, made):
    assert indexes(session, min_density=0.1) == [1, 3, 5]
    assert indexes(session, max_density=0.1) == [1, 2, 3]
    assert indexes(session, min_activation=0.1, max_density=0.05) == [2]
    assert indexes(session, min_kurtosis=2.6) == [5]
    assert indexes(session, min_density=0.01, max_density=0.2, token="100%") == [1]
    assert indexes(session, min_density=1e300) == []
    assert indexes(session, min_density=1e-300) == [1, 2, 3, 5]


@pytest.mark.parametrize(
    ("token", "found"),
    [
        (" cat", [1, 2, 3, 5]),
        ("CAT", [1, 2, 3, 5]),
        ("100%", [1, 2, 5]),
        ("0%0", []),
        ("_", [1, 2, 5]),
        ("a%b", []),
        ("b%c", [1, 2, 5]),
        ("C:\\", [1, 2, 5]),
        ("C:\\\\", []),
        ("\\n", [1, 2, 5]),
        ("\n", [1, 2, 3, 5]),
        ('"', [1, 2, 5]),
        ('""', []),
        ('", "', []),
        (", ", [1, 2, 5]),
        (",,", []),
        ("[", []),
        ("ÉMILE", [1, 2, 5]),
        ("xxxx", [5]),
        ("'; drop table feature; --", []),
    ],
)
def test_the_token_filter_looks_into_every_text_and_nowhere_else(session, made, token, found):
    assert indexes(session, token=token) == found


@settings(max_examples=60, deadline=None)
@given(token=st.text(st.sampled_from('nN\n\\"%_, a[]u0é\x01'), min_size=1, max_size=4), data=st.data())
def test_the_token_filter_is_what_lower_case_search_finds(engine, token, data):
    texts = data.draw(
        st.lists(st.lists(st.text(st.sampled_from('nN\n\\"%_, a[]u0É\x01'), max_size=4), max_size=3), max_size=4)
    )
    with engine.connect() as connection, catalog.Session(connection) as session:
        made = hosted.host(session)
        session.execute(features.Feature.__table__.delete())
        for index, fires_on in enumerate(texts):
            row = {
                "n_firings": 1,
                "density": 0,
                "max_activation": 1,
                "fires_on": fires_on[:2],
                "promotes": fires_on[2:],
                "token_texts": copy_rows.token_texts(fires_on),
            }
            session.execute(insert(Feature).values(revision_id=made.revision_id, index=index, **row))
        expected = [i for i, fires_on in enumerate(texts) if any(token.lower() in text.lower() for text in fires_on)]
        assert indexes(session, token=token) == expected


@pytest.mark.parametrize(
    "bad",
    [
        {"page": 0},
        {"per_page": 0},
        {"per_page": 201},
        {"min_density": math.nan},
        {"max_density": math.inf},
        {"token": "\0"},
    ],
)
def test_a_table_that_cannot_be_is_refused(session, made, bad):
    with pytest.raises(errors.InvalidInputError, match="cannot be shown"):
        browse(session, **bad)


def test_every_problem_of_a_table_is_named_at_once(session, made):
    with pytest.raises(errors.InvalidInputError) as caught:
        browse(session, page=0, min_density=math.nan, token="\0")
    assert caught.value.hint.count(";") == 2


def test_the_table_costs_two_statements(session, made):
    for query in ({}, {"token": "cat", "min_density": 0.1, "sort": "density"}, {"page": 9}):
        with statements(session.connection()) as seen:
            browse(session, **query)
        assert len(seen) == 2


def test_features_that_are_named_are_as_the_table_has_them(session, made):
    wanted = [FeatureRef(MODEL, SOURCE, index) for index in (RICH, DEAD, 99)] + [FeatureRef(MODEL, "9-none", 1)]
    with statements(session.connection()) as seen:
        found = features.named(session, wanted)
    assert len(seen) == 1
    assert found.keys() == set(wanted[:2])
    assert found[wanted[0]] == browse(session, with_dead=True).rows[RICH]
    assert found[wanted[1]].max_activation == 0
    assert features.named(session, []) == {}


def test_vocabulary_ids_are_not_reused(session, made):
    # The process-wide cache of texts rests on it.
    last = session.execute(select(Vocabulary.id)).scalars().all()[-1]
    session.execute(update(Corpus).values(vocabulary_id=hosted.add_vocabulary(session, ("x",))))
    assert hosted.add_vocabulary(session, ("y",)) > last
