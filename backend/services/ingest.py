"""Computed dashboards into the database: a new revision by COPY, then switched to at once.

Owns the SQL of writing: vocabularies, corpora, contexts, feature rows, revisions. A revision is written range by
range, each in a transaction of the caller's; until `publish` commits, readers see the revision before.
"""

import io
import itertools
import json
import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backend.db.tables import Corpus, CorpusRecipe, Dashboard, Feature, Model, Revision, Source, Vocabulary
from backend.formats import copy_rows, dashboards, look, quality

N_DENSITY_BINS = 50
_COPY_ROWS = 4096
_COPY_BYTES = 2**18
_PACKED_TOGETHER = 64


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a worker found when it loaded a model."""

    architecture: str
    n_layers: int
    d_model: int
    n_context: int


@dataclass(frozen=True, slots=True)
class CorpusFacts:
    """What a worker found when it cut a corpus."""

    name: str
    fingerprint: str
    context_size: int
    n_contexts: int
    n_tokens: int
    """Tokens that count."""
    is_first_masked: bool
    blob_key: str
    documents_key: str | None = None
    """Where it says which documents the rows are from."""


def store_vocabulary(session: Session, strings: Sequence[str], special_tokens: Sequence[int]) -> int:
    """Id of the vocabulary with these token texts, stored if it is new. NUL, which Postgres refuses, is packed away."""
    data = json.dumps([list(strings), list(special_tokens)]).encode()
    digest = sha256(data).hexdigest()
    packed = zlib.compress(json.dumps(list(strings)).encode(), 6)
    row = insert(Vocabulary).values(
        sha256=digest, n_tokens=len(strings), strings=packed, special_tokens=list(special_tokens)
    )
    session.execute(row.on_conflict_do_nothing(index_elements=["sha256"]))
    return session.scalars(select(Vocabulary.id).where(Vocabulary.sha256 == digest)).one()


def store_model_facts(session: Session, model_id: str, facts: ModelFacts, vocabulary_id: int) -> None:
    """Fill in what is known once a model has been loaded."""
    values = {
        "architecture": facts.architecture,
        "n_layers": facts.n_layers,
        "d_model": facts.d_model,
        "n_context": facts.n_context,
        "vocabulary_id": vocabulary_id,
    }
    session.execute(update(Model).where(Model.id == model_id).values(values))


def store_corpus(session: Session, model_id: str, vocabulary_id: int, facts: CorpusFacts) -> int:
    """Id of the corpus with this fingerprint, stored if it is new."""
    row = insert(Corpus).values(
        model_id=model_id, vocabulary_id=vocabulary_id, name=facts.name, fingerprint=facts.fingerprint,
        context_size=facts.context_size, n_contexts=facts.n_contexts, n_tokens=facts.n_tokens,
        is_first_masked=facts.is_first_masked, blob_key=facts.blob_key,
        documents_key=facts.documents_key,
    )  # fmt: skip
    session.execute(row.on_conflict_do_nothing(index_elements=["model_id", "fingerprint"]))
    known = select(Corpus.id).where(Corpus.model_id == model_id, Corpus.fingerprint == facts.fingerprint)
    return session.scalars(known).one()


def store_recipe(session: Session, model_id: str, key: str, corpus_id: int, longer: dict[str, str]) -> None:
    """Remember what the corpus was made from; `longer` joins the samples known of it."""
    row = insert(CorpusRecipe).values(model_id=model_id, key=key, corpus_id=corpus_id, longer=longer)
    session.execute(
        row.on_conflict_do_update(
            index_elements=["model_id", "key"], set_={"longer": CorpusRecipe.longer.op("||")(row.excluded.longer)}
        )
    )


def begin_revision(
    session: Session, *, source_id: int, corpus_id: int, job_id: int | None, n_features: int, spec: dict[str, Any]
) -> int:
    """A revision nobody sees yet."""
    revision = Revision(
        source_id=source_id, corpus_id=corpus_id, job_id=job_id, n_features=n_features, n_alive=0, n_firings=0,
        density_histogram={}, spec=spec,
    )  # fmt: skip
    session.add(revision)
    session.flush()
    return revision.id


def copy_dashboards(
    session: Session,
    revision_id: int,
    block: Iterable[dashboards.Dashboard],
    *,
    n_tokens: int,
    vocabulary: Sequence[str],
) -> None:
    """Write a block of features: the narrow rows tables sort by, and the packed pages."""
    block = list(block)
    pages = [block[start : start + _PACKED_TOGETHER] for start in range(0, len(block), _PACKED_TOGETHER)]
    with ThreadPoolExecutor() as pool:  # zlib lets go of the interpreter
        packed = list(itertools.chain.from_iterable(pool.map(_pack_all, pages)))
    copy(session, copy_rows.FEATURE, [_feature_row(revision_id, d, n_tokens, vocabulary) for d in block])
    rows = [copy_rows.dashboard(revision_id, d.index, page) for d, page in zip(block, packed, strict=True)]
    copy(session, copy_rows.DASHBOARD, rows)


def delete_features(session: Session, revision_id: int, first: int, stop: int) -> None:
    """Make room for features first:stop of a revision nobody sees yet."""
    for table in (Feature, Dashboard):
        session.execute(delete(table).where(table.revision_id == revision_id, table.index >= first, table.index < stop))


def store_contexts(
    session: Session,
    corpus_id: int,
    indexes: NDArray[np.int64],
    rows: NDArray[np.integer],
    documents_of: Callable[[int], Sequence[tuple[int, str]]] | None = None,
) -> None:
    """Store the contexts that examples show, those not stored yet. `rows` is the whole corpus, uint16 or uint32.

    `documents_of` tells (position, name) of the documents of a context, where they are known.
    """
    session.connection().exec_driver_sql(
        "CREATE TEMPORARY TABLE new_context (index integer, tokens bytea, documents jsonb) ON COMMIT DROP"
    )
    shown = np.unique(indexes)
    for start in range(0, len(shown), _COPY_ROWS):
        some = shown[start : start + _COPY_ROWS].tolist()
        tokens = [np.ascontiguousarray(rows[index]).tobytes() for index in some]
        named = [None if documents_of is None else documents_of(i) for i in some]
        lines = [copy_rows.context(*each) for each in zip(some, tokens, named, strict=True)]
        copy(session, "new_context (index, tokens, documents)", lines)
    session.connection().exec_driver_sql(
        "INSERT INTO context (corpus_id, index, tokens, documents) "
        "SELECT %s, index, tokens, documents FROM new_context ON CONFLICT DO NOTHING",
        (corpus_id,),
    )


def publish(session: Session, revision_id: int) -> None:
    """Sum the revision up and make it the one readers see."""
    revision = session.get_one(Revision, revision_id)
    of = Feature.revision_id == revision_id
    alive = select(Feature.density, Feature.n_firings, Feature.mean_activation).where(of, Feature.n_firings > 0)
    rows = session.execute(alive).all()
    n_tokens = session.scalars(select(Corpus.n_tokens).where(Corpus.id == revision.corpus_id)).one()
    revision.n_alive, revision.n_firings = len(rows), sum(n for _, n, _ in rows)
    if n_tokens:
        revision.n_dense = sum(n > quality.DENSE * n_tokens for _, n, _ in rows)
    else:  # an import that does not say how many
        revision.n_dense = sum(density > quality.DENSE for density, _, _ in rows)
    # exactly rounded, so the order the rows come in changes nothing
    known = [n * mean for _, n, mean in rows if mean is not None]
    revision.activation_sum = math.fsum(known) if known or not rows else None
    revision.density_histogram = density_histogram(np.array([density for density, _, _ in rows if density > 0]))
    session.flush()
    session.execute(update(Source).where(Source.id == revision.source_id).values(revision_id=revision_id))


def store_look(session: Session, source_id: int, found: look.Look) -> None:
    """Keep what a quick look at the source found, in place of an earlier one; also where its job then fails."""
    session.execute(update(Source).where(Source.id == source_id).values(look=look.to_json(found)))


def store_quality(session: Session, revision_id: int, measured: quality.Quality) -> None:
    """What the evaluation of a revision's source found."""
    stored = update(Revision).where(Revision.id == revision_id)
    session.execute(stored.values(quality=quality.to_json(measured)))


