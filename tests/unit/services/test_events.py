"""The log of a job: each line written with what it tells."""

import pytest
from sqlalchemy.orm import Session

from backend.services import events, jobs, shards
from tests import hosted


def texts(session: Session, job_id: int) -> list[str]:
    return [line.text for line in events.of_job(session, job_id)]


def claim(session: Session, worker: str = "w1", **changed: float) -> shards.Claim:
    given = {"lease_s": 60.0, "max_attempts": 3, "straggler_s": 60.0} | changed
    found = shards.claim_next(session, worker=worker, **given)  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.mark.parametrize("is_final", [True, False])
def test_what_a_stranger_s_file_says_does_not_keep_its_job_from_failing(session: Session, is_final: bool) -> None:
    job_id = jobs.create(session, [hosted.host(session).source_id], {})
    assert shards.fail(session, claim(session), "ae.pt has '\0\ud800" + "x" * events.MAX_TEXT, is_final=is_final)
    said = texts(session, job_id)[-1]
    assert "ae.pt has '�?xxx" in said
    assert len(said) <= events.MAX_TEXT
    assert jobs.get(session, job_id).state == ("failed" if is_final else "running")


def test_a_job_tells_from_queue_to_cancelling_and_back(session: Session) -> None:
    job_id = jobs.create(session, [hosted.host(session).source_id], {})
    claim(session)
    jobs.cancel(session, job_id)
    jobs.cancel(session, job_id)
    jobs.retry(session, job_id)
    assert texts(session, job_id) == [
        "Queued.", "Started by worker w1.", "Cancelled.", "Queued again; what is done stays done.",
    ]  # fmt: skip


def test_a_worker_that_went_away_is_named_and_so_is_the_one_that_takes_over(session: Session) -> None:
    job_id = jobs.create(session, [hosted.host(session).source_id], {})
    claim(session, "gone", lease_s=-1)
    claim(session, "next")
    (lost,) = [line for line in events.of_job(session, job_id) if line.level == "warning"]
    assert lost.text == "Worker gone went away during shard 0 of prepare; worker next does it again."


def test_what_went_wrong_is_told_once_tried_again_and_once_for_all(session: Session) -> None:
    job_id = jobs.create(session, [hosted.host(session).source_id], {})
    shards.fail(session, claim(session), "out of memory.", is_final=False)
    shards.fail(session, claim(session), "too short.", is_final=True)
    told = [(line.level, line.text) for line in events.of_job(session, job_id)][2:]
    assert told == [
        ("warning", "Shard 0 of prepare went wrong and is tried again: out of memory."),
        ("error", "Failed: too short."),
    ]


def test_what_is_published_and_done_is_told(session: Session) -> None:
    made = hosted.host(session)
    job_id = jobs.create(session, [made.source_id], {})
    assert shards.finish(session, claim(session), n_units=1)
    jobs.set_published(session, job_id, made.source_id)
    shards.settle(session, job_id)
    shards.settle(session, job_id)
    assert texts(session, job_id)[2:] == [f"{hosted.SOURCE} is published: its dashboards can be read.", "Done."]


def test_lines_are_read_on_after_the_last_one_known(session: Session) -> None:
    job_id, other = (jobs.create(session, [hosted.add_source(session, source=f"{i}-x")], {}) for i in _two(session))
    for number in range(3):
        jobs.note(session, job_id, "info", f"line {number}")
    jobs.note(session, other, "info", "another job's")
    whole = events.of_job(session, job_id)
    assert [line.text for line in whole] == ["Queued.", "line 0", "line 1", "line 2"]
    assert events.of_job(session, job_id, after=whole[1].id) == whole[2:]
    assert events.of_job(session, job_id, n=1) == whole[:1]
    assert events.newest(session, job_id, 2) == whole[2:]


def _two(session: Session) -> tuple[int, int]:
    hosted.host(session)
    return 3, 4
