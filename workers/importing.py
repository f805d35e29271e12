"""The stages of an import, one function each, as `stages` has them for computations.

1. `prepare`: see what the files are, compare their checksums with what is imported already, plan the rest.
2. `read`: some files, each by a process of its own; what they say, sorted by feature, becomes blobs (`import_parts`).
3. `merge`: one numbering of texts and tokens for all parts; a revision is opened.
4. `store`: a range of features is packed and written in one transaction, or a file of explanations is; the last one
   publishes the source.
Every stage may run twice and be killed anywhere, as those of computations.
"""

import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson

from backend import errors, import_places
from backend.db.session import transaction
from backend.formats import array_file, copy_rows, import_files, import_parts, neuronpedia_rows
from backend.formats.import_files import DataFile
from backend.formats.neuronpedia_rows import Counts
from backend.services import explanation_files, imports, ingest, jobs, shards
from backend.services.imports import CorpusFacts
from backend.services.shards import Piece
from workers import import_pool, runtime
from workers.work import Work

READ_BYTES = 256_000_000
"""Files of so many bytes, or one larger one, are a shard."""
STORE_FEATURES = 8192
STORE_BYTES = 128_000_000
"""Of texts, of the features of a shard."""
_PIECES = 8
"""Tasks of a shard, so that several readers share it."""
_EXPLANATIONS_AT_ONCE = 1000


def prepare(work: Work) -> None:
    """Plan the reading of what is not imported yet."""
    asked = work.claimed.spec["import"]
    files = _files(work)
    place = import_places.of(asked["place"], work.blobs)
    sums = {} if "url" in asked["place"] else {file.name: _sum(work, place, file.name) for file in files}
    claimed = work.claimed
    (source,) = claimed.sources
    with transaction(work.sessions) as session:
        if not shards.finish(session, claimed, n_units=sum(file.size for file in files)):
            raise errors.CancelledError("the shard is no longer ours.")
        if source.id in shards.deleted_sources(session, claimed.job_id):
            shards.settle(session, claimed.job_id)
            return
        known = imports.known_files(session, source.id)
        with_rows = [file for file in files if file.what != "explanations"]
        is_known = bool(sums) and all(known.get(file.name) == sums[file.name] for file in with_rows)
        if with_rows and is_known:
            said = "These files are imported already; nothing of the dashboards changes."
            jobs.note(session, claimed.job_id, "info", said)
        left = [] if is_known else with_rows
        if asked["ignored"]:
            some = ", ".join(asked["ignored"][:5]) + (" and others" if len(asked["ignored"]) > 5 else "")
            jobs.note(session, claimed.job_id, "warning", f"Nothing is read from {some}.")
        if left:
            shards.plan(session, claimed.job_id, "read", _read_pieces(files, left))
            return
        _plan_store(session, work, [])
        if not any(file.what == "explanations" for file in files):
            jobs.set_published(session, claimed.job_id, source.id)
            shards.settle(session, claimed.job_id)


def _files(work: Work) -> list[DataFile]:
    return [DataFile(*file) for file in work.claimed.spec["import"]["files"]]


def _sum(work: Work, place: import_files.Place, name: str) -> str:
    hasher = sha256()
    with place.open(name) as file:
        while data := file.read(1 << 20):
            hasher.update(data)
            work.heartbeat.add(len(data))
    return hasher.hexdigest()


def _read_pieces(files: list[DataFile], left: list[DataFile]) -> list[Piece]:
    """Runs of files, by number among all."""
    pieces: list[Piece] = []
    first, n, n_bytes = 0, 0, 0
    for number, file in enumerate(files):
        if file not in left:
            continue
        if n and n_bytes + file.size > READ_BYTES:
            pieces.append(Piece(first, n, n_bytes))
            first, n, n_bytes = number, 0, 0
        n, n_bytes = n + 1, n_bytes + file.size
    return [*pieces, Piece(first, n, n_bytes)]


def read(work: Work) -> None:
    """Parts of a run of files; the last shard plans the merge."""
    claimed = work.claimed
    files = _files(work)[claimed.first : claimed.first + claimed.n]
    folder = f"jobs/{claimed.job_id}/{claimed.lease_id}"
    with ExitStack() as stack:
        scratch = stack.enter_context(work.scratch("parts"))
        scratch.mkdir()
        tasks = [
            {"do": "read", "place": stack.enter_context(_local(work, file.name, scratch)), "name": file.name,
             "what": file.what, "out": str(scratch / str(number))}
            for number, file in enumerate(files)
        ]  # fmt: skip
        found = import_pool.run(tasks, _n_readers(work), work.heartbeat.at)
        for number, each in enumerate(found):
            keys = [f"{folder}/{number}-{i}.part" for i in range(len(each["parts"]))]
            for key, path in zip(keys, each["parts"], strict=True):
                work.blobs.put(key, Path(path))
            each["parts"] = keys
    n_units = sum(each["n_bytes"] for each in found)
    with transaction(work.sessions) as session:
        if not shards.finish(session, claimed, n_units=n_units, result={"files": found}):
            work.blobs.delete_folder(folder)
            raise errors.CancelledError("the shard is no longer ours.")
        for file, each in zip(files, found, strict=True):
            rows = "features" if file.what in ("features", "batch") else "activations"
            said = f"{file.name}: {each['n_rows']:,} {rows}, sha256 {each['sha256']}."
            jobs.note(session, claimed.job_id, "info", said)
        if shards.is_done(session, claimed.job_id, "read"):
            shards.plan(session, claimed.job_id, "merge", [Piece(0, 0, 0)])


