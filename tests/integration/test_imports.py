"""Imports by real workers: what is served is what the files say, whatever happens on the way."""

import gzip
import io
import json
import re
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from backend import import_places
from backend.db import tables
from backend.db.session import transaction
from backend.formats import import_files
from backend.services import access, events, imports
from backend.web.app import create_app
from tests import exports, tiny
from tests.site import Site
from tests.site import site as site

SAMPLE = tiny.SHARED / "dashboards" / "saedashboard-gpt2-small-0-res-jb"
LARGE = {"n_features": 2100, "n_contexts": 300}


@pytest.fixture(scope="module", autouse=True)
def _worker(site: Site) -> None:
    site.start_worker()


@pytest.fixture(scope="module")
def client(site: Site) -> Iterator[TestClient]:
    built = {name: name for name in ("icon.svg", "main.css", "main.js")}
    (site.folder / "manifest.json").write_text(json.dumps(built))
    app = create_app(site.settings.model_copy(update={"assets": site.folder}))
    with TestClient(app, base_url="http://localhost/") as client:
        yield client


def begin(site: Site, folder: Path, **wish: object) -> int:
    place = {"folder": str(folder)}
    (layout,) = import_files.layouts(import_places.Folder(folder))
    with transaction(site.sessions) as session:
        begun = imports.begin(session, access.OPERATOR, layout, place, imports.Wish(**wish))
    site.wake()
    return begun.job_id


def done(site: Site, job_id: int) -> list[str]:
    """The lines of the job's log, once it is done."""
    view = site.wait(job_id, lambda view: view.state in ("done", "failed", "cancelled"))
    assert view.state == "done", view.error
    assert view.fraction == 1.0
    with transaction(site.sessions) as session:
        return [line.text for line in events.of_job(session, job_id)]


def n_rows(site: Site, table: type) -> int:
    with transaction(site.sessions) as session:
        return session.scalars(select(func.count()).select_from(table)).one()


def numbers(row: dict) -> dict:
    """What a feature of SAEDashboard's says that we serve under the same name."""
    left_out = ("feature_index", "activations", "n_prompts_total", "n_tokens_in_prompt", "dataset")
    return {
        name: value
        for name, value in row.items()
        if name not in left_out and not name.startswith("correlated_features")
    }


@pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"no output of SAEDashboard at {SAMPLE}")
def test_what_is_served_of_saedashboard_s_output_is_what_its_files_say(site: Site, client: TestClient) -> None:
    said = done(site, begin(site, SAMPLE))
    assert any(line.startswith("batch-0.json: 2 features, sha256 ") for line in said)
    assert "4 features with 169 texts are imported." in said
    for path in sorted(SAMPLE.glob("batch-*.json")):
        for feature in json.loads(path.read_text())["features"]:
            served = client.get(f"/api/feature/gpt2-small/0-res-jb/{feature['feature_index']}").json()
            assert {name: served[name] for name in numbers(feature)} == numbers(feature)
            given = [
                [
                    a[name]
                    for name in ("tokens", "values", "bin_min", "bin_max", "bin_contains", "qualifying_token_index")
                ]
                for a in feature["activations"]
            ]
            shown = [
                [a[name] for name in ("tokens", "values", "binMin", "binMax", "binContains", "qualifyingTokenIndex")]
                for a in served["activations"]
            ]
            assert sorted(shown, key=str) == sorted(given, key=str)
            assert [max(a["values"]) for a in served["activations"]] == sorted(
                (max(a["values"]) for a in feature["activations"]), reverse=True
            )
            assert served["source"]["num_prompts"] == 5000
            page = client.get(f"/gpt2-small/0-res-jb/{feature['feature_index']}")
            assert page.status_code == 200
            assert re.search(r"\bnan\b", page.text) is None
    assert client.get("/gpt2-small/0-res-jb").status_code == 200
    assert client.get("/api/features/gpt2-small/0-res-jb?with_dead=true").json()["n_total"] == 4


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of three batches of features, two of them with texts that all share."""
    folder = tmp_path_factory.mktemp("export")
    exports.write(folder, **LARGE, model="made-model")
    return folder


def rows_of(path: Path) -> list[dict]:
    return [orjson.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


@pytest.fixture(scope="module")
def imported(site: Site, made: Path) -> Site:
    """Two workers are killed on the way: one while it reads, one while it stores."""
    job_id = begin(site, made)
    for stage in ("read", "store"):
        site.wait(job_id, lambda view, stage=stage: view.stage == stage or view.state == "done")
        site.workers[-1].send_signal(signal.SIGKILL)
        site.workers[-1].wait()
        site.start_worker()
    said = done(site, job_id)
    assert "2,100 features with 94,500 texts are imported." in said
    return site


def test_an_import_whose_workers_were_killed_is_whole(imported: Site, client: TestClient, made: Path) -> None:
    neurons = {row["index"]: row for row in rows_of(made / "features/batch-2.jsonl.gz")}
    texts: dict[str, list[dict]] = {}
    for row in rows_of(made / "activations/batch-2.jsonl.gz"):
        texts.setdefault(row["index"], []).append(row)
    for index in ("2048", "2099"):
        served = client.get(f"/api/feature/made-model/6-made/{index}").json()
        for name, value in neurons[index].items():
            if name not in ("sourceSetName", "layer", "modelId"):
                assert served[name] == (value if value is not None or name != "hookName" else served[name]), name
        by_id = {row["id"]: row for row in served["activations"]}
        assert len(by_id) == 45
        for row in texts[index]:
            shown = by_id[row["id"]]
            assert {name: shown[name] for name in row if name in shown} == {
                name: row[name] for name in row if name in shown
            }
    assert served["model"]["displayNameShort"] == "GPT2-S"
    assert served["source"]["hfRepoId"] == "made/up"
    assert served["sourceSet"]["releaseName"] == "made-up"
    explained = client.get("/api/feature/made-model/6-made/2097").json()["explanations"]
    assert [(e["id"], e["description"]) for e in explained] == [(f"ce{2097:018d}", "words of kind 2097")]


def test_texts_are_stored_once(imported: Site) -> None:
    with transaction(imported.sessions) as session:
        corpus = session.scalars(
            select(tables.Corpus.id).where(tables.Corpus.model_id == "made-model", tables.Corpus.blob_key == "")
        ).one()
        n = session.scalars(select(func.count()).where(tables.Context.corpus_id == corpus)).one()
    assert n == LARGE["n_contexts"]


def test_the_release_and_the_map_of_an_export_are_there(imported: Site, client: TestClient) -> None:
    found = client.post(
        "/api/explanation/search-release", json={"releaseName": "made-up", "query": "words of kind 9"}
    ).json()
    assert ("6-made", "9") in {(each["layer"], each["index"]) for each in found["results"]}
    (release,) = [each for each in client.post("/api/global", json={}).json()["releases"] if each["name"] == "made-up"]
    assert release["description"] == "Made up for a test"
    points = client.post("/api/umap", json={"modelId": "made-model", "layers": ["6-made"]}).json()["6-made"]
    assert [point["index"] for point in points[:3]] == ["3", "6", "9"], "0, 0 is no place"
    assert (points[0]["umap_x"], points[0]["umap_y"], points[0]["umap_cluster"]) == (1.5, -3.0, 3)


def test_importing_twice_changes_nothing(imported: Site, client: TestClient, made: Path) -> None:
    before = imported.rows("6-made"), n_rows(imported, tables.Context), n_rows(imported, tables.Explanation)
    feature = client.get("/api/feature/made-model/6-made/1").json()
    said = done(imported, begin(imported, made))
    assert "These files are imported already; nothing of the dashboards changes." in said
    again = imported.rows("6-made"), n_rows(imported, tables.Context), n_rows(imported, tables.Explanation)
    assert again == before
    assert client.get("/api/feature/made-model/6-made/1").json() == feature


def test_an_import_of_more_files_replaces_what_it_says_and_keeps_the_rest(
    imported: Site, client: TestClient, tmp_path: Path
) -> None:
    row = {"modelId": "made-model", "layer": "6-made", "index": 3, "pos_str": ["new"], "pos_values": [9.5]}
    new = {"modelId": "made-model", "layer": "6-made", "index": 5000, "tokens": ["\0", "b"], "values": [0, 2.5]}
    for name, line in (("features", row), ("activations", new)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "batch-0.jsonl").write_bytes(orjson.dumps(line))
    before = client.get("/api/feature/made-model/6-made/3").json()
    done(imported, begin(imported, tmp_path))
    after = client.get("/api/feature/made-model/6-made/3").json()
    assert after == before | {"pos_str": ["new"], "pos_values": [9.5]}
    added = client.get("/api/feature/made-model/6-made/5000").json()
    assert [(a["tokens"], a["values"]) for a in added["activations"]] == [(["\0", "b"], [0, 2.5])]
    assert client.get("/api/features/made-model/6-made").json()["n_total"] == LARGE["n_features"] + 1
    assert client.get("/made-model/6-made/5000").status_code == 200


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("features/batch-1.jsonl", b'{"index": 1}\n{"index": "x"}\n', "features/batch-1.jsonl, line 2: 'index'"),
        ("features/batch-1.jsonl.gz", b"no gzip", "cannot be unpacked"),
        ("features/batch-1.jsonl.gz", gzip.compress(b'{"index": 1}\n' * 99)[:-9], "cannot be unpacked"),
        ("activations/batch-0.jsonl", b'{"index":1,"tokens":["a"],"values":[1,2],"binMin":0}', "2 values of 1 tokens"),
    ],
)
def test_a_file_that_cannot_be_read_fails_the_job_and_changes_nothing(
    imported: Site, client: TestClient, tmp_path: Path, name: str, data: bytes, said: str
) -> None:
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "batch-0.jsonl").write_bytes(b'{"index": 1, "maxActApprox": 77}')
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    before = imported.rows("6-made")
    job_id = begin(imported, tmp_path, model="made-model", source="6-made")
    view = imported.wait(job_id, lambda view: view.state in ("done", "failed"))
    assert view.state == "failed"
    assert said in (view.error or "")
    assert imported.rows("6-made") == before


def test_an_upload_of_an_archive_is_imported(imported: Site, client: TestClient, made: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path in sorted(made.rglob("batch-0*")) + sorted(made.glob("*.jsonl")):
            archive.add(path, f"up/{path.relative_to(made)}")
    answer = client.post("/api/uploads/whole?name=up.tar.gz&kind=dashboards", content=packed.getvalue())
    assert answer.status_code == 200, answer.text
    wish = {"upload": answer.json()["id"], "model": "other-model", "source": "6-sent", "visibility": "unlisted"}
    begun = client.post("/api/imports", json=wish)
    assert begun.status_code == 200, begun.text
    assert [each["source"] for each in begun.json()] == ["other-model/6-sent"]
    done(imported, begun.json()[0]["job"])
    one, other = (client.get(f"/api/feature/{ref}/7").json() for ref in ("made-model/6-made", "other-model/6-sent"))
    shown = ("tokens", "values", "binMin", "binMax", "binContains")
    assert [[a[k] for k in shown] for a in one["activations"]] == [[a[k] for k in shown] for a in other["activations"]]
    assert other["source"]["visibility"] == "UNLISTED"


@pytest.mark.parametrize(
    ("wish", "status", "said"),
    [
        ({}, 400, "give one of"),
        ({"folder": "/nowhere"}, 400, "no folder of the host"),
        ({"folder": str(Path(__file__).parent)}, 400, "is of an export"),
        ({"url": "ftp://x"}, 400, "no address of the web"),
        ({"upload": "0" * 32}, 404, "no such upload"),
    ],
)
def test_what_cannot_be_imported_is_refused(
    imported: Site, client: TestClient, wish: dict, status: int, said: str
) -> None:
    answer = client.post("/api/imports", json=wish)
    assert (answer.status_code, said in answer.text) == (status, True), answer.text


def test_features_are_uploaded_a_few_at_a_time(imported: Site, client: TestClient) -> None:
    made = client.post("/api/source-set/new", json={"name": "handmade", "modelId": "made-model"})
    assert made.status_code == 200, made.text
    body = {"modelId": "made-model", "source": "0-handmade"}
    texts = [{"tokens": ["a", "", "c"], "values": [0, 1.5, 0.5]}, {"tokens": ["c", "a"], "values": [0, 3]}]
    feature = {
        "index": 12, "density": None, "topLogits": [{"token": " up", "value": 2.5}], "bottomLogits": None,
        "explanations": [{"text": "ups", "methodName": None, "modelName": "a model"}], "activations": texts,
    }  # fmt: skip
    for _ in range(2):
        answer = client.post("/api/feature/upload-batch", json=body | {"features": [feature]})
        assert (answer.status_code, answer.json()) == (200, {"message": "1 features created."})
    served = client.get("/api/feature/made-model/0-handmade/12").json()
    assert [(a["tokens"], a["values"]) for a in served["activations"]] == [
        (["c", "a"], [0, 3]), (["a", "", "c"], [0, 1.5, 0.5]),
    ]  # fmt: skip
    assert (served["pos_str"], served["pos_values"], served["maxActApprox"]) == ([" up"], [2.5], 3)
    assert [e["description"] for e in served["explanations"]] == ["ups"]
    more = {"index": "12", "activations": [*texts, {"tokens": ["new"], "values": [7]}]}
    answer = client.post("/api/activation/upload-batch", json=body | more)
    assert answer.json() == {"message": "1 activations created."}
    served = client.get("/api/feature/made-model/0-handmade/12").json()
    assert (next(a["tokens"] for a in served["activations"]), served["maxActApprox"]) == (["new"], 7)
    assert client.get("/made-model/0-handmade/12").status_code == 200


def test_uploads_that_do_not_fit_are_refused(imported: Site, client: TestClient) -> None:
    body = {"modelId": "made-model", "source": "0-handmade"}
    wrong = [{"index": 1, "activations": [{"tokens": ["a"], "values": [1, 2]}]}]
    answer = client.post("/api/feature/upload-batch", json=body | {"features": wrong})
    assert answer.status_code in (400, 422)
    assert "2 values of 1 tokens" in answer.json()["message"]
    absent = client.post("/api/feature/upload-batch", json=body | {"source": "9-none", "features": [{"index": 1}]})
    assert absent.status_code == 404
