"""Models, source sets, sources and releases over REST: Neuronpedia's rows, and Eyepiece's own facts of a source."""

from collections.abc import Iterable, Sequence

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy.orm import Session

from backend import errors
from backend.formats import neuronpedia
from backend.formats.neuronpedia import Row
from backend.services import catalog, given_catalog, sharing
from backend.services.access import Visibility
from backend.services.catalog import ModelView, SourceSetFacts, SourceView
from backend.web import neuronpedia_schemas, schemas
from backend.web.dependencies import DbSession, Viewing

router = APIRouter(tags=["catalog"])
UNLISTED = "UNLISTED"
"""What Neuronpedia says of what was just made; a model and a set are seen by those who may see a source of them."""


class SourceChange(BaseModel):
    """What may be changed of a source."""

    visibility: Visibility


@router.post("/model/list", response_model=list[schemas.ModelInList])
def list_models(session: DbSession) -> list[Row]:
    """Every model with its source sets and sources, as far as they have dashboards."""
    sets = catalog.source_sets(session)
    return [_model_in_list(model, sets) for model in catalog.models(session)]


@router.post("/model/get", response_model=neuronpedia_schemas.ModelWithSources)
def show_model(session: DbSession, asked: neuronpedia_schemas.ModelAddress) -> Row:
    """One model with its source sets and sources, those without dashboards too."""
    found = catalog.model(session, asked.id)
    sets = [each for each in catalog.source_sets(session) if each.model == found.id]
    return {
        **neuronpedia.model_row(found),
        "sourceSets": [_set_in_list(each, found.sources) for each in sets],
        "sources": [neuronpedia.source_row(source) for source in found.sources],
    }


@router.post("/model/new", response_model=schemas.Model)
def add_model(session: DbSession, viewer: Viewing, asked: neuronpedia_schemas.NewModel) -> Row:
    """Describe a model before its weights are here; only who made it sees it until it has a source that others see."""
    row = {"id": asked.id, "layers": asked.layers, "displayName": asked.displayName or asked.id}
    model_id = given_catalog.new_model(session, viewer, row | ({"website": asked.url} if asked.url else {}))
    return neuronpedia.model_row(catalog.model_facts(session, model_id)) | {"visibility": UNLISTED}


@router.post("/source-set/new", response_model=schemas.SourceSetWithRelations)
def add_source_set(session: DbSession, viewer: Viewing, asked: neuronpedia_schemas.NewSourceSet) -> Row:
    """Make a source set of a model: one source for each layer, `{layer}-{name}`, unlisted and without dashboards."""
    row = {
        "modelId": asked.modelId, "name": asked.name, "description": asked.description, "type": "Custom",
        "urls": [asked.url] if asked.url else [], "creatorName": viewer.name,
    }  # fmt: skip
    given_catalog.new_source_set(session, viewer, row)
    return _with_relations(session, asked.modelId, asked.name) | {"visibility": UNLISTED}


@router.post("/global", response_model=neuronpedia_schemas.Catalog)
def show_everything(session: DbSession) -> Row:
    """All models with their source sets and sources, as far as they have dashboards, and all releases."""
    sets = catalog.source_sets(session)
    return {
        "models": [_model_in_list(model, sets) for model in catalog.models(session)],
        "releases": [neuronpedia.release_row(release) for release in catalog.releases(session)],
        "explanationTypes": [],
        "explanationModels": [],
        "explanationScoreTypes": [],
        "explanationScoreModelTypes": [],
    }


@router.get("/source-set/{model}/{name}", response_model=schemas.SourceSetWithRelations | None)
def show_source_set(session: DbSession, model: str, name: str) -> Row | None:
    """A source set, its sources, its model and its release; `null`, with status 200, where there is none."""
    try:
        return _with_relations(session, model, name)
    except errors.NotFoundError:
        return None


@router.get("/source/{model}/{source}")
def show_source(session: DbSession, model: str, source: str) -> schemas.SourceFacts:
    """What is known of a source, the histogram of its features' densities included."""
    return schemas.SourceFacts.model_validate(catalog.source(session, model, source))


@router.patch("/source/{model}/{source}")
def change_source(session: DbSession, model: str, source: str, asked: SourceChange) -> schemas.SourceFacts:
    """Say who may see a source of yours: `private`, you and admins; `unlisted`, whoever has its address; `public`."""
    sharing.set_visibility(session, model, source, asked.visibility)
    return schemas.SourceFacts.model_validate(catalog.source(session, model, source))


@router.get("/source/{model}/{source}/quality")
def show_quality(session: DbSession, model: str, source: str) -> schemas.SourceQuality:
    """The source's reconstruction error and what it does to the model's predictions, by position in the context."""
    found = catalog.quality(session, model, source)
    if found is None:
        raise errors.NotFoundError(
            f"The quality of '{model}/{source}' was not measured.", hint="Compute it with --quality-tokens above 0."
        )
    return schemas.SourceQuality.model_validate(found)


def _model_in_list(model: ModelView, sets: tuple[SourceSetFacts, ...]) -> Row:
    shown = [source for source in model.sources if _has_dashboards(source)]
    names = {source.set_name for source in shown}
    listed = [each for each in sets if each.model == model.id and each.name in names]
    return {**neuronpedia.model_row(model), "sourceSets": [_set_in_list(each, shown) for each in listed]}


def _set_in_list(source_set: SourceSetFacts, sources: Sequence[SourceView]) -> Row:
    own = [source for source in sources if source.set_name == source_set.name]
    rows = map(neuronpedia.source_row, own)
    return {
        **_set_row(source_set, own),
        "sources": [{key: row[key] for key in schemas.SourceSummary.model_fields} for row in rows],
    }


def _with_relations(session: Session, model: str, name: str) -> Row:
    """Raises `NotFoundError`."""
    found = catalog.source_set(session, model, name)
    release = catalog.release(session, found.release) if found.release is not None else None
    return {
        **_set_row(found, found.sources),
        "sources": [neuronpedia.source_row(source) for source in found.sources],
        "releases": None if release is None else neuronpedia.release_row(release),
        "model": neuronpedia.model_row(catalog.model_facts(session, model)),
    }


def _set_row(source_set: SourceSetFacts, sources: Iterable[SourceView]) -> Row:
    shown = [source for source in sources if _has_dashboards(source)]
    return neuronpedia.source_set_row(
        source_set, has_dashboards=bool(shown), can_search=any(source.has_weights for source in shown)
    )


def _has_dashboards(source: SourceView) -> bool:
    return source.revision_id is not None
