import pytest
from sqlalchemy import select, update

from backend import errors
from backend.db.tables import Account, Model, Release, Source, SourceSet
from backend.services import access, catalog, given_catalog, visibility
from backend.services.access import OPERATOR, Viewer
from tests import hosted
from tests.hosted import MODEL, SOURCE

BARE = {"id": "2-bare", "modelId": MODEL, "setName": "bare", "notes": "a\0b", "num_prompts": 7, "dataset": None}


def somebody(session, name: str) -> Viewer:
    account = Account(name=name, password_hash="")
    session.add(account)
    session.flush()
    return Viewer(account.id, name, frozenset({"read", "write"}))


def row_of(session, table, **key):
    return session.scalars(select(table).filter_by(**key).execution_options(populate_existing=True)).one()


@pytest.fixture
def made(session):
    return hosted.host(session)


def test_a_bare_model_has_what_its_row_says(session):
    row = {"id": "some-model", "displayName": "Some model", "layers": 12, "dimension": 768, "owner": "Somebody"}
    assert given_catalog.put_model(session, OPERATOR, row | {"visibility": "PRIVATE", "tlensId": None}) == "some-model"
    found = row_of(session, Model, id="some-model")
    assert (found.weights, found.display_name, found.n_layers, found.d_model) == (None, "Some model", 12, 768)
    assert found.given == {key: row[key] for key in ("displayName", "layers", "dimension", "owner")}


def test_putting_a_model_again_adds_to_what_is_known(session):
    given_catalog.put_model(session, OPERATOR, {"id": "m", "owner": "a", "website": "https://a.example"})
    given_catalog.put_model(session, OPERATOR, {"id": "m", "owner": "b", "layers": 0, "neuronsPerLayer": 0})
    assert row_of(session, Model, id="m").given == {"owner": "b", "website": "https://a.example"}


def test_a_hosted_model_keeps_its_own_facts(session, made):
    given_catalog.put_model(session, OPERATOR, {"id": MODEL, "layers": 99, "owner": "Somebody"})
    found = row_of(session, Model, id=MODEL)
    assert (found.weights, found.n_layers, found.given["owner"]) == (f"/models/{MODEL}", 4, "Somebody")


def test_what_somebody_else_has_put_is_left_as_it_is(session):
    one, other = somebody(session, "one"), somebody(session, "other")
    given_catalog.put_model(session, one, {"id": "m", "owner": "one"})
    given_catalog.put_release(session, one, {"name": "r", "description": "one"})
    given_catalog.put_source(session, one, {"modelId": "m", "id": "0-s"})
    given_catalog.put_source_set(session, one, {"modelId": "m", "name": "s", "description": "one"})
    assert given_catalog.put_model(session, other, {"id": "m", "owner": "other"}) == "m"
    assert given_catalog.put_release(session, other, {"name": "r", "description": "other"}) == "r"
    given_catalog.put_source_set(session, other, {"modelId": "m", "name": "s", "description": "other"})
    with pytest.raises(errors.ForbiddenError, match="somebody else"):
        given_catalog.put_source(session, other, {"modelId": "m", "id": "0-s"})
    assert row_of(session, Model, id="m").given == {"owner": "one"}
    assert row_of(session, Release, name="r").given == {"description": "one"}
    assert row_of(session, SourceSet, model_id="m", name="s").description == "one"


def test_nobody_puts_anything(session):
    for put in (
        given_catalog.put_release, given_catalog.put_model, given_catalog.put_source_set, given_catalog.put_source,
    ):  # fmt: skip
        with pytest.raises(errors.UnauthorizedError):
            put(session, access.NOBODY, {"id": "m", "name": "m", "modelId": "m"})


def test_a_source_set_belongs_to_a_release_that_there_is(session, made):
    row = {"modelId": MODEL, "name": "tiny-sae", "releaseName": "r", "type": "Custom"}
    given_catalog.put_source_set(session, OPERATOR, row)
    assert row_of(session, SourceSet, name="tiny-sae").release_name is None
    given_catalog.put_release(session, OPERATOR, {"name": "r"})
    given_catalog.put_source_set(session, OPERATOR, row)
    found = row_of(session, SourceSet, name="tiny-sae")
    assert (found.release_name, found.given["type"]) == ("r", "Custom")


