"""Jobs on real Postgres, a real queue and real worker processes, killed where it hurts."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from sqlalchemy import select

from backend import errors
from backend.db import tables
from backend.db.session import transaction
from backend.names import FeatureRef
from backend.services import catalog, events, features, filling, jobs
from backend.services.progress import JobView
from tests import tiny
from tests.nursery import Forked
from tests.site import Site
from tests.site import site as site
from tests.unit.embedded.waiting import until


def stop(worker: subprocess.Popen[bytes] | Forked) -> None:
    worker.terminate()
    worker.wait(20)


def postings(site: Site) -> list[Path]:
    return list((site.settings.data / "blobs" / "jobs").glob("*"))


def is_cleared(site: Site, job_id: int) -> bool:
    """What it left is gone."""
    with transaction(site.sessions) as session:
        return not session.get_one(tables.Job, job_id).has_blobs


def is_done(view: JobView) -> bool:
    assert view.state not in ("failed", "cancelled"), view.error
    return view.state == "done"


def test_a_killed_worker_costs_time_and_nothing_else(site: Site) -> None:
    """One worker, killed with -9 while encoding, and another: the same rows as an undisturbed run with one shard."""
    killed_id = site.add("killed")
    worker = site.fork_worker()
    site.wake()
    view = site.wait(killed_id, lambda v: v.stage == "encode" and any(s.n_shards_done for s in v.stages[1:]))
    assert view.stages[1].n_shards >= 7
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    with transaction(site.sessions) as session:
        assert jobs.get(session, killed_id).state == "running"
        source = catalog.source(session, "tiny-gpt2", "1-killed")
        assert source.revision_id is None, "nothing half-written is seen"
    worker = site.fork_worker()
    site.wait(killed_id, is_done)
    stop(worker)

    whole_id = site.add("whole")
    worker = site.fork_worker(shard_tokens=10_000_000)
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
    until(lambda: not postings(site), deadline_s=120)


def test_sources_of_one_job_have_the_rows_of_jobs_of_their_own(site: Site) -> None:
    """One forward pass for three layers, each finished in ranges: the rows of three jobs."""
    together = ("1-set", "2-set", "0-set")
    job_id = site.add(*together)
    alone = [site.add(name) for name in ("2-alone", "0-alone")]
    worker = site.fork_worker()
    site.wake()
    view = site.wait(job_id, is_done)
    for other in alone:
        site.wait(other, is_done)
    stop(worker)
    assert [source.name for source in view.sources] == list(together)
    assert all(source.is_published and source.n_features_done == source.n_features for source in view.sources)
    assert [stage.name for stage in view.stages] == ["prepare", "encode", "finish", "evaluate"]
    assert [stage.n_shards for stage in view.stages[2:]] == [1 + 3 + 2, 3]
    assert [stage.n_units_done for stage in view.stages] == [stage.n_units for stage in view.stages]
    for name, same in zip(together, ("1-whole", "2-alone", "0-alone"), strict=True):
        assert site.rows(name) == site.rows(same)


def test_cancelling_stops_the_worker_and_retrying_ends_with_dashboards(site: Site) -> None:
    job_id = site.add("cancelled", n_documents=800)
    worker = site.fork_worker()
    site.wake()
    site.wait(job_id, lambda v: v.stage == "encode" and v.stages[1].n_shards_done >= 1)
    with transaction(site.sessions) as session:
        jobs.cancel(session, job_id)
    view = site.wait(job_id, lambda v: v.state == "cancelled")
    assert view.stages[1].n_shards_done < view.stages[1].n_shards
    until(lambda: not postings(site), deadline_s=120)
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
    worker = site.fork_worker()
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
    worker = site.fork_worker()
    site.wait(job_id, is_done)
    stop(worker)


def test_input_at_fault_fails_the_job_with_what_to_do(site: Site) -> None:
    corpus = site.folder / "short.txt"
    corpus.write_text("Too short.")
    job_id = site.add("fault", corpus=str(corpus))
    worker = site.fork_worker()
    view = site.wait(job_id, lambda v: v.state == "failed")
    stop(worker)
    assert view.error is not None
    assert "shorter than one context" in view.error
    assert "Give more text" in view.error


def test_computing_again_replaces_the_revision_at_once(site: Site) -> None:
    first = site.rows("1-whole")
    job_id = site.add("whole", n_documents=100)
    worker = site.fork_worker()
    site.wait(job_id, is_done)
    until(lambda: is_cleared(site, job_id))
    stop(worker)
    assert site.rows("1-whole") != first
    with transaction(site.sessions) as session:
        source = session.scalars(select(tables.Source).where(tables.Source.name == "1-whole")).one()
        kept = session.scalars(select(tables.Revision.id).where(tables.Revision.source_id == source.id)).all()
        assert kept == [source.revision_id]


def test_what_is_known_so_far_grows_to_what_is_published_and_the_log_tells_it(site: Site) -> None:
    job_id = site.add("2-filling", n_documents=400)
    worker = site.fork_worker()
    site.wake()
    site.wait(job_id, lambda v: v.stage == "encode" and v.stages[1].n_shards_done >= 1)
    with transaction(site.sessions) as session:
        (early,) = filling.of_job(session, job_id)
    site.wait(job_id, lambda v: len(v.stages) > 2 and v.stages[2].name == "finish")
    with transaction(site.sessions) as session:
        whole = filling.of_job(session, job_id)
        summed = session.scalars(select(tables.Revision).where(tables.Revision.job_id == job_id)).one()
        before = (summed.n_alive, summed.n_firings, summed.n_dense, summed.density_histogram)
    site.wait(job_id, is_done)
    stop(worker)
    with transaction(site.sessions) as session:
        view = catalog.source(session, "tiny-gpt2", "2-filling")
        after = session.get_one(tables.Revision, view.revision_id)
        assert before == (after.n_alive, after.n_firings, after.n_dense, after.density_histogram)
        assert not view.is_partial
        assert filling.of_job(session, job_id) == ()
        told = [line.text for line in events.of_job(session, job_id) if line.level == "info"]
    assert 0 < early.n_tokens < view.n_corpus_tokens
    assert 0 < early.n_firings < view.n_firings
    for of in whole:
        assert (of.n_tokens, of.n_firings, of.n_alive) == (view.n_corpus_tokens, view.n_firings, view.n_alive)
    assert [text.split()[0] for text in told] == ["Queued.", "Started", "The", "Every", "2-filling", "The", "Done."]
