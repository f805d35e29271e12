"""What an account may store and compute at a time."""

from dataclasses import replace

import pytest
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Account, Dashboard, Job, Revision, Source, Vector
from backend.services import jobs, limits, visibility
from backend.services.access import OPERATOR, Quota, Viewer
from backend.services.accounts import quota
from backend.settings import Settings
from tests import hosted


@pytest.fixture
def made(session):
    """A source of somebody, with its viewer."""
    owner = session.scalar(insert(Account).values(name="owner", password_hash="x").returning(Account.id))
    made = hosted.host(session)
    session.execute(update(Source).where(Source.id == made.source_id).values(owner_id=owner))
    session.execute(update(Revision).where(Revision.id == made.revision_id).values(index_bytes=1000))
    return made, Viewer(owner, "owner", frozenset({"read", "write"}))


def test_what_sources_keep_is_counted(session, made):
    host, viewer = made
    packed = session.scalar(select(func.sum(func.pg_column_size(Dashboard.packed))))
    assert limits.stored_bytes(session, viewer.account_id) == 1000 + packed
    assert limits.bytes_by_source(session) == {host.source_id: 1000 + packed}
    assert limits.stored_bytes(session, viewer.account_id + 1) == 0


def test_vectors_are_counted(session, made):
    _, viewer = made
    before = limits.stored_bytes(session, viewer.account_id)
    place = {"source": "1-neuronpedia-resid-pre", "hook_point": "blocks.1.hook_resid_pre"}
    of = {"model_id": hosted.MODEL, "owner_id": viewer.account_id}
    session.add(Vector(**of, **place, index=5, label="", values=[0.5] * 100, default_strength=1.0))
    session.flush()
    assert 800 < limits.stored_bytes(session, viewer.account_id) - before < 900


def test_bytes_over_the_quota_are_refused_and_the_last_that_fit_are_not(session, made):
    _, viewer = made
    stored = limits.stored_bytes(session, viewer.account_id)
    limited = replace(viewer, quota=Quota(n_bytes=stored + 10))
    limits.check_bytes(session, limited, 10)
    with pytest.raises(errors.ForbiddenError, match="would be too much"):
        limits.check_bytes(session, limited, 11)
    limits.check_bytes(session, viewer, 10**15)
    limits.check_bytes(session, OPERATOR, 10**15)


def test_of_requests_at_once_the_second_waits_to_count_what_the_first_takes(engine):
    with Session(engine) as session:
        account = session.scalar(insert(Account).values(name="hasty", password_hash="x").returning(Account.id))
        session.commit()
    viewer = Viewer(account, "hasty", frozenset({"read", "write"}), Quota(n_bytes=10, n_jobs=1))
    try:
        with Session(engine) as first, Session(engine) as second:
            limits.check_bytes(first, viewer, 10)
            second.execute(text("SET lock_timeout = '1ms'"))
            for check in (limits.check_bytes, limits.check_jobs):
                with pytest.raises(OperationalError, match="lock timeout"), second.begin_nested():
                    check(second, viewer, 1)
            first.rollback()
            limits.check_jobs(second, viewer)
    finally:
        with Session(engine) as session:
            session.execute(delete(Account).where(Account.id == account))
            session.commit()


def test_jobs_at_a_time_are_limited(session, made):
    host, viewer = made
    limited = replace(viewer, quota=Quota(n_jobs=1))
    limits.check_jobs(session, limited)
    with pytest.raises(errors.BusyError):
        limits.check_jobs(session, limited, 2)
    job_id = jobs.create(session, [host.source_id], {})
    limits.check_jobs(session, limited)
    session.execute(update(Job).where(Job.id == job_id).values(owner_id=viewer.account_id))
    with pytest.raises(errors.BusyError, match="1 of your jobs"):
        limits.check_jobs(session, limited)
    limits.check_jobs(session, viewer)
    jobs.cancel(session, job_id)
    limits.check_jobs(session, limited)


def test_a_job_taken_up_again_counts_too(session, made):
    host, viewer = made
    first = jobs.create(session, [host.source_id], {}, owner_id=viewer.account_id)
    jobs.cancel(session, first)
    second = jobs.create(session, [hosted.add_source(session, source="3-x")], {}, owner_id=viewer.account_id)
    visibility.see_as(session, replace(viewer, quota=Quota(n_jobs=1)))
    with pytest.raises(errors.BusyError):
        jobs.retry(session, first)
    jobs.cancel(session, second)
    jobs.retry(session, first)


def test_an_account_s_own_limits_come_before_the_settings(session):
    settings = Settings(quota_gb=2, quota_jobs=0, requests_per_minute=7)
    account = Account(name="x", password_hash="", is_admin=False)
    assert quota(account, settings) == Quota(2_000_000_000, None, 7)
    account.quota_bytes, account.quota_jobs, account.requests_per_minute = 0, 5, 9
    assert quota(account, settings) == Quota(None, 5, 9)
    account.is_admin = True
    assert quota(account, settings) == Quota(None, 5, 9)
    account.quota_bytes = account.quota_jobs = account.requests_per_minute = None
    assert quota(account, settings) == Quota(None, None, None)
