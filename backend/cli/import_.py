"""`eyepiece import`: dashboards that other tools wrote, from a folder, an archive or an address, become sources here."""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from backend import broker, errors, import_places, names, wakeups
from backend.cli import connection, follow
from backend.db.session import transaction
from backend.formats import import_files, upload_files
from backend.services import access, imports

console = Console(soft_wrap=True, highlight=False)
Option = typer.Option


def import_dashboards(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDER|ARCHIVE|URL...",
            help="Neuronpedia's export or SAEDashboard's output: a folder, a .zip or .tar.gz of one, or the address it "
            "lies below, s3://bucket/v1/model/source or https://….",
        ),
    ],
    source: Annotated[str, Option(help="model/source to import into; default: as the files say.")] = "",
    replace: Annotated[
        bool, Option("--replace", help="Replace what was computed here; features that the files do not have go.")
    ] = False,
    data: Annotated[Path | None, Option(help="Data folder; default `data`, or EYEPIECE_DATA.")] = None,
    watch: Annotated[bool, Option("--watch/--no-watch", help="Follow progress.")] = True,
) -> None:
    """Import dashboards and explanations: read, check and store them, following progress. Again: only what changed."""
    model, _, name = source.partition("/")
    if source and not (model and name):
        raise errors.InvalidInputError(f"--source is 'model/source', not '{source}'.")
    with ExitStack() as stack:
        link = stack.enter_context(connection.opened(data, with_worker=watch))
        begun = []
        for given in places:
            place = _place(given, link.settings.data, stack, is_watched=watch)
            found = import_files.layouts(import_places.Web(place["url"]) if "url" in place else _folder(place))
            if source and len(found) + len(places) > 2:
                raise errors.InvalidInputError("--source names one source; the files are of several.")
            wish = imports.Wish(model, name, is_replacing=replace)
            with transaction(link.sessions) as session:
                begun += [imports.begin(session, access.OPERATOR, layout, place, wish) for layout in found]
        wakeups.send(link.sessions, broker.celery_app(link.settings))
        for each in begun:
            console.print(f"job {each.job_id} imports {each.ref}")
        if not watch:
            return
        views = follow.follow(link.sessions, [each.job_id for each in begun], console, on_poll=link.check)
        failed = [view for view in views if view.state != "done"]
        if failed:
            raise errors.ConflictError(f"job {failed[0].id} {failed[0].state}: {failed[0].error or 'as asked'}")
        for each in begun:
            console.print(f"Browse {link.address}{names.source_url(*each.ref.split('/'))}")


def _folder(place: dict[str, str]) -> import_places.Folder:
    return import_places.Folder(Path(place["folder"]))


def _place(given: str, data: Path, stack: ExitStack, *, is_watched: bool) -> dict[str, str]:
    """How workers find it; an archive is unpacked below the data folder for as long as the command runs."""
    if import_places.is_url(given):
        return {"url": import_places.url_of(given)}
    path = Path(given)
    if path.is_dir():
        return {"folder": str(path.resolve())}
    if not path.is_file() or not upload_files.is_archive(given):
        raise errors.InvalidInputError(
            f"'{given}' is no folder, no archive ({', '.join(upload_files.ARCHIVES)}) and no address.",
            hint="Give what `export-data.py` or SAEDashboard wrote.",
        )
    if not is_watched:
        raise errors.InvalidInputError(
            "an archive is unpacked for as long as the command runs.", hint="Unpack it, or leave --no-watch out."
        )
    (data / "run").mkdir(parents=True, exist_ok=True)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=data / "run", prefix="import-")))
    upload_files.unpack(path, path.name, folder / "files", max_bytes=2**50, may_hold_rows=True)
    return {"folder": str((folder / "files").resolve())}
