"""A kept activation index over REST. Status 404 where a source keeps none, with what to do about it."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Response

from backend.formats.activation_index import MAX_VALUE_ERROR
from backend.names import FeatureRef
from backend.services import activation_index
from backend.services.activation_index import ActivationQuery, CofiringQuery, CofiringRow, PairQuery
from backend.services.kept_index import FiringView
from backend.web import schemas
from backend.web.dependencies import DbSession, Files

router = APIRouter(prefix="/index/{model}/{source}", tags=["activation index"])

_FEATURE = "/{index}"


@router.get("")
def show(session: DbSession, model: str, source: str) -> schemas.IndexFacts:
    """How large the activation index of a source is, and how exact."""
    view = activation_index.kept(session, model, source)
    assert view.index_bytes is not None
    return schemas.IndexFacts(
        model=view.model, source=view.name, n_features=view.d_sae, n_firings=view.n_firings, n_bytes=view.index_bytes,
        bytes_per_firing=view.index_bytes / max(view.n_firings, 1), max_value_error=MAX_VALUE_ERROR,
    )  # fmt: skip


@router.get(_FEATURE + "/activations", response_model=schemas.Firings)
def list_activations(
    session: DbSession,
    files: Files,
    model: str,
    source: str,
    index: schemas.Int32,
    asked: Annotated[schemas.ActivationRange, Query()],
) -> Response:
    """A page of all firings of a feature in a range of activations, strongest first. Values are within 0.4 %."""
    query = ActivationQuery(**asked.model_dump())
    found = activation_index.activations(session, files, FeatureRef(model, source, index), query)
    histogram = {"edges": found.histogram.edges, "counts": found.histogram.counts}
    return _page(found.n_total, query, [_firing(row) for row in found.rows], histogram=histogram)


@router.get(_FEATURE + "/quantiles")
def list_quantiles(
    session: DbSession,
    files: Files,
    model: str,
    source: str,
    index: schemas.Int32,
    share: Annotated[list[float], Query(max_length=100, examples=[[0.5, 0.99]])] = list(activation_index.QUANTILES),  # noqa: B006 - never changed
) -> list[schemas.Quantile]:
    """Quantiles of a feature's firings, zeros left out; none for a feature that never fires."""
    found = activation_index.quantiles(session, files, FeatureRef(model, source, index), share)
    return [schemas.Quantile(share=share, value=value) for share, value in found]


@router.get(_FEATURE + "/cofiring", response_model=schemas.Cofirings)
def list_cofiring(
    session: DbSession,
    files: Files,
    model: str,
    source: str,
    index: schemas.Int32,
    asked: Annotated[schemas.CofiringRange, Query()],
) -> Response:
    """A page of the features that fire on the same tokens as a feature; counts are estimates beyond 8,192 firings."""
    query = CofiringQuery(**asked.model_dump())
    found = activation_index.cofiring(session, files, FeatureRef(model, source, index), query)
    facts = {"n_firings": found.feature.n_firings, "n_looked_at": found.n_looked_at}
    return _page(found.n_total, query, [_cofiring(row) for row in found.rows], **facts)


@router.get(_FEATURE + "/pair/{other}", response_model=schemas.Pair)
def show_pair(
    session: DbSession,
    files: Files,
    model: str,
    source: str,
    index: schemas.Int32,
    other: schemas.Int32,
    asked: Annotated[schemas.PairRange, Query()],
) -> Response:
    """How two features go together, and a page of contexts in which the first fires with or without the other."""
    query = PairQuery(**asked.model_dump())
    found = activation_index.pair(session, files, FeatureRef(model, source, index), other, query)
    rows = [
        _firing(row) | {"other_positions": row.other_positions, "other_values": row.other_values} for row in found.rows
    ]
    return _page(
        found.n_total, query, rows,
        n_firings=found.feature.n_firings, n_firings_other=found.other.n_firings, n_tokens_both=found.n_tokens_both,
        n_contexts=found.n_contexts, n_contexts_other=found.n_contexts_other, n_contexts_both=found.n_contexts_both,
        lift=found.lift, correlation=found.correlation, value_correlation=found.value_correlation,
    )  # fmt: skip


def _page(
    n_total: int, query: ActivationQuery | CofiringQuery | PairQuery, rows: list[dict[str, Any]], **facts: Any
) -> Response:
    """As its schema says, without a pass through it: a page has thousands of tokens."""
    body = {"rows": rows, "n_total": n_total, "page": query.page, "per_page": query.per_page, **facts}
    return Response(orjson.dumps(body), media_type="application/json")


def _firing(row: FiringView) -> dict[str, Any]:
    return {
        "context": row.context, "position": row.position, "value": row.value,
        "tokens": row.example.tokens, "positions": row.example.positions, "values": row.example.values,
    }  # fmt: skip


def _cofiring(row: CofiringRow) -> dict[str, Any]:
    return {
        "index": row.feature.index, "n_firings": row.feature.n_firings, "count": row.count, "share": row.share,
        "other_share": row.other_share, "lift": row.lift, "correlation": row.correlation,
        "fires_on": row.feature.fires_on,
    }  # fmt: skip
