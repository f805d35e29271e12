"""Writes a migration: what the tables of the code have and those of the migrations lack.

`make revision m="add x"`. The difference is taken on an empty database of its own, started here and thrown away, so
it does not depend on what anyone's database happens to hold. Read the result before you trust it.
"""

import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.script import ScriptDirectory

from backend.cli import migrate
from backend.embedded import services
from backend.settings import Settings

message = sys.argv[1]
with tempfile.TemporaryDirectory(prefix="eyepiece-") as folder, services.running(Path(folder) / "data") as urls:
    settings = Settings(database_url=urls.database_url)
    migrate.migrate(settings)
    config = migrate.configuration(settings)
    n_written = len(list(ScriptDirectory.from_config(config).walk_revisions()))
    command.revision(config, message, autogenerate=True, rev_id=f"{n_written + 1:04d}")
