"""Explanations: who writes, changes and votes; the best first; many features in one statement."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import func, insert, select, update

from backend import errors
from backend.db.tables import Account, Explanation, ExplanationScore, ExplanationVote, Source
from backend.names import FeatureRef
from backend.services import access, explanations
from backend.services.access import NOBODY, Viewer
from backend.services.explanations import NewExplanation
from backend.services.visibility import see_as
from tests import hosted
from tests.database import statements
from tests.hosted import MODEL, RICH, SINGLE, SOURCE

REF = FeatureRef(MODEL, SOURCE, RICH)


@pytest.fixture
def made(session):
    return hosted.host(session)


@pytest.fixture
def anna(session):
    return somebody(session, "anna")


@pytest.fixture
def bert(session):
    return somebody(session, "bert")


def somebody(session, name: str) -> Viewer:
    account = Account(name=name, password_hash="")
    session.add(account)
    session.flush()
    return Viewer(account.id, name, frozenset({"read", "write"}))


def add(session, words: str, ref: FeatureRef = REF, **given) -> str:
    return explanations.add(session, ref, NewExplanation(description=words, **given)).id


def words(found) -> list[str]:
    return [each.description for each in found]


@pytest.mark.usefixtures("made")
def test_an_explanation_is_added_and_read(session, anna):
    see_as(session, anna)
    added = explanations.add(session, REF, NewExplanation(description="  cats\0 and dogs \n"))
    assert explanations.get(session, added.id) == added
    assert (added.ref, added.description, added.author_id, added.author) == (
        REF,
        "cats␀ and dogs",
        anna.account_id,
        "anna",
    )
    assert (added.type_name, added.model_name, added.scores, added.votes) == (None, None, (), ())
    assert explanations.of_feature(session, REF) == (added,)
    assert explanations.of_feature(session, FeatureRef(MODEL, SOURCE, SINGLE)) == ()
    assert len(added.id) == 22
    named = explanations.add(session, REF, NewExplanation(description="x", type_name=" a\0b ", model_name=" "))
    assert (named.type_name, named.model_name) == ("a␀b", None)


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(
    ("ref", "given", "error", "said"),
    [
        (REF, " \n", errors.InvalidInputError, "is empty"),
        (REF, "x" * 4_001, errors.InvalidInputError, "4,001 characters"),
        (FeatureRef(MODEL, SOURCE, hosted.D_SAE), "x", errors.NotFoundError, "has no feature 6"),
        (FeatureRef(MODEL, SOURCE, -1), "x", errors.NotFoundError, "has no feature -1"),
        (FeatureRef(MODEL, "9-none", 1), "x", errors.NotFoundError, "No source '9-none'"),
    ],
)
def test_what_cannot_be_added_is_refused(session, ref, given, error, said):
    with pytest.raises(error, match=said):
        add(session, given, ref)


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("change", [explanations.delete, explanations.vote, explanations.unvote])
def test_what_is_not_there_cannot_be_changed(session, change):
    for missing in ("none", "no\0ne", ""):
        with pytest.raises(errors.NotFoundError, match="There is no explanation"):
            change(session, missing)


@pytest.mark.usefixtures("made")
def test_only_its_author_and_admins_change_an_explanation(session, anna, bert):
    see_as(session, anna)
    mine = add(session, "cats")
    see_as(session, bert)
    for change in (lambda: explanations.edit(session, mine, "dogs"), lambda: explanations.delete(session, mine)):
        with pytest.raises(errors.ForbiddenError):
            change()
    see_as(session, NOBODY)
    for act in (explanations.vote, explanations.unvote, explanations.delete):
        with pytest.raises(errors.UnauthorizedError):
            act(session, mine)
    with pytest.raises(errors.UnauthorizedError):
        add(session, "birds")
    see_as(session, anna)
    assert explanations.edit(session, mine, " dogs ").description == "dogs"
    see_as(session, access.OPERATOR)
    assert explanations.edit(session, mine, "birds").author == "anna"
    assert explanations.delete(session, mine).description == "birds"
    assert explanations.of_feature(session, REF) == ()


@pytest.mark.usefixtures("made")
def test_other_words_lose_what_was_measured_of_the_old(session):
    mine = add(session, "cats")
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    measured = {
        "updated_at": long_ago,
        "score_v1": 0.5,
        "score_v2": 0.25,
        "umap_x": 1.0,
        "embedding": [0.5],
        "embedding_model": "m",
    }
    session.execute(update(Explanation).where(Explanation.id == mine).values(**measured))
    session.execute(insert(ExplanationScore).values(id="s", explanation_id=mine, value=0.75, details='{"a": 1}'))
    same = explanations.edit(session, mine, "cats")
    assert (same.score_v1, same.score_v2, same.umap_x) == (0.5, 0.25, 1.0)
    assert [(score.id, score.value, score.details) for score in same.scores] == [("s", 0.75, '{"a": 1}')]
    edited = explanations.edit(session, mine, "dogs")
    assert (edited.score_v1, edited.score_v2, edited.umap_x, edited.scores) == (None, None, None, ())
    assert session.scalar(select(Explanation.embedding)) is None
    assert same.updated_at == long_ago < edited.updated_at


@pytest.mark.usefixtures("made")
def test_a_person_has_one_vote(session, anna, bert):
    mine = add(session, "cats")
    for viewer in (anna, anna, bert):
        see_as(session, viewer)
        voted = explanations.vote(session, mine)
    assert (voted.n_votes, voted.has_vote_of(anna.account_id), voted.has_vote_of(None)) == (2, True, False)
    assert [vote.account_id for vote in voted.votes] == [anna.account_id, bert.account_id]
    for n_left in (1, 1):
        assert explanations.unvote(session, mine).n_votes == n_left
    see_as(session, access.OPERATOR)
    explanations.vote(session, mine)
    assert explanations.vote(session, mine).has_vote_of(None)
    assert explanations.unvote(session, mine).n_votes == 1


@pytest.mark.usefixtures("made")
def test_the_best_comes_first(session, anna, bert):
    ids = {name: add(session, name) for name in ("old", "new", "scored", "scored twice", "voted")}
    scores = {
        "old": {"created_at": datetime(2020, 1, 1, tzinfo=UTC)},
        "scored": {"score_v1": 0.9},
        "scored twice": {"score_v1": 0.1, "score_v2": 0.2},
    }
    for name, given in scores.items():
        session.execute(update(Explanation).where(Explanation.id == ids[name]).values(**given))
    see_as(session, bert)
    explanations.vote(session, ids["voted"])
    see_as(session, access.OPERATOR)
    order = ["voted", "scored twice", "scored", "new", "old"]
    assert words(explanations.of_feature(session, REF)) == order
    assert words(explanations.of_features(session, [REF])[REF]) == order
    assert explanations.headlines(session, [REF]) == {REF: "voted"}


def test_many_features_of_many_models_take_one_statement(session, connection, made):
    hosted.host(session, model="other-model", source="2-other")
    refs = [REF, FeatureRef(MODEL, SOURCE, SINGLE), FeatureRef("other-model", "2-other", RICH)]
    for ref in refs:
        add(session, str(ref), ref)
    absent = [FeatureRef(MODEL, SOURCE, 3), FeatureRef("none", "none", 1), FeatureRef(MODEL, "2-other", RICH)]
    with statements(connection) as seen:
        found = explanations.of_features(session, [*refs, *absent])
        said = explanations.headlines(session, [*refs, *absent])
    assert len(seen) == 2
    assert {ref: words(each) for ref, each in found.items()} == {ref: [str(ref)] for ref in refs}
    assert said == {ref: str(ref) for ref in refs}
    with statements(connection) as seen:
        assert explanations.of_features(session, []) == explanations.headlines(session, []) == {}
    assert not seen


def test_who_may_not_see_a_source_sees_none_of_its_explanations(session, made, anna):
    mine = add(session, "cats")
    by_kind = {"public": True, "unlisted": True, "private": False}
    for kind, is_seen in by_kind.items():
        session.execute(update(Source).where(Source.id == made.source_id).values(visibility=kind))
        for viewer in (NOBODY, anna):
            see_as(session, viewer)
            assert bool(explanations.of_feature(session, REF)) is is_seen
            assert bool(explanations.of_features(session, [REF])) is is_seen
            assert bool(explanations.headlines(session, [REF])) is is_seen
            assert len(session.scalars(select(Explanation.id)).all()) == (kind == "public")
            if not is_seen:
                with pytest.raises(errors.NotFoundError):
                    explanations.get(session, mine)
        see_as(session, access.OPERATOR)


def test_explanations_go_with_their_source_and_stay_without_their_author(session, made, anna):
    see_as(session, anna)
    mine = add(session, "cats")
    explanations.vote(session, mine)
    see_as(session, access.OPERATOR)
    session.delete(session.get(Account, anna.account_id))
    session.flush()
    left = explanations.get(session, mine)
    assert (left.author_id, left.author, left.votes) == (None, "", ())
    session.execute(update(Source).where(Source.id == made.source_id).values(model_id=None))
    with pytest.raises(errors.NotFoundError):
        explanations.get(session, mine)
    explanations_left = select(func.count()).select_from(Explanation)
    session.execute(Source.__table__.delete().where(Source.id == made.source_id))
    assert session.scalar(explanations_left) == session.scalar(select(func.count()).select_from(ExplanationVote)) == 0
