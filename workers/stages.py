"""The stages of a job, one function each: what a claimed shard computes, stores and plans.

1. `prepare`: load everything once to check it, cut the corpus, take a quick look at each source, open a revision for
   each, plan encode shards.
2. `encode`: one forward pass over a run of contexts for all sources; the postings of each source are its blobs.
3. `finish`: a range of one source's features, from the postings of all encode shards; its rows are written in one
   transaction, and the last range of a source publishes it.
4. `evaluate`: one source's quality, measured by whoever finds nothing else of the job to do.
Every stage may run twice and be killed anywhere: blobs have a key of their attempt, rows of a range replace what was
there, and a shard is finished in the transaction that writes its rows, while it is still ours.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from backend import errors, hub, storage
from backend.db.session import transaction
from backend.formats.dashboards import Dashboard
from backend.services import filling, ingest, jobs, shards
from backend.services.shards import Claim, ClaimedSource, Piece
from workers import importing, kept_index, prepared, runtime, sharding
from workers.compute import corpus as corpora
from workers.compute import parts
from workers.compute.activation_index import Postings
from workers.compute.extremes import Extremes
from workers.work import Work


def prepare(work: Work) -> None:
    """The corpus and the plan of the encode stage; of an import, the files and the plan of their reading."""
    if "import" in work.claimed.spec:
        importing.prepare(work)
        return
    claimed, spec = work.claimed, work.spec
    loaded = work.load(*claimed.sources)
    chosen = claimed.spec.get("corpus_id")
    with prepared.prepare(work.corpora, loaded, spec, chosen, on_progress=work.heartbeat.at) as corpus:
        _look(work, loaded, corpus.rows)
        _plan_encode(work, loaded, corpus)


def _plan_encode(work: Work, loaded: runtime.Loaded, corpus: prepared.Prepared) -> None:
    claimed, spec = work.claimed, work.spec
    rows, facts = corpus.rows, corpus.facts
    shard_tokens = work.settings.shard_tokens
    batch = runtime.batch_contexts(loaded, spec, rows)
    speed = 0.0 if shard_tokens else runtime.measure(loaded, rows, batch_contexts=batch)
    size = rows.rows.shape[1]
    cuts = sharding.encode_shards(
        rows.n_contexts, size, batch_contexts=batch, tokens_per_s=speed, shard_tokens=shard_tokens
    )
    recorded = asdict(spec) | {"batch_contexts": batch}
    with transaction(work.sessions) as session:
        if not shards.finish(session, claimed, n_units=rows.rows.size, result={"tokens_per_s": speed}):
            raise errors.CancelledError("the shard is no longer ours.")
        vocabulary_id = ingest.store_vocabulary(session, loaded.vocabulary, loaded.model.special_tokens)
        ingest.store_model_facts(session, claimed.model, runtime.model_facts(loaded), vocabulary_id)
        corpus_id = corpus.store(session, claimed.model, vocabulary_id)
        deleted = shards.deleted_sources(session, claimed.job_id)
        revision_ids = {
            source.id: ingest.begin_revision(
                session, source_id=source.id, corpus_id=corpus_id, job_id=claimed.job_id,
                n_features=of.sae.d_sae, spec=recorded,
            )
            for source, of in zip(claimed.sources, loaded.sources, strict=True) if source.id not in deleted
        }  # fmt: skip
        known = claimed.spec | {"corpus_id": corpus_id, "longer_key": corpus.longer_key, "written_at": work.written_at}
        known["batch_contexts"] = batch
        if not hub.is_folder(claimed.model_weights):
            known["model_commit"] = work.model.name
        jobs.set_prepared(session, claimed.job_id, spec=known, revision_ids=revision_ids)
        shards.plan(session, claimed.job_id, "encode", [Piece(a, n, n * size) for a, n in cuts])
        if spec.quality_tokens:
            n_evaluated = runtime.n_evaluated(rows, corpus.longer, spec)
            pieces = [
                Piece(0, 0, n_evaluated, source.id)
                for source, of in zip(claimed.sources, loaded.sources, strict=True)
                if source.id in revision_ids and not of.sae.description.is_dense
            ]
            shards.plan(session, claimed.job_id, "evaluate", pieces)
        ready = "is ready" if corpus.corpus_id is None else "was ready"
        said = f"The corpus {ready}: {facts.n_tokens:,} tokens in {facts.n_contexts:,} contexts of {size}."
        jobs.note(session, claimed.job_id, "info", f"{said} {_n(len(cuts), 'shard')} to encode.")


def _look(work: Work, loaded: runtime.Loaded, rows: corpora.Corpus) -> None:
    """Look at each source, keep what was found, and raise `InvalidInputError` where computing on would be pointless."""
    claimed = work.claimed
    seen = [
        (source, runtime.look(loaded, of, rows)) for source, of in zip(claimed.sources, loaded.sources, strict=True)
    ]
    fatal = []
    with transaction(work.sessions) as session:
        for source, look in seen:
            if look is None:
                continue
            ingest.store_look(session, source.id, look)
            for finding in look.warnings:
                jobs.note(session, claimed.job_id, "warning", f"{source.name}: {finding.sentence} {finding.advice}")
            fatal += [f"{source.name}: {finding.sentence} {finding.advice}" for finding in look.fatal]
    if fatal and not work.spec.is_forced:
        raise errors.InvalidInputError(" ".join(fatal))


def encode(work: Work) -> None:
    """The postings of a run of contexts, for every source; the last shard plans the finish stage."""
    claimed, clock = work.claimed, runtime.Stopwatch()
    with clock.stage("load"):
        loaded = work.load(*claimed.sources)
    found = [_Parts([], [], np.zeros(0, np.int64), np.zeros(0, np.int64)) for _ in claimed.sources]
    folder = f"jobs/{claimed.job_id}/{claimed.lease_id}"
    with _deleted_unless_done(work.blobs, folder):
        with work.corpus() as (rows, _), clock.stage("encode"):
            encoded = runtime.encode(
                loaded, rows, first_context=claimed.first, n_contexts=claimed.n,
                batch_contexts=runtime.batch_contexts(loaded, work.spec, rows), memory_gb=work.spec.memory_gb,
                on_batch=work.heartbeat.add,
            )  # fmt: skip
            for i, part in encoded:
                key = f"{folder}/{i}-{len(found[i].postings)}.postings"
                is_signed = loaded.sources[i].sae.description.is_signed
                size = None if is_signed else rows.rows.shape[1]
                _store_part(work, claimed.sources[i], found[i], key, part, size)
                del part  # else it is held while the next part is gathered
            n_tokens = int(rows.mask(claimed.first, claimed.first + claimed.n).sum())
        result = {"sources": [of.result() for of in found]}
        with transaction(work.sessions) as session:
            if not shards.finish(session, claimed, n_units=claimed.n_units, result=result, seconds=clock.report()):
                raise errors.CancelledError("the shard is no longer ours.")
            for source, of in zip(claimed.sources, found, strict=True):
                filling.add_firings(session, claimed.job_id, source.id, of.by_feature, n_tokens=n_tokens)
            if shards.is_done(session, claimed.job_id, "encode"):
                filling.sum_up(session, claimed.job_id)
                _plan_finish(session, work, loaded)


@dataclass(slots=True)
class _Parts:
    """What an encode shard leaves of one source."""

    postings: list[str]
    """Blob keys in order of context."""
    tokens: list[dict[str, Any] | None]
    """The same parts as the kept index has them, see `kept_index.put_tokens`."""
    firings: NDArray[np.int64]
    """Of each tile of features."""
    by_feature: NDArray[np.int64]
    """Firings of each."""

    def result(self) -> dict[str, Any]:
        return {"postings": self.postings, "tokens": self.tokens, "firings": self.firings.tolist()}


def _store_part(
    work: Work, source: ClaimedSource, found: _Parts, key: str, part: parts.Part, context_size: int | None
) -> None:
    """Store a part; and as the kept index has it, if there may be one. `context_size` is None where none is kept."""
    counts = sharding.count_tiles(part)
    found.firings = found.firings + counts if found.firings.size else counts
    each = part.signs.sum(axis=1) if isinstance(part, Extremes) else np.diff(part.offset)
    found.by_feature = found.by_feature + each if found.by_feature.size else each
    with work.scratch("part.postings") as path:
        part.write(path, {"job_id": work.claimed.job_id, "first_context": work.claimed.first})
        work.blobs.put(key, path)
    found.postings.append(key)
    tokens = None
    if (
        context_size is not None
        and isinstance(part, Postings)
        and kept_index.may_be_kept(work.settings, work.spec.keep_index)
    ):
        with work.scratch("part.tokens") as path:
            tokens_key = kept_index.tokens_key(source.id, key)
            tokens = kept_index.put_tokens(work.blobs, tokens_key, path, part, context_size=context_size)
    found.tokens.append(tokens)


@contextlib.contextmanager
def _deleted_unless_done(blobs: storage.Store, folder: str) -> Iterator[None]:
    """Nobody else knows of an attempt's blobs, so an attempt that fails takes them away."""
    try:
        yield
    except BaseException:
        blobs.delete_folder(folder)
        raise


