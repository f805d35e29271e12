"""Ownership of shards: claims, leases, stragglers, and how many messages there should be."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session

from backend.db.tables import Lease, Shard
from backend.services import jobs, shards
from backend.services.shards import Piece
from tests import hosted


@pytest.fixture
def job_id(session: Session) -> int:
    """A job of four encode shards, the first three of which took ten seconds each."""
    made = hosted.host(session)
    job_id = jobs.create(session, [made.source_id], {})
    assert shards.finish(session, claim(session), n_units=1)
    shards.plan(session, job_id, "encode", [Piece(32 * i, 32, 100) for i in range(4)])
    for _ in range(3):
        assert shards.finish(session, claim(session), n_units=100)
    took = {"started_at": func.now() - timedelta(seconds=10), "finished_at": func.now()}
    session.execute(update(Shard).where(Shard.stage == "encode", Shard.state == "done").values(took))
    return job_id


def claim(session: Session, worker: str = "w1", **settings: Any) -> shards.Claim:
    found = claim_or_none(session, worker, **settings)
    assert found is not None
    return found


def claim_or_none(session: Session, worker: str = "w1", lease_s: float = 60, straggler_s: float = 60) -> Any:
    return shards.claim_next(session, worker=worker, lease_s=lease_s, max_attempts=3, straggler_s=straggler_s)


def age(session: Session, claimed: shards.Claim, seconds: float) -> None:
    began = func.now() - timedelta(seconds=seconds)
    session.execute(update(Lease).where(Lease.id == claimed.lease_id).values(started_at=began))


def test_shards_are_claimed_in_order_and_by_one_worker_each(session: Session) -> None:
    made = hosted.host(session)
    first = jobs.create(session, [made.source_id], {})
    second = jobs.create(session, [hosted.add_source(session, source="3-tiny-sae")], {})
    assert [claim(session, worker).job_id for worker in ("w1", "w2")] == [first, second]
    assert claim_or_none(session, "w3") is None


def test_an_import_comes_before_what_is_computed(session: Session) -> None:
    made = hosted.host(session)
    computed = jobs.create(session, [made.source_id], {})
    imported = jobs.create(session, [hosted.add_source(session, source="3-tiny-sae")], {"import": {}})
    assert [jobs.get(session, job_id).n_before for job_id in (computed, imported)] == [1, 0]
    assert [claim(session, worker).job_id for worker in ("w1", "w2")] == [imported, computed]


def test_a_claim_taken_over_cannot_finish_or_fail(session: Session) -> None:
    made = hosted.host(session)
    job_id = jobs.create(session, [made.source_id], {})
    first = claim(session, "w1", lease_s=-1)
    second = claim(session, "w2")
    assert (first.attempt, second.attempt) == (1, 2)
    assert not shards.renew(session, first, lease_s=60, n_done=1)
    assert not shards.finish(session, first, n_units=1)
    assert not shards.fail(session, first, "stale", is_final=True)
    shards.release(session, first)
    assert jobs.get(session, job_id).state == "running"
    assert shards.finish(session, second, n_units=1)


def test_a_late_worker_nobody_has_replaced_keeps_its_shard(session: Session) -> None:
    made = hosted.host(session)
    jobs.create(session, [made.source_id], {})
    late = claim(session, lease_s=-1)
    assert shards.renew(session, late, lease_s=60, n_done=1)
    assert claim_or_none(session, "w2") is None


def test_a_shard_given_back_is_free_at_once(session: Session) -> None:
    made = hosted.host(session)
    jobs.create(session, [made.source_id], {})
    shards.release(session, claim(session))
    assert claim(session, "w2").attempt == 2


def test_a_shard_tried_too_often_fails_its_job(session: Session) -> None:
    made = hosted.host(session)
    job_id = jobs.create(session, [made.source_id], {})
    for _ in range(3):
        claim(session, lease_s=-1)
    assert claim_or_none(session) is None
    view = jobs.get(session, job_id)
    assert view.state == "failed"
    assert "started 3 times and never ended" in (view.error or "")


def test_an_idle_worker_takes_a_straggler_s_shard_and_the_first_to_finish_wins(session: Session, job_id: int) -> None:
    slow = claim(session)
    age(session, slow, 61)
    fast = claim(session, "w2")
    assert fast.shard_id == slow.shard_id
    assert claim_or_none(session, "w3") is None, "two are enough"
    assert shards.renew(session, slow, lease_s=60, n_done=50), "both go on"
    assert shards.finish(session, fast, n_units=100)
    assert not shards.renew(session, slow, lease_s=60, n_done=60), "the other hears"
    assert not shards.finish(session, slow, n_units=100)
    assert shards.is_done(session, job_id, "encode")


@pytest.mark.parametrize(("seconds", "usual_s"), [(59, 10), (200, 100)])
def test_a_shard_that_takes_its_time_is_no_straggler(
    session: Session, job_id: int, seconds: float, usual_s: float
) -> None:
    """Not before a minute, not before three times the median of its siblings."""
    began = func.now() - timedelta(seconds=usual_s)
    session.execute(update(Shard).where(Shard.job_id == job_id, Shard.state == "done").values(started_at=began))
    age(session, claim(session), seconds)
    assert claim_or_none(session, "w2") is None
    assert shards.n_waiting(session, straggler_s=60) == 0


def test_the_loser_s_failure_harms_nobody(session: Session, job_id: int) -> None:
    slow = claim(session)
    age(session, slow, 61)
    claim(session, "w2")
    assert shards.fail(session, slow, "out of memory", is_final=False)
    assert claim_or_none(session, "w3") is None, "the other still has it"
    assert jobs.get(session, job_id).state == "running"


def test_as_many_messages_are_wanted_as_there_is_work(session: Session, job_id: int) -> None:
    assert shards.n_waiting(session, straggler_s=60) == 1
    slow = claim(session, lease_s=-1)
    assert shards.n_waiting(session, straggler_s=60) == 1, "its lease has run out"
    shards.renew(session, slow, lease_s=60, n_done=0)
    assert shards.n_waiting(session, straggler_s=60) == 0
    age(session, slow, 61)
    assert shards.n_waiting(session, straggler_s=60) == 1, "it straggles"


def test_results_come_in_order(session: Session) -> None:
    made = hosted.host(session)
    job_id = jobs.create(session, [made.source_id], {})
    shards.finish(session, claim(session), n_units=1)
    shards.plan(session, job_id, "encode", [Piece(0, 32, 100), Piece(32, 32, 100)])
    first, second = claim(session), claim(session)
    shards.finish(session, second, n_units=100, result={"postings": "b"})
    assert not shards.is_done(session, job_id, "encode")
    shards.finish(session, first, n_units=100, result={"postings": "a"})
    assert shards.is_done(session, job_id, "encode")
    assert [found["postings"] for found in shards.results(session, job_id, "encode")] == ["a", "b"]


@pytest.fixture
def encoded(session: Session) -> int:
    """A job prepared and encoded; finish and evaluate wait."""
    made = hosted.host(session)
    job_id = jobs.create(session, [made.source_id], {})
    shards.finish(session, claim(session), n_units=1)
    shards.plan(session, job_id, "encode", [Piece(0, 32, 256)])
    shards.plan(session, job_id, "evaluate", [Piece(0, 0, 512, made.source_id)])
    shards.finish(session, claim(session), n_units=256)
    shards.plan(session, job_id, "finish", [Piece(0, 6, 6, made.source_id)])
    return job_id


def end(session: Session, claimed: shards.Claim) -> str:
    """Finish a shard as its stage does; the job's state then."""
    assert shards.finish(session, claimed, n_units=1)
    if claimed.stage == "finish":
        jobs.set_published(session, claimed.job_id, claimed.source.id)
    shards.settle(session, claimed.job_id)
    return jobs.get(session, claimed.job_id).state


