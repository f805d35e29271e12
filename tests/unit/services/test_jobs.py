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


@pytest.fixture
def encoded(session: Session) -> int:
    """A job prepared and encoded; finish and evaluate wait."""
    made = hosted.host(session)
    job_id = jobs.create(session, made.source_id, {})
    jobs.finish_shard(session, claim(session), n_units=1)
    jobs.plan_encoding(session, job_id, [(0, 32, 256)])
    jobs.plan_evaluation(session, job_id, n_tokens=512)
    jobs.finish_shard(session, claim(session), n_units=256)
    jobs.plan_finish_if_encoded(session, job_id, n_features=6)
    return job_id


def test_dashboards_come_before_the_evaluation_which_is_there_for_idle_workers(session: Session, encoded: int) -> None:
    assert jobs.get(session, encoded).stage == "finish"
    assert [claim(session, "w1").stage, claim(session, "w2").stage] == ["finish", "evaluate"]
    assert jobs.claim_next(session, worker="w3", lease_s=60, max_attempts=3) is None


@pytest.mark.parametrize("is_evaluated_first", [True, False])
def test_a_job_is_done_once_both_are(session: Session, encoded: int, is_evaluated_first: bool) -> None:
    finish, evaluate = claim(session, "w1"), claim(session, "w2")
    order = [evaluate, finish] if is_evaluated_first else [finish, evaluate]
    for i, claimed in enumerate(order):
        assert jobs.finish_shard(session, claimed, n_units=1)
        assert jobs.settle(session, encoded) == (i == 1)
        assert jobs.is_evaluated(session, encoded) == (i == 1 or is_evaluated_first)
    view = jobs.get(session, encoded)
    assert (view.state, view.fraction) == ("done", 1.0)
    assert [stage.name for stage in view.stages] == list(jobs.STAGES)


@pytest.mark.parametrize("is_evaluated_first", [True, False])
def test_a_failed_evaluation_is_said_but_stops_nothing(
    session: Session, encoded: int, is_evaluated_first: bool
) -> None:
    finish, evaluate = claim(session, "w1"), claim(session, "w2")
    if is_evaluated_first:
        jobs.fail(session, evaluate, "not finite.", is_final=True)
        assert jobs.get(session, encoded).state == "running"
    assert jobs.finish_shard(session, finish, n_units=6), "the dashboards are published"
    jobs.settle(session, encoded)
    if not is_evaluated_first:
        jobs.fail(session, evaluate, "not finite.", is_final=True)
    view = jobs.get(session, encoded)
    assert view.state == "failed"
    assert view.error is not None
    assert view.error.startswith("the quality was not measured: not finite.")

    jobs.retry(session, encoded)
    again = claim(session)
    assert again.stage == "evaluate"
    assert jobs.finish_shard(session, again, n_units=1)
    assert jobs.settle(session, encoded)
    assert (jobs.get(session, encoded).state, jobs.get(session, encoded).error) == ("done", None)


def test_an_evaluation_tried_too_often_is_given_up_and_the_next_shard_found(session: Session, encoded: int) -> None:
    finish = claim(session)
    for _ in range(3):
        assert claim(session, lease_s=-1).stage == "evaluate"
    assert jobs.claim_next(session, worker="w1", lease_s=60, max_attempts=3) is None
    assert jobs.finish_shard(session, finish, n_units=6)
    assert jobs.settle(session, encoded)
    assert "started 3 times" in str(jobs.get(session, encoded).error)


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