def _plan_finish(session: Session, work: Work, loaded: runtime.Loaded) -> None:
    """Ranges of each source's features, by the firings of all shards; source after source, so the first is soon there."""
    claimed, pieces = work.claimed, []
    found = shards.results(session, claimed.job_id, "encode")
    deleted = shards.deleted_sources(session, claimed.job_id)
    for i, (source, of) in enumerate(zip(claimed.sources, loaded.sources, strict=True)):
        if source.id in deleted:
            continue
        cuts = sharding.finish_shards(
            np.sum([result["sources"][i]["firings"] for result in found], axis=0),
            d_in=of.sae.description.d_in, d_sae=of.sae.d_sae, n_vocabulary=len(loaded.vocabulary),
            seconds=work.settings.finish_s,
        )  # fmt: skip
        pieces += [Piece(first, n, n, source.id) for first, n in cuts]
    shards.plan(session, claimed.job_id, "finish", pieces)
    n_firings = sum(sum(of["firings"]) for result in found for of in result["sources"])
    said = f"Every token is encoded: {n_firings:,} firings. {_n(len(pieces), 'range')} of features to finish."
    jobs.note(session, claimed.job_id, "info", said)


def _n(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def finish(work: Work) -> None:
    """The rows of a range of one source's features; the last range publishes the source."""
    claimed, source, clock = work.claimed, work.claimed.source, runtime.Stopwatch()
    with clock.stage("load"):
        loaded = work.load(source)
    with transaction(work.sessions) as session:
        encoded = shards.results(session, claimed.job_id, "encode")
    found = [result["sources"][claimed.sources.index(source)] for result in encoded]
    with work.corpus() as (rows, corpus):
        with clock.stage("finish"):
            blocks, features = _dashboards(work, loaded, found, rows)
        with clock.stage("write"), work.documents_of(corpus) as documents_of, transaction(work.sessions) as session:
            shown = [d.examples.context for block in blocks for d in block]
            ingest.store_contexts(session, corpus.id, np.concatenate(shown), rows.rows, documents_of)
    with clock.stage("write"), transaction(work.sessions) as session:  # short: whoever waits for it waits little
        shards.lock_writing(session, claimed)
        ingest.delete_features(session, source.written_id, claimed.first, claimed.first + claimed.n)
        for block in blocks:
            ingest.copy_dashboards(
                session, source.written_id, block, n_tokens=corpus.n_tokens, vocabulary=loaded.vocabulary
            )
        result = {"features": features}
        if not shards.finish(session, claimed, n_units=claimed.n_units, result=result, seconds=clock.report()):
            raise errors.CancelledError("the shard is no longer ours.")
        if shards.is_done(session, claimed.job_id, "finish", source.id):
            _publish(session, claimed, found)
        shards.settle(session, claimed.job_id)


def _dashboards(
    work: Work, loaded: runtime.Loaded, found: list[dict[str, Any]], rows: corpora.Corpus
) -> tuple[list[list[Dashboard]], dict[str, Any] | None]:
    """The dashboards of the claimed range, and its file of the kept index if there is to be one."""
    claimed, spec = work.claimed, work.spec
    of_shards = work.postings.of([key for of in found for key in of["postings"]])
    source = loaded.sources[0]
    n_firings = sum(sum(of["firings"]) for of in found)
    with contextlib.ExitStack() as stack:
        is_signed = source.sae.description.is_signed
        is_kept = not is_signed and kept_index.is_kept(work.settings, spec.keep_index, n_firings)
        path = stack.enter_context(work.scratch("range.features")) if is_kept else None
        blocks = []
        with kept_index.features_file(
            path, first=claimed.first, context_size=rows.rows.shape[1], n_contexts=rows.n_contexts
        ) as add_postings:
            for block in runtime.finish(
                loaded, source, of_shards, rows, seed=spec.seed, memory_gb=spec.memory_gb, first=claimed.first,
                stop=claimed.first + claimed.n, on_postings=add_postings,
                batch_contexts=runtime.batch_contexts(loaded, spec, rows),
            ):  # fmt: skip
                blocks.append(block)
                work.heartbeat.add(len(block))
        if path is None:
            return blocks, None
        key = f"indexes/{claimed.source.id}/{claimed.job_id}/{claimed.first}-{claimed.lease_id}.features"
        return blocks, kept_index.put_features(work.blobs, key, path, first=claimed.first)


def _publish(session: Session, claimed: Claim, found: list[dict[str, Any]]) -> None:
    """All ranges of the source are written: readers see them from now on."""
    source = claimed.source
    features = [result["features"] for result in shards.results(session, claimed.job_id, "finish", source.id)]
    if all(features):
        kept_index.name_files(session, source.written_id, features, [file for of in found for file in of["tokens"]])
    ingest.publish(session, source.written_id)
    jobs.set_published(session, claimed.job_id, source.id)


def evaluate(work: Work) -> None:
    """The quality of one source, stored with the revision the job writes, published already or not."""
    claimed, source, clock = work.claimed, work.claimed.source, runtime.Stopwatch()
    with clock.stage("load"):
        loaded = work.load(source)
    with work.corpus() as (rows, _), contextlib.ExitStack() as stack, clock.stage("evaluate"):
        longer_key = claimed.spec["longer_key"]
        longer = np.load(stack.enter_context(work.blobs.local(longer_key))) if longer_key else None
        measured = runtime.evaluate(loaded, loaded.sources[0], rows, longer, work.spec, on_batch=work.heartbeat.add)
    with transaction(work.sessions) as session:
        if not shards.finish(session, claimed, n_units=claimed.n_units, seconds=clock.report()):
            raise errors.CancelledError("the shard is no longer ours.")
        ingest.store_quality(session, source.written_id, measured)
        jobs.note(session, claimed.job_id, "info", f"The quality of {source.name} is measured.")
        shards.settle(session, claimed.job_id)


STAGES: dict[str, Callable[[Work], None]] = {
    "prepare": prepare,
    "encode": encode,
    "finish": finish,
    "evaluate": evaluate,
    **importing.STAGES,
}
"""What does a shard of each of `backend.services.shards.STAGES`."""
