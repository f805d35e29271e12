"""Deleting a source: gone for readers at once, cleared away by workers, in steps that can be killed anywhere.

1. `remove`, one short transaction: the row loses its model, so no address, list or search finds it and its id is free.
   Steering runs with a feature of it go. A job about nothing else is cancelled; one of several sources goes on with the
   others.
2. `clear_step`, by every worker's sweep: once no worker holds a shard of a job of it, its dashboards, features and
   revisions go in batches, then its index, the weights and the text that were uploaded for it, and its row.
3. Corpora that were computed on for deleted sources only go last: contexts in batches, the row, and the blobs of
   `corpora/` that no row names any more.
Each step commits by itself, and what is left says what is to be done.

Postings are a job's and go with it (`jobs.next_to_clear`). A source's set and model stay, as does a corpus that a hosted
source was computed on before: it can be computed on again with nothing read.
"""

from sqlalchemy import ColumnElement, delete, exists, func, select, update
from sqlalchemy.orm import Session

from backend import weights
from backend.db.tables import (
    Context,
    Corpus,
    CorpusRecipe,
    Dashboard,
    Feature,
    Job,
    JobSource,
    Lease,
    Model,
    Revision,
    Shard,
    Source,
    SteerRun,
    Upload,
)
from backend.services import access, catalog, events, shards
from backend.services.shards import ACTIVE
from backend.services.uploads import ROOTS
from backend.services.visibility import addressed, unrestricted
from backend.storage import Store

BATCH = 2_000
"""Rows that one step deletes."""
TEXTS = ROOTS["corpus"]
"""Key of the texts that were uploaded."""


def remove(session: Session, model: str, name: str) -> None:
    """Delete a source for every reader; raises `NotFoundError`, and refuses whoever may not change it."""
    catalog.source(session, model, name)
    found = session.execute(
        addressed(select(Source.id, Source.owner_id).where(Source.model_id == model, Source.name == name))
    ).one()
    access.check_may_change(access.viewer_of(session), found.owner_id)
    jobs = select(Job).join(JobSource, JobSource.job_id == Job.id).where(JobSource.source_id == found.id)
    locked = session.scalars(unrestricted(jobs.order_by(Job.id)).with_for_update(key_share=True, of=Job)).all()
    gone = update(Source).where(Source.id == found.id, Source.model_id.is_not(None))
    session.execute(unrestricted(gone.values(model_id=None, revision_id=None)))
    runs = delete(SteerRun).where(SteerRun.source_ids.contains([found.id]))
    session.execute(unrestricted(runs.execution_options(synchronize_session=False)))
    for job in locked:
        if job.state in ACTIVE:
            _leave(session, job, found.id, f"{model}/{name}")


def _leave(session: Session, job: Job, source_id: int, ref: str) -> None:
    """The job does without the source. Called with the job locked."""
    others = select(JobSource.source_id).join(Source, Source.id == JobSource.source_id)
    left = others.where(JobSource.job_id == job.id, Source.model_id.is_not(None)).limit(1)
    if session.scalar(unrestricted(left)) is None:
        job.state, job.finished_at = "cancelled", func.now()
        shards.stop(session, job.id)
        events.note(session, job.id, f"Cancelled: {ref} was deleted.", level="warning")
        return
    shards.stop(session, job.id, source_id)
    events.note(session, job.id, f"{ref} was deleted; the others go on.", level="warning")
    session.flush()
    shards.settle(session, job.id)


def clear_step(session: Session, blobs: Store) -> bool:
    """Do the next piece of clearing away deleted sources; False where nothing can be done now."""
    deleted = select(Source).where(Source.model_id.is_(None), ~_is_at_work()).order_by(Source.id)
    sources = session.scalars(deleted.with_for_update(skip_locked=True)).all()
    return any(_clear(session, blobs, source) for source in sources) or _clear_corpora(session, blobs)


def _is_at_work() -> ColumnElement[bool]:
    """A worker may still write something of the source."""
    of_job = (JobSource.job_id == Job.id, JobSource.source_id == Source.id)
    is_held = exists().where(*of_job, Shard.job_id == Job.id, Lease.shard_id == Shard.id, Lease.until > func.now())
    return exists().where(*of_job, Job.state.in_(ACTIVE)) | is_held


def _clear(session: Session, blobs: Store, source: Source) -> bool:
    revisions = session.scalars(select(Revision).where(Revision.source_id == source.id).order_by(Revision.id)).all()
    for revision in revisions:
        if _clear_rows(session, revision):
            return True
    if revisions:
        session.execute(delete(Revision).where(Revision.id.in_([revision.id for revision in revisions])))
        return True
    if _is_kept_by_a_job(session, source.id):
        return False
    blobs.delete_folder(f"indexes/{source.id}")
    _delete_weights(session, blobs, source)
    _delete_texts(session, blobs, source)
    session.execute(delete(Source).where(Source.id == source.id))
    return True


