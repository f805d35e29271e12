"""Sources that were imported: what cannot be done with them, and how they get their weights."""

import pytest
from sqlalchemy import select, update

from backend import errors, storage
from backend.db.tables import Account, Model, Source
from backend.services import catalog, disk, hosting, inference, jobs, removal, rerun, steer_presets
from backend.services.access import OPERATOR, Viewer
from backend.settings import Settings
from tests import hosted, tiny
from tests.hosted import HOOK_POINT, MODEL, SOURCE

SAE = {
    "hook_point": HOOK_POINT, "architecture": "topk", "d_in": 16, "d_sae": 6, "weights": "/saes/new", "config": {"k": 4},
}  # fmt: skip


@pytest.fixture
def bare(session):
    """A source with dashboards and without weights."""
    made = hosted.host(session)
    unknown = {"weights": None, "hook_point": "", "architecture": "", "d_in": 0}
    session.execute(update(Source).where(Source.id == made.source_id).values(**unknown))
    return made


def test_nothing_is_run_without_weights(session, bare):
    with pytest.raises(errors.UnsupportedError, match=f"No weights of '{MODEL}/{SOURCE}' are known.*eyepiece add"):
        inference.places(session, MODEL, [SOURCE])
    with pytest.raises(errors.UnsupportedError, match="No weights of"):
        inference.places_of_set(session, MODEL, "tiny-sae")
    with pytest.raises(errors.UnsupportedError, match=f"no weights of {MODEL}/{SOURCE} are known"):
        jobs.create(session, [bare.source_id], {})
    with pytest.raises(errors.UnsupportedError, match="no weights of"):
        rerun.rerun(session, MODEL, [SOURCE], {"corpus": "x"})
    assert [each for each in steer_presets.of_model(session, MODEL).presets if not each.is_own_vector] == []


def test_the_others_of_a_set_are_run(session, bare):
    hosted.add_source(session, source="3-tiny-sae")
    assert list(inference.places_of_set(session, MODEL, "tiny-sae").sources) == ["3-tiny-sae"]


def test_a_model_without_weights_answers_nothing(session, bare):
    session.execute(update(Model).values(weights=None))
    with pytest.raises(errors.UnsupportedError, match=f"the model '{MODEL}'"):
        inference.places(session, MODEL)
    session.execute(update(Source).values(weights="/saes/x"))
    with pytest.raises(errors.UnsupportedError, match="are known"):
        jobs.create(session, [bare.source_id], {})


def test_its_dashboards_are_read_counted_and_deleted(session, bare, tmp_path):
    view = catalog.source(session, MODEL, SOURCE)
    assert (view.has_weights, view.revision_id, view.n_dead) == (False, bare.revision_id, 2)
    assert not catalog.model(session, MODEL).is_searchable
    store = storage.store(Settings(data=tmp_path))
    assert disk.of_source(session, MODEL, SOURCE, store).weights == 0
    removal.remove(session, MODEL, SOURCE)
    while removal.clear_step(session, store):
        pass
    assert session.scalars(select(Source.id)).all() == []


def test_weights_that_are_attached_keep_the_dashboards(session, bare):
    assert catalog.add_source(session, MODEL, SOURCE, **SAE) == bare.source_id
    view = catalog.source(session, MODEL, SOURCE)
    assert (view.has_weights, view.revision_id, view.hook_point, view.d_in) == (True, bare.revision_id, HOOK_POINT, 16)
    assert inference.places(session, MODEL, [SOURCE]).sources[SOURCE].weights == "/saes/new"


@pytest.mark.parametrize(
    ("known", "sae", "says"),
    [
        ({}, {"d_sae": 5}, "has a feature 5, and this SAE has 0 to 4"),
        ({"hook_point": "blocks.1.hook_mlp_out"}, {}, "is at blocks.1.hook_mlp_out"),
        ({"d_in": 8}, {}, "reads 8 numbers, and this SAE 16"),
    ],
)
def test_weights_of_another_sae_are_refused(session, bare, known, sae, says):
    if known:
        session.execute(update(Source).values(**known))
    with pytest.raises(errors.ConflictError, match=says):
        catalog.add_source(session, MODEL, SOURCE, **SAE | sae)


def test_a_larger_sae_than_its_import_is_taken(session, bare):
    catalog.add_source(session, MODEL, SOURCE, **SAE | {"d_sae": 600})
    assert catalog.source(session, MODEL, SOURCE).d_sae == 600


def test_a_source_without_dashboards_takes_any_weights(session, bare):
    session.execute(update(Source).values(revision_id=None, d_sae=99, hook_point="blocks.1.hook_mlp_out"))
    catalog.add_source(session, MODEL, SOURCE, **SAE)
    assert catalog.source(session, MODEL, SOURCE).d_sae == 6


def test_only_its_owner_attaches_weights(session, bare):
    account = Account(name="somebody", password_hash="")
    session.add(account)
    session.flush()
    somebody = Viewer(account.id, "somebody", frozenset({"read", "write"}))
    with pytest.raises(errors.ForbiddenError, match="somebody else"):
        catalog.add_source(session, MODEL, SOURCE, **SAE, claim=catalog.Claim(somebody))


def test_an_sae_is_hosted_without_a_job(session, bare, tmp_path):
    folder = tiny.save_sae(tmp_path / SOURCE, d_sae=64, metadata={"hook_name": "blocks.2.hook_resid_post"})
    made = hosting.host(
        session, OPERATOR, MODEL, [hosting.Sae(str(folder), folder)], hosting.Wish({}, SOURCE, is_computed=False)
    )
    assert made == hosting.Hosted(None, (f"{MODEL}/{SOURCE}",))
    assert catalog.source(session, MODEL, SOURCE).revision_id == bare.revision_id
    assert jobs.latest(session) == ()


def test_an_sae_needs_the_weights_of_its_model(session, bare, tmp_path):
    session.execute(update(Model).values(weights=None))
    folder = tiny.save_sae(tmp_path / SOURCE, d_sae=64, metadata={"hook_name": "blocks.2.hook_resid_post"})
    wish = hosting.Wish({}, SOURCE, is_computed=False)
    with pytest.raises(errors.UnsupportedError, match=f"No weights of the model '{MODEL}'"):
        hosting.host(session, OPERATOR, MODEL, [hosting.Sae(str(folder), folder)], wish)
    assert hosting.add_model(session, OPERATOR, "org/some-model", MODEL) == MODEL
    assert catalog.model_facts(session, MODEL).weights == "org/some-model"
    assert hosting.host(session, OPERATOR, MODEL, [hosting.Sae(str(folder), folder)], wish).job_id is None
