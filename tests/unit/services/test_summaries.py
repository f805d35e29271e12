from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import update

from backend.db.tables import Dashboard, Source
from backend.formats import dashboards
from backend.names import FeatureRef
from backend.services import catalog, explanations, summaries
from backend.services.access import NOBODY
from backend.services.explanations import NewExplanation
from backend.services.visibility import see_as
from tests import hosted
from tests.database import statements
from tests.hosted import DEAD, MODEL, RICH, SINGLE, SOURCE, TEXTS


@pytest.fixture
def made(session):
    return hosted.host(session)


def source(session, name: str = SOURCE):
    return catalog.source(session, MODEL, name)


def test_features_of_several_sources_come_in_one_statement(session, connection, made):
    other_id = hosted.add_source(session, source="3-other")
    corpus_id = hosted.add_corpus(session, MODEL, hosted.add_vocabulary(session, TEXTS))
    revision_id = hosted.add_revision(session, other_id, corpus_id)
    hosted.add_feature(session, revision_id, replace(hosted.every_kind()[RICH], index=SINGLE))
    mine, other = source(session), source(session, "3-other")
    with statements(connection) as seen:
        found = summaries.of(session, [(mine, RICH), (mine, DEAD), (other, SINGLE)])
    assert len(seen) == 1
    assert set(found) == {(SOURCE, RICH), (SOURCE, DEAD), ("3-other", SINGLE)}
    rich = found[SOURCE, RICH]
    assert (rich.source, rich.index, rich.n_firings, rich.max_value, rich.min_value) == (mine, RICH, 1000, 10.0, 0.0)
    assert rich.density == pytest.approx(0.1)
    assert rich.fires_on == TEXTS[1:4]
    assert found["3-other", SINGLE].max_value == 10.0
    assert found[SOURCE, DEAD].n_firings == 0


def test_with_their_best_explanations_they_cost_one_statement_more(session, connection, made):
    for words in ("cats", "dogs"):
        explanations.add(session, FeatureRef(MODEL, SOURCE, RICH), NewExplanation(description=words))
    found = summaries.of(session, [(source(session), RICH), (source(session), DEAD)])
    assert {view.explanation for view in found.values()} == {""}
    with statements(connection) as seen:
        named = summaries.explained(session, found)
    assert len(seen) == 1
    assert {index: view.explanation for (_, index), view in named.items()} == {RICH: "dogs", DEAD: ""}
    assert summaries.explained(session, {}) == {}


def test_what_is_not_computed_is_left_out(session, made):
    hosted.add_source(session, source="3-other")
    bare = source(session, "3-other")
    assert summaries.of(session, [(bare, 1)]) == {}
    assert summaries.of(session, []) == {}
    assert summaries.of(session, [(source(session), 4711)]) == {}


def test_of_signed_sources_the_most_negative_activation_is_known(session, connection, made):
    session.execute(update(Source).where(Source.name == SOURCE).values(architecture="neurons"))
    none = np.zeros(5, np.int64)
    signed = dashboards.Signed(
        is_dense=True, n_positive=1, n_negative=1, bin_exponent=0, first_bin=0, negative_intervals=none,
        bottom_tokens=np.zeros(0, np.int32),
    )  # fmt: skip
    packed = dashboards.pack(replace(hosted.every_kind()[RICH], min=-2.5, signed=signed))
    session.execute(update(Dashboard).where(Dashboard.index == RICH).values(packed=packed))
    with statements(connection) as seen:
        found = summaries.of(session, [(source(session), RICH)])
    assert len(seen) == 3, "the source's, its feature's and its dashboard's"
    assert found[SOURCE, RICH].min_value == -2.5


def test_a_model_s_sources_are_those_the_reader_sees_in_lists(session, made):
    hosted.add_source(session, source="1-unlisted")
    session.execute(update(Source).where(Source.name == "1-unlisted").values(visibility="unlisted"))
    assert [each.name for each in catalog.sources_of(session, MODEL)] == ["1-unlisted", SOURCE]
    see_as(session, NOBODY)
    assert [each.name for each in catalog.sources_of(session, MODEL)] == [SOURCE]
    assert catalog.sources_of(session, "nope") == ()
