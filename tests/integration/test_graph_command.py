"""`eyepiece graph add`, run in this process on the test's transaction."""

import gzip
import json
from contextlib import contextmanager

import pytest
from sqlalchemy import func, select
from typer.testing import CliRunner

from backend import storage
from backend.cli import connection
from backend.cli.main import app
from backend.db.tables import GraphUpload
from backend.services import graphs
from backend.settings import Settings
from tests import graph_samples


@pytest.fixture
def settings(tmp_path):
    return Settings(data=tmp_path / "data", database_url="x", redis_url="x")


@pytest.fixture
def run(sessions, settings, monkeypatch):
    """Runs a command line."""

    @contextmanager
    def opened(data, **_):
        yield connection.Connection(settings, sessions, lambda: None, "http://127.0.0.1:3000")

    monkeypatch.setattr(connection, "opened", opened)
    return lambda *words: CliRunner().invoke(app, ["graph", "add", *map(str, words)])


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.json"
    path.write_text(json.dumps(graph_samples.small()))
    return path


def test_a_file_becomes_a_graph_of_the_hosts_own(run, session, settings, file):
    done = run(file)
    assert done.exit_code == 0, done.output
    assert done.output == "6 nodes, 6 links: http://127.0.0.1:3000/tiny/graph/small\n"
    view = graphs.get(session, "tiny", "small")
    assert (view.owner_id, view.visibility, view.title) == (None, "public", "<bos>a")
    with storage.store(settings).local(view.blob_key) as path:
        assert gzip.decompress(path.read_bytes()) == file.read_bytes()


def test_once_more_replaces_it_and_leaves_nothing_of_the_first(run, session, settings, file):
    run(file)
    packed = file.with_suffix(".json.gz")
    packed.write_bytes(gzip.compress(json.dumps(graph_samples.small(prompt="other")).encode()))
    assert run(packed, "--title", "Mine:").exit_code == 0
    view = graphs.get(session, "tiny", "small")
    assert view.title == "Mine: other"
    assert storage.store(settings).keys("graphs") == [view.blob_key]
    assert session.scalar(select(func.count()).select_from(GraphUpload)) == 1


def test_another_address_may_be_given(run, session, file):
    file.write_text(json.dumps(graph_samples.small(scan="org/model", slug="a b")))
    assert "cannot be the id of a model" in run(file).output
    assert run(file, "--model", "model", "--slug", "a-b").exit_code == 0
    assert graphs.get(session, "model", "a-b").n_nodes == 6


@pytest.mark.parametrize("words", [("--model", "graphs"), ("--slug", "a/b")])
def test_an_address_that_cannot_be_is_refused(run, session, file, words):
    done = run(file, *words)
    assert (done.exit_code, "cannot be the" in done.output) == (1, True)
    assert session.scalar(select(GraphUpload.id)) is None


def test_a_file_that_is_not_there_is_said_to_be(run, tmp_path):
    done = run(tmp_path / "none.json")
    assert (done.exit_code, "There is no file" in done.output) == (1, True)
