"""A job's activation index: kept with its revision, equal to the dashboards beside it, and gone when it should be."""

import os
import signal
from pathlib import Path

import pytest
from sqlalchemy import select, update

from backend import errors, storage
from backend.cli import index as command
from backend.db import tables
from backend.db.session import transaction
from backend.formats import dashboards
from backend.names import FeatureRef
from backend.services import activation_index, catalog, kept_index
from backend.services.activation_index import ActivationQuery, CofiringQuery, PairQuery
from tests import reference
from tests.integration.test_jobs import is_cleared, is_done, stop
from tests.site import Site
from tests.site import site as site
from tests.unit.embedded.waiting import until

MODEL = "tiny-gpt2"


def compute(site: Site, name: str, *, n_documents: int = 100, **settings: object) -> None:
    spec = {"keep_index": settings.pop("keep_index")} if "keep_index" in settings else {}
    job_id = site.add(name, n_documents=n_documents, **spec)
    worker = site.fork_worker(**settings)
    site.wake()
    site.wait(job_id, is_done)
    until(lambda: is_cleared(site, job_id))
    stop(worker)


def blobs(site: Site) -> list[Path]:
    return sorted(path for path in (site.settings.data / "blobs" / "indexes").rglob("*") if path.is_file())


def size(site: Site, name: str) -> int | None:
    with transaction(site.sessions) as session:
        return catalog.source(session, MODEL, f"1-{name}").index_bytes


def answers(site: Site, name: str) -> list[object]:
    """What the index says of every feature, in numbers."""
    mirror = storage.mirror(site.settings)
    found: list[object] = []
    with transaction(site.sessions) as session:
        for i in range(64):
            ref = FeatureRef(MODEL, f"1-{name}", i)
            page = activation_index.activations(session, mirror, ref, ActivationQuery(per_page=200))
            with_it = activation_index.cofiring(session, mirror, ref, CofiringQuery(min_count=1, per_page=200))
            beside = activation_index.pair(session, mirror, ref, (i * 7 + 3) % 64, PairQuery(per_page=5))
            found += [page.rows, page.histogram, page.quantiles, with_it.rows, beside.rows, beside.correlation]
    return found


def test_a_job_keeps_an_index_that_says_what_its_dashboards_say(site: Site) -> None:
    compute(site, "kept")
    assert size(site, "kept") == sum(path.stat().st_size for path in blobs(site))
    mirror = storage.mirror(site.settings)
    with transaction(site.sessions) as session:
        source = catalog.readable_source(session, MODEL, "1-kept")
        rows = session.scalars(
            select(tables.Dashboard.packed)
            .where(tables.Dashboard.revision_id == source.revision_id)
            .order_by(tables.Dashboard.index)
        ).all()
        n_firings = 0
        for packed in rows:
            d = dashboards.unpack(packed)
            ref = FeatureRef(MODEL, "1-kept", d.index)
            query = ActivationQuery(per_page=200)
            page = activation_index.activations(session, mirror, ref, query)
            n_firings += page.n_total
            assert (page.n_total, page.feature.n_firings) == (d.n_firings, d.n_firings)
            if not d.n_firings:
                continue
            assert page.rows[0].value == reference.bfloat16(d.max)
            by_context = {row.context: row.example for row in page.rows}
            for at, context in enumerate(d.examples.context.tolist()):
                if context in by_context:
                    firings = slice(int(d.examples.offset[at]), int(d.examples.offset[at + 1]))
                    values = [reference.bfloat16(float(v)) for v in d.examples.value[firings]]
                    assert list(by_context[context].values) == values
                    assert list(by_context[context].positions) == [int(p) - 1 for p in d.examples.position[firings]]
        assert n_firings == source.view.n_firings > 1000


