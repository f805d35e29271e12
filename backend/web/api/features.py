"""Features over REST: Neuronpedia's three routes and the table of a source as JSON.

Neuronpedia's bodies are sent as `backend/formats/neuronpedia.py` makes them, without a pass through their schemas: a
feature has 6,000 tokens in it. That they fit the schemas is tested.
"""

from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request, Response

from backend.formats import neuronpedia
from backend.names import FeatureRef
from backend.services import catalog, comments, feature_lists, features
from backend.services.features import FeatureQuery, FeatureView
from backend.web import list_rows, schemas
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
    return _json([neuronpedia.feature_in_list(view, *origin) for view in views])


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
