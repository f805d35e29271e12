import pytest
from pydantic import TypeAdapter

from backend.services import jobs
from backend.web import schemas
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
