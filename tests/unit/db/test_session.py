import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from backend.db.session import create_engine, session_factory, transaction


@pytest.fixture
def table(engine: Engine):
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE scratch (n int)"))
    yield "scratch"
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE scratch"))


def count(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.execute(text("SELECT count(*) FROM scratch")).scalar_one()


def test_a_transaction_commits_when_its_block_ends(engine, table):
    with transaction(session_factory(engine)) as session:
        session.execute(text("INSERT INTO scratch VALUES (1)"))
        assert count(engine) == 0
    assert count(engine) == 1


def test_a_transaction_rolls_back_when_its_block_raises(engine, table):
    with pytest.raises(DBAPIError), transaction(session_factory(engine)) as session:
        session.execute(text("INSERT INTO scratch VALUES (1), (1 / 0)"))
    assert count(engine) == 0


def test_a_connection_the_server_dropped_is_replaced(database_url):
    engine = create_engine(database_url)
    with engine.connect() as killer:
        with engine.connect() as victim:
            pid = victim.execute(text("SELECT pg_backend_pid()")).scalar_one()
        killer.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        with engine.connect() as again:
            assert again.execute(text("SELECT pg_backend_pid()")).scalar_one() != pid
    engine.dispose()


def test_queries_are_not_compiled(engine):
    with engine.connect() as connection:
        assert connection.execute(text("SHOW jit")).scalar_one() == "off"
