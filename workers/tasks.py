"""The one task: claim a shard, compute, store, finish; then wake workers for what has become possible.

A thread renews the lease and reports progress while the main thread computes; when the job was cancelled or the lease
lost, the next batch stops the computation. Every shard may run twice and be killed anywhere: results are put under
their own key, and the row is finished only while it is still ours.
"""

import contextlib
import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from backend import errors, logs, storage, wakeups
from backend.db import tables
from backend.db.session import transaction
from backend.formats import quality
from backend.services import ingest, jobs
from backend.services import kept_index as kept
from backend.settings import Settings
from workers import kept_index, runtime
from workers.compute import activation_index, merge
from workers.compute import corpus as corpora

_logger = logging.getLogger(__name__)


class Worker:
    """One process that does shards, with what it keeps resident: the last model and SAE."""

    def __init__(self, settings: Settings, sessions: sessionmaker[Session], app: Celery, name: str) -> None:
        self.settings, self.sessions, self.app, self.name = settings, sessions, app, name
        self.blobs = storage.store(settings)
        self.doing: str | None = None
        self._loaded: tuple[object, runtime.Loaded] | None = None

    def run(self) -> None:
        """Do the next shard if there is one, then send what follows from it."""
        s = self.settings
        with transaction(self.sessions) as session:
            claimed = jobs.claim_next(session, worker=self.name, lease_s=s.lease_s, max_attempts=s.max_attempts)
        if claimed is None:
            return
        fields: dict[str, Any] = {"job_id": claimed.job_id, "stage": claimed.stage, "shard": claimed.number}
        logs.event(_logger, "shard.started", attempt=claimed.attempt, **fields)
        self.doing = f"{claimed.stage} {claimed.number} of job {claimed.job_id}"
        try:
            with Lease(self, claimed) as lease:
                stage = {
                    "prepare": self._prepare, "encode": self._encode, "finish": self._finish,
                    "evaluate": self._evaluate,
                }[claimed.stage]  # fmt: skip
                stage(claimed, lease)
            logs.event(_logger, "shard.finished", **fields)
        except errors.CancelledError:
            logs.event(_logger, "shard.given_up", **fields)
        except errors.SiteError as error:
            self._fail(claimed, str(error), is_final=True)
        except Exception as error:
            _logger.exception("shard.failed", extra={"fields": fields})
            is_final = claimed.attempt >= s.max_attempts
            self._fail(claimed, f"{type(error).__name__} in the {claimed.stage} stage: {error}", is_final=is_final)
        finally:
            self.doing = None
        self.send_pending()

    def send_pending(self) -> None:
        """Send the messages of every shard that waits for one; called after each commit that may have made some."""
        try:
            wakeups.send(self.sessions, self.app)
        except errors.UnavailableError:
            _logger.warning("queue.unreachable")  # the next sweep sends them

    def _fail(self, claimed: jobs.Claim, message: str, *, is_final: bool) -> None:
        with transaction(self.sessions) as session:
            jobs.fail(session, claimed, message, is_final=is_final)

    def _load(self, claimed: jobs.Claim) -> tuple[runtime.Loaded, runtime.Spec]:
        spec = spec_of(claimed.spec, self.settings)
        folders = (claimed.model_weights, claimed.source_weights)
        written = [runtime.written_at(folder) for folder in folders]
        if claimed.spec.get("written_at", written) != written:
            raise errors.InvalidInputError(
                "the model's or SAE's files were replaced while the job ran.",
                hint="Add it again to compute from the new ones.",
            )
        key = (*folders, *written, spec.device, spec.dtype, spec.threads, spec.hook_point)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # before loading, so that two models are never resident
            self._loaded = (key, runtime.load(claimed.model_weights, Path(claimed.source_weights), spec))
        return self._loaded[1], spec

    def _prepare(self, claimed: jobs.Claim, lease: "Lease") -> None:
        with transaction(self.sessions) as session:
            ended = jobs.earlier_jobs(session, claimed)
            kept.sweep(session, self.blobs, claimed.source_id)
        for job_id in ended:
            self.blobs.delete_folder(f"jobs/{job_id}")
        loaded, spec = self._load(claimed)
        rows, longer = runtime.build_corpus(loaded, spec, on_progress=lease.at)
        facts = ingest.CorpusFacts(
            Path(spec.corpus).name, rows.fingerprint(), rows.rows.shape[1], rows.n_contexts, rows.n_tokens,
            rows.is_first_masked, f"corpora/{rows.fingerprint()}.npy",
        )  # fmt: skip
        if facts.n_tokens == 0:
            raise errors.InvalidInputError("every token of the corpus is masked.", hint="Give ordinary text.")
        if not self.blobs.exists(facts.blob_key):
            with self._scratch("corpus.npy") as path:
                np.save(path, rows.rows)
                self.blobs.put(facts.blob_key, path)
        longer_key = "" if longer is None else f"corpora/{facts.fingerprint}-{longer.shape[1]}-{claimed.job_id}.npy"
        if longer is not None:
            with self._scratch("longer.npy") as path:
                np.save(path, longer)
                self.blobs.put(longer_key, path)
        size = rows.rows.shape[1]
        n_shards = max(1, round(rows.rows.size / self.settings.shard_tokens))
        batch = runtime.batch_contexts(loaded, spec, rows)
        plan = [(a, n, n * size) for a, n in activation_index.shards(rows.n_contexts, n_shards=n_shards, size=batch)]
        with transaction(self.sessions) as session:
            if not jobs.finish_shard(session, claimed, n_units=rows.rows.size):
                return
            vocabulary_id = ingest.store_vocabulary(session, loaded.vocabulary, loaded.model.special_tokens)
            ingest.store_model_facts(session, claimed.model, runtime.model_facts(loaded), vocabulary_id)
            corpus_id = ingest.store_corpus(session, claimed.model, vocabulary_id, facts)
            session.get_one(tables.Job, claimed.job_id).spec = claimed.spec | {
                "corpus_id": corpus_id,
                "longer_key": longer_key,
                "batch_contexts": batch,
                "written_at": [runtime.written_at(claimed.model_weights), runtime.written_at(claimed.source_weights)],
            }
            jobs.plan_encoding(session, claimed.job_id, plan)
            if spec.quality_tokens:
                jobs.plan_evaluation(session, claimed.job_id, n_tokens=runtime.n_evaluated(rows, longer, spec))

    def _encode(self, claimed: jobs.Claim, lease: "Lease") -> None:
        clock = runtime.Stopwatch()
        with clock.stage("load"):
            loaded, spec = self._load(claimed)
        with self._corpus(claimed) as (rows, _), clock.stage("encode"):
            parts = list(
                runtime.encode(
                    loaded,
                    rows,
                    first_context=claimed.first_context,
                    n_contexts=claimed.n_contexts,
                    batch_contexts=runtime.batch_contexts(loaded, spec, rows),
                    on_batch=lease.add,
                )
            )
            postings = merge.join(parts)
        key = f"jobs/{claimed.job_id}/{claimed.number:05d}-{claimed.attempt}.postings"
        with clock.stage("write"), self._scratch("shard.postings") as path:
            postings.write(path, {"job_id": claimed.job_id, "first_context": claimed.first_context})
            self.blobs.put(key, path)
        context_size = rows.rows.shape[1]
        if kept_index.may_be_kept(self.settings, spec.keep_index):
            with clock.stage("index"), self._scratch("shard.tokens") as path:
                tokens_key = kept_index.tokens_key(claimed.source_id, key)
                kept_index.put_tokens(self.blobs, tokens_key, path, postings, context_size=context_size)
        n_tokens = claimed.n_contexts * context_size
        with transaction(self.sessions) as session:
            if jobs.finish_shard(session, claimed, n_units=n_tokens, blob_key=key, seconds=clock.report()):
                jobs.plan_finish_if_encoded(session, claimed.job_id, n_features=loaded.sae.d_sae)

    def _finish(self, claimed: jobs.Claim, lease: "Lease") -> None:
        loaded, spec = self._load(claimed)
        n_features = loaded.sae.d_sae
        lease.n_units = n_features
        with transaction(self.sessions) as session:
            keys = jobs.postings_keys(session, claimed.job_id)
        with (
            self._corpus(claimed) as (rows, corpus),
            contextlib.ExitStack() as stack,
            transaction(self.sessions) as session,
        ):
            parts = [activation_index.read(stack.enter_context(self.blobs.local(key))) for key in keys]
            revision_id = ingest.begin_revision(
                session, source_id=claimed.source_id, corpus_id=corpus.id, job_id=claimed.job_id,
                n_features=n_features, spec=asdict(spec),
            )  # fmt: skip
            shown = []
            n_firings = sum(int(part.offset[-1]) for part in parts)
            is_kept = kept_index.is_kept(self.settings, spec.keep_index, n_firings)
            index_path = stack.enter_context(self._scratch("range.features")) if is_kept else None
            with kept_index.features_file(
                index_path, first=0, context_size=corpus.context_size, n_contexts=corpus.n_contexts
            ) as add_postings:
                for block in runtime.finish(loaded, parts, rows, seed=spec.seed, on_postings=add_postings):
                    ingest.copy_dashboards(
                        session, revision_id, block, n_tokens=corpus.n_tokens, vocabulary=loaded.vocabulary
                    )
                    shown += [d.examples.context for d in block]
                    lease.add(len(block))
            if index_path is not None:
                index_key = f"indexes/{claimed.source_id}/{claimed.job_id}/0-{claimed.attempt}.features"
                self.blobs.put(index_key, index_path)
                tokens = [kept_index.tokens_key(claimed.source_id, key) for key in keys]
                kept_index.name_files(session, self.blobs, revision_id, [(0, index_key)], tokens)
            ingest.store_contexts(session, corpus.id, np.concatenate(shown), rows.rows)
            if not jobs.finish_shard(session, claimed, n_units=n_features):
                raise errors.CancelledError("the shard is no longer ours.")
            if jobs.is_evaluated(session, claimed.job_id):
                with self.blobs.local(_quality_key(claimed)) as path:
                    ingest.store_quality(session, revision_id, quality.from_json(json.loads(path.read_bytes())))
            ingest.publish(session, revision_id)
            jobs.settle(session, claimed.job_id)
        with transaction(self.sessions) as session:
            ingest.drop_old_revisions(session, claimed.source_id)
            kept.sweep(session, self.blobs, claimed.source_id)
        self.blobs.delete_folder(f"jobs/{claimed.job_id}")

    def _evaluate(self, claimed: jobs.Claim, lease: "Lease") -> None:
        """Whoever ends last, this or the finish stage, writes the result into the revision; the lock on the job orders them."""
        loaded, spec = self._load(claimed)
        with self._corpus(claimed) as (rows, _), contextlib.ExitStack() as stack:
            longer_key = claimed.spec["longer_key"]
            longer = np.load(stack.enter_context(self.blobs.local(longer_key))) if longer_key else None
            measured = runtime.evaluate(loaded, rows, longer, spec, on_batch=lease.add)
        with self._scratch("quality.json") as path:
            path.write_text(json.dumps(quality.to_json(measured)))
            self.blobs.put(_quality_key(claimed), path)
        with transaction(self.sessions) as session:
            if not jobs.finish_shard(session, claimed, n_units=lease.n_done):
                return
            ingest.store_quality_of_job(session, claimed.job_id, measured)
            has_ended = jobs.settle(session, claimed.job_id)
        if has_ended:
            self.blobs.delete_folder(f"jobs/{claimed.job_id}")

    @contextlib.contextmanager
    def _corpus(self, claimed: jobs.Claim) -> Iterator[tuple[corpora.Corpus, tables.Corpus]]:
        with transaction(self.sessions) as session:
            corpus = session.get_one(tables.Corpus, claimed.spec["corpus_id"])
            special = session.get_one(tables.Vocabulary, corpus.vocabulary_id).special_tokens
        with self.blobs.local(corpus.blob_key) as path:
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
            yield corpora.Corpus(rows, tuple(special), is_first_masked=corpus.is_first_masked), corpus

    @contextlib.contextmanager
    def _scratch(self, name: str) -> Iterator[Path]:
        folder = self.settings.data / "run"
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix="scratch-") as scratch:
            yield Path(scratch) / name


