"""`eyepiece index`: which sources keep their activation index, how large each is, and dropping one."""

import typer
from rich.table import Table

from backend import errors, storage
from backend.cli import connection
from backend.cli.add import Data, console
from backend.db.session import transaction
from backend.services import catalog, kept_index

app = typer.Typer(no_args_is_help=True, help="Kept activation indexes.")


@app.command("list")
def list_indexes(data: Data = None) -> None:
    """List the sources that keep their activation index, with its size."""
    with connection.opened(data) as link, transaction(link.sessions) as session:
        table = Table("source", "size", "bytes a firing", box=None, pad_edge=False)
        for model in catalog.models(session):
            for source in model.sources:
                if source.index_bytes is not None:
                    per_firing = f"{source.index_bytes / max(source.n_firings, 1):.2f}"
                    table.add_row(f"{model.id}/{source.name}", f"{source.index_bytes / 1e6:,.1f} MB", per_firing)
        console.print(table)


@app.command()
def drop(source: str, data: Data = None) -> None:
    """Delete the activation index of MODEL/SOURCE; its dashboards stay."""
    model, slash, name = source.partition("/")
    if not slash:
        raise errors.InvalidInputError(f"'{source}' is not a source.", hint="Write it as model/source.")
    with connection.opened(data) as link:
        with transaction(link.sessions) as session:
            source_id = kept_index.drop(session, model, name)
        with transaction(link.sessions) as session:
            n = kept_index.sweep(session, storage.store(link.settings), source_id)
        console.print(f"{source}: index dropped, {n} files deleted")
