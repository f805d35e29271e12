"""Hosting SAEs: check them, register model and sources, queue one job. The one way, for commands and for the web.

A source that was imported, or made over Neuronpedia's API, gets its weights in the same way and keeps its dashboards;
with `Wish.is_computed` false no job is queued, so they stay for good.

1. Describe every SAE from its headers and what is declared; all problems of all of them are told at once.
2. See that the asker may: write, take an id, change a model or a source, queue one more job.
3. Rows of the model and of each source, then the job. Readers of a source that is replaced see its old dashboards until
   the new ones are complete.
Does not own files (`uploads`, `weights`), nor computing.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from backend import errors, names
from backend.db.tables import Corpus, Model
from backend.formats import dense_sources, sae_files
from backend.formats.sae_files import Declared, SaeDescription
from backend.services import access, catalog, jobs, limits, uploads
from backend.services.access import Viewer, Visibility
from backend.services.visibility import unrestricted

PREPARED = "corpus:"
"""How a spec names a corpus that the model was run on before, by its id."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Sae:
    """An SAE to host."""

    weights: str
    """As its row will say, see `backend/weights.py`."""
    folder: Path
    """Where its files can be read here."""
    declared: Declared = sae_files.NOTHING_DECLARED


@dataclass(frozen=True, slots=True)
class Wish:
    """How it is to be hosted."""

    spec: dict[str, Any]
    """The job's: corpus and options; without a job only `hook_point` is read."""
    source: str = ""
    """Id of one SAE; empty: from its layer and folder."""
    visibility: Visibility = "public"
    is_replacing: bool = False
    """The id may be the asker's own source with other weights."""
    is_computed: bool = True
    """False: nothing is computed, so no corpus is needed."""


@dataclass(frozen=True, slots=True)
class Hosted:
    """Sources that wait for their dashboards."""

    job_id: int | None
    """None: none was wanted."""
    refs: tuple[str, ...]
    """Each model/source, in the order of the SAEs."""


def register(
    session: Session,
    model: str,
    saes: Sequence[Path | Sae],
    spec: dict[str, Any],
    *,
    source: str = "",
    model_id: str = "",
    declared: Declared = sae_files.NOTHING_DECLARED,
    dense: Sequence[str] = (),
    is_computed: bool = True,
) -> Hosted:
    """Host SAE folders, or folders of them, of this machine: what commands do. Raises as `host`.

    `dense` are the weights of neurons and of vector sets (`formats.dense_sources`).
    """
    found: list[Sae] = []
    for given in saes:
        if isinstance(given, Sae):
            found.append(given)
        else:
            folders = (folder.resolve() for folder in sae_files.folders_of(given))
            found += [Sae(str(folder), folder, declared) for folder in folders]
    found += [Sae(weights, Path(weights)) for weights in dense]
    here = Path(model)
    weights = str(here.resolve()) if here.is_dir() else model
    model_id = add_model(session, access.OPERATOR, weights, model_id or here.name)
    return host(session, access.OPERATOR, model_id, found, Wish(spec, source, is_computed=is_computed))


def add_model(session: Session, viewer: Viewer, weights: str, model_id: str = "", *, folders: str = "") -> str:
    """Register a model and return its id.

    Who is not the host's operator may give a hub name, or a folder below one of `folders` (by commas).

    Raises:
        InvalidInputError: No such id or place can be.
        ForbiddenError: The model is somebody else's and its weights lie elsewhere, or the place is on the host.
    """
    access.check_may_write(viewer)
    model_id = names.check_id(model_id or weights.rstrip("/").rsplit("/", 1)[-1], "model")
    is_here = os.path.isdir(weights)  # unlike Path's it is False for what no name can be
    if not is_here and _HUB_NAME.fullmatch(weights) is None:
        raise errors.InvalidInputError(
            f"'{weights[:100]}' is neither a folder of the host nor the name of a model on the Hugging Face hub.",
            hint="Give a name such as openai-community/gpt2.",
        )
    if is_here and not _is_below(weights, folders):
        check_may_read_host(viewer, "a model", hint="Give its name on the Hugging Face hub.")
    row = session.execute(unrestricted(select(Model.weights, Model.owner_id).where(Model.id == model_id))).one_or_none()
    if row is not None and row.weights != weights:
        access.check_may_change(viewer, row.owner_id)
    if row is None or row.weights != weights:
        catalog.add_model(session, model_id, weights)
    if row is None:
        mine = update(Model).where(Model.id == model_id).values(owner_id=viewer.account_id)
        session.execute(unrestricted(mine))
    return model_id


def _is_below(weights: str, folders: str) -> bool:
    """Links are followed first, so that none leads out."""
    place = Path(weights).resolve()
    return any(place.is_relative_to(Path(folder.strip()).resolve()) for folder in folders.split(",") if folder.strip())


def check_may_read_host(viewer: Viewer, what: str, *, hint: str = "Upload it.") -> None:
    """Return if the viewer may name files of the host; raises `ForbiddenError`."""
    if not viewer.is_admin:
        raise errors.ForbiddenError(f"Only the host's operator and admins may name {what} by its folder.", hint=hint)


