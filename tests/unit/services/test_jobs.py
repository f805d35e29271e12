"""Asking for, stopping, repeating and clearing up jobs, without any worker."""

import threading

import pytest
from sqlalchemy import Engine, delete, select
from sqlalchemy.orm import Session, sessionmaker

from backend import errors
from backend.db.session import transaction
from backend.db.tables import Job, JobSource, Model, Revision, Shard, Source, Vocabulary
from backend.services import ingest, jobs, progress, shards
from backend.services.shards import Piece
from tests import hosted


@pytest.fixture
def committed(engine: Engine):
    """Sessions that really commit, on a hosted source that is gone afterwards."""
    sessions = sessionmaker(engine, expire_on_commit=False)
    with transaction(sessions) as session:
        made = hosted.host(session)
    yield sessions, made
    with transaction(sessions) as session:
        session.execute(delete(Job))
        session.execute(delete(Model))
        session.execute(delete(Vocabulary))


def claim(session: Session, worker: str = "w1", lease_s: float = 60) -> shards.Claim:
    found = shards.claim_next(session, worker=worker, lease_s=lease_s, max_attempts=3, straggler_s=60)
    assert found is not None
    return found


def begin(session: Session, made: hosted.Hosted, job_id: int) -> int:
    """The prepare stage done, with a revision to write and two shards to encode; the revision."""
    prepared = claim(session)
    assert shards.finish(session, prepared, n_units=1)
    revision_id = ingest.begin_revision(
        session, source_id=made.source_id, corpus_id=made.corpus_id, job_id=job_id, n_features=1, spec={}
    )
    jobs.set_prepared(
        session, job_id, spec=prepared.spec | {"corpus_id": 1}, revision_ids={made.source_id: revision_id}
    )
    shards.plan(session, job_id, "encode", [Piece(0, 32, 100), Piece(32, 32, 100)])
    return revision_id


def test_a_job_can_be_cancelled_while_its_rows_are_being_written(committed) -> None:
    sessions, made = committed
    with transaction(sessions) as session:
        job_id = jobs.create(session, [made.source_id], {})
        revision_id = begin(session, made, job_id)
        claimed = claim(session)
    with sessions() as writing:
        shards.lock_writing(writing, claimed)
        made_up = hosted.every_kind()[hosted.DEAD]
        ingest.copy_dashboards(writing, revision_id, [made_up], n_tokens=10, vocabulary=hosted.TEXTS)

        def cancel() -> None:
            with transaction(sessions) as session:
                jobs.cancel(session, job_id)

        thread = threading.Thread(target=cancel)
        thread.start()
        thread.join(10)
        assert not thread.is_alive(), "cancelling waits for the writer"
        assert not shards.finish(writing, claimed, n_units=1)
        writing.rollback()
    with transaction(sessions) as session:
        assert jobs.get(session, job_id).state == "cancelled"


def test_a_stage_that_begins_between_two_statements_is_told_of_the_next_time(committed, monkeypatch) -> None:
    sessions, made = committed
    with transaction(sessions) as session:
        job_id = jobs.create(session, [made.source_id], {"corpus": "a.txt"})
    leases = progress._leases

    def meanwhile(ids):
        with transaction(sessions) as other:
            begin(other, made, job_id)
            claim(other)
        return leases(ids)

    monkeypatch.setattr(progress, "_leases", meanwhile)
    with transaction(sessions) as session:
        assert [stage.name for stage in jobs.get(session, job_id).stages] == ["prepare"]
    monkeypatch.undo()
    with transaction(sessions) as session:
        assert [stage.name for stage in jobs.get(session, job_id).stages] == ["prepare", "encode"]


def test_a_source_computes_one_thing_at_a_time(session: Session) -> None:
    made = hosted.host(session)
    other = hosted.add_source(session, source="3-tiny-sae")
    job_id = jobs.create(session, [other, made.source_id], {})
    with pytest.raises(errors.ConflictError, match=f"job {job_id} is computing"):
        jobs.create(session, [made.source_id], {})


def test_a_job_is_about_one_model(session: Session) -> None:
    made, other = hosted.host(session), hosted.host(session, model="other-model")
    with pytest.raises(errors.InvalidInputError, match="2 models"):
        jobs.create(session, [made.source_id, other.source_id], {})


