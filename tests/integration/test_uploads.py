"""Uploads over REST, from the first byte to the check; the database is real, and so are the files."""

import hashlib
import io
import json
import re
import tarfile
import zipfile
from datetime import timedelta

import pytest
from sqlalchemy import delete, func, select, update

from backend import storage
from backend.db.tables import Account, Upload
from backend.services import access, staging, uploads, visibility
from tests import tiny
from tests.signing_in import person, program


@pytest.fixture
def sae(tmp_path):
    """Bytes of the files of an SAE by name."""
    folder = tiny.save_sae(tmp_path / "topk8", architecture="topk", d_sae=8)
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.fixture
def begin(api):
    def begin(files, **rest):
        listed = [{"name": name, "size": len(data)} for name, data in files.items()]
        response = api.post("uploads", json={"files": listed, "name": "topk8"} | rest)
        assert response.status_code == 200, response.text
        return response.json()["id"]

    return begin


@pytest.fixture
def send(api):
    def send(upload_id, name, data, offset=0, **headers):
        headers = {"Upload-Offset": str(offset)} | {key.replace("_", "-"): value for key, value in headers.items()}
        return api.patch(f"uploads/{upload_id}/files/{name}", content=data, headers=headers)

    return send


def blobs(app):
    return storage.store(app.state.settings)


def staged(app):
    folder = app.state.settings.data / "uploads"
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


def test_files_arrive_in_chunks_are_verified_and_become_blobs(app, api, sae, begin, send):
    upload_id = begin(sae)
    for name, data in sae.items():
        half = len(data) // 2
        assert send(upload_id, name, data[:half]).json()["offset"] == half
        assert send(upload_id, name, data[half:], half).headers["upload-offset"] == str(len(data))
    answer = api.post(f"uploads/{upload_id}/complete", json={})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["state"] == "complete"
    assert {file["name"]: file["sha256"] for file in found["files"]} == {
        name: hashlib.sha256(data).hexdigest() for name, data in sae.items()
    }
    (of,) = found["found"]
    assert (of["folder"], of["architecture"], of["d_sae"], of["source"]) == ("topk8", "topk", 8, "1-topk8")
    for name, data in sae.items():
        with blobs(app).local(f"saes/{upload_id}/topk8/{name}") as path:
            assert path.read_bytes() == data
    assert staged(app) == []
    assert api.get(f"uploads/{upload_id}").json() == found
    assert api.post(f"uploads/{upload_id}/complete", json={}).json() == found, "twice is once"
    assert send(upload_id, "cfg.json", b"x").status_code == 409


def test_a_chunk_elsewhere_hears_where_the_file_ends(sae, begin, send, api):
    upload_id = begin(sae)
    data = sae["cfg.json"]
    send(upload_id, "cfg.json", data[:5])
    for offset in (0, 4, 6):
        answer = send(upload_id, "cfg.json", data[offset:], offset)
        assert (answer.status_code, answer.headers["upload-offset"]) == (409, "5")
    assert {file["name"]: file["offset"] for file in api.get(f"uploads/{upload_id}").json()["files"]} == {
        "cfg.json": 5, "sae_weights.safetensors": 0,
    }  # fmt: skip


def test_a_chunk_that_is_not_its_checksum_is_taken_away_again(sae, begin, send):
    upload_id = begin(sae)
    data = sae["cfg.json"]
    right = "sha256 " + hashlib.sha256(data).hexdigest()
    assert send(upload_id, "cfg.json", data[:-1] + b"?", Upload_Checksum=right).status_code == 400
    assert send(upload_id, "cfg.json", data, Upload_Checksum=right).json()["offset"] == len(data)
    assert send(upload_id, "cfg.json", data, Upload_Checksum="md5 1").status_code == 400


def test_more_bytes_than_were_said_are_refused(sae, begin, send):
    upload_id = begin(sae)
    assert send(upload_id, "cfg.json", sae["cfg.json"] + b"?").status_code == 400


