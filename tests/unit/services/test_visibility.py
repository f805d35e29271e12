"""What a viewer sees: every entity, in lists and by address, as nobody, another user, the owner and an admin."""

import pytest
from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import aliased

from backend import errors
from backend.db.tables import Account, Corpus, Job, JobSource, Model, Source, SourceSet, SteerRun, Upload, Vector
from backend.services import catalog, jobs, kept_index, visibility
from backend.services.access import NOBODY, OPERATOR, Viewer
from tests import hosted

KINDS = ("private", "unlisted", "public")
IN_LISTS = {"nobody": {"public"}, "other": {"public"}, "owner": set(KINDS), "admin": set(KINDS)}
BY_ADDRESS = {
    "nobody": {"public", "unlisted"}, "other": {"public", "unlisted"}, "owner": set(KINDS), "admin": set(KINDS),
}  # fmt: skip


@pytest.fixture
def viewers(session):
    """By name; a model of each kind, with one computed source and one job of it, is the owner's."""
    owner, other = (
        session.scalar(insert(Account).values(name=name, password_hash="x").returning(Account.id))
        for name in ("owner", "other")
    )
    for kind in KINDS:
        made = hosted.host(session, model=f"{kind}-model", source=f"1-{kind}")
        session.execute(update(Source).where(Source.id == made.source_id).values(visibility=kind, owner_id=owner))
        jobs.create(session, [made.source_id], {})
    session.expunge_all()
    read_write = frozenset({"read", "write"})
    return {
        "nobody": NOBODY,
        "other": Viewer(other, "other", read_write),
        "owner": Viewer(owner, "owner", read_write),
        "admin": Viewer(other, "other", read_write | {"admin"}),
    }


@pytest.fixture(params=["nobody", "other", "owner", "admin"])
def who(request, session, viewers):
    visibility.see_as(session, viewers[request.param])
    return request.param


def kinds(texts):
    return {kind for text in texts for kind in KINDS if kind in text}


def test_lists_leave_out_what_is_not_listed(session, who):
    models = catalog.models(session)
    assert kinds(model.id for model in models) == IN_LISTS[who]
    assert kinds(source.name for model in models for source in model.sources) == IN_LISTS[who]
    assert kinds(each.name for each in catalog.source_sets(session)) == IN_LISTS[who]
    assert kinds(source.name for job in jobs.latest(session) for source in job.sources) == IN_LISTS[who]


def test_sources_are_found_by_their_address(session, who):
    for kind in KINDS:
        if kind in BY_ADDRESS[who]:
            view = catalog.readable_source(session, f"{kind}-model", f"1-{kind}").view
            assert catalog.origin(session, view)[0].id == f"{kind}-model"
            assert catalog.quality(session, view.model, view.name) is None
            with pytest.raises(errors.NotFoundError, match="No activation index"):
                kept_index.opened(session, None, view.model, view.name)
        else:
            for find in (catalog.source, catalog.readable_source, catalog.quality):
                with pytest.raises(errors.NotFoundError, match="No source"):
                    find(session, f"{kind}-model", f"1-{kind}")


def test_models_and_sets_without_anything_to_see_are_not_there(session, who):
    for kind in set(KINDS) - IN_LISTS[who]:
        with pytest.raises(errors.NotFoundError):
            catalog.model(session, f"{kind}-model")
        with pytest.raises(errors.NotFoundError):
            catalog.source_set(session, f"{kind}-model", kind)
    for kind in IN_LISTS[who]:
        assert [source.name for source in catalog.model(session, f"{kind}-model").sources] == [f"1-{kind}"]
        assert len(catalog.source_set(session, f"{kind}-model", kind).sources) == 1


