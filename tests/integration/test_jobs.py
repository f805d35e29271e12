"""Jobs on real Postgres, a real queue and real worker processes, killed where it hurts."""

import os
import signal
import subprocess

import pytest
from sqlalchemy import select

from backend import errors
from backend.db import tables
from backend.db.session import transaction
from backend.names import FeatureRef
from backend.services import catalog, features, jobs
from tests import tiny
from tests.site import Site
from tests.site import site as site


def stop(worker: subprocess.Popen[bytes]) -> None:
    worker.terminate()
    worker.wait(20)


def is_done(view: jobs.JobView) -> bool:
    assert view.state not in ("failed", "cancelled"), view.error
    return view.state == "done"


def test_a_killed_worker_costs_time_and_nothing_else(site: Site) -> None:
    """One worker, killed with -9 while encoding, and another: the same rows as an undisturbed run with one shard."""
    killed_id = site.add("killed")
    worker = site.start_worker()
    site.wake()
    view = site.wait(killed_id, lambda v: v.stage == "encode" and any(s.n_shards_done for s in v.stages[1:]))
    assert view.stages[1].n_shards >= 7
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    with transaction(site.sessions) as session:
        assert jobs.get(session, killed_id).state == "running"
        source = catalog.source(session, "tiny-gpt2", "1-killed")
        assert source.revision_id is None, "nothing half-written is seen"
    worker = site.start_worker()
    site.wait(killed_id, is_done)
    stop(worker)

    whole_id = site.add("whole")
    worker = site.start_worker(shard_tokens=10_000_000)
    site.wake()
    view = site.wait(whole_id, is_done)
    stop(worker)
    assert [stage.n_shards for stage in view.stages] == [1, 1, 1, 1]
    killed, whole = site.rows("1-killed"), site.rows("1-whole")
    assert len(whole) == 64
    assert sum(row[1] for row in whole) > 1000
    assert killed == whole
    with transaction(site.sessions) as session:
        shown = features.get(session, FeatureRef("tiny-gpt2", "1-killed", whole[10][0]))
        assert shown.n_firings == whole[10][1]
        killed_quality, whole_quality = (catalog.quality(session, "tiny-gpt2", f"1-{n}") for n in ("killed", "whole"))
        assert killed_quality == whole_quality is not None
        assert whole_quality.corpus.metrics["loss_sae"].value > 0
    assert not list((site.settings.data / "blobs" / "jobs").glob("*")), "postings are gone once used"


def test_cancelling_stops_the_worker_and_retrying_ends_with_dashboards(site: Site) -> None:
    job_id = site.add("cancelled", n_documents=800)
    worker = site.start_worker()
    site.wake()
    site.wait(job_id, lambda v: v.stage == "encode" and v.stages[1].n_shards_done >= 1)
    with transaction(site.sessions) as session:
        jobs.cancel(session, job_id)
    view = site.wait(job_id, lambda v: v.state == "cancelled")
    assert view.stages[1].n_shards_done < view.stages[1].n_shards
    with transaction(site.sessions) as session:
        jobs.retry(session, job_id)
        with pytest.raises(errors.ConflictError, match="is queued"):
            jobs.retry(session, job_id)
    site.wait(job_id, is_done)
    stop(worker)
    assert len(site.rows("1-cancelled")) == 64


def test_quality_is_measured_beyond_the_trained_context_or_not_at_all(site: Site) -> None:
    tiny.save_sae(site.folder / "sae" / "short", d_sae=64, metadata={"context_size": 8})
    measured, left_out = site.add("short", n_documents=60), site.add("bare", n_documents=60, quality_tokens=0)
    worker = site.start_worker()
    for job_id in (measured, left_out):
        site.wait(job_id, is_done)
    stop(worker)
    with transaction(site.sessions) as session:
        found = catalog.quality(session, "tiny-gpt2", "1-short")
        assert (found.corpus.context_size, found.longer.context_size) == (8, 32)
        assert catalog.quality(session, "tiny-gpt2", "1-bare") is None
        assert [stage.name for stage in jobs.get(session, left_out).stages] == ["prepare", "encode", "finish"]


def test_a_lost_message_is_sent_again(site: Site) -> None:
    """Nobody wakes the worker for this job; its own sweep does."""
    job_id = site.add("unsent", n_documents=60)
    worker = site.start_worker()
    site.wait(job_id, is_done)
    stop(worker)


def test_input_at_fault_fails_the_job_with_what_to_do(site: Site) -> None:
    corpus = site.folder / "short.txt"
    corpus.write_text("Too short.")
    job_id = site.add("short", corpus=str(corpus))
    worker = site.start_worker()
    view = site.wait(job_id, lambda v: v.state == "failed")
    stop(worker)
    assert view.error is not None
    assert "shorter than one context" in view.error
    assert "Give more text" in view.error


def test_computing_again_replaces_the_revision_at_once(site: Site) -> None:
    first = site.rows("1-whole")
    job_id = site.add("whole", n_documents=100)
    worker = site.start_worker()
    site.wait(job_id, is_done)
    stop(worker)
    assert site.rows("1-whole") != first
    with transaction(site.sessions) as session:
        source = session.scalars(select(tables.Source).where(tables.Source.name == "1-whole")).one()
        kept = session.scalars(select(tables.Revision.id).where(tables.Revision.source_id == source.id)).all()
        assert kept == [source.revision_id]
