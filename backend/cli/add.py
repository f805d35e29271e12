"""`eyepiece add`: register a model and SAEs, queue the dashboards, follow them. `eyepiece status`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from backend import broker, errors, hub, names, storage, wakeups
from backend.cli import connection, follow
from backend.db.session import transaction
from backend.formats import dense_sources, sae_files
from backend.services import catalog, health, hosting, hub_saes, secrets

console = Console(soft_wrap=True, highlight=False)
Option = typer.Option
Data = Annotated[Path | None, Option(help="Data folder; default `data`, or EYEPIECE_DATA.")]


def add(
    model: Annotated[str, typer.Argument(help="Local Hugging Face folder, or a hub name.")],
    sae: Annotated[
        list[str] | None,
        Option(
            help="SAE folder, a folder of them, hf:OWNER/NAME[@REVISION]:FOLDER, or saelens:RELEASE/ID; may be given "
            "several times."
        ),
    ] = None,
    neurons: Annotated[
        list[str] | None,
        Option(
            help="Hook point whose neurons are a source, such as blocks.3.mlp.hook_post; may be given several times."
        ),
    ] = None,
    vectors: Annotated[
        list[Path] | None,
        Option(help="Labelled vectors (probes, steering vectors), .safetensors or .npz; may be given several times."),
    ] = None,
    corpus: Annotated[
        str | None, Option(help="Text, JSON lines or Parquet, a folder of them, hf:DATASET, or corpus:ID, used before.")
    ] = None,
    corpus_field: Annotated[str, Option(help="Of JSON lines and Parquet: the field with the text.")] = "",
    keep_documents_apart: Annotated[bool, Option(help="No context has tokens of two documents.")] = False,
    tokens: Annotated[Path | None, Option(help=".npy of token rows, used as they are.")] = None,
    source: Annotated[str, Option(help="Source id of one SAE; default {layer}-{folder}.")] = "",
    model_id: Annotated[str, Option(help="Model id; default the folder's name.")] = "",
    hook: Annotated[str, Option(help="Hook point, where it is not the one in cfg.json.")] = "",
    declare: Annotated[str, Option(help="JSON of what the SAE's files do not say; docs/formats.md.")] = "{}",
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
    compute: Annotated[
        bool,
        Option("--compute/--no-compute", help="Compute dashboards; else only attach weights, for live inference."),
    ] = True,
    force: Annotated[bool, Option("--force", help="Compute also what the quick look calls pointless.")] = False,
    data: Data = None,
    watch: Annotated[bool, Option("--watch/--no-watch", help="Follow progress.")] = True,
) -> None:
    """Host SAEs, neurons or vectors of one model: register them, compute their dashboards in one pass, follow progress."""
    if compute and (corpus is None) == (tokens is None):
        raise errors.InvalidInputError("give either --corpus or --tokens.")
    if not compute and (corpus or tokens):
        raise errors.InvalidInputError("--no-compute computes nothing, so it takes neither --corpus nor --tokens.")
    spec = {
        "corpus": _corpus(corpus or str(tokens)) if compute else "", "corpus_field": corpus_field,
        "is_apart": keep_documents_apart, "is_tokens": tokens is not None, "hook_point": hook,
        "context_size": context_size, "max_tokens": tokens_limit, "device": device, "dtype": dtype,
        "threads": threads, "seed": seed, "quality_tokens": quality_tokens, "keep_index": keep_index,
        "is_forced": force,
    }  # fmt: skip
    with connection.opened(data, with_worker=watch and compute) as link:
        declared = sae_files.declared_of(declare, hook_point=hook)
        saes = _saes(link, sae or [], declared)
        with transaction(link.sessions) as session:
            dense = [f"{dense_sources.NEURONS}{hook_point}" for hook_point in neurons or ()]
            dense += [str(path.resolve()) for path in vectors or ()]
            hosted = hosting.register(
                session, model, saes, spec, source=source, model_id=model_id, dense=dense,
                declared=declared, is_computed=compute,
            )  # fmt: skip
        if hosted.job_id is None:
            console.print(f"{', '.join(hosted.refs)}: weights attached, nothing computed")
            return
        wakeups.send(link.sessions, broker.celery_app(link.settings))
        console.print(f"job {hosted.job_id} computes {', '.join(hosted.refs)}")
        if watch:
            (view,) = follow.follow(link.sessions, [hosted.job_id], console, on_poll=link.check)
            if view.state != "done":
                raise errors.ConflictError(f"job {view.id} {view.state}: {view.error or 'as asked'}")
            for ref in hosted.refs:
                console.print(f"Browse {link.address}{names.source_url(*ref.split('/'))}")


def _saes(link: connection.Connection, given: list[str], declared: sae_files.Declared) -> list[Path | hosting.Sae]:
    """Folders as they are; what lies on the hub is downloaded first, with the host's token if there is one."""
    if not any(hub_saes.is_named(each) for each in given):
        return [Path(each) for each in given]
    with transaction(link.sessions) as session:
        token = secrets.get(session, link.settings, secrets.HUGGING_FACE, None)
    of, mirror = hub.Hub(link.settings.data / "cache" / "hub", token), storage.mirror(link.settings)
    return [hub_saes.bring(of, each, mirror, declared) if hub_saes.is_named(each) else Path(each) for each in given]


def _corpus(given: str) -> str:
    if given.startswith("hf:"):
        return f"hf:{hub.parse_dataset(given.removeprefix('hf:'))}"
    if given.startswith("corpus:"):
        return given
    if not Path(given).exists():
        raise errors.InvalidInputError(f"'{given}' does not exist.", hint="Give a text file, or a .npy with --tokens.")
    return str(Path(given).resolve())


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
