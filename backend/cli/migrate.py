"""Brings a database to the schema this code needs: `eyepiece migrate`, and what `eyepiece up` does before it serves."""

from alembic import command
from alembic.config import Config

from backend import errors
from backend.settings import REPOSITORY, Settings

MIGRATIONS = REPOSITORY / "migrations"


def migrate(settings: Settings, *, revision: str = "head") -> None:
    """Upgrade the database of `settings` to `revision`; a database already there is left as it is."""
    command.upgrade(configuration(settings), revision)


def command_line() -> None:
    """Bring the database at EYEPIECE_DATABASE_URL to the schema this code needs."""
    migrate(Settings())


def configuration(settings: Settings) -> Config:
    """Alembic's configuration for the database of `settings`."""
    if not settings.database_url:
        raise errors.InvalidInputError(
            "No database is named.", hint="Set EYEPIECE_DATABASE_URL to a postgresql+psycopg2:// URL."
        )
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    # ConfigParser reads '%' as the start of a reference; URLs hold it as an escape.
    config.set_main_option("sqlalchemy.url", settings.database_url.replace("%", "%%"))
    return config
