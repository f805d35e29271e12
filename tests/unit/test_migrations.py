import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from backend import errors
from backend.cli.migrate import configuration, migrate
from backend.db.tables import Base
from backend.settings import Settings
from tests.database import server


@pytest.fixture(scope="module")
def url():
    with server() as url:
        yield url


@pytest.fixture
def empty(url):
    engine = create_engine(url, poolclass=NullPool)
    clear(engine)
    return engine


def clear(engine):
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))


def differences(engine):
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        return compare_metadata(context, Base.metadata)


def foreign_keys(engine):
    found = inspect(engine)
    return {
        (table, tuple(key["constrained_columns"]), key["referred_table"], key["options"].get("ondelete"))
        for table in Base.metadata.tables
        for key in found.get_foreign_keys(table)
    }


def test_the_migrations_make_the_tables_the_code_has(empty, url):
    migrate(Settings(database_url=url))
    assert differences(empty) == []


def test_the_migrations_make_what_create_all_makes(empty, url):
    Base.metadata.create_all(empty)
    expected = foreign_keys(empty)
    clear(empty)
    migrate(Settings(database_url=url))
    assert foreign_keys(empty) == expected
    assert ("source", ("revision_id",), "revision", "SET NULL") in expected


def test_migrating_twice_changes_nothing(empty, url):
    migrate(Settings(database_url=url))
    migrate(Settings(database_url=url))
    assert differences(empty) == []


def test_every_migration_can_be_taken_back_and_done_again(empty, url):
    config = configuration(Settings(database_url=url))
    for revision in reversed(list(ScriptDirectory.from_config(config).walk_revisions())):
        command.upgrade(config, revision.revision)
        command.downgrade(config, revision.down_revision or "base")
        command.upgrade(config, revision.revision)
    command.downgrade(config, "base")
    assert inspect(empty).get_table_names() == ["alembic_version"]
    command.upgrade(config, "head")
    assert differences(empty) == []


def test_there_is_one_newest_migration(url):
    assert len(ScriptDirectory.from_config(configuration(Settings(database_url=url))).get_heads()) == 1


def test_a_migration_runs_on_a_connection_it_is_given(empty, url):
    config = configuration(Settings(database_url=url))
    with empty.connect() as connection, connection.begin() as outer:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        assert "feature" in inspect(connection).get_table_names()
        outer.rollback()
    assert inspect(empty).get_table_names() == []


def test_a_migration_gives_up_a_lock_it_cannot_get_within_seconds(empty, url):
    migrate(Settings(database_url=url))
    with empty.connect() as reader, reader.begin():
        reader.execute(text("SELECT count(*) FROM feature"))
        with pytest.raises(OperationalError, match="lock timeout"):
            command.downgrade(configuration(Settings(database_url=url)), "base")
    assert "feature" in inspect(empty).get_table_names()


def test_an_escape_in_the_url_is_kept():
    config = configuration(Settings(database_url="postgresql+psycopg2://postgres@/postgres?host=%2Ftmp%2Fx"))
    assert config.get_main_option("sqlalchemy.url") == "postgresql+psycopg2://postgres@/postgres?host=%2Ftmp%2Fx"


def test_without_a_database_it_says_which_setting_names_one():
    with pytest.raises(errors.InvalidInputError, match="EYEPIECE_DATABASE_URL"):
        migrate(Settings(database_url=""))


def test_jobs_of_one_source_become_jobs_with_one(empty, url):
    """Done ones keep their revision; what was not done begins again, and says so."""
    config = configuration(Settings(database_url=url))
    command.upgrade(config, "0003")
    made = """
        INSERT INTO model (id, display_name, weights) VALUES ('m', 'm', 'w');
        INSERT INTO vocabulary (sha256, n_tokens, strings, special_tokens) VALUES ('v', 1, '', '[]');
        INSERT INTO corpus (model_id, vocabulary_id, name, fingerprint, context_size, n_contexts, n_tokens,
                            is_first_masked, blob_key) VALUES ('m', 1, 'c', 'f', 8, 8, 8, true, 'k');
        INSERT INTO source_set (model_id, name) VALUES ('m', 's');
        INSERT INTO source (model_id, name, set_name, hook_point, layer, architecture, d_in, d_sae, weights, config)
            SELECT 'm', n || '-s', 's', 'h', n, 'topk', 4, 8, 'w', '{}' FROM generate_series(1, 3) n;
        INSERT INTO job (source_id, state, spec, finished_at) VALUES (1, 'done', '{}', now()),
            (2, 'running', '{"corpus": "c", "corpus_id": 1, "written_at": [1]}', NULL), (3, 'failed', '{}', now());
        INSERT INTO revision (source_id, corpus_id, job_id, n_features, n_alive, n_firings, density_histogram, spec)
            VALUES (1, 1, 1, 8, 8, 8, '{}', '{}');
        INSERT INTO shard (job_id, stage, number, state, n_units, n_done)
            SELECT job, stage, 0, CASE job WHEN 1 THEN 'done' ELSE 'running' END, 8, 8
            FROM generate_series(1, 3) job, unnest(ARRAY['prepare', 'encode', 'finish']) stage;
    """
    with empty.begin() as connection:
        connection.execute(text(made))
    command.upgrade(config, "head")
    with empty.connect() as connection:
        sources = connection.execute(text("SELECT job_id, source_id, revision_id FROM job_source ORDER BY 1")).all()
        jobs = connection.execute(text("SELECT state, spec, error FROM job ORDER BY id")).all()
        shards = connection.execute(text("SELECT job_id, stage, state, source_id, n FROM shard ORDER BY id")).all()
    assert sources == [(1, 1, 1), (2, 2, None), (3, 3, None)]
    assert [(state, spec) for state, spec, _ in jobs] == [("done", {}), ("queued", {"corpus": "c"}), ("failed", {})]
    assert "starts again" in jobs[1].error
    assert shards[:3] == [(1, "prepare", "done", None, 0), (1, "encode", "done", None, 0), (1, "finish", "done", 1, 8)]
    assert shards[3:] == [(2, "prepare", "queued", None, 0), (3, "prepare", "failed", None, 0)]
    command.downgrade(config, "0003")
    with empty.connect() as connection:
        assert connection.execute(text("SELECT id, source_id FROM job ORDER BY id")).all() == [(1, 1), (2, 2), (3, 3)]