@contextmanager
def _local(work: Work, name: str, scratch: Path) -> Iterator[dict[str, str]]:
    """The place of a file as a reader takes it: a folder of this host, or an address."""
    place = work.claimed.spec["import"]["place"]
    if "blobs" not in place:
        yield place
        return
    with work.blobs.local(f"{place['blobs']}/{name}") as path:
        link = scratch / "in" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
        yield {"folder": str(scratch / "in")}


def _n_readers(work: Work) -> int:
    return work.settings.threads or os.cpu_count() or 1


def merge(work: Work) -> None:
    """Number texts and tokens of all parts, and plan what is to be stored."""
    claimed = work.claimed
    (source,) = claimed.sources
    with transaction(work.sessions) as session:
        found = _found(session, work)
    keys = [key for each in found for key in each["parts"]]
    with ExitStack() as stack:
        parts = [import_parts.read(stack.enter_context(work.blobs.local(key))) for key in keys]
        session = stack.enter_context(transaction(work.sessions))
        facts = _corpus(session, work, found)
        before = imports.hold(session, claimed.model, source.id, facts)
        counts = Counts()
        try:
            ids = stack.enter_context(work.scratch("ids"))
            merged = imports.merge_texts(session, before, parts, ids, counts)
        except ValueError as error:
            raise errors.InvalidInputError(f"{error}.", hint="Nothing is imported. Export the files again.") from error
        runs = list(import_parts.features_of(parts, STORE_FEATURES, STORE_BYTES))
        maps_key = f"jobs/{claimed.job_id}/{claimed.lease_id}/maps"
        with work.scratch("maps") as path:
            merged.write(path)
            work.blobs.put(maps_key, path)
        result = {"maps": maps_key, "n_tokens": facts.n_tokens}
        if not shards.finish(session, claimed, n_units=sum(map(len, merged.of_parts)), result=result):
            raise errors.CancelledError("the shard is no longer ours.")
        if source.id in shards.deleted_sources(session, claimed.job_id):
            shards.settle(session, claimed.job_id)
            return
        sums = {file.name: each["sha256"] for file, each in zip(_files_read(work), found, strict=True)}
        revision_id = ingest.begin_revision(
            session, source_id=source.id, corpus_id=before.corpus_id, job_id=claimed.job_id, n_features=0,
            spec={"dtype": imports.DTYPE, "files": sums},
        )  # fmt: skip
        jobs.set_prepared(session, claimed.job_id, spec=claimed.spec, revision_ids={source.id: revision_id})
        _plan_store(session, work, [Piece(int(run[0]), int(run[-1] - run[0]) + 1, len(run), source.id) for run in runs])
        _report(session, work, [*found, {"put_right": counts.put_right, "unknown": {}}])


def _files_read(work: Work) -> list[DataFile]:
    return [file for file in _files(work) if file.what != "explanations"]


def _found(session: Any, work: Work) -> list[dict[str, Any]]:
    """What was found in each file that was read, in order."""
    results = shards.results(session, work.claimed.job_id, "read")
    return [each for result in results for each in result["files"]]


def _corpus(session: Any, work: Work, found: list[dict[str, Any]]) -> CorpusFacts:
    """What SAEDashboard's batches say of the corpus, or the source's row does."""
    (source,) = work.claimed.sources
    said: dict[str, Any] = imports.given_of(session, source.id)
    for each in found:
        corpus = each["corpus"]
        for ours, theirs in (("num_prompts", "n_prompts_total"), ("num_tokens_in_prompt", "n_tokens_in_prompt")):
            if isinstance(corpus.get(theirs), int):
                said[ours] = corpus[theirs]
        if isinstance(corpus.get("dataset"), str):
            said["dataset"] = corpus["dataset"]
    return CorpusFacts(
        str(said.get("dataset") or ""), int(said.get("num_prompts") or 0), int(said.get("num_tokens_in_prompt") or 0)
    )


def _plan_store(session: Any, work: Work, pieces: list[Piece]) -> None:
    """Ranges of features, then files of explanations: those have `n` 0, and the number of their file."""
    more = [Piece(i, 0, 0) for i, file in enumerate(_files(work)) if file.what == "explanations"]
    shards.plan(session, work.claimed.job_id, "store", [*pieces, *more])


