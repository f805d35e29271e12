"""Exports by REST and command: what was computed or imported here is what other readers, and our own importer, get back."""

import gzip
import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from backend import errors
from backend.cli.main import app as command
from backend.db.session import transaction
from backend.db.tables import Source
from backend.formats import file_streams
from backend.names import FeatureRef
from backend.services import explanation_files, explanations, exports, hosting
from backend.web.app import create_app
from tests import exports as made_exports
from tests import tiny
from tests.integration.test_imports import begin, done, rows_of
from tests.site import Site
from tests.site import site as site

MODEL, COMPUTED, AGAIN = "tiny-gpt2", "1-res", "3-res"
N_MADE = 1030
FEATURES = (
    "modelId layer index maxActApprox creatorId frac_nonzero freq_hist_data_bar_heights freq_hist_data_bar_values "
    "logits_hist_data_bar_heights logits_hist_data_bar_values neuron_alignment_indices neuron_alignment_l1 "
    "neuron_alignment_values correlated_neurons_indices correlated_neurons_l1 correlated_neurons_pearson "
    "decoder_weights_dist neg_str neg_values pos_str pos_values sourceSetName topkCosSimIndices topkCosSimValues vector "
    "vectorLabel hookName vectorDefaultSteerStrength hasVector"
)
ACTIVATIONS = (
    "id modelId layer index creatorId dataSource tokens maxValue minValue values maxValueTokenIndex dfaValues dfaMaxValue "
    "dfaTargetIndex binContains binMin binMax"
)
EXPLANATIONS = "id modelId layer index authorId description typeName explanationModelName"
"""Keys of the rows that Neuronpedia's exporter writes."""


@pytest.fixture(scope="module")
def client(site: Site) -> Iterator[TestClient]:
    built = {name: name for name in ("icon.svg", "main.css", "main.js")}
    (site.folder / "manifest.json").write_text(json.dumps(built))
    app = create_app(site.settings.model_copy(update={"assets": site.folder}))
    with TestClient(app, base_url="http://localhost/") as client:
        yield client


@pytest.fixture(scope="module")
def computed(site: Site) -> Site:
    """A source whose dashboards were computed, with explanations of some features."""
    site.start_worker()
    job_id = site.add(COMPUTED)
    site.wake()
    done(site, job_id)
    with transaction(site.sessions) as session:
        rows = [{"index": "7", "description": "imported", "embedding": [0.25, -1.5], "authorId": "someone", "id": "e7"}]
        source_id = session.scalars(select(Source.id).where(Source.name == COMPUTED)).one()
        explanation_files.upsert_many(session, source_id, rows)
        given = explanations.NewExplanation(description="by hand", type_name="human", model_name=None)
        explanations.add(session, FeatureRef(MODEL, COMPUTED, 3), given)
    return site


def unpacked(answer: Any, folder: Path) -> Path:
    assert answer.status_code == 200, answer.text
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        archive.extractall(folder)
    return folder


def renamed(body: Any, again: str = AGAIN, computed: str = COMPUTED) -> Any:
    """The answer about what was imported, as if it were about what it was exported from."""
    row = json.loads(json.dumps(body).replace(f'"{again}"', f'"{computed}"'))
    for feature in row if isinstance(row, list) else [row]:
        for relation, key in (("source", "inferenceEnabled"), ("sourceSet", "allowInferenceSearch")):
            if isinstance(feature.get(relation), dict):
                feature[relation].pop(key)  # there are no weights in an export
        for explanation in feature.get("explanations", ()):
            explanation.pop("id")  # ids are a site's own: no two rows of it share one
    return row


def test_a_computed_source_comes_back_as_it_was(computed: Site, client: TestClient, tmp_path: Path) -> None:
    folder = unpacked(client.get(f"/api/export/{MODEL}/{COMPUTED}"), tmp_path / "out")
    done(computed, begin(computed, folder, source=AGAIN))
    for index in range(64):
        one, other = (client.get(f"/api/feature/{MODEL}/{source}/{index}").json() for source in (COMPUTED, AGAIN))
        assert renamed(other) == renamed(one), index
    for index in range(64):
        texts = [
            ask(client, "activation/get", modelId=MODEL, source=source, index=index) for source in (COMPUTED, AGAIN)
        ]
        assert renamed(texts[1]) == texts[0], index
    listed = [ask(client, "features-offset", modelId=MODEL, layer=source, offset=1) for source in (COMPUTED, AGAIN)]
    assert len(listed[0]) > 1
    assert renamed(listed[1]) == renamed(listed[0])
    explained = client.get(f"/api/feature/{MODEL}/{AGAIN}/7").json()["explanations"]
    assert [each["description"] for each in explained] == ["imported"]


