"""Deleting sources: gone at once, cleared away step by step, and jobs that go on without them."""

from pathlib import Path

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from backend import errors, storage
from backend.db.tables import (
    Context,
    Corpus,
    CorpusRecipe,
    Dashboard,
    Feature,
    Job,
    JobSource,
    Revision,
    Shard,
    Source,
    Upload,
)
from backend.services import access, catalog, events, ingest, jobs, removal, shards, visibility
from backend.services.shards import Piece
from backend.settings import Settings
from tests import hosted
from tests.hosted import MODEL, SOURCE


@pytest.fixture
def blobs(tmp_path: Path) -> storage.Store:
    return storage.store(Settings(data=tmp_path))


def put(blobs: storage.Store, key: str, tmp_path: Path) -> None:
    file = tmp_path / "some"
    file.write_bytes(b"x")
    blobs.put(key, file)


def clear(session: Session, blobs: storage.Store) -> int:
    n = 0
    while removal.clear_step(session, blobs):
        session.flush()
        n += 1
    return n


def claim(session: Session) -> shards.Claim:
    found = shards.claim_next(session, worker="w1", lease_s=60, max_attempts=3, straggler_s=60)
    assert found is not None
    return found


def count(session: Session, table: type) -> int:
    return session.scalars(select(func.count()).select_from(table)).one()


def test_a_deleted_source_is_gone_at_once_and_its_id_is_free(session: Session) -> None:
    hosted.host(session)
    removal.remove(session, MODEL, SOURCE)
    with pytest.raises(errors.NotFoundError):
        catalog.source(session, MODEL, SOURCE)
    assert catalog.model(session, MODEL).sources == ()
    with pytest.raises(errors.NotFoundError):
        removal.remove(session, MODEL, SOURCE)
    hosted.add_source(session)
    assert catalog.source(session, MODEL, SOURCE).revision_id is None


