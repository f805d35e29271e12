from pydantic import TypeAdapter

from backend.db.session import create_engine, session_factory
from backend.services import jobs
from backend.web import schemas

Health = TypeAdapter(schemas.Health)


def test_health_says_how_every_part_is(api, session):
    jobs.report_worker(session, "w1", kind="dashboards", device="cpu", doing="encode")
    session.commit()
    response = api.get("health")
    assert response.status_code == 200
    health = Health.validate_python(response.json())
    assert (health.is_ok, health.database.state, health.queue.state) == (True, "ok", "not configured")
    assert [(worker.name, worker.is_alive) for worker in health.workers] == [("w1", True)]


def test_a_queue_that_is_down_is_told_and_pages_are_still_served(app, api):
    app.state.settings = app.state.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1"})
    response = api.get("health")
    assert response.status_code == 200
    assert (response.json()["is_ok"], response.json()["queue"]["state"]) == (False, "down")


def test_without_a_database_health_is_503_and_still_as_documented(app, api, tmp_path):
    gone = create_engine(f"postgresql+psycopg2://postgres@/postgres?host={tmp_path}")
    app.state.sessions = session_factory(gone)
    response = api.get("health")
    assert response.status_code == 503
    health = Health.validate_python(response.json())
    assert (health.is_ok, health.database.state, health.workers) == (False, "down", [])


def test_without_a_database_every_read_is_unavailable_in_the_usual_shape(app, api, tmp_path):
    gone = create_engine(f"postgresql+psycopg2://postgres@/postgres?host={tmp_path}")
    app.state.sessions = session_factory(gone)
    for path in ("feature/m/s/1", "features/m/s", "source/m/s", "source-set/m/s", "jobs", "jobs/1"):
        response = api.get(path)
        assert response.status_code == 503, path
        TypeAdapter(schemas.Error).validate_python(response.json())
