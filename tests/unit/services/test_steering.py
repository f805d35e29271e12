"""What a steering request means, and the runs that are kept."""

from dataclasses import replace

import pytest
from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Account, Feature, Model, Source, SteerRun
from backend.formats.messages import Generated, GeneratedToken, Sampling, SteerReply, Turn
from backend.services import catalog, removal, steer_presets, steering, visibility
from backend.services.access import NOBODY, OPERATOR, Viewer
from backend.services.steering import Asked, SteeredFeature
from tests import hosted
from tests.database import statements
from tests.hosted import MODEL, RICH, SOURCE

ASKED = Asked(
    kind="completion", model=MODEL, prompt="The cat", features=(SteeredFeature(source=SOURCE, index=RICH, strength=2.0),),
    sampling=Sampling(n_tokens=4),
)  # fmt: skip


@pytest.fixture
def made(session):
    return hosted.host(session)


@pytest.fixture
def somebody(session) -> Viewer:
    account = session.scalar(insert(Account).values(name="somebody", password_hash="x").returning(Account.id))
    return Viewer(account, "somebody", frozenset({"read", "write"}))


def text(*tokens: str, is_done: bool = True) -> Generated:
    return Generated("The cat", "".join(tokens), tuple(GeneratedToken(each, -1.0) for each in tokens), is_done)


def answer(*tokens: str, is_done: bool = True) -> SteerReply:
    return SteerReply(
        id="q", steered=text(*tokens, is_done=is_done), default=text("x", is_done=is_done), is_done=is_done
    )


def keep(session: Session, asked: Asked = ASKED, *, n_kept: int = 10) -> str:
    run_id = steering.save(session, steering.question(session, asked), answer(" sat"), n_kept=n_kept)
    assert run_id is not None
    return run_id


def test_streamed_tokens_are_put_together():
    first, last = answer("a", is_done=False), answer("b", "c")
    whole = steering.joined(steering.joined(None, first), last)
    assert [token.token for token in whole.steered.tokens] == ["a", "b", "c"]
    assert [token.token for token in whole.default.tokens] == ["x", "x"]
    assert (whole.steered.text, whole.is_done) == ("bc", True), "the text is told whole each time"


@pytest.mark.usefixtures("made")
def test_a_run_is_kept_as_it_was(session):
    asked = replace(
        ASKED, kind="chat", prompt="", steered_chat=(Turn(role="user", content="a\0b"),), method="CLAMP",
        strength_multiplier=0.5,
    )  # fmt: skip
    question = steering.question(session, asked)
    run_id = steering.save(session, question, answer(" sat", "\0"), n_kept=10)
    run = steering.load(session, run_id)
    assert (run.id, run.owner_id, run.asked, run.answer) == (run_id, None, asked, answer(" sat", "\0"))
    assert steering.find(session, question) == run


@pytest.mark.usefixtures("made")
def test_asked_twice_at_once_there_is_one_run(session):
    question = steering.question(session, ASKED)
    ids = {steering.save(session, question, answer(" sat"), n_kept=10) for _ in range(2)}
    assert len(ids) == session.scalar(select(func.count()).select_from(SteerRun)) == 1


@pytest.mark.usefixtures("made")
def test_each_keeps_their_newest_runs(session, somebody):
    kept: dict[int | None, list[str]] = {}
    for viewer in (NOBODY, somebody):
        visibility.see_as(session, viewer)
        asked = [replace(ASKED, prompt=str(i)) for i in range(4)]
        kept[viewer.account_id] = [keep(session, each, n_kept=2) for each in asked][-2:]
    visibility.see_as(session, OPERATOR)
    for owner_id, ids in kept.items():
        assert set(session.scalars(select(SteerRun.id).where(SteerRun.owner_id == owner_id))) == set(ids)


@pytest.mark.usefixtures("made")
def test_runs_that_one_may_not_see_any_more_count_too(session, somebody):
    visibility.see_as(session, somebody)
    hidden = keep(session)
    session.execute(visibility.unrestricted(update(Source).values(visibility="private")))
    hosted.add_source(session, source="3-open")
    keep(session, replace(ASKED, features=(SteeredFeature(source="3-open", index=0, strength=1.0),)), n_kept=1)
    with pytest.raises(errors.NotFoundError):
        steering.load(session, hidden)
    visibility.see_as(session, OPERATOR)
    assert session.get(SteerRun, hidden) is None


def test_what_was_deleted_meanwhile_leaves_no_run(session, made):
    question = steering.question(session, ASKED)
    removal.remove(session, MODEL, SOURCE)
    assert steering.save(session, question, answer(" sat"), n_kept=10) is None
    bare = steering.question(session, replace(ASKED, features=()))
    session.delete(session.get_one(Model, MODEL))
    session.flush()
    assert steering.save(session, bare, answer(" sat"), n_kept=10) is None


@pytest.mark.usefixtures("made")
def test_runs_go_with_their_source_and_with_their_model(session):
    hosted.add_source(session, source="3-other")
    features = (SteeredFeature(source="3-other", index=0, strength=1.0), *ASKED.features)
    gone = [keep(session), keep(session, replace(ASKED, features=features))]
    stays = keep(session, replace(ASKED, features=features[:1]))
    removal.remove(session, MODEL, SOURCE)
    for run_id in gone:
        with pytest.raises(errors.NotFoundError):
            steering.load(session, run_id)
    assert steering.load(session, stays).id == stays
    session.delete(session.get_one(Model, MODEL))
    session.flush()
    assert session.scalars(select(SteerRun.id)).all() == []


