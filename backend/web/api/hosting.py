"""Hosting over REST: SAEs that were uploaded, or lie on the host, become sources of a model and are computed."""

import os
import threading
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from sqlalchemy.orm import Session

from backend import errors, hub, names, weights
from backend.formats import dense_sources, sae_files
from backend.services import access, catalog, hosting, hub_saes, secrets, staging, uploads
from backend.services.access import Viewer
from backend.services.hosting import Sae, Wish
from backend.services.staging import Staging
from backend.storage import Mirror
from backend.web.api import uploads_schemas as schemas
from backend.web.api.uploads import Area
from backend.web.dependencies import Viewing, transaction
from backend.web.schemas import Error

_downloading = threading.Lock()

router = APIRouter(tags=["uploads"])


@router.post(
    "/sources",
    responses={
        422: {
            "model": schemas.Problems | Error,
            "description": "What is wrong with the SAEs, all of it, or is missing.",
        }
    },
)
def host(request: Request, viewer: Viewing, place: Area, asked: schemas.NewSource) -> schemas.Hosted:
    """Host SAEs of a model and compute their dashboards: the sources' names, and the job to watch.

    Where the id is that of a source without weights, it gets these, and keeps its dashboards until others are computed.
    """
    access.check_may_write(viewer)
    with transaction(request) as session:
        upload = uploads.get(session, place, viewer, asked.upload) if asked.upload else None
    saes = _saes(request, viewer, asked, upload)  # of a remote store this fetches files: no transaction is open
    with transaction(request) as session:
        if asked.upload:
            uploads.use(session, place, viewer, asked.upload)
        if isinstance(asked.model, schemas.NewModel):
            folders = request.app.state.settings.model_folders
            model_id = hosting.add_model(session, viewer, asked.model.weights, asked.model.id, folders=folders)
        else:
            model_id = catalog.model(session, asked.model).id
        spec = asked.options.model_dump() | _wanted_corpus(session, viewer, place, model_id, asked)
        wish = Wish(spec, asked.source, asked.visibility, is_replacing=asked.replace, is_computed=asked.compute)
        made = hosting.host(session, viewer, model_id, saes, wish)
    job_url = None if made.job_id is None else names.job_url(made.job_id)
    return schemas.Hosted(job=made.job_id, job_url=job_url, sources=list(made.refs))


def _saes(request: Request, viewer: Viewer, asked: schemas.NewSource, upload: uploads.UploadView | None) -> list[Sae]:
    files: Mirror = request.app.state.files
    if sum(given is not None for given in (upload, asked.weights, asked.neurons)) != 1:
        raise errors.InvalidInputError(
            "give either 'upload', 'weights' or 'neurons'.", hint="POST /api/uploads begins an upload."
        )
    if asked.neurons is not None:
        named = f"{dense_sources.NEURONS}{asked.neurons}"
        return [Sae(named, Path(named))]
    if upload is not None:
        declared = uploads.declared_over(upload, asked.declared)
        return [Sae(at, weights.folder_of(at, files), declared) for at in uploads.weights_of(upload)]
    hosting.check_may_read_host(viewer, "an SAE")
    if hub_saes.is_named(asked.weights or ""):
        return [_of_hub(request, viewer, asked)]
    folder = Path(asked.weights or "")
    if os.path.isfile(folder) and dense_sources.is_vectors(str(folder)):
        return [Sae(str(folder.resolve()), folder.resolve())]
    if not os.path.isdir(folder):  # unlike Path's it is False for what no name can be
        raise errors.InvalidInputError(f"{asked.weights!r} is no folder of the host.", hint="Give one, or upload it.")
    return [Sae(str(each), each, asked.declared) for each in sae_files.folders_of(folder.resolve())]


def _of_hub(request: Request, viewer: Viewer, asked: schemas.NewSource) -> Sae:
    """Downloaded while the request waits: by the operator only, one at a time, as much as an upload may be."""
    settings = request.app.state.settings
    with transaction(request) as session:
        token = secrets.get(session, settings, secrets.HUGGING_FACE, viewer.account_id)
    of = hub.Hub(settings.data / "cache" / "hub", token or (None if viewer.account_id is None else False))
    if not _downloading.acquire(blocking=False):
        raise errors.BusyError("another SAE is being downloaded.", hint="Try again when it is here.", retry_after_s=60)
    try:
        files, room = request.app.state.files, staging.of(settings).check_room
        return hub_saes.bring(of, asked.weights or "", files, asked.declared, check_room=room)
    finally:
        _downloading.release()


def _wanted_corpus(
    session: Session, viewer: Viewer, place: Staging, model_id: str, asked: schemas.NewSource
) -> dict[str, Any]:
    if asked.corpus is None:
        if asked.compute:
            raise errors.InvalidInputError("corpus: dashboards are computed on one.", hint="Or say compute: false.")
        return {}
    if not asked.compute:
        raise errors.InvalidInputError("corpus: nothing is computed on it.", hint="Leave it out, or compute.")
    return _corpus(session, viewer, place, model_id, asked.corpus)


def _corpus(session: Session, viewer: Viewer, place: Staging, model_id: str, asked: schemas.Corpus) -> dict[str, Any]:
    given = [each for each in (asked.id, asked.upload, asked.path, asked.hub) if each is not None]
    if len(given) != 1:
        raise errors.InvalidInputError("give one of 'id', 'upload', 'path' and 'hub' as the corpus.")
    if asked.id is not None:
        return hosting.corpus_of(session, model_id, asked.id)
    cut = {"is_tokens": asked.is_tokens, "corpus_field": asked.field, "is_apart": asked.keep_documents_apart}
    if asked.hub is not None:
        return cut | {"corpus": f"hf:{hub.parse_dataset(asked.hub)}", "is_tokens": False}
    if asked.upload is not None:
        return cut | {"corpus": uploads.corpus_of(uploads.use(session, place, viewer, asked.upload))}
    return hosting.corpus_at(viewer, asked.path or "") | cut
