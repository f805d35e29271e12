import pytest
from sqlalchemy import func, select, update

from backend import errors
from backend.db.tables import Model, Revision, Source, SourceSet
from backend.services import catalog
from tests import hosted
from tests.database import statements
from tests.hosted import HOOK_POINT, MODEL, SOURCE, TEXTS

FACTS = {
    "hook_point": "blocks.3.attn.hook_z", "architecture": "jumprelu", "d_in": 8, "d_sae": 32, "weights": "/saes/a",
    "config": {"a": 1},
}  # fmt: skip


def test_a_source_shows_its_revision_and_corpus(session):
    made = hosted.host(session)
    view = catalog.source(session, MODEL, SOURCE)
    assert (view.model, view.name, view.set_name, view.layer) == (MODEL, SOURCE, "tiny-sae", 2)
    assert (view.hook_point, view.architecture, view.d_in, view.d_sae) == (HOOK_POINT, "topk", 16, 6)
    assert (view.revision_id, view.corpus, view.n_corpus_tokens) == (made.revision_id, "some text", 10_000)
    assert (view.n_corpus_contexts, view.context_size, view.n_alive, view.n_firings) == (60, 8, 4, 5000)
    assert (view.density_low, view.density_high, view.density_counts) == (-4.0, 0.0, (1, 0, 3, 0))
    assert view.mean_l0 == 0.5
    assert view.computed_at is not None


def test_a_source_not_yet_computed_has_its_facts_only(session):
    catalog.add_model(session, MODEL, "/m")
    hosted.add_source(session)
    view = catalog.source(session, MODEL, SOURCE)
    assert (view.revision_id, view.computed_at, view.mean_l0, view.density_counts) == (None, None, 0.0, ())
    with pytest.raises(errors.NotFoundError, match="not computed yet"):
        catalog.readable_source(session, MODEL, SOURCE)


def test_a_source_read_twice_in_one_session_shows_a_new_revision(session):
    made = hosted.host(session)
    session.get_one(Source, made.source_id)
    new = hosted.add_revision(session, made.source_id, made.corpus_id)
    assert catalog.source(session, MODEL, SOURCE).revision_id == new


@pytest.mark.parametrize(("model", "source"), [(MODEL, "3-x"), ("other", SOURCE), ("a\0b", SOURCE), (MODEL, "\0")])
def test_a_source_that_is_not_hosted_is_not_found(session, model, source):
    hosted.host(session)
    with pytest.raises(errors.NotFoundError):
        catalog.source(session, model, source)


def test_sources_that_are_named_are_found_in_one_statement(session):
    hosted.host(session)
    hosted.add_source(session, source="1-other")
    with statements(session.connection()) as seen:
        found = catalog.sources_named(session, MODEL, {SOURCE, "1-other", "9-none", "\0"})
    assert len(seen) == 1
    assert found == (catalog.source(session, MODEL, "1-other"), catalog.source(session, MODEL, SOURCE))
    assert catalog.sources_named(session, MODEL, ()) == catalog.sources_named(session, "none", {SOURCE}) == ()


def test_models_come_by_id_with_their_sources_by_layer_and_name(session):
    hosted.host(session, model="b")
    catalog.add_model(session, "a", "/a")
    for name, layer in (("10-x", 10), ("2-z", 2), ("2-y", 2)):
        catalog.add_source(session, "a", name, **FACTS | {"hook_point": f"blocks.{layer}.hook_mlp_out"})
    with statements(session.connection()) as seen:
        found = catalog.models(session)
    assert [(model.id, [source.name for source in model.sources]) for model in found] == [
        ("a", ["2-y", "2-z", "10-x"]),
        ("b", [SOURCE]),
    ]
    assert len(seen) == 2
    assert catalog.model(session, "a") == found[0]
    assert (found[1].architecture, found[1].n_layers, found[1].d_model, found[1].n_context) == ("gpt2", 4, 16, 8)


def test_a_model_that_is_not_hosted_is_not_found(session):
    with pytest.raises(errors.NotFoundError, match="'none'"):
        catalog.model(session, "none")


def test_a_source_set_has_the_sources_of_one_recipe(session):
    hosted.host(session)
    hosted.add_source(session, source="3-tiny-sae__narrow")
    hosted.add_source(session, source="3-another")
    found = catalog.source_set(session, MODEL, "tiny-sae")
    assert [source.name for source in found.sources] == [SOURCE, "3-tiny-sae__narrow"]
    assert (found.model, found.name, found.description) == (MODEL, "tiny-sae", "")
    assert [each.name for each in catalog.source_sets(session)] == ["another", "tiny-sae"]
    with pytest.raises(errors.NotFoundError, match="no source set"):
        catalog.source_set(session, MODEL, "none")


