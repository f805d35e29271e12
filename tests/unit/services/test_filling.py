"""What is known of a source while it is computed: exact, counted once, and readable as far as it is finished."""

import numpy as np
import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Revision, Source
from backend.names import FeatureRef
from backend.services import catalog, features, filling, ingest, jobs, shards
from backend.services.features import FeatureQuery
from backend.services.shards import Piece
from tests import hosted
from tests.hosted import MODEL, SOURCE

FIRINGS = (np.array([5, 0, 100, 0, 0, 2]), np.array([1, 0, 900, 3, 0, 0]))


def claim(session: Session) -> shards.Claim:
    found = shards.claim_next(session, worker="w1", lease_s=60, max_attempts=3, straggler_s=60)
    assert found is not None
    return found


@pytest.fixture
def begun(session: Session) -> tuple[int, hosted.Hosted, int]:
    """A source that was never computed, its corpus ready: the job, the source's keys, the revision it writes."""
    made = hosted.host(session)
    session.execute(update(Source).values(revision_id=None))
    job_id = jobs.create(session, [made.source_id], {})
    assert shards.finish(session, claim(session), n_units=1)
    revision_id = ingest.begin_revision(
        session, source_id=made.source_id, corpus_id=made.corpus_id, job_id=job_id, n_features=hosted.D_SAE, spec={}
    )
    jobs.set_prepared(session, job_id, spec={}, revision_ids={made.source_id: revision_id})
    return job_id, made, revision_id


def test_counts_of_shards_add_up(session: Session, begun) -> None:
    job_id, made, _ = begun
    assert filling.of_job(session, job_id) == ()
    for firings in FIRINGS:
        filling.add_firings(session, job_id, made.source_id, firings, n_tokens=5_000)
    (of,) = filling.of_job(session, job_id)
    assert (of.name, of.n_features, of.n_tokens, of.n_firings, of.n_alive) == (SOURCE, 6, 10_000, 1011, 4)
    assert of.mean_l0 == 0.1011
    assert sum(of.density_counts) == 4
    assert of.ready == ()


def test_a_revision_is_summed_up_as_publishing_would(session: Session, begun) -> None:
    job_id, made, revision_id = begun
    for firings in FIRINGS:
        filling.add_firings(session, job_id, made.source_id, firings, n_tokens=5_000)
    filling.sum_up(session, job_id)
    revision = session.get_one(Revision, revision_id, populate_existing=True)
    assert (revision.n_alive, revision.n_firings, revision.n_dense) == (4, 1011, 0)
    densities = np.array([6, 1000, 3, 2]) / 10_000
    assert revision.density_histogram == ingest.density_histogram(densities)


def finish_some(session: Session, begun) -> int:
    """Features 0 to 2 are written, 3 to 5 are not."""
    job_id, made, revision_id = begun
    filling.add_firings(session, job_id, made.source_id, sum(FIRINGS), n_tokens=10_000)
    filling.sum_up(session, job_id)
    shards.plan(session, job_id, "finish", [Piece(0, 2, 2, made.source_id), Piece(2, 1, 1, made.source_id),
                                            Piece(3, 3, 3, made.source_id)])  # fmt: skip
    assert not catalog.source(session, MODEL, SOURCE).is_partial, "nothing can be read yet"
    for _ in range(2):
        assert shards.finish(session, claim(session), n_units=1)
    for page in hosted.every_kind()[:3]:
        hosted.add_feature(session, revision_id, page)
    return job_id


def test_finished_features_of_a_first_computation_can_be_read(session: Session, begun) -> None:
    job_id = finish_some(session, begun)
    view = catalog.source(session, MODEL, SOURCE)
    assert (view.is_partial, view.revision_id, view.n_alive, view.n_firings) == (True, begun[2], 4, 1011)
    assert [row.index for row in features.browse(session, MODEL, SOURCE, FeatureQuery(with_dead=True)).rows] == [
        0,
        1,
        2,
    ]
    assert features.get(session, FeatureRef(MODEL, SOURCE, hosted.RICH)).index == hosted.RICH
    assert {features.random_index(session, MODEL, SOURCE) for _ in range(30)} == {1, 2}
    with pytest.raises(errors.NotFoundError, match="is not computed yet"):
        features.get(session, FeatureRef(MODEL, SOURCE, 5))
    with pytest.raises(errors.NotFoundError, match="has no feature 6"):
        features.get(session, FeatureRef(MODEL, SOURCE, 6))
    (of,) = filling.of_job(session, job_id)
    assert (of.ready, of.n_ready) == (((0, 2),), 3)


def test_what_a_cancelled_job_has_written_is_not_shown(session: Session, begun) -> None:
    job_id = finish_some(session, begun)
    jobs.cancel(session, job_id)
    assert catalog.source(session, MODEL, SOURCE).revision_id is None


def test_readers_of_a_computed_source_see_its_revision_until_another_is_whole(session: Session, begun) -> None:
    finish_some(session, begun)
    _, made, revision_id = begun
    session.execute(update(Source).values(revision_id=made.revision_id))
    view = catalog.source(session, MODEL, SOURCE)
    assert (view.is_partial, view.revision_id) == (False, made.revision_id)
    session.execute(update(Source).values(revision_id=revision_id))
    assert not catalog.source(session, MODEL, SOURCE).is_partial
