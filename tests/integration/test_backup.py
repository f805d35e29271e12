"""A backup of a computed site, restored elsewhere, serves the same; what is damaged or in the way is refused whole."""

import io
import json
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command as alembic
from sqlalchemy import MetaData, func, select, text, update

from backend import errors, storage
from backend.cli import backup as command
from backend.cli import migrate
from backend.db.session import create_engine, session_factory, transaction
from backend.db.tables import (
    Account,
    Base,
    Explanation,
    ExplanationVote,
    Job,
    Shard,
    SignIn,
    Source,
    SteerRun,
    Upload,
    Vector,
)
from backend.names import FeatureRef
from backend.services import backups, bookmarks, comments, feature_lists, jobs
from backend.services.feature_lists import ListText, NewItem
from backend.settings import Settings
from tests import hosted
from tests.database import server

NOTES = ("feature_list", "feature_list_item", "list_comment", "feature_comment", "bookmark")
BLOBS = {
    "corpora/x.npy": b"rows",
    "corpora-raw/cd/a.txt": b"text",
    "graphs/ab.json.gz": b"a graph",
    "indexes/1/2/0-3.features": bytes(range(256)) * 5000,
    "saes/ab/cfg.json": b"{}",
}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A site with one source, blobs, and a job under way; only read."""
    with server() as url:
        folder = tmp_path_factory.mktemp("here")
        settings = Settings(database_url=url, redis_url="redis://127.0.0.1:1", data=folder)
        migrate.migrate(settings)
        engine = create_engine(url)
        sessions = session_factory(engine)
        with transaction(sessions) as session:
            made = hosted.host(session)
            job_id = jobs.create(session, [made.source_id], {"corpus": "a.txt"})
            session.execute(update(Shard).values(state="running"))
            session.get_one(Job, job_id).state = "running"
            for id_, state in (("cd", "complete"), ("ef", "open")):
                session.add(Upload(id=id_, kind="corpus", name="a", files=[], n_bytes=4, state=state))
            account = Account(name="somebody", password_hash="")
            session.add(account)
            session.flush()
            expires_at = datetime(2100, 1, 1, tzinfo=UTC)
            given = {"token_hash": b"x", "browser": "", "address": "", "expires_at": expires_at}
            session.add(SignIn(account_id=account.id, **given))
            of = {"model_id": hosted.MODEL, "owner_id": account.id}
            place = {"source": "1-neuronpedia-resid-post", "hook_point": "blocks.1.hook_resid_post"}
            session.add(Vector(**of, **place, index=5, label="x", values=[0.1, -1 / 3], default_strength=1.0))
            said = Explanation(id="x", source_id=made.source_id, index=1, description="cats", embedding=[0.5])
            session.add(said)
            session.flush()
            session.add(ExplanationVote(explanation_id="x", account_id=account.id))
            packed = {"key": b"k", "request": bytes(range(256)), "outputs": b"o"}
            session.add(SteerRun(**of, **packed, id="r", source_ids=[made.source_id], kind="chat"))
            ref = FeatureRef(hosted.MODEL, hosted.SOURCE, hosted.RICH)
            made_list = feature_lists.create(session, ListText(name="x"), [NewItem(ref, "é")])
            comments.add_to_list(session, made_list.id, "hello")
            comments.add_to_feature(session, ref, "hello")
            bookmarks.add(session, ref)
        fill(settings, BLOBS | {"jobs/1/2/0.postings": b"of a job"})
        yield settings, sessions
        engine.dispose()


@pytest.fixture(scope="module")
def elsewhere_url():
    with server() as url:
        yield url


@pytest.fixture
def elsewhere(elsewhere_url, tmp_path):
    """Nothing but a server."""
    settings = Settings(database_url=elsewhere_url, redis_url="redis://127.0.0.1:1", data=tmp_path / "elsewhere")
    engine = create_engine(elsewhere_url)
    clear(engine)
    yield settings, session_factory(engine)
    engine.dispose()


def clear(engine):
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))


def fill(settings, blobs):
    for key, content in blobs.items():
        path = settings.data / "scratch"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        storage.store(settings).put(key, path)


def write(here, path: Path) -> backups.Manifest:
    settings, sessions = here
    with sessions() as session:
        return backups.write(session, storage.store(settings), path)


def content(sessions) -> dict[str, bytes]:
    """Every table's rows as Postgres writes them, sorted."""
    found = {}
    with transaction(sessions) as session:
        cursor = session.connection().connection.cursor()
        for table in Base.metadata.sorted_tables:
            rows = io.BytesIO()
            columns = ", ".join(f'"{column.name}"' for column in table.columns)
            cursor.copy_expert(f'COPY (SELECT {columns} FROM "{table.name}" ORDER BY 1, 2) TO STDOUT', rows)
            found[table.name] = rows.getvalue()
    return found


def restore(elsewhere, path: Path, monkeypatch) -> None:
    settings, _ = elsewhere
    monkeypatch.setattr(command.connection, "settings_of", lambda data: settings)
    command.restore(path)