def test_the_origin_of_a_source_is_its_model_and_set(session):
    hosted.host(session)
    view = catalog.source(session, MODEL, SOURCE)
    with statements(session.connection()) as seen:
        model, source_set = catalog.origin(session, view)
    assert len(seen) == 1
    assert (model.id, model.display_name, model.d_model) == (MODEL, "A tiny model", 16)
    assert (source_set.model, source_set.name) == (MODEL, "tiny-sae")
    whole = catalog.source_set(session, MODEL, "tiny-sae")
    assert (source_set.description, source_set.created_at) == (whole.description, whole.created_at)


def test_a_vocabulary_is_read_once(session):
    vocabulary_id = hosted.add_vocabulary(session, TEXTS)
    with statements(session.connection()) as seen:
        assert catalog.vocabulary(session, vocabulary_id) == TEXTS
        assert catalog.vocabulary(session, vocabulary_id) is catalog.vocabulary(session, vocabulary_id)
    assert len(seen) == 1


def test_the_vocabulary_used_longest_ago_is_forgotten(session):
    first, *others = (hosted.add_vocabulary(session, (str(n),)) for n in range(catalog.N_CACHED_VOCABULARIES + 1))
    for vocabulary_id in (first, *others[:-1], first, others[-1]):
        catalog.vocabulary(session, vocabulary_id)
    with statements(session.connection()) as seen:
        catalog.vocabulary(session, first)
        catalog.vocabulary(session, others[0])
    assert len(seen) == 1


def test_a_model_registered_again_moves_and_keeps_its_name(session):
    catalog.add_model(session, "m", "/old", display_name="M")
    catalog.add_model(session, "m", "/new")
    assert session.execute(select(Model.weights, Model.display_name)).all() == [("/new", "M")]
    catalog.add_model(session, "m", "/new", display_name="N")
    assert catalog.model(session, "m").display_name == "N"


def test_a_model_without_a_display_name_shows_its_id(session):
    catalog.add_model(session, "m", "/m")
    assert catalog.model(session, "m").display_name == "m"


@pytest.mark.parametrize("bad", ["", "a/b", "api", "é", "-a"])
def test_ids_that_could_not_be_a_url_are_refused(session, bad):
    with pytest.raises(errors.InvalidInputError):
        catalog.add_model(session, bad, "/m")
    catalog.add_model(session, "m", "/m")
    with pytest.raises(errors.InvalidInputError):
        catalog.add_source(session, "m", bad, **FACTS)


def test_registering_a_source_makes_its_set_once(session):
    catalog.add_model(session, "m", "/m")
    one = catalog.add_source(session, "m", "3-res__l0-5", **FACTS)
    two = catalog.add_source(session, "m", "4-res", **FACTS | {"hook_point": "blocks.4.attn.hook_z"})
    assert one != two
    assert session.execute(select(SourceSet.name)).scalars().all() == ["res"]
    assert [(s.layer, s.set_name) for s in catalog.model(session, "m").sources] == [(3, "res"), (4, "res")]


def test_the_same_weights_registered_again_update_the_row(session):
    catalog.add_model(session, "m", "/m")
    one = catalog.add_source(session, "m", "3-res", **FACTS)
    two = catalog.add_source(
        session, "m", "3-res", **FACTS | {"hook_point": "blocks.1.hook_mlp_out", "config": {"b": 2}}
    )
    view = catalog.source(session, "m", "3-res")
    assert one == two
    assert (view.hook_point, view.layer, view.config) == ("blocks.1.hook_mlp_out", 1, {"b": 2})
    assert session.execute(select(func.count()).select_from(Source)).scalar_one() == 1


def test_an_id_is_not_given_to_other_weights(session):
    catalog.add_model(session, "m", "/m")
    catalog.add_source(session, "m", "3-res", **FACTS)
    with pytest.raises(errors.ConflictError, match="/saes/a"):
        catalog.add_source(session, "m", "3-res", **FACTS | {"weights": "/saes/b"})


def test_weights_that_changed_do_not_keep_the_old_dashboards(session):
    hosted.host(session)
    same = {"weights": f"/saes/{SOURCE}", "hook_point": HOOK_POINT, "d_in": 16, "d_sae": hosted.D_SAE}
    catalog.add_source(session, MODEL, SOURCE, **FACTS | same)
    with pytest.raises(errors.ConflictError, match="has dashboards"):
        catalog.add_source(session, MODEL, SOURCE, **FACTS | same | {"d_sae": 7})


def test_a_source_needs_a_hosted_model_and_a_hook_point(session):
    with pytest.raises(errors.NotFoundError, match="'m'"):
        catalog.add_source(session, "m", "3-res", **FACTS)
    catalog.add_model(session, "m", "/m")
    with pytest.raises(errors.InvalidInputError, match="hook point"):
        catalog.add_source(session, "m", "3-res", **FACTS | {"hook_point": "layers.3"})


def test_deleting_a_revision_leaves_the_source_without_dashboards(session):
    made = hosted.host(session)
    session.execute(update(Source).values(revision_id=made.revision_id))
    session.execute(Revision.__table__.delete().where(Revision.id == made.revision_id))
    assert catalog.source(session, MODEL, SOURCE).revision_id is None
