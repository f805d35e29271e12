"""Models, source sets and sources over REST."""

from fastapi import APIRouter
from pydantic import BaseModel

from backend import errors
from backend.formats import neuronpedia
from backend.formats.neuronpedia import Row
from backend.services import catalog, sharing
from backend.services.access import Visibility
from backend.services.catalog import ModelView, SourceSetFacts, SourceView
from backend.web import schemas
from backend.web.dependencies import DbSession

router = APIRouter(tags=["catalog"])


class SourceChange(BaseModel):
    """What may be changed of a source."""

    visibility: Visibility


@router.post("/model/list", response_model=list[schemas.ModelInList])
def list_models(session: DbSession) -> list[Row]:
    """Every model with its source sets and sources, as far as they have dashboards."""
    sets = catalog.source_sets(session)
    return [_model_in_list(model, sets) for model in catalog.models(session)]


@router.get("/source-set/{model}/{name}", response_model=schemas.SourceSetWithRelations | None)
def show_source_set(session: DbSession, model: str, name: str) -> Row | None:
    """A source set, its sources and its model; `null`, with status 200, where there is none."""
    try:
        found = catalog.source_set(session, model, name)
    except errors.NotFoundError:
        return None
    return {
        **neuronpedia.source_set_row(found, has_dashboards=any(map(_has_dashboards, found.sources))),
        "sources": [neuronpedia.source_row(source) for source in found.sources],
        "releases": None,
        "model": neuronpedia.model_row(catalog.model(session, model)),
    }


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


def _set_in_list(source_set: SourceSetFacts, sources: list[SourceView]) -> Row:
    rows = [neuronpedia.source_row(source) for source in sources if source.set_name == source_set.name]
    return {
        **neuronpedia.source_set_row(source_set, has_dashboards=True),
        "sources": [{key: row[key] for key in schemas.SourceSummary.model_fields} for row in rows],
    }


def _has_dashboards(source: SourceView) -> bool:
    return source.revision_id is not None