def test_a_file_written_by_one_request_waits_for_no_other(tmp_path):
    path = tmp_path / "a" / "file"
    with staging.receiving(path, start=0, size=10) as chunk:
        chunk.write(b"12345")
        with (
            pytest.raises(staging.errors.MisplacedError, match="another request") as refusal,
            staging.receiving(path, start=5, size=10),
        ):
            pass
        assert refusal.value.offset == 5
        with pytest.raises(staging.errors.MisplacedError), staging.quiet([path, tmp_path / "none"]):
            pass
    with staging.receiving(path, start=5, size=10) as chunk:
        chunk.write(b"67890")
    assert path.read_bytes() == b"1234567890"


def test_all_that_is_wrong_is_listed_at_once_and_the_upload_can_be_mended(api, sae, begin, send):
    config = json.loads(sae["cfg.json"]) | {"k": 99, "normalize_activations": "expected_average_only_in"}
    config["metadata"]["hook_name"] = "nowhere"
    sae["cfg.json"] = json.dumps(config).encode()
    upload_id = begin(sae)
    api.post(f"uploads/{upload_id}/complete", json={})
    short = api.post(f"uploads/{upload_id}/complete", json={}).json()
    assert [problem.split(":")[0] for problem in short["problems"]] == sorted(sae)
    for name, data in sae.items():
        send(upload_id, name, data)
    answer = api.post(f"uploads/{upload_id}/complete", json={})
    assert answer.status_code == 422
    told = answer.json()
    assert len(told["problems"]) == 3
    assert all(problem in told["message"] for problem in told["problems"])
    declared = {"hook_point": "blocks.1.hook_resid_post"}
    mended = api.post(f"uploads/{upload_id}/complete", json={"declared": declared}).json()
    assert len(mended["problems"]) == 2
    assert api.get(f"uploads/{upload_id}").json()["state"] == "open"


def test_what_is_declared_makes_up_for_what_the_files_lack(api, sae, begin, send):
    config = json.loads(sae["cfg.json"])
    del config["metadata"]["hook_name"]
    sae["cfg.json"] = json.dumps(config).encode()
    upload_id = begin(sae)
    for name, data in sae.items():
        send(upload_id, name, data)
    assert api.post(f"uploads/{upload_id}/complete", json={}).status_code == 422
    declared = {"hook_point": "blocks.2.hook_resid_post"}
    found = api.post(f"uploads/{upload_id}/complete", json={"declared": declared}).json()["found"]
    assert found[0]["hook_point"] == "blocks.2.hook_resid_post"
    assert api.post(f"uploads/{upload_id}/complete", json={"declared": {"k": "many"}}).status_code == 400


def test_the_whole_file_s_sha256_is_verified(api, sae, send):
    files = [{"name": name, "size": len(data), "sha256": "0" * 64} for name, data in sae.items()]
    upload_id = api.post("uploads", json={"files": files}).json()["id"]
    for name, data in sae.items():
        send(upload_id, name, data)
    problems = api.post(f"uploads/{upload_id}/complete", json={}).json()["problems"]
    assert all(hashlib.sha256(data).hexdigest() in told for data, told in zip(sae.values(), problems, strict=True))