def test_nobody_joins_what_they_do_not_see(session):
    one, other = somebody(session, "one"), somebody(session, "other")
    given_catalog.put_release(session, one, {"name": "r"})
    given_catalog.put_model(session, one, {"id": "m"})
    given_catalog.put_source(session, one, {"modelId": "m", "id": "0-s"}, visibility="private")
    given_catalog.put_source_set(session, one, {"modelId": "m", "name": "s", "releaseName": "r"})
    assert row_of(session, SourceSet, model_id="m", name="s").release_name == "r"
    for put, row in (
        (given_catalog.put_source, {"modelId": "m", "id": "1-t"}),
        (given_catalog.put_source_set, {"modelId": "m", "name": "t"}),
    ):
        with pytest.raises(errors.NotFoundError, match="No model 'm'"):
            put(session, other, row)
    given_catalog.put_model(session, other, {"id": "n"})
    joining = {"modelId": "n", "name": "t", "releaseName": "r"}
    given_catalog.put_source_set(session, other, joining)
    assert row_of(session, SourceSet, model_id="n", name="t").release_name is None
    session.execute(update(Source).values(visibility="public"))
    given_catalog.put_source_set(session, other, joining)
    assert row_of(session, SourceSet, model_id="n", name="t").release_name == "r"


def test_a_release_is_there_for_who_sees_a_source_of_it(session):
    one, other = somebody(session, "one"), somebody(session, "other")
    given_catalog.put_release(session, one, {"name": "r", "featured": True})
    given_catalog.put_model(session, one, {"id": "m"})
    source_id = given_catalog.put_source(session, one, {"modelId": "m", "id": "0-s"}, visibility="private")
    given_catalog.put_source_set(session, one, {"modelId": "m", "name": "s", "releaseName": "r"})
    found = {}
    for kind in ("private", "unlisted", "public"):
        session.execute(update(Source).where(Source.id == source_id).values(visibility=kind))
        for viewer in (one, other):
            visibility.see_as(session, viewer)
            found[kind, viewer.name] = (len(catalog.releases(session)), catalog.release(session, "r") is not None)
        visibility.see_as(session, OPERATOR)
    assert found == {
        ("private", "one"): (1, True), ("private", "other"): (0, False),
        ("unlisted", "one"): (1, True), ("unlisted", "other"): (0, True),
        ("public", "one"): (1, True), ("public", "other"): (1, True),
    }  # fmt: skip
    (release,) = catalog.releases(session)
    assert release.given == {"featured": True}


def test_a_source_set_is_made_with_a_source_for_each_layer(session):
    one, other = somebody(session, "one"), somebody(session, "other")
    given_catalog.new_model(session, one, {"id": "m", "layers": 2})
    given_catalog.new_source_set(session, one, {"modelId": "m", "name": "a-b", "description": "x"})
    found = catalog.source_set(session, "m", "a-b")
    assert [(s.name, s.layer, s.visibility, s.owner_id) for s in found.sources] == [
        ("0-a-b", 0, "unlisted", one.account_id), ("1-a-b", 1, "unlisted", one.account_id),
    ]  # fmt: skip
    for again in ({"modelId": "m", "name": "a-b"}, {"modelId": "m", "name": "a-b"}):
        with pytest.raises(errors.ConflictError, match="already"):
            given_catalog.new_source_set(session, one, again)
    with pytest.raises(errors.ConflictError, match="There is a model 'm' already"):
        given_catalog.new_model(session, other, {"id": "m", "layers": 2})
    given_catalog.put_model(session, one, {"id": "n"})
    with pytest.raises(errors.InvalidInputError, match="How many layers 'n' has"):
        given_catalog.new_source_set(session, one, {"modelId": "n", "name": "x"})