def test_a_job_is_done_when_every_source_is_published(session: Session) -> None:
    made = hosted.host(session)
    other = hosted.add_source(session, source="3-tiny-sae")
    job_id = jobs.create(session, [made.source_id, other], {})
    assert shards.finish(session, claim(session), n_units=1)
    for source_id in (made.source_id, other):
        shards.settle(session, job_id)
        assert jobs.get(session, job_id).state == "running"
        jobs.set_published(session, job_id, source_id)
    shards.settle(session, job_id)
    view = jobs.get(session, job_id)
    assert (view.state, view.fraction, view.seconds_left) == ("done", 1.0, None)
    assert [(source.name, source.is_published) for source in view.sources] == [
        ("2-tiny-sae", True),
        ("3-tiny-sae", True),
    ]
    assert view.title == "tiny-model/2-tiny-sae and 1 more"


def test_a_failed_job_goes_on_where_it_failed(session: Session) -> None:
    made = hosted.host(session)
    job_id = jobs.create(session, [made.source_id], {})
    begin(session, made, job_id)
    assert shards.finish(session, claim(session), n_units=100)
    assert shards.fail(session, claim(session), "No.", is_final=True)
    assert jobs.next_to_clear(session) is None, "a retry needs its postings"
    jobs.retry(session, job_id)
    view = jobs.get(session, job_id)
    assert (view.state, view.stage, view.stages[1].n_shards_done) == ("queued", "encode", 1)


def test_a_cancelled_job_is_cleared_once_nobody_works_on_it_and_begins_again(session: Session) -> None:
    made = hosted.host(session)
    job_id = jobs.create(session, [made.source_id], {"corpus": "x"})
    revision_id = begin(session, made, job_id)
    working = claim(session)
    jobs.cancel(session, job_id)
    assert jobs.next_to_clear(session) is None, "a worker may still write"
    assert not shards.renew(session, working, lease_s=60, n_done=1)
    shards.release(session, working)
    assert jobs.next_to_clear(session) == job_id
    jobs.set_cleared(session, job_id)
    assert jobs.next_to_clear(session) is None
    kept = select(Revision.id).where(Revision.source_id == made.source_id)
    assert session.scalars(kept).all() == [made.revision_id]
    assert revision_id != made.revision_id
    jobs.retry(session, job_id)
    assert [(s.stage, s.state) for s in session.scalars(select(Shard))] == [("prepare", "queued")]
    assert session.get_one(Job, job_id, populate_existing=True).spec == {"corpus": "x"}


def test_a_done_job_takes_away_what_its_revision_replaced_and_nothing_newer(session: Session) -> None:
    made = hosted.host(session)
    job_id = jobs.create(session, [made.source_id], {})
    revision_id = begin(session, made, job_id)
    newer = ingest.begin_revision(
        session, source_id=made.source_id, corpus_id=made.corpus_id, job_id=None, n_features=1, spec={}
    )
    ingest.publish(session, revision_id)
    jobs.set_published(session, job_id, made.source_id)
    jobs.set_cleared(session, job_id)
    kept = select(Revision.id).where(Revision.source_id == made.source_id).order_by(Revision.id)
    assert session.scalars(kept).all() == [revision_id, newer]
    assert session.scalars(select(Source.revision_id).where(Source.id == made.source_id)).one() == revision_id


def test_a_failed_job_is_cleared_once_a_later_one_computes_its_source(session: Session) -> None:
    made = hosted.host(session)
    failed = jobs.create(session, [made.source_id, hosted.add_source(session, source="3-tiny-sae")], {})
    shards.fail(session, claim(session), "No.", is_final=True)
    assert jobs.next_to_clear(session) is None
    jobs.create(session, [made.source_id], {})
    assert jobs.next_to_clear(session) == failed


def test_sources_of_a_job_keep_their_order(session: Session) -> None:
    made = hosted.host(session)
    other = hosted.add_source(session, source="3-tiny-sae")
    job_id = jobs.create(session, [other, made.source_id], {})
    assert [source.id for source in claim(session).sources] == [other, made.source_id]
    assert session.scalars(select(JobSource.number).where(JobSource.job_id == job_id)).all() == [0, 1]
