"""Deleting sources under real workers, while they encode and finish, and after one was killed."""

import os
import signal

from sqlalchemy import func, select

from backend import storage
from backend.db import tables
from backend.db.session import transaction
from backend.services import jobs, removal
from backend.services.progress import JobView
from tests.site import Site
from tests.site import site as site
from tests.unit.embedded.waiting import until


def is_encoding(view: JobView) -> bool:
    return view.stage == "encode" and view.stages[1].n_shards_done >= 1


def still_hosted(view: JobView) -> list[str]:
    """The job's sources that are not deleted; a deleted one is shown as such until a worker has cleared it away."""
    return [source.name for source in view.sources if not source.is_deleted]


def source_id(site: Site, name: str) -> int:
    with transaction(site.sessions) as session:
        return session.scalars(select(tables.Source.id).where(tables.Source.name == name)).one()


def remove(site: Site, name: str) -> None:
    with transaction(site.sessions) as session:
        removal.remove(session, "tiny-gpt2", name)


def left(site: Site, source: int) -> list[object]:
    """Rows and files that are still the source's."""
    blobs = site.settings.data / "blobs"
    with transaction(site.sessions) as session:
        rows = session.scalars(select(tables.Source.id).where(tables.Source.id == source)).all()
        rows += session.scalars(select(tables.Revision.id).where(tables.Revision.source_id == source)).all()
    return [*rows, *blobs.glob(f"indexes/{source}/**/*.*")]


def nothing_is_left(site: Site) -> bool:
    """Of any job or source, but for those that are hosted."""
    blobs = site.settings.data / "blobs"
    with transaction(site.sessions) as session:
        n_deleted = session.scalar(select(func.count()).where(tables.Source.model_id.is_(None)))
        shown = session.scalars(select(tables.Source.revision_id).where(tables.Source.revision_id.is_not(None))).all()
        revisions = session.scalars(select(tables.Revision.id)).all()
        pages = session.scalars(select(tables.Dashboard.revision_id).distinct()).all()
    return not n_deleted and set(revisions) == set(pages) == set(shown) and not list(blobs.glob("jobs/*/*"))


def test_deleted_while_it_is_encoded_it_is_gone_and_stays_gone(site: Site) -> None:
    job_id = site.add("doomed", n_documents=800)
    worker = site.fork_worker()
    site.wake()
    site.wait(job_id, is_encoding)
    doomed = source_id(site, "1-doomed")
    remove(site, "1-doomed")
    view = site.wait(job_id, lambda view: view.state == "cancelled")
    assert not still_hosted(view)
    until(lambda: not left(site, doomed) and nothing_is_left(site), deadline_s=200)
    again = site.add("doomed", n_documents=60)
    site.wait(again, lambda view: view.state == "done")
    worker.terminate()
    worker.wait(20)
    assert len(site.rows("1-doomed")) == 64


def test_deleted_after_its_worker_was_killed_it_is_cleared_by_another(site: Site) -> None:
    job_id = site.add("killed-and-deleted", n_documents=800)
    worker = site.fork_worker()
    site.wake()
    site.wait(job_id, is_encoding)
    doomed = source_id(site, "1-killed-and-deleted")
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    remove(site, "1-killed-and-deleted")
    worker = site.fork_worker()
    until(lambda: not left(site, doomed) and nothing_is_left(site), deadline_s=200)
    worker.terminate()
    worker.wait(20)


def test_a_worker_killed_while_it_clears_leaves_the_rest_to_another(site: Site) -> None:
    job_id = site.add("2-large", n_documents=100)
    worker = site.fork_worker()
    site.wake()
    site.wait(job_id, lambda view: view.state == "done")
    doomed = source_id(site, "2-large")
    remove(site, "2-large")
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    with transaction(site.sessions) as session:  # half way: a batch is gone
        removal.BATCH, whole = 100, removal.BATCH
        removal.clear_step(session, storage.store(site.settings))
        removal.BATCH = whole
    assert left(site, doomed)
    worker = site.fork_worker()
    until(lambda: not left(site, doomed) and nothing_is_left(site), deadline_s=200)
    worker.terminate()
    worker.wait(20)


def test_the_other_sources_of_a_job_have_their_dashboards(site: Site) -> None:
    """One is deleted while all are encoded, one while they are finished; the rows of the third are those it has alone."""
    together = ("0-first", "1-second", "2-third")
    job_id = site.add(*together, n_documents=400)
    worker = site.fork_worker()
    site.wake()
    site.wait(job_id, is_encoding)
    remove(site, "1-second")
    site.wait(job_id, lambda view: view.stage == "finish" or view.state == "done")
    remove(site, "0-first")
    view = site.wait(job_id, lambda view: view.state == "done")
    assert still_hosted(view) == ["2-third"]
    alone = site.add("2-lonely", n_documents=400)
    site.wait(alone, lambda view: view.state == "done")
    until(lambda: nothing_is_left(site), deadline_s=200)
    worker.terminate()
    worker.wait(20)
    assert site.rows("2-third") == site.rows("2-lonely")
    with transaction(site.sessions) as session:
        assert jobs.get(session, job_id).error is None


def test_when_everything_is_deleted_no_blob_is_left(site: Site) -> None:
    """Longer contexts to evaluate on, documents and kept indexes included."""
    job_id = site.add("1-last", n_documents=120, quality_tokens=500, keep_index=True)
    worker = site.fork_worker()
    site.wake()
    site.wait(job_id, lambda view: view.state == "done")
    blobs = storage.store(site.settings)
    assert {key.split("/")[0] for key in blobs.keys("")} >= {"corpora", "indexes"}
    with transaction(site.sessions) as session:
        names = session.scalars(select(tables.Source.name).where(tables.Source.model_id.is_not(None))).all()
    for name in names:
        remove(site, name)
    until(lambda: not blobs.keys(""), deadline_s=200)
    worker.terminate()
    worker.wait(20)
    with transaction(site.sessions) as session:
        for table in (tables.Source, tables.Revision, tables.Corpus, tables.Context, tables.CorpusRecipe):
            assert session.scalar(select(func.count()).select_from(table)) == 0
