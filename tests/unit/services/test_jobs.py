"""Ownership and locks of jobs, without any worker."""

import threading

import pytest
from sqlalchemy import Engine, delete
from sqlalchemy.orm import Session, sessionmaker

from backend import errors
from backend.db.session import transaction
from backend.db.tables import Job, Model, Vocabulary
from backend.services import ingest, jobs
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


def claim(session: Session, worker: str = "w1", lease_s: float = 60) -> jobs.Claim:
    found = jobs.claim_next(session, worker=worker, lease_s=lease_s, max_attempts=3)
    assert found is not None
    return found


def test_a_job_can_be_cancelled_while_its_revision_is_being_written(committed) -> None:
    sessions, made = committed
    with transaction(sessions) as session:
        job_id = jobs.create(session, made.source_id, {})
        claimed = claim(session)
    with sessions() as writing:
        ingest.begin_revision(
            writing, source_id=made.source_id, corpus_id=made.corpus_id, job_id=job_id, n_features=1, spec={}
        )

        def cancel() -> None:
            with transaction(sessions) as session:
                jobs.cancel(session, job_id)

        thread = threading.Thread(target=cancel)
        thread.start()
        thread.join(10)
        assert not thread.is_alive(), "cancelling waits for the writer"
        assert not jobs.finish_shard(writing, claimed, n_units=1)
        writing.rollback()
    with transaction(sessions) as session:
        assert jobs.get(session, job_id).state == "cancelled"


def test_a_claim_taken_over_cannot_finish_or_fail(committed) -> None:
    sessions, made = committed
    with transaction(sessions) as session:
        job_id = jobs.create(session, made.source_id, {})
        first = claim(session, "w1", lease_s=-1)
    with transaction(sessions) as session:
        jobs.cancel(session, job_id)
        jobs.retry(session, job_id)
        second = claim(session, "w2")
        assert (first.attempt, second.attempt) == (1, 1)
        assert not jobs.renew(session, first, lease_s=60, n_done=1, n_units=1)
        assert not jobs.finish_shard(session, first, n_units=1)
        jobs.fail(session, first, "stale", is_final=True)
        assert jobs.get(session, job_id).state == "running"
        assert jobs.finish_shard(session, second, n_units=1)


def test_a_source_computes_one_thing_at_a_time(session: Session) -> None:
    made = hosted.host(session)
    job_id = jobs.create(session, made.source_id, {})
    with pytest.raises(errors.ConflictError, match=f"job {job_id} is computing"):
        jobs.create(session, made.source_id, {})


def test_a_shard_tried_too_often_fails_its_job(session: Session) -> None:
    made = hosted.host(session)
    job_id = jobs.create(session, made.source_id, {})
    for _ in range(3):
        claim(session, lease_s=-1)
    assert jobs.claim_next(session, worker="w", lease_s=60, max_attempts=3) is None
    view = jobs.get(session, job_id)
    assert view.state == "failed"
    assert "started 3 times and never ended" in (view.error or "")


def test_messages_are_sent_once_and_again_when_lost(session: Session) -> None:
    made = hosted.host(session)
    jobs.create(session, made.source_id, {})
    (shard_id,) = jobs.unsent(session, resend_after_s=120)
    assert jobs.unsent(session, resend_after_s=120) == []
    assert jobs.unsent(session, resend_after_s=-1) == [shard_id]
    jobs.forget_sending(session, [shard_id])
    assert jobs.unsent(session, resend_after_s=120) == [shard_id]