@pytest.mark.parametrize("entity", [Source, Model, SourceSet, Corpus, Job])
def test_every_way_to_a_row_follows_the_rule(session, who, entity):
    n = len(IN_LISTS[who])
    other = aliased(entity)
    key = next(iter(entity.__table__.primary_key)).key
    assert len(session.scalars(select(entity)).all()) == n
    assert len(session.execute(select(getattr(entity, key))).all()) == n
    assert session.scalar(select(func.count()).select_from(entity)) == n
    assert len(session.scalars(select(other)).all()) == n
    assert session.scalar(select(func.count()).select_from(select(entity).subquery())) == n


def test_a_row_that_is_hidden_cannot_be_got_or_changed(session, who, viewers):
    visibility.see_as(session, OPERATOR)
    ids = {kind: session.scalar(select(Source.id).where(Source.visibility == kind)) for kind in KINDS}
    visibility.see_as(session, viewers[who])
    session.expunge_all()
    for kind, source_id in ids.items():
        assert (session.get(Source, source_id) is not None) == (kind in IN_LISTS[who])
        changed = session.execute(update(Source).where(Source.id == source_id).values(layer=7))
        assert changed.rowcount == (kind in IN_LISTS[who])


def test_rows_inside_other_statements_are_hidden(session, who):
    named = select(JobSource.job_id).join(Source, Source.id == JobSource.source_id)
    assert len(session.execute(named).all()) == len(IN_LISTS[who])
    within = select(Job.id).where(Job.id.in_(named))
    assert len(session.execute(within).all()) == len(IN_LISTS[who])


def test_one_hidden_source_hides_a_job_of_several_except_from_who_asked_for_it(session, viewers):
    made = hosted.add_source(session, model="public-model", source="2-public")
    hidden = hosted.add_source(session, model="public-model", source="3-public")
    session.execute(update(Source).where(Source.id == hidden).values(visibility="unlisted"))
    job_id = jobs.create(session, [made, hidden], {})
    session.commit()
    for who, n in (("nobody", 0), ("other", 0), ("admin", 2)):
        visibility.see_as(session, viewers[who])
        session.expunge_all()
        if n == 0:
            with pytest.raises(errors.NotFoundError):
                jobs.get(session, job_id)
        else:
            assert len(jobs.get(session, job_id).sources) == n
    session.execute(update(Job).where(Job.id == job_id).values(owner_id=viewers["other"].account_id))
    visibility.see_as(session, viewers["other"])
    session.expunge_all()
    assert [source.name for source in jobs.get(session, job_id).sources] == ["2-public"]


def test_what_nobody_owns_and_is_private_is_the_hosts(session, viewers):
    session.execute(update(Source).values(owner_id=None))
    for who in ("nobody", "other", "owner"):
        visibility.see_as(session, viewers[who])
        assert kinds(model.id for model in catalog.models(session)) == {"public"}


def test_integrity_is_guarded_by_rows_one_may_not_see(session, viewers):
    """A source that a hidden job computes is busy, and a model without anything to see can get a source."""
    visibility.see_as(session, OPERATOR)
    busy = session.scalar(select(Source.id).where(Source.visibility == "public"))
    hidden = session.scalar(select(Source.id).where(Source.visibility == "private"))
    job_id = session.scalar(select(JobSource.job_id).where(JobSource.source_id == busy))
    session.execute(insert(JobSource).values(job_id=job_id, number=1, source_id=hidden))
    session.commit()
    visibility.see_as(session, viewers["other"])
    session.expunge_all()
    with pytest.raises(errors.NotFoundError):
        jobs.get(session, job_id)
    with pytest.raises(errors.ConflictError):
        jobs.create(session, [busy], {})
    assert hosted.add_source(session, model="private-model", source="5-new")


def test_an_upload_is_its_owners(session, viewers):
    for name in ("owner", None):
        owner_id = viewers[name].account_id if name else None
        session.add(Upload(id=f"of-{name}", owner_id=owner_id, kind="sae", name="x", files=[], n_bytes=1, state="open"))
    session.commit()
    for who, seen in (("nobody", set()), ("other", set()), ("owner", {"of-owner"}), ("admin", {"of-owner", "of-None"})):
        visibility.see_as(session, viewers[who])
        assert {upload.id for upload in session.scalars(select(Upload))} == seen