@pytest.mark.parametrize(
    "name",
    ["../../x", "/etc/passwd", "a/b/c", "a//b", ".hidden", "a/..", "x" * 201, "a\0b", "a\nb", "con", "NUL.txt", "a\\b",
     "ünder", "~x", "a/./b", "", "x ", "x."],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(app, api, name):
    answer = api.post("uploads", json={"files": [{"name": name, "size": 3}, {"name": "empty", "size": 0}]})
    assert answer.status_code == 422
    assert len(answer.json()["problems"]) == 2, "the empty file is told too"
    assert staged(app) == []


def test_a_name_is_not_a_file_and_a_folder(app, api):
    files = [{"name": name, "size": 1} for name in ("A", "a/b")]
    answer = api.post("uploads", json={"kind": "corpus", "name": "text", "files": files})
    assert (answer.status_code, "file and a folder" in answer.text) == (422, True)


@pytest.mark.parametrize(
    "declared",
    ['{"threshold": NaN}', '{"threshold": 1e999}', '{"hook_point": "\\ud800"}', '{"hook_point_out": "\\ud800"}',
     '{"activation": "\\u0000"}', '{"normalize_activations": "\\udc00"}'],
)  # fmt: skip
def test_what_no_database_and_no_answer_could_hold_is_not_declared(api, sae, begin, send, declared):
    whole = api.post("uploads/whole", params={"name": "x.zip", "declared": declared}, content=zipped(sae))
    upload_id = begin(sae)
    for name, data in sae.items():
        send(upload_id, name, data)
    body = f'{{"declared": {declared}}}'
    later = api.post(f"uploads/{upload_id}/complete", content=body, headers={"content-type": "application/json"})
    assert (whole.status_code, later.status_code) == (422, 422)


def test_names_that_are_not_in_the_upload_are_not_there(app, sae, begin, send):
    upload_id = begin(sae)
    for name in ("other", "../x", "%2e%2e/x", "..%2f..%2fx", "cfg.json/../../x"):
        assert send(upload_id, name, b"x").status_code == 404
    assert send("0" * 32, "cfg.json", b"x").status_code == 404
    assert send("..", "cfg.json", b"x").status_code in (404, 405)
    assert staged(app) == []


def test_an_upload_too_large_for_the_host_is_refused_before_it_comes(app, api):
    app.state.settings = app.state.settings.model_copy(update={"upload_gb": 1e-6})
    answer = api.post("uploads", json={"files": [{"name": "a", "size": 1001}]})
    assert answer.status_code == 400
    assert "EYEPIECE_UPLOAD_GB" in answer.json()["message"]
    assert api.post("uploads/whole?name=a.safetensors", content=b"x" * 1001).status_code == 400
    assert api.post("uploads/whole?name=a.safetensors", content=iter([b"x" * 900] * 9)).status_code == 400
    assert staged(app) == []


def test_one_request_brings_no_more_than_the_account_may_store(site, session):
    owner = person(session, site.state.settings, "anna")
    session.execute(update(Account).where(Account.id == owner.id).values(quota_bytes=1000))
    session.commit()
    api = program(site, session, owner)
    at_once = api.post("/api/uploads/whole?name=a.zip", content=b"x" * 1001)
    assert (at_once.status_code, "you store" in at_once.text) == (403, True), "before it was read"
    bit_by_bit = api.post("/api/uploads/whole?name=a.zip", content=iter([b"x" * 900] * 9))
    assert (bit_by_bit.status_code, "than the 1,000" in bit_by_bit.text) == (400, True)
    assert staged(site) == []


def test_an_upload_is_completed_or_deleted_by_one_request_at_a_time(app, api, sae, begin, send):
    upload_id = begin(sae)
    for name, data in sae.items():
        send(upload_id, name, data)
    with staging.of(app.state.settings).alone(upload_id):
        assert api.post(f"uploads/{upload_id}/complete", json={}).status_code == 409
        assert api.delete(f"uploads/{upload_id}").status_code == 409
    assert api.post(f"uploads/{upload_id}/complete", json={}).status_code == 200


def test_an_upload_deleted_while_it_is_checked_stays_deleted(app, api, sae, begin, send, session, monkeypatch):
    upload_id = begin(sae)
    for name, data in sae.items():
        send(upload_id, name, data)
    store = uploads.store

    def store_and_lose(*args):
        store(*args)
        session.execute(delete(Upload).where(Upload.id == upload_id))
        session.commit()

    monkeypatch.setattr(uploads, "store", store_and_lose)
    assert api.post(f"uploads/{upload_id}/complete", json={}).status_code == 404
    assert blobs(app).keys("saes") == []
    assert staged(app) == []


def test_what_is_being_hosted_is_not_swept(session, app, sae):
    area = staging.of(app.state.settings)
    old, used = (uploads.create(session, area, access.OPERATOR, "sae", [uploads.File("a", 3, None)]) for _ in range(2))
    session.execute(update(Upload).values(touched_at=func.now() - timedelta(days=2)))
    uploads.use(session, area, access.OPERATOR, used.id)
    assert uploads.forget_abandoned(session, for_s=86_400) == [old.id]


def test_another_s_files_are_not_swept_while_they_arrive(session, app, sae):
    view = uploads.create(session, staging.of(app.state.settings), access.OPERATOR, "sae", [uploads.File("a", 3, None)])
    visibility.see_as(session, access.Viewer(1, "somebody else", frozenset({"read", "write"})))
    assert uploads.known(session, [view.id]) == {view.id}


def test_an_upload_is_deleted_with_all_its_bytes(app, api, sae, begin, send):
    upload_id = begin(sae)
    send(upload_id, "cfg.json", sae["cfg.json"])
    assert api.delete(f"uploads/{upload_id}").json() == {"id": upload_id}
    assert staged(app) == []
    assert api.get(f"uploads/{upload_id}").status_code == 404
    assert api.delete(f"uploads/{upload_id}").status_code == 404


def test_what_is_left_alone_is_swept_when_the_next_one_begins(app, api, sae, begin, send, session):
    old, fresh = begin(sae), begin(sae)
    for upload_id in (old, fresh):
        send(upload_id, "cfg.json", sae["cfg.json"])
    session.execute(update(Upload).where(Upload.id == old).values(touched_at=func.now() - timedelta(days=2)))
    session.commit()
    newest = begin(sae)
    assert {each["id"] for each in api.get("uploads").json()} == {fresh, newest}
    assert "cfg.json" in staged(app)
    assert old not in staged(app)


def test_others_do_not_see_an_upload(session, sae, app):
    area = staging.of(app.state.settings)
    owner = access.Viewer(None, "", frozenset({"read", "write"}))
    view = uploads.create(session, area, access.OPERATOR, "sae", [uploads.File("a", 3, None)])
    with pytest.raises(uploads.errors.NotFoundError):
        uploads.get(session, area, owner, view.id)
    assert uploads.get(session, area, access.OPERATOR, view.id) == view
    assert session.scalars(select(Upload.owner_id).where(Upload.id == view.id)).one() is None


# One file or archive in one request


def zipped(files, **options):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", **options) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return packed.getvalue()


def tarred(files, mode="w:gz", said=None, said_of_all=None):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode, pax_headers=said_of_all) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.pax_headers = said or {}
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


