"""Jobs at the command line: `eyepiece jobs`, `log`, `cancel`, `retry`, `rerun`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from backend import broker, errors, wakeups
from backend.cli import connection, follow
from backend.cli.add import Data, console
from backend.cli.connection import Connection
from backend.cli.rm import parse_ref
from backend.db.session import transaction
from backend.services import events, jobs, rerun, shards

Option = typer.Option
JobId = Annotated[int, typer.Argument(min=1, max=2**31 - 1)]


def list_jobs(
    data: Data = None, watch: Annotated[bool, Option("--watch", help="Follow those under way until they end.")] = False
) -> None:
    """List the newest jobs."""
    with connection.opened(data) as link:
        with transaction(link.sessions) as session:
            found = jobs.latest(session)
        table = Table("job", "source", "state", "", box=None, pad_edge=False)
        for view in found:
            table.add_row(str(view.id), view.title, view.state, follow.sentence(view))
        console.print(table)
        active = [view.id for view in found if view.state in shards.ACTIVE]
        if watch and active:
            follow.follow(link.sessions, active, console, on_poll=link.check)


def log(job: JobId, data: Data = None) -> None:
    """Say what has happened to a job."""
    with connection.opened(data) as link, transaction(link.sessions) as session:
        view = jobs.get(session, job)
        for line in events.of_job(session, job):
            level = "" if line.level == "info" else f"{line.level}: "
            console.print(f"{line.at.astimezone():%Y-%m-%d %H:%M:%S}  {level}{line.text}", markup=False)
        console.print(f"job {job}: {follow.sentence(view)}", markup=False)


def cancel(job: JobId, data: Data = None) -> None:
    """Stop a job."""
    with connection.opened(data) as link, transaction(link.sessions) as session:
        jobs.cancel(session, job)
        console.print(f"job {job}: {jobs.get(session, job).state}")


def retry(job: JobId, data: Data = None) -> None:
    """Go on with a failed job, or begin a cancelled one again."""
    with connection.opened(data) as link:
        with transaction(link.sessions) as session:
            jobs.retry(session, job)
        _wake(link, job)


def rerun_source(
    source: Annotated[str, typer.Argument(help="MODEL/SOURCE.")],
    corpus: Annotated[Path | None, Option(help="Text file or folder; default: the one there was.")] = None,
    corpus_id: Annotated[int | None, Option(help="A corpus the model was run on before.")] = None,
    context_size: Annotated[int | None, Option(min=1, help="Tokens a context.")] = None,
    tokens_limit: Annotated[int | None, Option(min=0, help="Use at most this many tokens; 0 uses all.")] = None,
    dtype: Annotated[str | None, Option(help="Of the model: float32, bfloat16 or float16.")] = None,
    seed: Annotated[int | None, Option(min=0, help="Of the interval samples.")] = None,
    quality_tokens: Annotated[int | None, Option(min=0, help="Tokens quality is measured on; 0: it is not.")] = None,
    keep_index: Annotated[
        bool | None, Option("--keep-index/--no-keep-index", help="Keep every firing to look up.")
    ] = None,
    data: Data = None,
) -> None:
    """Compute a source again, as the last time but for what is given."""
    model, name = parse_ref(source)
    if dtype not in (None, "float32", "bfloat16", "float16"):
        raise errors.InvalidInputError(f"'{dtype}' is no dtype.", hint="Choose float32, bfloat16 or float16.")
    given = {
        "context_size": context_size, "max_tokens": tokens_limit, "dtype": dtype, "seed": seed,
        "quality_tokens": quality_tokens, "keep_index": keep_index,
    }  # fmt: skip
    changed: dict[str, Any] = {option: value for option, value in given.items() if value is not None}
    path = None if corpus is None else str(corpus.resolve())
    with connection.opened(data) as link:
        with transaction(link.sessions) as session:
            changed |= rerun.corpus_given(session, model, corpus_id=corpus_id, corpus_path=path, is_tokens=False)
            job = rerun.rerun(session, model, [name], changed)
        _wake(link, job)


def _wake(link: Connection, job: int) -> None:
    wakeups.send(link.sessions, broker.celery_app(link.settings))
    console.print(f"job {job}: queued; `eyepiece jobs --watch` follows it")
