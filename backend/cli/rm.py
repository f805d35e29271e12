"""`eyepiece rm`: delete a source. `eyepiece disk`: what each takes."""

from typing import Annotated

import typer
from rich.table import Table

from backend import broker, errors, storage, wakeups
from backend.cli import connection
from backend.cli.add import Data, console
from backend.db.session import transaction
from backend.services import disk, overview, removal


def rm(
    source: Annotated[str, typer.Argument(help="MODEL/SOURCE.")],
    data: Data = None,
    is_sure: Annotated[bool, typer.Option("--yes", help="Do not ask first.")] = False,
) -> None:
    """Delete a source: gone at once, its disk space soon after, by a worker."""
    model, name = parse_ref(source)
    if not is_sure:
        typer.confirm(f"Delete {source}, its dashboards and its uploaded weights for good?", abort=True)
    with connection.opened(data) as link:
        with transaction(link.sessions) as session:
            removal.remove(session, model, name)
        wakeups.send(link.sessions, broker.celery_app(link.settings))
        console.print(f"{source}: deleted; workers free its space")


def show_disk(data: Data = None) -> None:
    """Say what each source and corpus takes on disk, and all of it together."""
    with connection.opened(data) as link, transaction(link.sessions) as session:
        blobs = storage.store(link.settings)
        table = Table("source", "total", "dashboards", "features", "index", "weights", box=None, pad_edge=False)
        for use in disk.by_source(session, blobs):
            parts = (use.total, use.dashboards, use.features, use.index, use.weights)
            table.add_row(f"{use.model}/{use.name}", *map(_size, parts))
        console.print(table)
        for corpus in disk.corpora(session, blobs):
            console.print(f"corpus {corpus.name} of {corpus.model}: {_size(corpus.n_bytes)}")
        whole = overview.disk(session, link.settings)
        blob_bytes = "elsewhere" if whole.blob_bytes is None else _size(whole.blob_bytes)
        console.print(f"database: {_size(whole.database_bytes)}, blobs: {blob_bytes}, free: {_size(whole.free_bytes)}")


def parse_ref(source: str) -> tuple[str, str]:
    """Model and name of `model/source`; raises `InvalidInputError`."""
    model, slash, name = source.partition("/")
    if not (model and slash and name):
        raise errors.InvalidInputError(f"'{source}' is not a source.", hint="Write it as model/source.")
    return model, name


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:,.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:,.1f} MB"
