"""`eyepiece add`: register a model and SAEs, queue the dashboards, follow them. `eyepiece jobs` and `status`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy.orm import Session

from backend import broker, errors, names, wakeups
from backend.cli import connection, follow
from backend.db.session import transaction
from backend.formats import sae_files
from backend.services import catalog, health, jobs

console = Console(soft_wrap=True, highlight=False)
Option = typer.Option
Data = Annotated[Path | None, Option(help="Data folder; default `data`, or EYEPIECE_DATA.")]


def add(
    model: Annotated[str, typer.Argument(help="Local Hugging Face folder, or a hub name.")],
    sae: Annotated[list[Path], Option(help="SAELens folder, or a folder of them; may be given several times.")],
    corpus: Annotated[Path | None, Option(help="Text file, or folder of .txt files.")] = None,
    tokens: Annotated[Path | None, Option(help=".npy of token rows, used as they are.")] = None,
    source: Annotated[str, Option(help="Source id of one SAE; default {layer}-{folder}.")] = "",
    model_id: Annotated[str, Option(help="Model id; default the folder's name.")] = "",
    hook: Annotated[str, Option(help="Hook point, where it is not the one in cfg.json.")] = "",
    context_size: Annotated[int, Option(help="Tokens a context; default the SAE's own.")] = 0,
    tokens_limit: Annotated[int, Option(help="Use at most this many tokens; 0 uses all.")] = 0,
    device: Annotated[str, Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, Option(help="Of the model: float32, bfloat16 or float16.")] = "float32",
    threads: Annotated[int, Option(help="Torch threads; 0 uses the physical cores.")] = 0,
    seed: Annotated[int, Option(help="Of the interval samples.")] = 0,
    quality_tokens: Annotated[int, Option(help="Tokens the source's quality is measured on; 0: it is not.")] = 65_536,
    keep_index: Annotated[
        bool | None,
        Option("--keep-index/--no-keep-index", help="Keep every firing to look up; default: if it is small."),
    ] = None,
    data: Data = None,
    watch: Annotated[bool, Option("--watch/--no-watch", help="Follow progress.")] = True,
) -> None:
    """Host SAEs of one model: register them, compute their dashboards in one pass, follow progress."""
    if (corpus is None) == (tokens is None):
        raise errors.InvalidInputError("give either --corpus or --tokens.")
    given = corpus or tokens or Path()
    if not given.exists():
        raise errors.InvalidInputError(f"'{given}' does not exist.", hint="Give a text file, or a .npy with --tokens.")
    spec = {
        "corpus": str(given.resolve()), "is_tokens": tokens is not None, "hook_point": hook,
        "context_size": context_size, "max_tokens": tokens_limit, "device": device, "dtype": dtype,
        "threads": threads, "seed": seed, "quality_tokens": quality_tokens, "keep_index": keep_index,
    }  # fmt: skip
    with connection.opened(data, with_worker=watch) as link:
        with transaction(link.sessions) as session:
            job_id, refs = register(session, model, sae, spec, source=source, model_id=model_id)
        wakeups.send(link.sessions, broker.celery_app(link.settings))
        console.print(f"job {job_id} computes {', '.join(refs)}")
        if watch:
            (view,) = follow.follow(link.sessions, [job_id], console, on_poll=link.check)
            if view.state != "done":
                raise errors.ConflictError(f"job {job_id} {view.state}: {view.error or 'as asked'}")
            for ref in refs:
                console.print(f"Browse {link.address}{names.source_url(*ref.split('/'))}")


def register(
    session: Session,
    model: str,
    saes: Sequence[Path],
    spec: dict[str, Any],
    *,
    source: str = "",
    model_id: str = "",
) -> tuple[int, list[str]]:
    """Check the SAEs' files, register model and sources, queue one job: (job id, each `model/source`)."""
    found = [folder.resolve() for given in saes for folder in sae_files.folders_of(given)]
    descriptions = [sae_files.describe(folder) for folder in found]
    if source and len(found) > 1:
        raise errors.InvalidInputError(
            f"--source names one SAE; {len(found)} are given.", hint="Leave it out: ids follow from layers and folders."
        )
    if not spec.get("is_tokens"):
        sae_files.common_contexts(descriptions, int(spec.get("context_size") or 0))
    folder = Path(model)
    weights = str(folder.resolve()) if folder.is_dir() else model
    model_id = names.check_id(model_id or Path(model).name, "model")
    catalog.add_model(session, model_id, weights)
    hook_point = names.parse_hook_point(spec["hook_point"]) if spec.get("hook_point") else None
    source_ids, refs = [], []
    for description in descriptions:
        place = hook_point or description.hook_point
        name = names.check_id(source or names.default_source_id(place.layer, description.folder.name), "source")
        refs.append(f"{model_id}/{name}")
        source_ids.append(
            catalog.add_source(
                session, model_id, name, hook_point=str(place), architecture=description.architecture,
                d_in=description.d_in, d_sae=description.d_sae, weights=str(description.folder),
                config=description.config,
            )
        )  # fmt: skip
    return jobs.create(session, source_ids, spec), refs


def list_jobs(data: Data = None) -> None:
    """List the newest jobs."""
    with connection.opened(data) as link, transaction(link.sessions) as session:
        table = Table("job", "source", "state", "", box=None, pad_edge=False)
        for view in jobs.latest(session):
            table.add_row(str(view.id), view.title, view.state, follow.sentence(view))
        console.print(table)


def status(data: Data = None) -> None:
    """Say whether database, queue and workers are there, and what is hosted."""
    with connection.opened(data) as link, transaction(link.sessions) as session:
        found = health.check(session, link.settings)
        console.print(f"database: {found.database.state}\nqueue: {found.queue.state}")
        for worker in found.workers:
            console.print(f"worker {worker.name} ({worker.kind}, {worker.device}): {worker.doing or 'idle'}")
        if not found.workers:
            console.print("workers: none; `eyepiece up` starts one")
        for model in catalog.models(session):
            for shown in model.sources:
                state = f"{shown.d_sae:,} features" if shown.revision_id else "not computed"
                console.print(f"{model.id}/{shown.name}: {state}")
