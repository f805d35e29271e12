"""Runs migrations. The URL comes from the caller (`sqlalchemy.url`, or an open connection), else from the settings.

A migration that cannot get its lock within seconds fails instead of queueing every reader behind it.
"""

import sqlalchemy
from alembic import context
from sqlalchemy import Connection

from backend.db.tables import Base
from backend.settings import Settings

LOCK_TIMEOUT_MS = 4000


def run(connection: Connection) -> None:
    """All pending migrations in one transaction."""
    context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
    with context.begin_transaction():
        connection.execute(sqlalchemy.text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"))
        context.run_migrations()


def main() -> None:
    """Run on the connection given, or on one of our own."""
    given: Connection | None = context.config.attributes.get("connection")
    if given is not None:
        run(given)
        return
    url = context.config.get_main_option("sqlalchemy.url") or Settings().database_url
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        run(connection)


main()