@pytest.mark.parametrize("folder", ["", "mine/", "a/b/mine/", "./mine/"])
@pytest.mark.parametrize(("kind", "pack"), [("zip", zipped), ("tar.gz", tarred), ("tar", lambda f: tarred(f, "w"))])
def test_an_archive_is_one_post(app, api, sae, kind, pack, folder):
    files = {folder + name: data for name, data in sae.items()} | {"__MACOSX/._x": b"", "mine/.DS_Store": b"x"}
    answer = api.post(f"uploads/whole?name=my%20sae.{kind}", content=pack(files))
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert [each["folder"] for each in found["found"]] == ["mine" if folder else "my-sae"]
    with blobs(app).local(f"saes/{found['id']}/{found['found'][0]['folder']}/cfg.json") as path:
        assert path.read_bytes() == sae["cfg.json"]
    assert staged(app) == []


def test_an_archive_in_chunks_is_unpacked_when_it_is_complete_also_after_it_was_refused(app, api, sae, begin, send):
    config = json.loads(sae["cfg.json"])
    del config["metadata"]["hook_name"]
    packed = zipped({f"mine/{name}": data for name, data in (sae | {"cfg.json": json.dumps(config).encode()}).items()})
    upload_id = begin({"whatever.zip": packed})
    send(upload_id, "whatever.zip", packed[:100])
    assert api.get(f"uploads/{upload_id}").json()["files"][0]["offset"] == 100
    send(upload_id, "whatever.zip", packed[100:], 100)
    assert api.post(f"uploads/{upload_id}/complete", json={}).status_code == 422
    declared = {"hook_point": "blocks.2.hook_resid_post"}
    answer = api.post(f"uploads/{upload_id}/complete", json={"declared": declared})
    assert answer.status_code == 200, answer.text
    assert [file["name"] for file in answer.json()["files"]] == [f"mine/{name}" for name in sae]
    assert blobs(app).keys(f"saes/{upload_id}") == [f"saes/{upload_id}/mine/{name}" for name in sae]
    assert staged(app) == []
    two = api.post("uploads", json={"files": [{"name": "a.zip", "size": 1}, {"name": "b", "size": 1}]})
    assert "by itself" in two.json()["problems"][0]


