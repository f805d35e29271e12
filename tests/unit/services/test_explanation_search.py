"""Search by words: what matches, in which order, where, and for whom."""

import pytest
from sqlalchemy import update

from backend import errors
from backend.db.tables import Source
from backend.names import FeatureRef
from backend.services import access, explanation_search, explanations
from backend.services.access import NOBODY
from backend.services.explanation_search import Scope
from backend.services.explanations import NewExplanation
from backend.services.visibility import see_as
from tests import hosted
from tests.database import statements
from tests.hosted import MODEL, SOURCE

EVERYWHERE = Scope()


@pytest.fixture
def made(session):
    return hosted.host(session)


def add(session, words: str, *, model: str = MODEL, source: str = SOURCE, index: int = 1) -> str:
    return explanations.add(session, FeatureRef(model, source, index), NewExplanation(description=words)).id


def found(session, words: str, scope: Scope = EVERYWHERE, **given) -> list[str]:
    page = explanation_search.search(session, words, scope, **given)
    return [each.explanation.description for each in page.results]


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("running", {"runs in a city", "to run"}),
        ("city run", {"runs in a city"}),
        ("city or dog", {"runs in a city", "dogs, not cats"}),
        ('"not cats"', {"dogs, not cats"}),
        ('"cats dogs"', set()),
        ("run -city", {"to run"}),
        ("the of", {"the of words"}),
        ("xyz", set()),
        ("---", set()),
        ('"""', set()),
        ("naïve\0", {"naïve café"}),
    ],
)
def test_words_are_matched_by_stem_and_stop_words_as_written(session, query, expected):
    for words in ("runs in a city", "to run", "dogs, not cats", "the of words", "naïve café"):
        add(session, words)
    assert set(found(session, query)) == expected


@pytest.mark.usefixtures("made")
def test_words_as_written_and_short_descriptions_come_first(session):
    for words in ("a verb of running", "running", "a long text on running and on several other things that are long"):
        add(session, words)
    page = explanation_search.search(session, "running")
    assert [each.explanation.description.split()[0] for each in page.results] == ["running", "a", "a"]
    ranks = [each.rank for each in page.results]
    assert all(0 < rank < 1 for rank in ranks)
    assert ranks == sorted(ranks, reverse=True)


@pytest.mark.usefixtures("made")
def test_pages_hold_every_match_once_and_say_whether_more_follow(session):
    ids = {add(session, "equal words", index=k % hosted.D_SAE) for k in range(45)}
    seen, sizes, offset = [], [], 0
    while True:
        page = explanation_search.search(session, "equal", offset=offset)
        seen += [each.explanation.id for each in page.results]
        sizes.append(len(page.results))
        assert page.next_offset == len(seen)
        if not page.has_more:
            break
        offset = page.next_offset
    assert sizes == [20, 20, 5]
    assert seen == sorted(ids)
    assert not explanation_search.search(session, "equal", n=45).has_more
    assert explanation_search.search(session, "equal", offset=45).results == ()


@pytest.mark.usefixtures("made")
def test_a_scope_says_where(session, connection):
    hosted.host(session, model="other-model", source="1-tiny-sae")
    hosted.add_source(session, source="3-else")
    places = [(MODEL, SOURCE), ("other-model", "1-tiny-sae"), (MODEL, "3-else")]
    for model, source in places:
        add(session, f"cats of {model} {source}", model=model, source=source)
    cases = {
        Scope(): places,
        Scope(MODEL): [places[0], places[2]],
        Scope(MODEL, ("3-else",)): places[2:],
        Scope(MODEL, ("3-else", SOURCE)): [places[0], places[2]],
        Scope(release="tiny-sae"): places[:2],
        Scope("other-model", release="tiny-sae"): places[1:2],
    }
    for scope, expected in cases.items():
        with statements(connection) as seen:
            assert set(found(session, "cats", scope)) == {f"cats of {model} {source}" for model, source in expected}
        assert len(seen) == 1 + bool(scope.model) + bool(scope.release), scope


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(
    ("words", "scope", "error", "said"),
    [
        ("  ab ", Scope(), errors.InvalidInputError, "has 2 characters. Search for 3 to 1,000"),
        ("x" * 1_001, Scope(), errors.InvalidInputError, "1,001 characters"),
        ("cats", Scope("none"), errors.NotFoundError, "No model 'none'"),
        ("cats", Scope(MODEL, ("9-none",)), errors.NotFoundError, "No source '9-none'"),
        ("cats", Scope("", (SOURCE,)), errors.InvalidInputError, "without their model"),
        ("cats", Scope(release="none"), errors.NotFoundError, "No release 'none'"),
        ("cats", Scope(release="no\0ne"), errors.NotFoundError, "No release"),
    ],
)
def test_what_cannot_be_searched_is_said(session, words, scope, error, said):
    with pytest.raises(error, match=said):
        explanation_search.search(session, words, scope)


def test_hidden_explanations_are_left_out_before_a_page_is_cut(session, made):
    other = hosted.add_source(session, source="3-else")
    for k in range(30):
        add(session, f"cats {k}", source="3-else")
    shown = {add(session, "cats and much else that makes it rank lower") for _ in range(25)}
    for kind in ("private", "unlisted"):
        session.execute(update(Source).where(Source.id == other).values(visibility=kind))
        see_as(session, NOBODY)
        first, second = (explanation_search.search(session, "cats", offset=offset) for offset in (0, 20))
        assert (len(first.results), first.has_more) == (20, True)
        assert (len(second.results), second.has_more) == (5, False)
        assert {each.explanation.id for each in (*first.results, *second.results)} == shown
        with pytest.raises(errors.NotFoundError):
            explanation_search.search(session, "cats", Scope(release="else"))
        named = Scope(MODEL, ("3-else",))
        if kind == "unlisted":
            assert len(found(session, "cats", named)) == 20
        else:
            with pytest.raises(errors.NotFoundError):
                explanation_search.search(session, "cats", named)
        see_as(session, access.OPERATOR)
