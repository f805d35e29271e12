"""`eyepiece jobs|log|cancel|retry|rerun|rm|disk`, and the forms that compute again and delete, on the test's transaction."""

from contextlib import contextmanager

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update
from typer.testing import CliRunner

from backend import wakeups
from backend.cli import connection
from backend.cli.main import app as commands
from backend.db.tables import Job, Source
from backend.services import access, given_catalog, jobs
from backend.settings import Settings
from tests import hosted, tiny
from tests.hosted import MODEL, SOURCE

REF = f"{MODEL}/{SOURCE}"


@pytest.fixture
def job_id(session, tmp_path):
    """Queued, of a source that is shown already."""
    made = hosted.host(session)
    text = tmp_path / "a.txt"
    text.write_text("some text")
    job_id = jobs.create(session, [made.source_id], {"corpus": str(text), "seed": 1})
    session.commit()
    return job_id


@pytest.fixture
def run(sessions, monkeypatch, tmp_path):
    """Runs a command line that must succeed; what it says. No queue runs, so nobody is woken."""
    settings = Settings(data=tmp_path / "data", database_url="x", redis_url="x")

    @contextmanager
    def opened(data, **_):
        yield connection.Connection(settings, sessions, lambda: None, "http://127.0.0.1:3000")

    def run(*words):
        done = CliRunner().invoke(commands, list(words))
        assert done.exit_code == 0, done.output
        return done.output

    monkeypatch.setattr(connection, "opened", opened)
    monkeypatch.setattr(wakeups, "send", lambda *_, **__: None)
    return run


def state(session, job_id):
    return session.scalars(select(Job.state).where(Job.id == job_id)).one()


def test_a_job_is_listed_cancelled_and_retried(run, session, job_id):
    assert "queued" in run("jobs")
    assert "cancelled" in run("cancel", str(job_id))
    assert state(session, job_id) == "cancelled"
    assert "Cancelled." in run("log", str(job_id))
    assert "queued" in run("retry", str(job_id))
    assert state(session, job_id) == "queued"


def test_a_source_is_computed_again_with_what_is_given(run, session, job_id):
    session.execute(update(Job).values(state="done"))
    run("rerun", REF, "--seed", "7")
    newest = session.scalars(select(Job).order_by(Job.id.desc())).first()
    assert newest.id > job_id
    assert newest.spec["seed"] == 7


def test_a_source_is_deleted(run, session, job_id):
    assert REF.split("/")[1] in run("disk")
    run("rm", REF, "--yes")
    assert session.scalars(select(Source.id).where(Source.model_id.is_not(None))).all() == []
    assert SOURCE not in run("disk")


def test_weights_are_attached_to_an_import_by_a_command(run, session, tmp_path):
    given_catalog.put_model(session, access.OPERATOR, {"id": "tiny", "layers": 3})
    given_catalog.put_source(session, access.OPERATOR, {"modelId": "tiny", "id": "2-imported"}, d_sae=8)
    session.commit()
    assert "tiny/2-imported: not computed" in run("status")
    assert "2-imported" in run("disk")
    model = tiny.save_model(tmp_path / "model")
    sae = tiny.save_sae(tmp_path / "sae", d_sae=8, metadata={"hook_name": "blocks.2.hook_resid_post"})
    words = ("add", str(model), "--model-id", "tiny", "--sae", str(sae), "--source", "2-imported", "--no-compute")
    assert "tiny/2-imported: weights attached, nothing computed" in run(*words)
    assert session.scalars(select(Job.id)).all() == []
    assert session.scalars(select(Source.weights)).one() == str(sae)
    refused = CliRunner().invoke(commands, [*words, "--corpus", "x"])
    assert "takes neither --corpus nor --tokens" in refused.output
    run("rm", "tiny/2-imported", "--yes")


def test_the_forms_compute_again_and_delete(app, session, job_id):
    session.execute(update(Job).values(state="done"))
    with TestClient(app, base_url="http://localhost", follow_redirects=False) as client:
        answer = client.post(f"/{REF}/rerun", data={"seed": "9"})
        newest = session.scalars(select(Job).order_by(Job.id.desc())).first()
        assert (answer.status_code, answer.headers["location"]) == (303, f"/jobs/{newest.id}")
        assert newest.spec["seed"] == 9
        assert client.post(f"/{REF}/delete").status_code == 303
    assert session.scalars(select(Source.id).where(Source.model_id.is_not(None))).all() == []
    assert state(session, newest.id) == "cancelled"