def _clear_rows(session: Session, revision: Revision) -> bool:
    """A batch of the revision's pages, then of its features; False if there are none."""
    for table in (Dashboard, Feature):
        some = select(table.index).where(table.revision_id == revision.id).limit(BATCH)
        of = delete(table).where(table.revision_id == revision.id, table.index.in_(some))
        if session.execute(of.returning(table.index).execution_options(synchronize_session=False)).all():
            return True
    return False


def _is_kept_by_a_job(session: Session, source_id: int) -> bool:
    """A job's postings still count the source in. A failed job begins anew at a retry, so its postings can go too."""
    of = select(Job).join(JobSource, JobSource.job_id == Job.id).where(JobSource.source_id == source_id, Job.has_blobs)
    keeping = session.scalars(of.with_for_update(key_share=True, of=Job)).all()
    for job in keeping:
        if job.state == "failed":
            job.state = "cancelled"
            events.note(session, job.id, "A source of this job was deleted, so a retry begins from the beginning.")
    return bool(keeping)


def _delete_weights(session: Session, blobs: Store, source: Source) -> None:
    """Those that became blobs for the source, unless another uses them too. Folders of the host are never touched."""
    key = weights.key_of(source.weights or "")
    if key is None:
        return
    others = select(Source.id).where(Source.id != source.id).limit(1)
    within = Source.weights.startswith(f"{source.weights}/", autoescape=True)
    if session.scalar(others.where((Source.weights == source.weights) | within)) is None:
        blobs.delete_folder(key)
    uploaded = "/".join(key.split("/")[:2])
    upload = session.get(Upload, uploaded.rpartition("/")[2])
    if upload is None:
        return
    root = weights.of_key(uploaded)
    if session.scalar(others.where((Source.weights == root) | Source.weights.startswith(f"{root}/"))) is None:
        blobs.delete_folder(uploaded)
        session.delete(upload)


def _delete_texts(session: Session, blobs: Store, source: Source) -> None:
    """Uploaded corpora that no hosted source was computed from, so that no job can ask for them again."""
    corpus = Job.spec["corpus"].astext
    of = select(corpus).join(JobSource, JobSource.job_id == Job.id).where(JobSource.source_id == source.id)
    for named in session.scalars(of.where(corpus.startswith(weights.of_key(f"{TEXTS}/"))).distinct()).all():
        others = select(Job.id).join(JobSource, JobSource.job_id == Job.id).where(corpus == named)
        if session.scalar(others.where(JobSource.source_id != source.id).limit(1)) is None:
            key = named.removeprefix(weights.BLOB)
            blobs.delete_folder(key)
            session.execute(delete(Upload).where(Upload.id == key.rpartition("/")[2]))


def _clear_corpora(session: Session, blobs: Store) -> bool:
    """A step of clearing a corpus that nobody asks for any more; False if there is none, or a job may take one up."""
    number = Job.spec["corpus_id"].as_integer()
    hosted = exists().where(Source.model_id.is_not(None), JobSource.source_id == Source.id, JobSource.job_id == Job.id)
    is_used = (
        exists().where(Revision.corpus_id == Corpus.id)
        | exists().where(Job.model_id == Corpus.model_id, Job.state.in_(ACTIVE))
        | exists().where(Job.model_id == Corpus.model_id, number == Corpus.id, hosted)
    )
    free = select(Corpus.id).where(~is_used).order_by(Corpus.id).limit(1)
    if session.scalar(free) is None:
        return False
    # No job can be queued before this transaction ends: its row refers to its model's.
    session.execute(select(Model.id).order_by(Model.id).with_for_update())
    preparing = select(Shard.id).where(Shard.stage == "prepare")
    is_held = exists().where(Lease.shard_id == Shard.id, Lease.until > func.now())
    corpus_id = session.scalar(free)
    if corpus_id is None or session.scalar(preparing.where(Shard.state.in_(ACTIVE) | is_held).limit(1)) is not None:
        return False
    some = select(Context.index).where(Context.corpus_id == corpus_id).limit(BATCH)
    contexts = delete(Context).where(Context.corpus_id == corpus_id, Context.index.in_(some))
    if session.execute(contexts.returning(Context.index).execution_options(synchronize_session=False)).all():
        return True
    session.execute(delete(Corpus).where(Corpus.id == corpus_id))
    for key in set(blobs.keys("corpora")) - _named(session):
        blobs.delete(key)
    return True


def _named(session: Session) -> set[str]:
    """Keys of the blobs of all corpora: models share those of equal rows and equal recipes."""
    keys = {key for row in session.execute(select(Corpus.blob_key, Corpus.documents_key)) for key in row if key}
    return keys | {key for longer in session.scalars(select(CorpusRecipe.longer)) for key in longer.values() if key}