def test_the_answers_are_the_same_however_many_shards_and_kills(site: Site) -> None:
    compute(site, "whole", shard_tokens=10_000_000)
    job_id = site.add("killed", n_documents=100)
    worker = site.fork_worker(shard_tokens=32 * 32)
    site.wake()
    site.wait(job_id, lambda v: v.stage == "encode" and v.stages[1].n_shards_done >= 1)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    worker = site.fork_worker()
    view = site.wait(job_id, is_done)
    stop(worker)
    assert view.stages[1].n_shards > 2
    assert answers(site, "whole") == answers(site, "killed")


def test_what_attempts_leave_behind_is_swept_and_what_a_revision_names_stays(site: Site) -> None:
    store, before = storage.store(site.settings), blobs(site)
    with transaction(site.sessions) as session:
        source_id, job_id = session.execute(
            select(tables.Source.id, tables.Job.id)
            .join(tables.JobSource, tables.JobSource.source_id == tables.Source.id)
            .join(tables.Job, tables.Job.id == tables.JobSource.job_id)
            .where(tables.Source.name == "1-kept")
        ).one()
    for key in (f"indexes/{source_id}/{job_id}/00000-9.tokens", f"indexes/{source_id}/999999/0-1.features"):
        left = site.folder / "left"
        left.write_bytes(b"left")
        store.put(key, left)
    with transaction(site.sessions) as session:
        session.execute(update(tables.Job).where(tables.Job.id == job_id).values(state="running"))
        session.flush()
        assert kept_index.sweep(session, store, source_id) == 1, "the job may still name what lies in its folder"
        session.execute(update(tables.Job).where(tables.Job.id == job_id).values(state="done"))
        session.flush()
        assert kept_index.sweep(session, store, source_id) == 1
    assert blobs(site) == before


def test_computing_again_replaces_the_files(site: Site) -> None:
    before = set(blobs(site))
    compute(site, "kept", n_documents=60)
    after = set(blobs(site))
    assert len(before - after) >= 2
    assert len(after - before) >= 2
    with transaction(site.sessions) as session:
        source = catalog.source(session, MODEL, "1-kept")
        named = session.scalar(select(tables.Revision.index_files).where(tables.Revision.id == source.revision_id))
    keys = {file["key"] for kind in named.values() for file in kind}
    source_folder = next(iter(keys)).rsplit("/", 2)[0]
    root = site.settings.data / "blobs"
    assert keys == {str(path.relative_to(root)) for path in after if source_folder in str(path)}


def test_dropping_an_index_leaves_the_dashboards(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    rows, before = site.rows("1-whole"), len(blobs(site))
    command.list_indexes(data=site.settings.data)
    assert f"{MODEL}/1-whole" in capsys.readouterr().out
    command.drop(f"{MODEL}/1-whole", data=site.settings.data)
    assert "index dropped" in capsys.readouterr().out
    assert size(site, "whole") is None
    assert len(blobs(site)) <= before - 2
    assert site.rows("1-whole") == rows
    command.list_indexes(data=site.settings.data)
    assert f"{MODEL}/1-whole" not in capsys.readouterr().out
    with pytest.raises(errors.NotFoundError, match="No activation index"):
        command.drop(f"{MODEL}/1-whole", data=site.settings.data)
    with pytest.raises(errors.InvalidInputError, match="model/source"):
        command.drop("1-whole", data=site.settings.data)


@pytest.mark.parametrize(
    ("settings", "is_kept"),
    [
        ({"keep_index": False}, False),
        ({"keep_index": True, "keep_index_gb": 0.0}, True),
        ({"keep_index_gb": 0.0}, False),
        ({"keep_index_gb": 1e-6}, False),
    ],
)
def test_an_index_is_kept_if_asked_for_or_small_enough(site: Site, settings: dict[str, object], is_kept: bool) -> None:
    before = set(blobs(site))
    compute(site, "asked", n_documents=40, **settings)
    assert (size(site, "asked") is not None) == is_kept
    assert bool(set(blobs(site)) - before) == is_kept