def test_neurons_with_values_below_zero_come_back_as_they_were(
    computed: Site, client: TestClient, tmp_path: Path
) -> None:
    corpus = tmp_path / "text.txt"
    corpus.write_text(tiny.text(100))
    spec = {"corpus": str(corpus), "is_tokens": False, "hook_point": "", "threads": 1}
    with transaction(computed.sessions) as session:
        hook = "blocks.1.mlp.hook_post"
        hosted = hosting.register(session, str(computed.folder / "tiny-gpt2"), [], spec, dense=[f"neurons:{hook}"])
    computed.wake()
    done(computed, hosted.job_id)
    source, again = "1-mlp-neurons", "9-mlp-neurons"
    folder = unpacked(client.get(f"/api/export/{MODEL}/{source}"), tmp_path / "out")
    done(computed, begin(computed, folder, source=again))
    n_negative = 0
    for index in range(64):
        one, other = (client.get(f"/api/feature/{MODEL}/{each}/{index}").json() for each in (source, again))
        assert renamed(other, again, source) == renamed(one, again, source), index
        n_negative += sum(row["minValue"] < 0 for row in one["activations"])
    assert n_negative > 0


def test_the_files_are_those_that_readers_of_neuronpedia_s_layout_expect(
    computed: Site, client: TestClient, tmp_path: Path
) -> None:
    folder = unpacked(client.get(f"/api/export/{MODEL}/{COMPUTED}"), tmp_path)
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        "model.jsonl", "sourceset.jsonl", "source.jsonl", "features/batch-0.jsonl.gz", "activations/batch-0.jsonl.gz",
        "explanations/batch-0.jsonl.gz",
    }  # fmt: skip
    neurons, texts, explained = (
        rows_of(folder / f"{name}/batch-0.jsonl.gz") for name in ("features", "activations", "explanations")
    )
    assert [row["index"] for row in neurons] == [str(index) for index in range(64)]
    assert all(row.keys() >= set(FEATURES.split()) for row in neurons)
    assert all(row.keys() >= set(ACTIVATIONS.split()) for row in texts)
    assert all(row.keys() >= set(EXPLANATIONS.split()) for row in explained)
    shown = [client.get(f"/api/feature/{MODEL}/{COMPUTED}/{index}").json()["activations"] for index in range(64)]
    assert len(texts) == sum(map(len, shown)) > 0
    assert [(row["index"], row["description"], row.get("embedding")) for row in explained] == [
        ("3", "by hand", None), ("7", "imported", [0.25, -1.5]),
    ]  # fmt: skip
    assert json.loads((folder / "source.jsonl").read_text())["id"] == COMPUTED