@pytest.fixture
def steered(session, viewers):
    """Of each kind, by its name: a vector of the owner's for the model, and a run of nobody's with the source."""
    for kind in KINDS:
        source_id = session.scalar(select(Source.id).where(Source.name == f"1-{kind}"))
        of = {"model_id": f"{kind}-model", "owner_id": viewers["owner"].account_id}
        place = {"source": "1-neuronpedia-resid-pre", "hook_point": "blocks.1.hook_resid_pre"}
        session.add(Vector(**of, **place, index=5, label=kind, values=[1.0], default_strength=1.0))
        packed = {"key": kind.encode(), "request": b"", "outputs": b""}
        run = SteerRun(model_id=of["model_id"], **packed, id=kind, source_ids=[source_id], kind="chat")
        session.add(run)
    session.commit()
    session.expunge_all()


def test_runs_are_seen_by_who_sees_their_sources(session, steered, who):
    assert set(session.scalars(select(SteerRun.id))) == IN_LISTS[who]
    assert set(session.scalars(visibility.addressed(select(SteerRun.id)))) == BY_ADDRESS[who]


def test_vectors_are_listed_to_their_owner_and_found_by_who_sees_the_model(session, steered, who):
    assert set(session.scalars(select(Vector.label))) == (set(KINDS) if who in ("owner", "admin") else set())
    assert set(session.scalars(visibility.addressed(select(Vector.label)))) == IN_LISTS[who]


def test_a_run_needs_all_of_its_sources_and_one_without_any_its_model(session, viewers, steered):
    public, private = (
        session.scalar(select(Source.id).where(Source.name == f"1-{kind}")) for kind in ("public", "private")
    )
    session.execute(update(Source).where(Source.id == private).values(model_id="public-model"))
    gone = 10**6
    for name, sources in (("both", [public, private]), ("deleted", [public, gone]), ("bare", [])):
        packed = {"key": name.encode(), "request": b"", "outputs": b""}
        session.add(SteerRun(model_id="public-model", **packed, id=name, source_ids=sources, kind="chat"))
    session.commit()
    seen = {}
    for who in ("other", "owner"):
        visibility.see_as(session, viewers[who])
        seen[who] = set(session.scalars(visibility.addressed(select(SteerRun.id)))) & {"both", "deleted", "bare"}
    assert seen == {"other": {"bare"}, "owner": {"both", "bare"}}


def test_who_owns_a_model_sees_what_is_of_it(session, viewers, steered):
    session.execute(update(Model).where(Model.id == "private-model").values(owner_id=viewers["other"].account_id))
    visibility.see_as(session, viewers["other"])
    assert "private" in set(session.scalars(visibility.addressed(select(Vector.label))))
    assert "private" not in set(session.scalars(visibility.addressed(select(SteerRun.id))))


def test_viewers_do_not_share_what_the_compiler_caches_of_vectors(session, viewers, steered):
    for who in ("owner", "nobody", "other", "owner", "admin", "nobody"):
        visibility.see_as(session, viewers[who])
        test_vectors_are_listed_to_their_owner_and_found_by_who_sees_the_model(session, steered, who)


def test_viewers_do_not_share_what_the_compiler_caches(session, viewers):
    for who in ("owner", "nobody", "other", "owner", "admin", "nobody"):
        visibility.see_as(session, viewers[who])
        assert kinds(model.id for model in catalog.models(session)) == IN_LISTS[who]


def test_a_factory_of_public_sessions_shows_nothing_else(sessions, session, viewers):
    session.commit()
    with visibility.only_public(sessions)() as other:
        assert kinds(model.id for model in catalog.models(other)) == {"public"}
