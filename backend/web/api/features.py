"""Features over REST: Neuronpedia's routes and the table of a source as JSON.

Neuronpedia's bodies are sent as `backend/formats/neuronpedia.py` makes them, without a pass through their schemas: a
feature has 6,000 tokens in it. That they fit the schemas is tested.
"""

from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request, Response

from backend import errors
from backend.formats import neuronpedia
from backend.names import FeatureRef
from backend.services import catalog, comments, explanations, feature_lists, features
from backend.services.explanations import ExplanationView
from backend.services.features import FeatureQuery, FeatureView
from backend.web import explanation_rows, list_rows, neuronpedia_schemas, schemas
from backend.web.dependencies import DbSession

router = APIRouter(tags=["features"])


@router.get("/feature/{model}/{source}/{index}", response_model=schemas.Feature)
def show(request: Request, session: DbSession, model: str, source: str, index: schemas.Int32) -> Response:
    """One feature with everything known of it. The SAE's own vector is not kept in the database: `vector` is empty."""
    ref = FeatureRef(model, source, index)
    view = features.get(session, ref)
    body = neuronpedia.feature_with_relations(
        view,
        *catalog.origin(session, view.source),
        explanations=explanation_rows.of_feature(explanations.of_feature(session, ref)),
        lists=[list_rows.containing(*each) for each in feature_lists.of_feature(session, ref)],
        comments=[list_rows.feature_comment(ref, each) for each in comments.of_feature(session, ref)],
    )
    # Neuronpedia's Python client, which always sends a key, refuses its server's own -1: a fraction is 0–1 or null.
    if "x-api-key" in request.headers:
        body["activations"] = [_fit_for_client(row) for row in neuronpedia.activations(view)]
    return _json(body, {"Vary": "X-Api-Key"})


@router.post("/features-offset", response_model=list[schemas.FeatureInList])
def list_from_offset(session: DbSession, asked: schemas.FeaturesOffset) -> Response:
    """The 25 features that fire from the `offset`-th on, by index."""
    views = features.offset(session, asked.modelId, asked.layer, asked.offset or 0)
    if not views:
        return _json([])
    origin = catalog.origin(session, views[0].source)
    explained = explanation_rows.of_features(session, views)
    return _json([neuronpedia.feature_in_list(view, *origin, explanations=explained(view)) for view in views])


@router.post("/features", response_model=list[schemas.FeatureInList])
def list_several(session: DbSession, asked: neuronpedia_schemas.WantedFeatures) -> Response:
    """The features named, in their order, 150 at most; those that are not there are left out."""
    refs = [FeatureRef(each.modelId, each.source, each.index) for each in asked]
    views = features.several(session, refs, n_examples=asked[0].maxActsToReturn if asked else 0)
    found = [view for view in views if view is not None]
    sources = {(view.source.model, view.source.set_name): view.source for view in found}
    origins = {key: catalog.origin(session, source) for key, source in sources.items()}
    explained = explanation_rows.of_features(session, found)
    return _json(
        [
            neuronpedia.feature_in_list(v, *origins[v.source.model, v.source.set_name], explanations=explained(v))
            for v in found
        ]
    )


@router.post("/umap")
def show_maps(session: DbSession, asked: neuronpedia_schemas.UmapRequest) -> neuronpedia_schemas.Umap:
    """By source the points of its map of explanations, as it was imported: none where there is no map."""
    catalog.model_facts(session, asked.modelId)
    if missing := set(asked.layers) - {
        view.name for view in catalog.sources_named(session, asked.modelId, asked.layers)
    }:
        raise errors.NotFoundError(
            f"No source '{min(missing)}' of a model '{asked.modelId}' is hosted.",
            hint="The home page lists those that are.",
        )
    return neuronpedia_schemas.Umap(
        {name: [_point(each) for each in explanations.mapped(session, asked.modelId, name)] for name in asked.layers}
    )


def _point(each: ExplanationView) -> neuronpedia_schemas.UmapPoint:
    return neuronpedia_schemas.UmapPoint(
        id=each.id, layer=each.ref.source, index=str(each.ref.index), description=each.description,
        umap_cluster=each.umap_cluster, umap_x=each.umap_x or 0.0, umap_y=each.umap_y or 0.0,
        umap_log_feature_sparsity=each.umap_log_feature_sparsity,
    )  # fmt: skip


@router.post("/activation/get", response_model=list[schemas.Activation])
def list_activations(session: DbSession, asked: schemas.FeatureAddress) -> Response:
    """The examples of a feature, greatest activation first."""
    view: FeatureView = features.get(session, FeatureRef(asked.modelId, asked.source, asked.index))
    return _json(neuronpedia.activations(view))


@router.get("/features/{model}/{source}")
def browse(
    session: DbSession, model: str, source: str, asked: Annotated[schemas.TableQuery, Query()]
) -> schemas.FeatureTable:
    """A page of the source's table of features, sorted and filtered."""
    page = features.browse(session, model, source, _query(asked))
    rows = [schemas.FeatureRow.model_validate(row) for row in page.rows]
    return schemas.FeatureTable(rows=rows, n_total=page.n_total, page=asked.page, per_page=asked.per_page)


def _query(asked: schemas.TableQuery) -> FeatureQuery:
    given = asked.model_dump()
    return FeatureQuery(is_descending=given.pop("descending"), **given)


def _fit_for_client(row: neuronpedia.Row) -> neuronpedia.Row:
    return row | {"binContains": None} if row["binContains"] == neuronpedia.TOP_BIN else row


def _json(body: object, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body, option=orjson.OPT_UTC_Z), media_type="application/json", headers=headers)
