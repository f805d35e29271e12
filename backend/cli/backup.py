"""`eyepiece backup` and `eyepiece restore`: everything hosted as one file, and back."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from alembic import command
from rich.progress import DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from backend import storage
from backend.cli import connection, migrate
from backend.cli.add import Data, console
from backend.db.session import transaction
from backend.services import backups

File = Annotated[Path, typer.Argument(help="The backup, a zip archive.")]


def backup(file: File, data: Data = None) -> None:
    """Write everything hosted into one file, while the site runs or not."""
    with connection.opened(data) as link, _progress("Backing up") as on_progress, link.sessions() as session:
        manifest = backups.write(session, storage.store(link.settings), file, on_progress=on_progress)
    console.print(f"{file}: {sentence(manifest)}")


def restore(file: File, data: Data = None) -> None:
    """Put a backup into a data folder, or a database, where nothing is hosted yet."""
    manifest = backups.read_manifest(file)
    with connection.opened(data) as link, _progress("Restoring", total=2 * manifest.n_bytes) as on_progress:
        configuration = migrate.configuration(link.settings)
        command.ensure_version(configuration)
        with transaction(link.sessions) as session:
            backups.check_empty(session)
        # to the tables the rows were written from, in either direction, and to today's afterwards
        command.upgrade(configuration, manifest.schema)
        command.downgrade(configuration, manifest.schema)
        with transaction(link.sessions) as session:
            backups.restore(session, storage.store(link.settings), file, on_progress=on_progress)
        migrate.migrate(link.settings)
    console.print(f"Restored {sentence(manifest)}")


def sentence(manifest: backups.Manifest) -> str:
    """What a backup holds, in a line."""
    n = manifest.n_rows
    return (
        f"{n['model']} models, {n['source']} sources, {n['feature']:,} features, {len(manifest.blobs)} files;"
        f" {manifest.n_bytes / 1e6:,.1f} MB, taken {manifest.created_at}."
    )


@contextmanager
def _progress(what: str, *, total: int | None = None) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda n_bytes: progress.advance(task, n_bytes)
