"""What is hard to write: texts that COPY, JSON and Postgres each treat specially, and densities."""

from dataclasses import replace

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Dashboard, Feature, Source
from backend.formats import dashboards
from backend.services import catalog, ingest
from tests import hosted

WORDS = ["\x00nul", "tab\t", "line\n", "back\\slash", "\\N", 'quote"', "␟", "É", "\r", "\\x41", "plain"]


def test_any_token_text_survives_copy(session: Session) -> None:
    made = hosted.host(session)
    revision = ingest.begin_revision(
        session, source_id=made.source_id, corpus_id=made.corpus_id, job_id=None, n_features=2, spec={}
    )
    alive, dead = hosted.every_kind()[hosted.RICH], hosted.every_kind()[hosted.DEAD]
    words = [f"{word}{i}" if i >= len(WORDS) else word for i, word in enumerate(WORDS * 2)]
    ingest.copy_dashboards(session, revision, [dead, alive], n_tokens=hosted.N_TOKENS, vocabulary=words)
    rows = session.scalars(select(Feature).where(Feature.revision_id == revision).order_by(Feature.index)).all()
    expected = [words[token].replace("\x00", "␀") for token in alive.top_tokens]
    assert rows[1].fires_on == expected
    assert all(text.lower() in rows[1].token_texts for text in expected)
    assert rows[0].n_firings == 0
    lens = alive.logit_lens
    assert lens is not None
    numbers = [alive.n_firings / hosted.N_TOKENS, alive.max, lens.moments.kurtosis]
    assert [rows[1].density, rows[1].max_activation, rows[1].logit_kurtosis] == [np.float32(x) for x in numbers]
    packed = session.scalars(
        select(Dashboard.packed).where(Dashboard.revision_id == revision, Dashboard.index == alive.index)
    )
    assert dashboards.pack(dashboards.unpack(packed.one())) == dashboards.pack(alive)

    ingest.publish(session, revision)
    shown = catalog.source(session, hosted.MODEL, hosted.SOURCE)
    assert (shown.revision_id, shown.n_alive, shown.n_firings) == (revision, 1, alive.n_firings)
    assert shown.mean_l1 == alive.n_firings * alive.moments.mean / hosted.N_TOKENS
    assert session.get_one(Source, made.source_id, populate_existing=True).revision_id == revision
    ingest.delete_features(session, revision, 1, 2)
    for table in (Feature, Dashboard):
        assert session.scalars(select(table.index).where(table.revision_id == revision)).all() == [0]


def test_many_features_come_back_in_order_and_undefined_numbers_as_null(session: Session) -> None:
    """More features than are packed together; with and without a lens."""
    made = hosted.host(session)
    revision = ingest.begin_revision(
        session, source_id=made.source_id, corpus_id=made.corpus_id, job_id=None, n_features=300, spec={}
    )
    kinds = hosted.every_kind()
    block = [replace(kinds[i % len(kinds)], index=i) for i in range(300)]
    ingest.copy_dashboards(session, revision, iter(block), n_tokens=hosted.N_TOKENS, vocabulary=hosted.TEXTS)
    packed = session.scalars(
        select(Dashboard.packed).where(Dashboard.revision_id == revision).order_by(Dashboard.index)
    )
    assert packed.all() == [dashboards.pack(d) for d in block]
    rows = session.scalars(select(Feature).where(Feature.revision_id == revision).order_by(Feature.index)).all()
    assert [row.n_firings for row in rows] == [d.n_firings for d in block]
    assert [row.logit_kurtosis is None for row in rows] == [d.logit_lens is None for d in block]
    assert [row.promotes == [] for row in rows] == [d.logit_lens is None for d in block]


def test_vocabularies_and_contexts_are_stored_once(session: Session) -> None:
    hosted.host(session)
    first = ingest.store_vocabulary(session, WORDS, [0])
    assert ingest.store_vocabulary(session, WORDS, [0]) == first
    assert ingest.store_vocabulary(session, WORDS, [1]) != first
    assert catalog.vocabulary(session, first) == tuple(WORDS)
    rows = np.arange(80, dtype=np.uint16).reshape(10, 8)
    facts = ingest.CorpusFacts("text", "print", 8, 10, 70, is_first_masked=True, blob_key="corpora/print.npy")
    corpus_id = ingest.store_corpus(session, hosted.MODEL, first, facts)
    assert ingest.store_corpus(session, hosted.MODEL, first, facts) == corpus_id
    ingest.store_contexts(session, corpus_id, np.array([3, 3, 7]), rows)
    session.connection().exec_driver_sql("DROP TABLE new_context")
    ingest.store_contexts(session, corpus_id, np.array([7, 9]), rows)
    query = "SELECT index, tokens FROM context WHERE corpus_id = %s ORDER BY index"
    found = session.connection().exec_driver_sql(query, (corpus_id,)).all()
    assert [(index, np.frombuffer(tokens, "<u2").tolist()) for index, tokens in found] == [
        (index, rows[index].tolist()) for index in (3, 7, 9)
    ]


def test_dense_features_are_those_above_the_limit(session: Session) -> None:
    made = hosted.host(session)
    revision = ingest.begin_revision(
        session, source_id=made.source_id, corpus_id=made.corpus_id, job_id=None, n_features=3, spec={}
    )
    rich = hosted.every_kind()[hosted.RICH]
    limit = hosted.N_TOKENS // 10
    block = [replace(rich, index=i, n_firings=n) for i, n in enumerate((limit - 1, limit, limit + 1))]
    ingest.copy_dashboards(session, revision, block, n_tokens=hosted.N_TOKENS, vocabulary=hosted.TEXTS)
    ingest.publish(session, revision)
    assert catalog.source(session, hosted.MODEL, hosted.SOURCE).n_dense == 1


def test_quality_reads_back_as_stored(session: Session) -> None:
    made = hosted.host(session)
    assert catalog.quality(session, hosted.MODEL, hosted.SOURCE) is None
    measured = hosted.some_quality(longer=32)
    ingest.store_quality(session, made.revision_id, measured)
    assert catalog.quality(session, hosted.MODEL, hosted.SOURCE) == measured


def test_a_look_reads_back_as_stored_and_replaces_the_one_before(session: Session) -> None:
    made = hosted.host(session)
    assert catalog.look(session, hosted.MODEL, hosted.SOURCE) is None
    for found in (hosted.some_look(), replace(hosted.some_look(), n_tokens=65, findings=())):
        ingest.store_look(session, made.source_id, found)
        assert catalog.look(session, hosted.MODEL, hosted.SOURCE) == found


def test_density_histogram_counts_every_live_feature() -> None:
    found = ingest.density_histogram(np.array([1e-5, 0.01, 0.5, 1.0]))
    assert sum(found["counts"]) == 4
    assert (found["low"], found["high"]) == (-5.0, 0.0)
    assert sum(ingest.density_histogram(np.zeros(0))["counts"]) == 0