def _report(session: Any, work: Work, found: list[dict[str, Any]]) -> None:
    put_right: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    for each in found:
        put_right.update(each["put_right"])
        unknown.update(each["unknown"])
    for what, n in put_right.items():
        said = f"{n:,} × {what}, put right: 0 for what is no number, ±9999 for an infinite one, � for no character."
        jobs.note(session, work.claimed.job_id, "warning", said)
    if unknown:
        said = f"Kept and exported again, but shown nowhere: {', '.join(sorted(unknown)[:20])}."
        jobs.note(session, work.claimed.job_id, "warning", said)


def store(work: Work) -> None:
    """The rows of a range of features or of a file of explanations; the last shard publishes the source."""
    if work.claimed.n == 0:
        _store_explanations(work)
    else:
        _store_features(work)


def _store_features(work: Work) -> None:
    claimed, source, clock = work.claimed, work.claimed.source, runtime.Stopwatch()
    first, stop = claimed.first, claimed.first + claimed.n
    with transaction(work.sessions) as session:
        keys = [key for each in _found(session, work) for key in each["parts"]]
        (merged,) = shards.results(session, claimed.job_id, "merge")
        before = imports.revision_before(session, source.id, source.written_id)
        is_replacing = claimed.spec["import"]["is_replacing"]
        old = {} if before is None or is_replacing else imports.stored(session, before, first, stop)
    with ExitStack() as stack:
        scratch = stack.enter_context(work.scratch("rows"))
        scratch.mkdir()
        old_path = scratch / "old"
        packed = import_parts.table("packed", {index: each.packed for index, each in old.items()})
        fires_on = import_parts.table("fires_on", {index: orjson.dumps(each.fires_on) for index, each in old.items()})
        array_file.write(old_path, packed | fires_on, {})
        task = {
            "do": "pack", "maps": str(stack.enter_context(work.blobs.local(merged["maps"]))),
            "parts": [str(stack.enter_context(work.blobs.local(key))) for key in keys], "old": str(old_path),
            "revision_id": source.written_id, "n_tokens": merged["n_tokens"],
        }  # fmt: skip
        cuts = np.linspace(first, stop, _PIECES + 1).astype(int).tolist()
        tasks = [
            task | {"first": a, "n": b - a, "out": str(scratch / str(i))}
            for i, (a, b) in enumerate(itertools.pairwise(cuts))
            if b > a
        ]
        with clock.stage("pack"):
            found = import_pool.run(tasks, _n_readers(work), work.heartbeat.at)
        n_features, n_texts = (sum(each[key] for each in found) for key in ("n_features", "n_texts"))
        with clock.stage("write"), transaction(work.sessions) as session:
            shards.lock_writing(session, claimed)
            ingest.delete_features(session, source.written_id, first, stop)
            for each in tasks:
                for into, what in ((copy_rows.FEATURE, "features"), (copy_rows.DASHBOARD, "dashboards")):
                    stream: IO[bytes] = stack.enter_context(open(f"{each['out']}.{what}", "rb"))
                    ingest.copy_stream(session, into, stream)
            counts = {"n_features": n_features, "n_texts": n_texts}
            if not shards.finish(session, claimed, n_units=n_features, result=counts, seconds=clock.report()):
                raise errors.CancelledError("the shard is no longer ours.")
            _publish_if_done(session, work)


def _store_explanations(work: Work) -> None:
    claimed = work.claimed
    (source,) = claimed.sources
    file = _files(work)[claimed.first]
    place = import_places.of(claimed.spec["import"]["place"], work.blobs)
    with transaction(work.sessions) as session:
        n = 0
        with import_files.opened(place, file.name, on_bytes=lambda _: work.heartbeat.at(0)) as opened:
            rows: list[Mapping[str, Any]] = []
            try:
                for line in neuronpedia_rows.lines(opened.pieces()):
                    n += 1
                    rows.append(neuronpedia_rows.parsed(line))
                    if len(rows) == _EXPLANATIONS_AT_ONCE:
                        explanation_files.upsert_many(session, source.id, rows)
                        rows = []
                explanation_files.upsert_many(session, source.id, rows)
            except ValueError as error:
                raise neuronpedia_rows.unreadable(file.name, n, error) from error
        if not shards.finish(session, claimed, n_units=0, result={"n_explanations": n}):
            raise errors.CancelledError("the shard is no longer ours.")
        jobs.note(session, claimed.job_id, "info", f"{file.name}: {n:,} explanations.")
        _publish_if_done(session, work)


def _publish_if_done(session: Any, work: Work) -> None:
    claimed = work.claimed
    (source,) = claimed.sources
    if not shards.is_done(session, claimed.job_id, "store"):
        return
    asked = claimed.spec["import"]
    if source.revision_id is not None:
        found = shards.results(session, claimed.job_id, "store")
        imports.publish(
            session, source.id, source.revision_id, n_least=asked["n_least"], is_replacing=asked["is_replacing"]
        )
        n_features, n_texts = (sum(each.get(key, 0) for each in found) for key in ("n_features", "n_texts"))
        said = f"{n_features:,} features with {n_texts:,} texts are imported."
        jobs.note(session, claimed.job_id, "info", said)
    jobs.set_published(session, claimed.job_id, source.id)
    shards.settle(session, claimed.job_id)


STAGES = {"read": read, "merge": merge, "store": store}