def test_dashboards_come_before_the_evaluation_which_is_there_for_idle_workers(session: Session, encoded: int) -> None:
    assert jobs.get(session, encoded).stage == "finish"
    assert [claim(session, "w1").stage, claim(session, "w2").stage] == ["finish", "evaluate"]
    assert claim_or_none(session, "w3") is None


@pytest.mark.parametrize("is_evaluated_first", [True, False])
def test_a_job_is_done_once_both_are(session: Session, encoded: int, is_evaluated_first: bool) -> None:
    finish, evaluate = claim(session, "w1"), claim(session, "w2")
    first, last = (evaluate, finish) if is_evaluated_first else (finish, evaluate)
    assert end(session, first) == "running"
    assert end(session, last) == "done"
    view = jobs.get(session, encoded)
    assert view.fraction == 1.0
    assert [stage.name for stage in view.stages] == [stage.name for stage in shards.COMPUTE]


@pytest.mark.parametrize("is_evaluated_first", [True, False])
def test_a_failed_evaluation_is_said_but_stops_nothing(
    session: Session, encoded: int, is_evaluated_first: bool
) -> None:
    finish, evaluate = claim(session, "w1"), claim(session, "w2")
    if is_evaluated_first:
        shards.fail(session, evaluate, "not finite.", is_final=True)
        assert jobs.get(session, encoded).state == "running"
    end(session, finish)
    if not is_evaluated_first:
        shards.fail(session, evaluate, "not finite.", is_final=True)
    view = jobs.get(session, encoded)
    assert view.state == "failed"
    assert (view.error or "").startswith("the evaluate stage failed: not finite.")
    assert jobs.next_to_clear(session) == encoded, "its postings are of no more use"
    jobs.set_cleared(session, encoded)

    jobs.retry(session, encoded)
    again = claim(session)
    assert again.stage == "evaluate"
    assert end(session, again) == "done"
    assert jobs.get(session, encoded).error is None


def test_an_evaluation_tried_too_often_is_given_up_and_the_next_shard_found(session: Session, encoded: int) -> None:
    finish = claim(session)
    for _ in range(3):
        assert claim(session, lease_s=-1).stage == "evaluate"
    assert claim_or_none(session) is None
    assert end(session, finish) == "failed"
    assert "started 3 times" in str(jobs.get(session, encoded).error)
