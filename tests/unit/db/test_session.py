import pytest
from sqlalchemy import Engine, text

from backend.db.session import session_factory, transaction


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
    with pytest.raises(ZeroDivisionError), transaction(session_factory(engine)) as session:
        session.execute(text("INSERT INTO scratch VALUES (1)"))
        raise ZeroDivisionError
    assert count(engine) == 0


def test_the_pool_survives_a_server_that_dropped_its_connections(engine):
    with engine.connect() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    with engine.connect() as one, engine.connect() as other:
        pids = {c: c.execute(text("SELECT pg_backend_pid()")).scalar_one() for c in (one, other)}
        killer = next(c for c, own in pids.items() if own != pid)
        victim = next(own for own in pids.values() if own != pids[killer])
        killer.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": victim})
    with engine.connect() as one, engine.connect() as other:
        assert one.execute(text("SELECT 1")).scalar_one() == other.execute(text("SELECT 1")).scalar_one() == 1


def test_queries_are_not_compiled(engine):
    with engine.connect() as connection:
        assert connection.execute(text("SHOW jit")).scalar_one() == "off"