class Lease:
    """Renews a claim from a thread while the main thread computes; tells it to stop once the claim is lost."""

    def __init__(self, worker: Worker, claimed: jobs.Claim) -> None:
        self.worker, self.claimed = worker, claimed
        self.n_done = 0
        self.n_units = 0
        self._is_lost = threading.Event()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_over, daemon=True)

    def __enter__(self) -> "Lease":
        if self.claimed.stage in ("encode", "evaluate"):
            with transaction(self.worker.sessions) as session:
                self.n_units = session.get_one(tables.Shard, self.claimed.shard_id).n_units
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def add(self, n: int) -> None:
        """So many units more are done; raises `CancelledError` if the work is no longer wanted."""
        self.at(self.n_done + n)

    def at(self, n: int) -> None:
        """So many units are done in all; raises as `add`."""
        self.n_done = n
        if self._is_lost.is_set():
            raise errors.CancelledError("the job was cancelled.")

    def _renew_until_over(self) -> None:
        settings = self.worker.settings
        while not self._is_over.wait(settings.heartbeat_s):
            try:
                with transaction(self.worker.sessions) as session:
                    is_kept = jobs.renew(
                        session, self.claimed, lease_s=settings.lease_s,
                        n_done=self.n_done, n_units=max(self.n_units, self.n_done),
                    )  # fmt: skip
            except Exception:
                _logger.warning("lease.not_renewed", exc_info=True)
            else:
                if not is_kept:
                    self._is_lost.set()
                    return


def _quality_key(claimed: jobs.Claim) -> str:
    return f"jobs/{claimed.job_id}/quality.json"


def spec_of(stored: dict[str, Any], settings: Settings) -> runtime.Spec:
    """A job's stored options; what it leaves open is the worker's to choose."""
    known = {name: stored[name] for name in runtime.Spec.__slots__ if name in stored}
    spec: dict[str, Any] = {"device": settings.device, "threads": settings.threads} | known
    if spec["device"] == "auto":
        spec["device"] = settings.device
    if not spec["threads"]:
        spec["threads"] = settings.threads
    return runtime.Spec(**spec)
