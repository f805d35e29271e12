"""The demo as it ships: its weights load, its dashboards are computed, and what a feature costs in the database."""

from sqlalchemy import text

from backend.cli import demo
from backend.db.session import transaction
from backend.services import features, jobs
from tests.integration.test_jobs import is_done, stop
from tests.site import Site
from tests.site import site as site

MAX_BYTES_A_FEATURE = 5_000


def test_the_demo_is_computed_once_and_fits(site: Site, monkeypatch) -> None:
    """2,048 features over 100,000 tokens of this Python's own library: at most 5 KB a feature, indexes included."""
    monkeypatch.setattr(demo, "MAX_TOKENS", 100_000)
    monkeypatch.setattr(demo, "TEXT_BYTES", 1_000_000)
    with transaction(site.sessions) as session:
        (job_id,) = demo.register(session, site.settings.data, n_sources=1)
        assert demo.register(session, site.settings.data, n_sources=1) == [job_id], (
            "one job, however often it is asked for"
        )
    worker = site.start_worker(shard_tokens=50_000)
    site.wake()
    view = site.wait(job_id, is_done)
    stop(worker)
    with transaction(site.sessions) as session:
        assert demo.register(session, site.settings.data, n_sources=1) == [], "nothing is computed twice"
        page = features.browse(session, demo.MODEL, demo.SOURCES[0], features.FeatureQuery(with_dead=True))
        assert page.n_total == 2048
        n_bytes = session.scalar(text("SELECT pg_total_relation_size('feature') + pg_total_relation_size('dashboard')"))
        assert n_bytes / page.n_total <= MAX_BYTES_A_FEATURE
        n_shown = session.scalar(text("SELECT count(*) FROM context"))
        assert n_shown > 0
        assert jobs.get(session, view.id).fraction == 1.0
