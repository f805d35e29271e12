"""Importing over REST: files of dashboards by a job, and Neuronpedia's routes for a few features at a time."""

import os
from pathlib import Path

from fastapi import APIRouter, Request

from backend import errors, import_places, names
from backend.formats import import_files
from backend.services import access, feature_uploads, hosting, imports, uploads
from backend.services.access import Viewer
from backend.services.feature_uploads import FeatureUpload, GivenText
from backend.services.staging import Staging
from backend.web import import_schemas as schemas
from backend.web.api.uploads import Area
from backend.web.dependencies import DbSession, Files, Viewing, transaction

router = APIRouter(tags=["imports"])


@router.post("/imports")
def begin(
    request: Request, viewer: Viewing, place: Area, files: Files, asked: schemas.NewImport
) -> list[schemas.ImportBegun]:
    """Import dashboards that another tool wrote: each source there is, with a job that reads, checks and stores it."""
    access.check_may_write(viewer)
    where = _place(request, viewer, place, asked)
    found = import_files.layouts(import_places.of(where, files.store))
    if len(found) > 1 and (asked.model or asked.source):
        raise errors.InvalidInputError(
            f"the files are of {len(found)} sources; 'model' and 'source' name one.", hint="Leave both out."
        )
    with transaction(request) as session:
        if asked.upload:
            uploads.use(session, place, viewer, asked.upload)
        wish = imports.Wish(asked.model, asked.source, asked.visibility, is_replacing=asked.replace)
        begun = [imports.begin(session, viewer, layout, where, wish) for layout in found]
    return [schemas.ImportBegun(source=each.ref, job=each.job_id, job_url=names.job_url(each.job_id)) for each in begun]


def _place(request: Request, viewer: Viewer, area: Staging, asked: schemas.NewImport) -> dict[str, str]:
    given = [each for each in (asked.upload, asked.folder, asked.url) if each]
    if len(given) != 1:
        raise errors.InvalidInputError("give one of 'upload', 'folder' and 'url'.")
    if asked.upload:
        with transaction(request) as session:
            return {"blobs": uploads.dashboards_of(uploads.get(session, area, viewer, asked.upload))}
    hosting.check_may_read_host(viewer, "files to import")
    if asked.url:
        return {"url": import_places.url_of(asked.url)}
    folder = asked.folder or ""
    if not os.path.isdir(folder):  # unlike Path's it is False for what no name can be
        raise errors.InvalidInputError(f"{folder[:200]!r} is no folder of the host.", hint="Give one, or upload it.")
    return {"folder": str(Path(folder).resolve())}


@router.post("/feature/upload-batch")
def upload_features(session: DbSession, asked: schemas.FeatureBatch) -> schemas.Created:
    """Features of a source of one's own, as Neuronpedia's client sends them; one that is there is replaced."""
    given = [_upload(feature) for feature in asked.features]
    n = feature_uploads.put(session, asked.modelId, asked.source, given)
    return schemas.Created(message=f"{n} features created.")


@router.post("/activation/upload-batch")
def upload_activations(session: DbSession, asked: schemas.ActivationBatch) -> schemas.Created:
    """Texts with their activations for one feature of a source of one's own; those that are there stay."""
    texts = [_text(each) for each in asked.activations]
    n = feature_uploads.add_texts(session, asked.modelId, asked.source, asked.index, texts)
    return schemas.Created(message=f"{n} activations created.")


def _upload(feature: schemas.GivenFeature) -> FeatureUpload:
    row: dict[str, object] = {}
    if feature.density is not None:
        row["frac_nonzero"] = feature.density
    for side, logits in (("pos", feature.topLogits), ("neg", feature.bottomLogits)):
        if logits:
            row[f"{side}_str"] = [each.token for each in logits]
            row[f"{side}_values"] = [each.value for each in logits]
    explanations = [
        {"description": each.text, "typeName": each.methodName, "explanationModelName": each.modelName}
        for each in feature.explanations
    ]
    return FeatureUpload(feature.index, row, [_text(each) for each in feature.activations], explanations)


def _text(given: schemas.GivenActivation) -> GivenText:
    bins = {"binMin": given.quantileMin, "binMax": given.quantileMax, "binContains": given.quantileFraction}
    return GivenText(given.tokens, given.values, bins)
