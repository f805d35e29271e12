"""`eyepiece export`: every dashboard and explanation of a source, as files that other tools and other hosts read."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from backend import errors
from backend.cli import connection
from backend.db.session import transaction
from backend.formats import file_streams, import_files
from backend.services import exports

console = Console(soft_wrap=True, highlight=False)
Option = typer.Option


def export_source(
    source: Annotated[str, typer.Argument(metavar="MODEL/SOURCE", help="What to export, such as gpt2-small/6-res-jb.")],
    out: Annotated[
        Path, typer.Argument(help="Folder to write, or a file that ends in .zip. One that is there is replaced.")
    ],
    format: Annotated[
        str, Option(help="'neuronpedia': its layout of gzipped JSON lines; 'parquet': three tables.")
    ] = "neuronpedia",
    features: Annotated[str, Option(help="Only a range of features, such as 0:1000, its end left out.")] = "",
    data: Annotated[Path | None, Option(help="Data folder; default `data`, or EYEPIECE_DATA.")] = None,
) -> None:
    """Export a source's dashboards and explanations, following progress: whole, or nothing where it is interrupted."""
    model, _, name = source.partition("/")
    kind = next((known for known in exports.FORMATS if known == format), None)
    if not (model and name):
        raise errors.InvalidInputError(f"a source is named 'model/source', not '{source}'.")
    if kind is None:
        raise errors.InvalidInputError(f"--format '{format}' is unknown.", hint=f"Known: {', '.join(exports.FORMATS)}.")
    is_zip = out.suffix == ".zip"
    _check_replaceable(out, is_zip=is_zip)
    write = file_streams.write_zip if is_zip else file_streams.write_folder
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} features"),
    )
    with connection.opened(data) as link, Progress(*columns, console=console) as progress:
        with transaction(link.sessions) as session:
            found = exports.begin(session, model, name, kind, only=features)
        task = progress.add_task(source, total=found.n_features)
        share = 1 / exports.n_readings(kind)
        files = exports.files(
            partial(transaction, link.sessions), found, on_features=lambda n: progress.advance(task, n * share)
        )
        n_bytes = write(out, files)
    console.print(f"{found.n_features:,} features, {n_bytes / 1e6:,.1f} MB: {out}")


def _check_replaceable(out: Path, *, is_zip: bool) -> None:
    """Raise `ConflictError` where something lies that no export is."""
    known = {f"{name}.jsonl" for name in import_files.HEADS} | {"features", "activations", "explanations"}
    known |= {f"{name}.parquet" for name in known}
    is_export = out.is_file() if is_zip else out.is_dir() and known.issuperset(path.name for path in out.iterdir())
    if out.exists() and not is_export:
        raise errors.ConflictError(
            f"'{out}' is there and is no export of this kind.", hint="Name a folder, or a file that ends in .zip."
        )