def test_what_is_restored_is_what_was_hosted(here, elsewhere, tmp_path, monkeypatch):
    manifest = write(here, tmp_path / "b.zip")
    restore(elsewhere, tmp_path / "b.zip", monkeypatch)
    before, after = content(here[1]), content(elsewhere[1])
    assert sum(map(len, before.values())) > 5000
    assert before["steering_vector"]
    assert before["steer_run"]
    assert b"'cat':1" in before["explanation"]
    assert before["explanation_vote"]
    assert all(before[name] for name in NOTES)
    same = [name for name in before if name not in {"job", "shard", "lease", "worker_report", "upload", "sign_in"}]
    assert {name: before[name] for name in same} == {name: after[name] for name in same}
    store = storage.store(elsewhere[0])
    assert {key: Path(f"{store.root}/{key}").read_bytes() for key in store.keys("")} == BLOBS
    assert manifest.n_rows["source"] == 1
    assert len(manifest.blobs) == len(BLOBS)
    assert manifest.n_bytes > sum(map(len, BLOBS.values()))


def test_a_job_under_way_is_restored_as_failed_and_can_be_retried(here, elsewhere, tmp_path, monkeypatch):
    write(here, tmp_path / "b.zip")
    restore(elsewhere, tmp_path / "b.zip", monkeypatch)
    with transaction(elsewhere[1]) as session:
        (job,) = session.scalars(select(Job)).all()
        assert (job.state, job.error) == ("failed", backups.INTERRUPTED)
        jobs.retry(session, job.id)
        assert session.scalars(select(Shard.stage)).all() == ["prepare"]


def test_unfinished_uploads_and_sign_ins_stay_behind(here, elsewhere, tmp_path, monkeypatch):
    manifest = write(here, tmp_path / "b.zip")
    restore(elsewhere, tmp_path / "b.zip", monkeypatch)
    assert "sign_in" not in manifest.n_rows
    with transaction(elsewhere[1]) as session:
        assert session.scalars(select(Upload.id)).all() == ["cd"]
        assert session.scalars(select(SignIn.id)).all() == []
        assert session.scalars(select(Account.name)).all() == ["somebody"]


def test_new_rows_get_ids_of_their_own(here, elsewhere, tmp_path, monkeypatch):
    write(here, tmp_path / "b.zip")
    restore(elsewhere, tmp_path / "b.zip", monkeypatch)
    with transaction(elsewhere[1]) as session:
        last = session.scalar(select(func.max(Source.id)))
        assert hosted.add_source(session, source="3-another") > last


def test_rows_of_older_tables_are_brought_up_to_date(elsewhere, tmp_path, monkeypatch):
    settings, sessions = elsewhere
    migrate.migrate(settings)
    with transaction(sessions) as session:
        hosted.host(session)
    alembic.downgrade(migrate.configuration(settings), "0004")
    engine = sessions.kw["bind"]
    older = MetaData()
    older.reflect(engine)
    found = [table for table in older.tables.values() if table.name not in {*backups.LEFT_OUT, "alembic_version"}]
    with monkeypatch.context() as patch:
        patch.setattr(backups, "tables", lambda: found)
        write(elsewhere, tmp_path / "b.zip")
    clear(engine)
    restore(elsewhere, tmp_path / "b.zip", monkeypatch)
    with transaction(sessions) as session:
        assert session.execute(select(Source.name, Source.visibility)).all() == [(hosted.SOURCE, "public")]


def test_nothing_is_written_over(here, tmp_path, monkeypatch):
    write(here, tmp_path / "b.zip")
    with pytest.raises(errors.ConflictError, match="exists already"):
        write(here, tmp_path / "b.zip")
    with pytest.raises(errors.ConflictError, match="hosted here already"):
        restore(here, tmp_path / "b.zip", monkeypatch)


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_a_damaged_backup_restores_nothing(here, elsewhere, tmp_path, monkeypatch, at):
    path = tmp_path / "b.zip"
    write(here, path)
    broken = bytearray(path.read_bytes())
    broken[int(len(broken) * at)] ^= 0x40
    path.write_bytes(broken)
    with pytest.raises(errors.InvalidInputError, match=r"damaged|no complete backup"):
        restore(elsewhere, path, monkeypatch)
    assert storage.store(elsewhere[0]).keys("") == []
    with transaction(elsewhere[1]) as session:
        backups.check_empty(session)


def test_what_is_cut_short_is_no_backup(here, tmp_path):
    path = tmp_path / "b.zip"
    write(here, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(errors.InvalidInputError, match="no complete backup"):
        backups.read_manifest(path)


def test_a_name_that_leads_out_of_the_store_is_refused(here, elsewhere, tmp_path, monkeypatch):
    path = tmp_path / "b.zip"
    write(here, path)
    with zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read(backups.MANIFEST))
    manifest["sha256"]["blobs/saes/../../x"] = "0" * 64
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(backups.MANIFEST, json.dumps(manifest))
    with pytest.raises(errors.InvalidInputError, match="what no backup holds"):
        restore(elsewhere, path, monkeypatch)


def test_a_backup_that_fails_leaves_no_file(here, tmp_path, monkeypatch):
    def gone(store, key):
        raise FileNotFoundError(key)

    monkeypatch.setattr(storage.Store, "local", gone)
    with pytest.raises(errors.ConflictError, match="deleted while"):
        write(here, tmp_path / "b.zip")
    assert list(tmp_path.glob("*b.zip*")) == []