BOMB = {"cfg.json": b"{}", "sae_weights.safetensors": bytes(150_000_000)}


@pytest.mark.parametrize(
    ("name", "packed", "said"),
    [
        ("a.zip", zipped({"../../x": b"x"}), "cannot be called|folder deep"),
        ("a.zip", zipped({"inner.zip": zipped({"x": b"x"})}), "archive itself"),
        ("a.zip", zipped(BOMB, compression=zipfile.ZIP_DEFLATED), "at most"),
        ("a.tar.gz", tarred(BOMB), "at most|grows too much"),
        ("a.zip", b"PK\3\4 no zip", "cannot be read as an archive"),
        ("a.tar", b"no tar", "cannot be read as an archive|0 files"),
        ("a.tgz", b"\x1f\x8b no gzip", "cannot be read as an archive"),
        ("a.tgz", tarred({"x": b"x"}, said={"comment": "x" * 100_000}), "header is too large"),
        ("a.tgz", tarred({"x": b"x"}, said_of_all={str(n): "x" for n in range(101)}), "headers are too large"),
        ("a.zip", zipped({}), "0 files"),
        ("a.zip", zipped({"x": b"x", "X": b"y"}), "twice"),
        ("a.zip", zipped({"x": b"x"}, compression=zipfile.ZIP_LZMA), "unusual"),
    ],
)  # fmt: skip
def test_an_archive_that_means_harm_is_refused_with_a_reason(app, api, name, packed, said):
    answer = api.post(f"uploads/whole?name={name}", content=packed)
    assert answer.status_code == 422, answer.text
    assert any(re.search(said, problem) for problem in answer.json()["problems"]), answer.text
    assert staged(app) == []


def test_links_in_archives_are_refused(app, api):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("cfg.json")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(entry)
    problems = api.post("uploads/whole?name=a.tar", content=packed.getvalue()).json()["problems"]
    assert "is a link" in problems[0]
    link = zipfile.ZipInfo("cfg.json")
    link.external_attr = 0o120777 << 16
    answer = api.post("uploads/whole?name=a.zip", content=zipped({link: "/etc/passwd"}))
    assert "is a link" in answer.json()["problems"][0]


@pytest.mark.parametrize("kind", ["application/json", "application/octet-stream", ""])
@pytest.mark.parametrize("path", ["uploads", "uploads/0/complete", "sources", "model/list"])
def test_only_bytes_of_files_are_streamed_and_other_bodies_are_small(api, path, kind):
    answer = api.post(path, content=bytes(2**23 + 1), headers={"content-type": kind})
    assert answer.status_code == 413


def test_an_archive_larger_than_it_came_counts_as_what_is_in_it(session, sae, app):
    area = staging.of(app.state.settings)
    with session.begin_nested():
        account = Account(name="somebody", password_hash="x")
        session.add(account)
    quota = access.Quota(n_bytes=1000)
    viewer = access.Viewer(account.id, "somebody", frozenset({"read", "write"}), quota)
    view = uploads.create(session, area, viewer, "sae", [uploads.File("a.zip", 900, None)])
    for size, is_allowed in ((1000, True), (1001, False)):
        checked = uploads.Checked(view.id, "sae", "a", (uploads.File("a", size, None),), (), uploads.Declared())
        if is_allowed:
            uploads.check_quota(session, viewer, checked)
        else:
            with pytest.raises(uploads.errors.ForbiddenError, match="you store"):
                uploads.check_quota(session, viewer, checked)
    with pytest.raises(uploads.errors.ForbiddenError):
        uploads.create(session, area, viewer, "sae", [uploads.File("b", 101, None)])
