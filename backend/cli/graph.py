"""`eyepiece graph add`: store an attribution graph, a file that circuit-tracer wrote."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from backend import errors, names, storage
from backend.cli import connection
from backend.db.session import transaction
from backend.formats import graphs as graph_files
from backend.formats.graphs import GraphFile
from backend.services import graphs

app = typer.Typer(help="Attribution graphs: add.", no_args_is_help=True)
console = Console(soft_wrap=True, highlight=False, markup=False)
Data = Annotated[Path | None, typer.Option(help="Data folder; default `data`, or EYEPIECE_DATA.")]


@app.callback()
def graph() -> None:
    """Attribution graphs."""


@app.command("add")
def add(
    file: Annotated[Path, typer.Argument(help="The graph as JSON, or that gzipped.")],
    model: Annotated[str, typer.Option(help="The model's id, where it is not the file's `metadata.scan`.")] = "",
    slug: Annotated[str, typer.Option(help="The graph's name, where it is not the file's `metadata.slug`.")] = "",
    title: Annotated[str, typer.Option(help="What stands before the prompt in lists.")] = "",
    data: Data = None,
) -> None:
    """Store an attribution graph; one of the host's own at the same model and slug is replaced."""
    settings = connection.settings_of(data)
    max_bytes = round(settings.graph_mb * 1e6)
    if not file.is_file():
        raise errors.InvalidInputError(f"There is no file '{file}'.", hint="Name a graph that circuit-tracer wrote.")
    found = graph_files.parse(
        graph_files.unpacked(file, max_bytes=max_bytes), model=model and names.check_id(model, "model"),
        slug=slug and names.check_name(slug, "slug of a graph"),
    )  # fmt: skip
    with connection.opened(data) as link, tempfile.TemporaryDirectory(prefix="eyepiece-") as folder:
        view = _store(link, replace(found, title_prefix=title or found.title_prefix), Path(folder), file.name)
        console.print(
            f"{view.n_nodes:,} nodes, {view.n_links:,} links: {link.address}{names.graph_url(view.model, view.slug)}"
        )


def _store(link: connection.Connection, graph: GraphFile, folder: Path, filename: str) -> graphs.GraphView:
    """The blob first, then the graph: killed in between, what there is expires."""
    packed, blobs = folder / graphs.PACKED, storage.store(link.settings)
    n_bytes = graphs.pack(graph.text, packed)
    given = graphs.NewUpload(filename=filename, content_type="application/json", n_bytes=n_bytes)
    with transaction(link.sessions) as session:
        upload_id, _ = graphs.begin(session, given, max_bytes=n_bytes)
    graphs.put_blob(blobs, upload_id, packed)
    with transaction(link.sessions) as session:
        view = graphs.save(session, upload_id, graph, n_bytes=n_bytes)
    with transaction(link.sessions) as session:
        while graphs.clear_step(session, blobs) is not None:
            continue
    return view