@pytest.fixture(scope="module")
def made(computed: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An imported export of two batches; some rows of it have keys that nobody knows."""
    folder = tmp_path_factory.mktemp("made")
    made_exports.write(folder, n_features=N_MADE, n_contexts=40, model="made-model")
    for name in ("features", "activations"):
        path = folder / name / "batch-1.jsonl.gz"
        lines = [orjson.dumps(row | {"theirs": {"n": 1.25}}) for row in rows_of(path)]
        path.write_bytes(gzip.compress(b"\n".join(lines), 1, mtime=0))
    done(computed, begin(computed, folder))
    return folder


def test_an_imported_source_is_exported_as_it_came(
    computed: Site, client: TestClient, made: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command_line(computed, "made-model/6-made", out)
    for name, key in (("features", "index"), ("activations", "id"), ("explanations", "id")):
        given, back = (all_rows(folder / name, key) for folder in (made, out))
        assert back.keys() == given.keys()
        for at, row in given.items():
            assert said(back[at], like=row) == said(row, like=row), at
    heads = {
        name: json.loads((out / f"{name}.jsonl").read_text()) for name in ("release", "model", "sourceset", "source")
    }
    for name, row in heads.items():
        given = json.loads((made / f"{name}.jsonl").read_text())
        assert {key: row[key] for key in given} == given


def test_a_range_is_exported_as_parquet_with_typed_columns(computed: Site, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(2):  # an export that is there is replaced
        command_line(computed, "made-model/6-made", out, "--format", "parquet", "--features", "1020:1029")
    features, activations, explained = (
        pq.read_table(out / f"{n}.parquet") for n in ("features", "activations", "explanations")
    )
    assert features["index"].to_pylist() == list(range(1020, 1029))
    assert str(features.schema.field("pos_values").type) == "list<element: double>"
    assert features["more"].to_pylist() == [None] * 4 + ['{"theirs":{"n":1.25}}'] * 5
    given = all_rows(made / "activations", "id")
    assert activations.num_rows == 9 * 45
    for row in activations.to_pylist():
        assert {key: row[key] for key in ("tokens", "values", "binMin", "maxValue")} == {
            key: given[row["id"]][key] for key in ("tokens", "values", "binMin", "maxValue")
        }
    assert explained["index"].to_pylist() == [1020, 1023, 1026]
    assert explained["embedding"].to_pylist()[0] == [pytest.approx(0.0123)] * 256


def test_a_head_says_what_would_be_sent(computed: Site, client: TestClient) -> None:
    answer = client.head(f"/api/export/{MODEL}/{COMPUTED}/?format=parquet")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == f'attachment; filename="{MODEL}-{COMPUTED}-parquet.zip"'


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{MODEL}/9-none", 404), (f"{MODEL}/{COMPUTED}?format=csv", 400), (f"{MODEL}/{COMPUTED}?features=x", 400),
        (f"{MODEL}/{COMPUTED}?features=5:5", 400),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_refused(computed: Site, client: TestClient, path: str, status: int) -> None:
    answer = client.get(f"/api/export/{path}")
    assert (answer.status_code, answer.json().keys()) == (status, {"error", "message"})


def test_no_connection_is_held_while_a_reader_is_slow(computed: Site, made: Path) -> None:
    held = []

    @contextmanager
    def opened() -> Iterator[Session]:
        held.append(True)
        with transaction(computed.sessions) as session:
            yield session
        held.pop()

    with transaction(computed.sessions) as session:
        found = exports.begin(session, "made-model", "6-made")
    n_pieces = 0
    for _ in file_streams.zipped(exports.files(opened, found)):
        n_pieces += 1
        assert not held
    assert n_pieces > 5


def test_dashboards_that_are_replaced_meanwhile_end_the_export(computed: Site, made: Path, tmp_path: Path) -> None:
    with transaction(computed.sessions) as session:
        found = exports.begin(session, "made-model", "6-made")
    replaced = replace(found, revision_id=found.revision_id + 10**6)
    files = exports.files(lambda: transaction(computed.sessions), replaced)
    with pytest.raises(errors.ConflictError, match="were replaced meanwhile"):
        file_streams.write_folder(tmp_path / "out", files)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_export_is_left_alone(computed: Site, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    result = CliRunner().invoke(command, ["export", f"{MODEL}/{COMPUTED}", str(tmp_path)])
    assert result.exit_code == 1
    assert "is no export of this kind" in result.output
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def ask(client: TestClient, route: str, **body: Any) -> Any:
    answer = client.post(f"/api/{route}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def command_line(site: Site, *arguments: object) -> None:
    known = {"EYEPIECE_DATABASE_URL": site.settings.database_url, "EYEPIECE_REDIS_URL": site.settings.redis_url}
    result = CliRunner().invoke(command, ["export", *map(str, arguments)], env=known, catch_exceptions=False)
    assert result.exit_code == 0, result.output


def all_rows(folder: Path, key: str) -> dict[str, dict[str, Any]]:
    return {row[key]: row for path in folder.iterdir() for row in rows_of(path)}


def said(row: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """What a row says under the keys of the one that was imported.

    A source's id tells the name of its set, and embeddings are fp32 numbers.
    """
    found = {
        key: row.get(key) for key in like if like[key] not in (None, []) and key not in ("sourceSetName", "embedding")
    }
    if "embedding" in like:
        numbers = json.loads(row["embedding"]) if isinstance(row["embedding"], str) else row["embedding"]
        found["embedding"] = [round(number, 6) for number in numbers]
    return found