def test_a_bare_source_has_what_its_row_says(session, made):
    config = {"hook_name": "x"}
    source_id = given_catalog.put_source(
        session, OPERATOR, BARE | {"saelensConfig": config}, d_sae=12, visibility="unlisted"
    )
    found = row_of(session, Source, id=source_id)
    assert (found.weights, found.hook_point, found.layer, found.set_name) == (None, "", 2, "bare")
    assert (found.d_in, found.d_sae, found.visibility, found.config) == (0, 12, "unlisted", config)
    assert found.given == {"notes": "a b", "num_prompts": 7}
    view = catalog.source(session, MODEL, "2-bare")
    assert (view.kind, view.is_signed, view.label(3), view.has_weights) == ("sae", False, "", False)


def test_putting_a_bare_source_again_keeps_what_is_left_out(session, made):
    hook_point = "blocks.3.hook_resid_pre"
    source_id = given_catalog.put_source(session, OPERATOR, BARE, hook_point=hook_point, d_in=16, d_sae=12)
    assert given_catalog.put_source(session, OPERATOR, {"modelId": MODEL, "id": "2-bare", "notes": "c"}) == source_id
    found = row_of(session, Source, id=source_id)
    assert (found.hook_point, found.layer, found.d_in, found.d_sae) == (hook_point, 3, 16, 12)
    assert (found.visibility, found.given["notes"], found.given["num_prompts"]) == ("public", "c", 7)


def test_a_source_with_weights_keeps_its_sizes(session, made):
    row = {"modelId": MODEL, "id": SOURCE, "hfRepoId": "a/b", "saelensConfig": {}}
    assert (
        given_catalog.put_source(session, OPERATOR, row, hook_point="blocks.0.hook_mlp_out", d_sae=99) == made.source_id
    )
    found = row_of(session, Source, id=made.source_id)
    assert (found.hook_point, found.d_sae, found.config["k"]) == (hosted.HOOK_POINT, 6, 4)
    assert found.given == {"hfRepoId": "a/b"}


@pytest.mark.parametrize(
    ("source", "layer", "set_name"), [("6", 6, "6"), ("e-x", 0, "x"), ("12-x__l0-71", 12, "x"), ("123456-x", 0, "x")]
)
def test_layer_and_set_follow_from_the_id(session, made, source, layer, set_name):
    source_id = given_catalog.put_source(session, OPERATOR, {"modelId": MODEL, "id": source})
    found = row_of(session, Source, id=source_id)
    assert (found.layer, found.set_name) == (layer, set_name)


@pytest.mark.parametrize(
    ("put", "row", "says"),
    [
        ("put_model", {}, "'id' of a model is missing"),
        ("put_model", {"id": True}, "'id' of a model is missing"),
        ("put_model", {"id": "a\0b"}, "cannot be the id of a model"),
        ("put_model", {"id": "api"}, "cannot be the id of a model"),
        ("put_model", {"id": "m", "layers": -1}, "layers is a whole number from 0, not -1"),
        ("put_model", {"id": "m", "layers": "12"}, "layers is a whole number from 0, not '12'"),
        ("put_model", {"id": "m", "dimension": 2**31}, "dimension is a whole number"),
        ("put_model", {"id": "m", "layers": 10_001}, "n_layers of 10001 cannot be"),
        ("put_release", {"name": ["r"]}, "'name' of a release is missing"),
        ("put_source_set", {"modelId": "m"}, "'name' of a source set is missing"),
        ("put_source", {"id": "0-x"}, "'modelId' of a model is missing"),
    ],
)
def test_a_row_that_names_nothing_is_refused(session, put, row, says):
    with pytest.raises(errors.InvalidInputError, match=says):
        getattr(given_catalog, put)(session, OPERATOR, row)


def test_what_belongs_to_no_hosted_model_is_refused(session):
    for put, row in (
        (given_catalog.put_source_set, {"modelId": "none", "name": "x"}),
        (given_catalog.put_source, {"modelId": "none", "id": "0-x"}),
    ):
        with pytest.raises(errors.NotFoundError, match="No model 'none'"):
            put(session, OPERATOR, row)


def test_what_jsonb_cannot_hold_is_replaced(session):
    row = {"name": "r", "a\0": ["\ud800", float("nan"), {"b": float("inf")}, (1, 2.5)]}
    given_catalog.put_release(session, OPERATOR, row)
    assert row_of(session, Release, name="r").given == {"a ": ["?", None, {"b": None}, [1, 2.5]]}