def density_histogram(densities: NDArray[np.floating]) -> dict[str, Any]:
    """{low, high, counts}: live features by log10 density in equal bins between whole powers of ten."""
    if densities.size == 0:
        return {"low": -6.0, "high": 0.0, "counts": [0] * N_DENSITY_BINS}
    logs = np.log10(densities.astype(np.float64))
    low = min(float(np.floor(logs.min())), -1.0)
    counts, _ = np.histogram(logs, bins=N_DENSITY_BINS, range=(low, 0.0))
    return {"low": low, "high": 0.0, "counts": counts.tolist()}


def _pack_all(some: list[dashboards.Dashboard]) -> list[bytes]:
    return [dashboards.pack(d) for d in some]


def _feature_row(revision_id: int, d: dashboards.Dashboard, n_tokens: int, vocabulary: Sequence[str]) -> bytes:
    lens = d.logit_lens
    facts = copy_rows.FeatureFacts(
        d.index, d.n_firings, d.n_firings / n_tokens, d.max, d.moments.mean if d.n_firings else math.nan,
        math.nan if lens is None else lens.moments.kurtosis,
        [vocabulary[token] for token in d.top_tokens.tolist()],
        [] if lens is None else [vocabulary[token] for token in lens.top_tokens.tolist()],
    )  # fmt: skip
    return copy_rows.feature(revision_id, facts)


def copy(session: Session, into: str, rows: Iterable[bytes]) -> None:
    """COPY rows, as `copy_rows` makes them, into a table and its columns."""
    stream = io.BytesIO(b"".join([copy_rows.HEADER, *rows, copy_rows.END]))
    copy_stream(session, into, stream)


def copy_stream(session: Session, into: str, stream: IO[bytes]) -> None:
    """COPY a whole stream, header and end included."""
    cursor = session.connection().connection.cursor()
    cursor.copy_expert(f"COPY {into} FROM STDIN (FORMAT binary)", stream, _COPY_BYTES)
    cursor.close()