@pytest.mark.usefixtures("made")
def test_runs_and_vectors_go_with_their_account(session, somebody):
    visibility.see_as(session, somebody)
    keep(session)
    visibility.see_as(session, OPERATOR)
    session.delete(session.get_one(Account, somebody.account_id))
    session.flush()
    assert session.scalars(select(SteerRun.id)).all() == []


@pytest.mark.usefixtures("made")
def test_the_key_tells_what_was_asked_of_which_rows(session):
    keys = {steering.question(session, ASKED).key}
    for changed in (
        {"kind": "chat"}, {"prompt": "x"}, {"steered_chat": (Turn(role="user", content="x"),)},
        {"default_chat": (Turn(role="user", content="x"),)}, {"features": ()}, {"method": "ABLATE"},
        {"strength_multiplier": 2.0}, {"are_special_tokens_pushed": False}, {"sampling": Sampling(n_tokens=5)},
    ):  # fmt: skip
        keys.add(steering.question(session, replace(ASKED, **changed)).key)
    session.execute(update(Source).values(weights="/saes/other"))
    keys.add(steering.question(session, ASKED).key)
    assert len(keys) == 11
    assert steering.question(session, ASKED).key in keys


@pytest.mark.usefixtures("made")
def test_many_features_are_asked_about_in_as_few_statements_as_one(session, connection):
    features = tuple(SteeredFeature(source=SOURCE, index=i, strength=1.0) for i in (1, 2, 3, 5))
    asked = replace(ASKED, features=features, method="CLAMP")
    session.flush()
    with statements(connection) as seen:
        assert len(steering.question(session, asked).pushes) == 4
    assert len(seen) == 3, "vectors, the model and its sources, largest activations"


# --- presets -------------------------------------------------------------------------------------------------------


def preset_rows(session, revision_id: int, rows: list[dict]) -> None:
    usual = {
        "n_firings": 100, "density": 0.001, "max_activation": 4.0, "mean_activation": 1.0, "logit_kurtosis": 10.0,
        "fires_on": [" sat"], "token_texts": "",
    }  # fmt: skip
    every = [usual | {"revision_id": revision_id, "index": 100 + i} | row for i, row in enumerate(rows)]
    session.execute(insert(Feature), every)


def test_presets_are_clear_features_of_distinct_words(session, made):
    rows = [
        {"promotes": [" word"], "logit_kurtosis": 20.0},
        {"promotes": [" Word", " words"], "logit_kurtosis": 30.0, "max_activation": 41.7},
        {"promotes": ["##"], "logit_kurtosis": 40.0},
        {"promotes": [" of"], "logit_kurtosis": 40.0},
        {"promotes": []},
        {"promotes": [" dense"], "density": 0.02},
        {"promotes": [" rare"], "n_firings": 3},
        {"promotes": [" unknown"], "logit_kurtosis": None},
        {"promotes": [" tiny"], "max_activation": 0.0123},
        {"promotes": [" last"], "logit_kurtosis": 5.0},
        {"promotes": [" toomany"], "logit_kurtosis": 4.0},
    ]
    preset_rows(session, made.revision_id, rows)
    found = steer_presets.of_model(session, MODEL)
    assert [(each.name, each.features[0].index, each.features[0].strength) for each in found.presets] == [
        ("Word, words", 101, 130), ("tiny", 108, 0.037), ("last", 109, 12),
    ]  # fmt: skip
    assert found.presets[0].features[0].explanation == "sat"
    assert steer_presets.of_model(session, MODEL) == found


def test_presets_are_of_sources_in_the_middle_that_are_listed(session, made):
    session.execute(update(Source).where(Source.id == made.source_id).values(layer=3))
    for layer in range(4):
        source_id = hosted.add_source(session, source=f"{layer}-x")
        session.execute(update(Source).where(Source.id == source_id).values(layer=layer))
        revision_id = hosted.add_revision(session, source_id, made.corpus_id)
        preset_rows(session, revision_id, [{"promotes": [f"{'word' * (layer + 1)}"]}])

    def sources() -> list[str]:
        return [each.features[0].source for each in steer_presets.of_model(session, MODEL).presets]

    assert sources() == ["1-x", "2-x", "0-x"]
    session.execute(update(Source).where(Source.name == "1-x").values(architecture="neurons"))
    session.execute(update(Source).where(Source.name == "2-x").values(visibility="unlisted"))
    visibility.see_as(session, NOBODY)
    assert sources() == ["0-x", "3-x"]


def test_presets_of_a_model_one_may_not_see_are_not_there(session, made):
    session.execute(update(Source).where(Source.id == made.source_id).values(visibility="private"))
    catalog.add_model(session, "bare", "/models/bare")
    visibility.see_as(session, NOBODY)
    for model in (MODEL, "bare", "none"):
        with pytest.raises(errors.NotFoundError):
            steer_presets.of_model(session, model)
