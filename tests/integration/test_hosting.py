"""From files to dashboards over REST: a real web application, database, queue and worker."""

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from backend import errors
from backend.db import tables
from backend.db.session import transaction
from backend.services import access, catalog, given_catalog, hosting, jobs
from backend.web.app import create_app
from tests import tiny
from tests.site import Site
from tests.site import site as site

MODEL = "tiny-gpt2"


@pytest.fixture
def api(site: Site, tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    app = create_app(site.settings.model_copy(update={"assets": tmp_path}))
    with TestClient(app, base_url="http://localhost/api/") as client:
        yield client


@pytest.fixture
def text(site):
    path = site.folder / "some.txt"
    path.write_text(tiny.text(200))
    return str(path)


def hand_over(api, folder, **declared):
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    listed = [{"name": f"{folder.name}/{name}", "size": len(data)} for name, data in files.items()]
    upload_id = api.post("uploads", json={"files": listed}).json()["id"]
    for name, data in files.items():
        path = f"uploads/{upload_id}/files/{folder.name}/{name}"
        assert api.patch(path, content=data, headers={"Upload-Offset": "0"}).status_code == 200
    answer = api.post(f"uploads/{upload_id}/complete", json={"declared": declared})
    assert answer.status_code == 200, answer.text
    return upload_id


def wait(site, job_id):
    view = site.wait(job_id, lambda v: v.state in ("done", "failed", "cancelled"))
    assert view.state == "done", view.error
    return view


def test_an_upload_is_hosted_replaced_and_read_by_a_worker(site, api, text, tmp_path):
    """The same rows as the same files give by the command, though they lie in the blob store."""
    folder = tiny.save_sae(tmp_path / "2-x", d_sae=64, seed=2, metadata={"hook_name": "blocks.2.hook_resid_post"})
    model = {"weights": str(site.folder / "tiny-gpt2"), "id": MODEL}
    options = {"quality_tokens": 0}
    first = {"model": model, "corpus": {"path": text}, "options": options}
    upload_id = hand_over(api, folder)
    hosted = api.post("sources", json=first | {"upload": upload_id}).json()
    assert hosted["sources"] == [f"{MODEL}/2-x"]
    again = api.post("sources", json=first | {"upload": upload_id})
    assert again.status_code == 409, "it is being computed"
    site.fork_worker()
    site.wake()
    wait(site, hosted["job"])
    rows = site.rows("2-x")
    by_folder = first | {"weights": str(folder), "source": "2-same"}
    wait(site, api.post("sources", json=by_folder).json()["job"])
    assert site.rows("2-same") == rows
    assert api.delete(f"uploads/{upload_id}").status_code == 409, "a source is computed from it"

    other = tiny.save_sae(tmp_path / "other" / "2-x", d_sae=64, seed=3, metadata={})
    newer = {"model": MODEL, "upload": hand_over(api, other, hook_point="blocks.2.hook_resid_post")} | {
        "corpus": {"path": text}, "options": options,
    }  # fmt: skip
    assert api.post("sources", json=newer).status_code == 409
    hosted = api.post("sources", json=newer | {"replace": True}).json()
    assert hosted["sources"] == [f"{MODEL}/2-x"]
    wait(site, hosted["job"])
    assert site.rows("2-x") != rows
    with transaction(site.sessions) as session:
        found = session.scalars(select(tables.Source).where(tables.Source.name == "2-x")).one()
        assert found.weights == f"blob:saes/{newer['upload']}/2-x"
        assert found.declared == {"hook_point": "blocks.2.hook_resid_post"}
    assert api.delete(f"uploads/{upload_id}").status_code == 200, "replaced"


def test_weights_are_attached_without_computing_anything(site, api, tmp_path):
    folder = tiny.save_sae(tmp_path / "1-attached", d_sae=8, metadata={"hook_name": "blocks.1.hook_resid_post"})
    with transaction(site.sessions) as session:
        hosting.add_model(session, access.OPERATOR, str(site.folder / "tiny-gpt2"), MODEL)
        given_catalog.put_source(session, access.OPERATOR, {"modelId": MODEL, "id": "1-attached"})
    wish = {"model": MODEL, "weights": str(folder), "source": "1-attached", "compute": False}
    refused = api.post("sources", json=wish | {"corpus": {"path": "/none"}})
    assert (refused.status_code, "nothing is computed" in refused.json()["error"]) == (400, True)
    refused = api.post("sources", json=wish | {"compute": True})
    assert (refused.status_code, "dashboards are computed on one" in refused.json()["error"]) == (400, True)
    hosted = api.post("sources", json=wish).json()
    assert hosted == {"job": None, "job_url": None, "sources": [f"{MODEL}/1-attached"]}
    with transaction(site.sessions) as session:
        view = catalog.source(session, MODEL, "1-attached")
        assert (view.has_weights, view.hook_point, view.d_sae) == (True, "blocks.1.hook_resid_post", 8)


@pytest.mark.parametrize(
    ("changed", "status", "said"),
    [
        ({"model": "none"}, 404, "No model"),
        ({"upload": None}, 400, "either"),
        ({"upload": "0" * 32}, 404, "no such upload"),
        ({"corpus": {}}, 400, "one of"),
        ({"corpus": {"path": "/none"}}, 400, "does not exist"),
        ({"corpus": {"id": 99}}, 404, "no corpus"),
        ({"corpus": {"upload": "0" * 32}}, 404, "no such upload"),
        ({"source": "api"}, 400, "cannot be the id"),
        ({"model": {"weights": "../x y"}}, 400, "cannot be the id"),
        ({"model": {"weights": "a/b/c"}}, 400, "hub"),
        ({"options": {"device": "cuda"}}, 400, "device"),
        ({"upload": None, "weights": "/none"}, 400, "no folder"),
        ({"upload": None, "weights": "x" * 5000}, 400, "at most 4096"),
        ({"model": {"weights": "x" * 5000, "id": "x"}}, 400, "hub"),
        ({"corpus": {"path": "x" * 5000}}, 400, "does not exist"),
        ({"corpus": {"hub": "a\0b"}}, 400, "no data set"),
        ({"corpus": {"hub": "../../etc"}}, 400, "no data set"),
    ],
)
def test_what_cannot_be_hosted_says_why_and_leaves_nothing(site, api, text, tmp_path, changed, status, said):
    folder = tiny.save_sae(tmp_path / "1-refused", d_sae=8)
    with transaction(site.sessions) as session:
        hosting.add_model(session, access.OPERATOR, str(site.folder / "tiny-gpt2"), MODEL)
        n_jobs = len(jobs.latest(session))
    wish = {"model": MODEL, "upload": hand_over(api, folder), "corpus": {"path": text}} | changed
    answer = api.post("sources", json={key: value for key, value in wish.items() if value is not None})
    assert (answer.status_code, said in answer.json()["message"]) == (status, True), answer.text
    with transaction(site.sessions) as session:
        assert len(jobs.latest(session)) == n_jobs
        with pytest.raises(errors.NotFoundError):
            catalog.source(session, MODEL, "1-refused")


def test_who_is_not_the_operator_names_no_files_of_the_host_and_changes_nothing_of_others(site, tmp_path):
    somebody = access.Viewer(None, "", frozenset({"read", "write"}))
    folder = tiny.save_sae(tmp_path / "1-mine", d_sae=8)
    spec = {"corpus": "x", "is_tokens": False}
    with transaction(site.sessions) as session:
        hosting.add_model(session, access.OPERATOR, "org/some-model")
        assert hosting.add_model(session, somebody, "org/some-model") == "some-model", "the same again"
        for weights in ("other/some-model", str(site.folder / "tiny-gpt2")):
            with pytest.raises(errors.ForbiddenError):
                hosting.add_model(session, somebody, weights)
        with pytest.raises(errors.ForbiddenError):
            hosting.corpus_at(somebody, "/etc/passwd")
        sae = hosting.Sae(str(folder), folder)
        job_id = hosting.host(session, access.OPERATOR, "some-model", [sae], hosting.Wish(spec)).job_id
        jobs.cancel(session, job_id)
        other = hosting.Sae("blob:saes/1/x", folder)
        for wish in (hosting.Wish(spec), hosting.Wish(spec, is_replacing=True)):
            with pytest.raises((errors.ForbiddenError, errors.ConflictError)) as refusal:
                hosting.host(session, somebody, "some-model", [other], wish)
            assert str(tmp_path) not in str(refusal.value), "paths of the host are its operator's business"
        with pytest.raises(errors.UnauthorizedError):
            hosting.host(session, access.NOBODY, "some-model", [sae], hosting.Wish(spec))