def host(session: Session, viewer: Viewer, model_id: str, saes: Sequence[Sae], wish: Wish) -> Hosted:
    """Register the SAEs as sources of a hosted model and queue the job that computes them, unless none is wanted.

    Raises:
        ProblemsError: What is wrong with the SAEs.
        ConflictError: An id is taken, or its source is being computed.
        SiteError: The asker may not, or something does not fit.
    """
    access.check_may_write(viewer)
    if not saes or (wish.source and len(saes) > 1):
        raise errors.InvalidInputError(
            f"--source names one SAE; {len(saes)} are given.", hint="Leave it out: ids follow from layers and folders."
        )
    model = _weights_of(session, model_id)
    descriptions = _described(saes, model or "", str(wish.spec.get("hook_point") or ""))
    _refuse_signed(descriptions, wish.spec)
    check_cut(wish.spec, wish.spec)
    if wish.is_computed and not wish.spec.get("is_tokens") and not _is_prepared(wish.spec):
        sae_files.common_contexts(descriptions, int(wish.spec.get("context_size") or 0))
    if wish.is_computed:
        limits.check_jobs(session, viewer)
    hook_point = names.parse_hook_point(wish.spec["hook_point"]) if wish.spec.get("hook_point") else None
    source_ids, refs = [], []
    for sae, description in zip(saes, descriptions, strict=True):
        place = hook_point or description.hook_point
        default = dense_sources.default_source_id(str(description.folder), place)
        name = names.check_id(wish.source or default, "source")
        if f"{model_id}/{name}" in refs:
            raise errors.ConflictError(f"two of the SAEs would be '{name}'.", hint="Give their folders other names.")
        refs.append(f"{model_id}/{name}")
        source_ids.append(
            catalog.add_source(
                session, model_id, name, hook_point=str(place), architecture=description.architecture,
                d_in=description.d_in, d_sae=description.d_sae, weights=sae.weights, config=description.config,
                declared=uploads.declared_json(sae.declared),
                claim=catalog.Claim(viewer, wish.visibility, is_replacing=wish.is_replacing),
            )
        )  # fmt: skip
    job_id = jobs.create(session, source_ids, wish.spec, owner_id=viewer.account_id) if wish.is_computed else None
    return Hosted(job_id, tuple(refs))


def _weights_of(session: Session, model_id: str) -> str | None:
    """None: the model is not hosted, as is said later. Raises `UnsupportedError` for one without weights."""
    row = session.execute(unrestricted(select(Model.weights).where(Model.id == model_id))).one_or_none()
    if row is not None and row.weights is None:
        raise errors.UnsupportedError(
            f"No weights of the model '{model_id}' are known.",
            hint="Name them: the model's folder or hub name, with this id.",
        )
    return None if row is None else row.weights


def corpus_of(session: Session, model_id: str, corpus_id: int) -> dict[str, Any]:
    """The part of a spec that says to run on a corpus the model was run on before; raises `NotFoundError`."""
    found = session.scalar(select(Corpus.id).where(Corpus.id == corpus_id, Corpus.model_id == model_id))
    if found is None:
        raise errors.NotFoundError(
            f"'{model_id}' has no corpus {corpus_id}.", hint="Choose one it has, or give another."
        )
    return {"corpus": f"{PREPARED}{found}", "is_tokens": False}


def check_cut(spec: dict[str, Any], asked: dict[str, Any]) -> None:
    """Return unless the spec names a prepared corpus and contexts of it are asked for; raises `InvalidInputError`."""
    if _is_prepared(spec) and (asked.get("context_size") or asked.get("max_tokens")):
        raise errors.InvalidInputError(
            "a corpus that is prepared already has its context size and length.",
            hint="Leave both out, or give the text itself as the corpus.",
        )


def _is_prepared(spec: dict[str, Any]) -> bool:
    """By `corpus:ID`, or by `corpus_id` alone as jobs of earlier versions have it."""
    corpus = str(spec.get("corpus", ""))
    return corpus.startswith(PREPARED) or (corpus == "" and spec.get("corpus_id") is not None)


def corpus_at(viewer: Viewer, path: str) -> dict[str, Any]:
    """The part of a spec that says to run on a file or folder of the host.

    Raises:
        ForbiddenError: The viewer may not name one.
        InvalidInputError: There is nothing.
    """
    check_may_read_host(viewer, "a corpus")
    if not os.path.exists(path):
        raise errors.InvalidInputError(
            f"{path[:200]!r} does not exist on the host.", hint="Give a text file or a folder."
        )
    return {"corpus": str(Path(path).resolve())}


def _refuse_signed(descriptions: Sequence[SaeDescription], spec: dict[str, Any]) -> None:
    """Raise `SiteError` for what cannot be asked of sources with values below zero."""
    signed = [each.folder.name for each in descriptions if each.is_signed]
    if signed and spec.get("keep_index"):
        raise errors.UnsupportedError(
            f"the activation index of {signed[0]} cannot be kept: it holds activations above zero only.",
            hint="Leave --keep-index out, or add the signed sources in a command of their own.",
        )
    if spec.get("hook_point") and any(each.kind == "neurons" for each in descriptions):
        raise errors.InvalidInputError("--hook says where an SAE or vectors read; --neurons names its own hook point.")


def _described(saes: Sequence[Sae], model: str, hook_point: str) -> list[SaeDescription]:
    described: list[SaeDescription] = []
    problems: list[str] = []
    for sae in saes:
        try:
            if dense_sources.is_neurons(sae.weights) or dense_sources.is_vectors(sae.weights):
                described.append(dense_sources.describe(sae.weights, model, hook_point))
            else:
                described.append(sae_files.describe(sae.folder, sae.declared))
        except errors.ProblemsError as error:
            if len(saes) == 1:
                raise
            problems += [f"{sae.folder.name}: {problem}" for problem in error.problems]
    if problems:
        raise errors.ProblemsError("some of the SAEs", problems)
    return described