def test_everything_of_it_is_cleared_in_small_steps(session: Session, blobs, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(removal, "BATCH", 4)
    made = hosted.host(session)
    uploaded = "0" * 32
    session.execute(update(Source).where(Source.id == made.source_id).values(weights=f"blob:saes/{uploaded}"))
    keys = (f"indexes/{made.source_id}/1/a.tokens", f"saes/{uploaded}/cfg.json", "corpora/x.npy")
    for key in (*keys, "saes/other/cfg.json", "indexes/77/1/a.tokens"):
        put(blobs, key, tmp_path)
    removal.remove(session, MODEL, SOURCE)
    assert clear(session, blobs) >= 2 + 2 + 15, "dashboards, features and contexts go four at a time"
    for table in (Source, Revision, Feature, Dashboard, Corpus, Context):
        assert count(session, table) == 0, table
    assert [key for key in keys if blobs.exists(key)] == []
    assert blobs.exists("saes/other/cfg.json")
    assert blobs.exists("indexes/77/1/a.tokens")


def test_what_another_source_uses_stays(session: Session, blobs, tmp_path) -> None:
    made = hosted.host(session)
    other = hosted.add_source(session, source="3-tiny-sae")
    kept = hosted.add_revision(session, other, made.corpus_id)
    session.execute(update(Source).values(weights="blob:saes/shared"))
    for key in ("saes/shared/cfg.json", "corpora/x.npy"):
        put(blobs, key, tmp_path)
    removal.remove(session, MODEL, SOURCE)
    clear(session, blobs)
    assert session.scalars(select(Revision.id)).all() == [kept]
    assert count(session, Context) == hosted.N_CONTEXTS
    assert blobs.exists("saes/shared/cfg.json")
    assert blobs.exists("corpora/x.npy")


def test_its_job_is_cancelled_and_nothing_is_cleared_while_a_worker_is_at_it(session: Session, blobs) -> None:
    made = hosted.host(session)
    job_id = jobs.create(session, [made.source_id], {})
    working = claim(session)
    removal.remove(session, MODEL, SOURCE)
    assert jobs.get(session, job_id).state == "cancelled"
    assert not removal.clear_step(session, blobs)
    assert not shards.renew(session, working, lease_s=60, n_done=1)
    assert not shards.finish(session, working, n_units=1)
    shards.release(session, working)
    assert jobs.next_to_clear(session) == job_id
    jobs.set_cleared(session, job_id)
    assert clear(session, blobs) > 0
    assert count(session, Source) == 0
    assert events.of_job(session, job_id)[-1].text == f"Cancelled: {MODEL}/{SOURCE} was deleted."
    assert not shards.finish(session, working, n_units=1), "what comes late is refused"
    assert not shards.fail(session, working, "late", is_final=True)
    with pytest.raises(errors.ConflictError, match="were deleted"):
        jobs.retry(session, job_id)


def finishing(session: Session, made: hosted.Hosted, other: int) -> int:
    """A job of two sources, each with a range of features to finish."""
    job_id = jobs.create(session, [made.source_id, other], {})
    assert shards.finish(session, claim(session), n_units=1)
    revisions = {
        each: ingest.begin_revision(
            session, source_id=each, corpus_id=made.corpus_id, job_id=job_id, n_features=1, spec={}
        )
        for each in (made.source_id, other)
    }
    jobs.set_prepared(session, job_id, spec={}, revision_ids=revisions)
    shards.plan(session, job_id, "finish", [Piece(0, 6, 6, each) for each in (made.source_id, other)])
    return job_id


def test_a_job_of_several_goes_on_with_the_others(session: Session, blobs) -> None:
    made = hosted.host(session)
    other = hosted.add_source(session, source="3-tiny-sae")
    job_id = finishing(session, made, other)
    removal.remove(session, MODEL, SOURCE)
    assert shards.deleted_sources(session, job_id) == {made.source_id}
    working = claim(session)
    assert working.source_id == other
    assert shards.finish(session, working, n_units=6)
    assert not removal.clear_step(session, blobs), "the job still counts it in"
    jobs.set_published(session, job_id, other)
    shards.settle(session, job_id)
    view = jobs.get(session, job_id)
    assert view.state == "done"
    assert [source.is_deleted for source in view.sources] == [True, False]


def test_deleting_the_last_source_left_unpublished_ends_the_job(session: Session) -> None:
    made = hosted.host(session)
    other = hosted.add_source(session, source="3-tiny-sae")
    job_id = finishing(session, made, other)
    assert shards.finish(session, claim(session), n_units=6)
    jobs.set_published(session, job_id, made.source_id)
    removal.remove(session, MODEL, "3-tiny-sae")
    assert jobs.get(session, job_id).state == "done"


def test_a_failed_job_begins_anew_without_the_deleted_source(session: Session, blobs) -> None:
    made = hosted.host(session)
    other = hosted.add_source(session, source="3-tiny-sae")
    job_id = finishing(session, made, other)
    shards.fail(session, claim(session), "No.", is_final=True)
    removal.remove(session, MODEL, SOURCE)
    clear(session, blobs)
    assert session.get_one(Job, job_id).state == "cancelled"
    assert count(session, Source) == 2, "until the job is cleared"
    assert jobs.next_to_clear(session) == job_id
    jobs.set_cleared(session, job_id)
    clear(session, blobs)
    jobs.retry(session, job_id)
    assert session.scalars(select(JobSource.source_id).where(JobSource.job_id == job_id)).all() == [other]
    assert [source.id for source in claim(session).sources] == [other]
    assert session.scalars(select(Shard.stage).where(Shard.job_id == job_id)).all() == ["prepare"]


def test_a_corpus_stays_while_a_job_of_the_model_might_take_it_up(session: Session, blobs, tmp_path) -> None:
    made = hosted.host(session)
    put(blobs, "corpora/x.npy", tmp_path)
    job_id = jobs.create(session, [hosted.add_source(session, source="3-tiny-sae")], {})
    removal.remove(session, MODEL, SOURCE)
    clear(session, blobs)
    assert count(session, Dashboard) == 0
    assert blobs.exists("corpora/x.npy")
    jobs.cancel(session, job_id)
    clear(session, blobs)
    assert not blobs.exists("corpora/x.npy")
    assert session.scalars(select(Source.id).where(Source.id == made.source_id)).all() == []


def test_every_blob_of_a_corpus_goes_with_its_last_source(session: Session, blobs, tmp_path) -> None:
    """Rows, documents, longer samples, the uploaded text, and what a job that was cancelled while it prepared left."""
    made = hosted.host(session)
    session.execute(update(Corpus).values(documents_key="corpora/r.documents"))
    ingest.store_recipe(session, MODEL, "r", made.corpus_id, {"none": "", "128-9-0": "corpora/r-128-9-0.npy"})
    text, several = "a" * 32, "b" * 32
    for upload, kind in ((text, "corpus"), (several, "sae")):
        session.add(Upload(id=upload, kind=kind, name="x", files=[], n_bytes=1, state="complete"))
    other = hosted.add_source(session, source="3-tiny-sae")
    for source_id, folder in ((made.source_id, "one"), (other, "two")):
        weights = f"blob:saes/{several}/{folder}"
        session.execute(update(Source).where(Source.id == source_id).values(weights=weights))
        put(blobs, f"saes/{several}/{folder}/cfg.json", tmp_path)
    asked = {"corpus": f"blob:corpora-raw/{text}"}
    job_id = jobs.create(session, [made.source_id, other], asked)
    jobs.set_prepared(session, job_id, spec=asked | {"corpus_id": made.corpus_id}, revision_ids={})
    jobs.cancel(session, job_id)
    jobs.set_cleared(session, job_id)
    for key in ("x.npy", "r.documents", "r-128-9-0.npy", "left.npy"):
        put(blobs, f"corpora/{key}", tmp_path)
    put(blobs, f"corpora-raw/{text}/a.txt", tmp_path)
    removal.remove(session, MODEL, SOURCE)
    clear(session, blobs)
    assert not blobs.exists(f"saes/{several}/one")
    assert blobs.exists(f"corpora-raw/{text}/a.txt"), "the other can be computed from it again"
    assert blobs.exists("corpora/x.npy")
    removal.remove(session, MODEL, "3-tiny-sae")
    clear(session, blobs)
    assert blobs.keys("") == []
    for table in (Source, Corpus, CorpusRecipe, Context, Upload):
        assert count(session, table) == 0, table


def test_blobs_that_another_models_corpus_names_stay(session: Session, blobs, tmp_path) -> None:
    first = hosted.host(session)
    hosted.host(session, model="other-model")
    put(blobs, "corpora/x.npy", tmp_path)
    removal.remove(session, MODEL, SOURCE)
    clear(session, blobs)
    assert session.get(Corpus, first.corpus_id) is None
    assert blobs.exists("corpora/x.npy")


def test_a_corpus_from_before_a_rerun_goes_with_its_source(session: Session, blobs) -> None:
    made = hosted.host(session)
    vocabulary_id = hosted.add_vocabulary(session, (*hosted.TEXTS, "more"))
    newer = hosted.add_corpus(session, MODEL, vocabulary_id)
    job_id = jobs.create(session, [made.source_id], {"corpus": "a.txt"})
    jobs.set_prepared(session, job_id, spec={"corpus": "a.txt", "corpus_id": made.corpus_id}, revision_ids={})
    jobs.cancel(session, job_id)
    jobs.set_cleared(session, job_id)
    session.execute(update(Revision).values(corpus_id=newer))
    assert clear(session, blobs) == 0, "it is offered for another run"
    removal.remove(session, MODEL, SOURCE)
    clear(session, blobs)
    assert count(session, Corpus) == count(session, Context) == 0


def test_only_its_owner_deletes_a_source(session: Session) -> None:
    hosted.host(session)
    visibility.see_as(session, access.NOBODY)
    with pytest.raises(errors.UnauthorizedError):
        removal.remove(session, MODEL, SOURCE)
    visibility.see_as(session, access.Viewer(7, "other", frozenset({"read", "write"})))
    with pytest.raises(errors.ForbiddenError):
        removal.remove(session, MODEL, SOURCE)
