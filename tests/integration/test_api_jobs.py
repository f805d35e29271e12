import pytest
from pydantic import TypeAdapter

from backend.db import tables
from backend.services import jobs
from backend.web import schemas
from backend.web.api import job_schemas
from tests import hosted
from tests.hosted import MODEL, SOURCE

Job = TypeAdapter(schemas.Job)


@pytest.fixture
def job_id(session):
    made = hosted.host(session)
    job_id = jobs.create(session, [made.source_id], {"corpus": "x"})
    session.commit()
    return job_id


def test_a_job_is_as_documented(api, job_id):
    job = Job.validate_python(api.get(f"jobs/{job_id}").json())
    assert (job.id, job.model, job.state) == (job_id, MODEL, "queued")
    assert [(source.name, source.is_published) for source in job.sources] == [(SOURCE, False)]
    assert job.stages[0].n_shards == 1


def test_jobs_are_listed(api, job_id):
    assert api.get("jobs").json() == [api.get(f"jobs/{job_id}").json()]


def test_a_job_is_cancelled_and_taken_up_again(api, job_id):
    assert api.post(f"jobs/{job_id}/cancel").json()["state"] == "cancelled"
    assert api.get(f"jobs/{job_id}").json()["state"] == "cancelled"
    assert api.post(f"jobs/{job_id}/retry").json()["state"] == "queued"


def test_a_job_that_is_under_way_is_not_repeated(api, job_id):
    response = api.post(f"jobs/{job_id}/retry")
    assert response.status_code == 409
    TypeAdapter(schemas.Error).validate_python(response.json())


@pytest.mark.parametrize("path", ["1", "0", "x", "99999999999999999999"])
@pytest.mark.parametrize("suffix", ["", "/cancel", "/retry"])
def test_a_job_that_is_not_there_is_not_found(api, path, suffix):
    response = api.request("POST" if suffix else "GET", f"jobs/{path}{suffix}")
    assert response.status_code == 404
    TypeAdapter(schemas.Error).validate_python(response.json())


@pytest.mark.parametrize("command", ["cancel", "retry"])
def test_a_page_of_another_site_cannot_command_jobs(api, job_id, command):
    response = api.post(f"jobs/{job_id}/{command}", headers={"Origin": "http://evil.example"})
    assert response.status_code == 403


def test_the_log_of_a_job_is_read_on_after_a_line(api, job_id):
    Events = TypeAdapter(list[job_schemas.JobEvent])
    api.post(f"jobs/{job_id}/cancel")
    first, second = Events.validate_python(api.get(f"jobs/{job_id}/events").json())
    assert (first.text, second.text, second.level) == ("Queued.", "Cancelled.", "warning")
    assert Events.validate_python(api.get(f"jobs/{job_id}/events?after={first.id}").json()) == [second]
    assert api.get("jobs/77/events").status_code == 404
    assert api.get(f"jobs/{job_id}/events?after=-1").status_code in (400, 422)


def test_a_queued_job_says_how_many_are_before_it(api, session, job_id):
    other = jobs.create(session, [hosted.add_source(session, source="3-tiny-sae")], {})
    session.commit()
    assert [api.get(f"jobs/{each}").json()["n_before"] for each in (job_id, other)] == [0, 1]


def test_a_source_is_computed_again_with_what_is_changed(api, session, job_id):
    api.post(f"jobs/{job_id}/cancel")
    body = {"sources": [f"{MODEL}/{SOURCE}"], "context_size": 64, "seed": None}
    job = Job.validate_python(api.post("jobs", json=body).json())
    assert (job.state, [source.name for source in job.sources]) == ("queued", [SOURCE])
    assert session.get_one(tables.Job, job.id).spec == {"corpus": "x", "context_size": 64}


@pytest.mark.parametrize(
    "body",
    [{}, {"sources": []}, {"sources": ["a"]}, {"sources": ["a/b", "c/d"]}, {"sources": ["a/b"], "context_size": -1},
     {"sources": ["a/b"], "device": "cuda"}],
)  # fmt: skip
def test_a_job_that_is_asked_for_wrongly_is_refused(api, body):
    response = api.post("jobs", json=body)
    assert response.status_code == 400
    TypeAdapter(schemas.Error).validate_python(response.json())
