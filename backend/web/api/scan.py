"""The injection coefficient scan over REST, as JSON or CSV; and asking the live worker for one, which the page does too."""

import csv
import io
from typing import Annotated, Any, Literal, cast

import orjson
from fastapi import APIRouter, Query, Request, Response

from backend.formats import messages
from backend.formats.messages import Push, ScanReply
from backend.names import FeatureRef
from backend.services import inference
from backend.web.api import live
from backend.web.scan_schemas import InjectionScan, InjectionScanRequest, ScanQuery

CSV = "text/csv"
COLUMNS = ("coefficient", "component", "kind", "layer", "head", "cluster", "attribution", "total", "scale")

router = APIRouter(tags=["live"], responses=live.REFUSALS)


@router.post(
    "/injection-scan", response_model=InjectionScan,
    responses={200: {"content": {CSV: {}}, "description": "As CSV: one row for each component and coefficient."}},
)  # fmt: skip
async def scan(
    request: Request,
    asked: InjectionScanRequest,
    format: Annotated[Literal["json", "csv"] | None, Query(description="Else as `Accept` says.")] = None,
) -> Response:
    """What each component of the model gives one logit while more and more of a vector is added to the residual stream."""
    named = (asked.source,) if asked.source else ()
    found = await live.places(request, asked.model, *named)
    if asked.source:
        live.check_index(found.sources[asked.source], FeatureRef(asked.model, asked.source, asked.index))
    push = Push(
        source=asked.source, index=asked.index, hook_point=asked.hook_point, vector=tuple(asked.vector)
    )  # fmt: skip
    reply = await ask(request, found, push, asked)
    if format == "csv" or (format is None and CSV in request.headers.get("accept", "")):
        return csv_response(reply)
    told = {"model": asked.model, "source": asked.source or None, "index": asked.index if asked.source else None}
    return Response(orjson.dumps(told | body(reply)), media_type="application/json", headers={"Vary": "Accept"})


async def ask(request: Request, found: inference.Places, push: Push, asked: ScanQuery) -> ScanReply:
    """The live worker's answer; raises as `inference.Client` does."""
    client: inference.Client = request.app.state.live
    question = messages.ScanRequest(
        **client.header(found), push=push, text=asked.text, token=asked.token, minus_token=asked.minus_token,
        lowest=asked.lowest, highest=asked.highest, n_coefficients=asked.n_coefficients, position=asked.position,
        is_only_there_injected=asked.only_there, are_heads_apart=asked.heads_apart, n_clusters=asked.n_clusters,
    )  # fmt: skip
    return cast(ScanReply, await client.ask(question, has_left=request.is_disconnected))


def body(reply: ScanReply) -> dict[str, Any]:
    """The scan as `InjectionScan` has it, but for the feature."""
    return {
        "hook_point": reply.hook_point, "tokens": reply.tokens, "position": reply.position, "token": reply.token,
        "minus_token": reply.minus_token, "coefficients": reply.coefficients,
        "components": [
            {
                "name": each.name, "kind": each.kind, "layer": each.layer, "head": each.head, "cluster": each.cluster,
                "swing": max(each.values) - min(each.values), "values": each.values,
            }
            for each in reply.components
        ],
        "total": reply.total, "scale": reply.scale,
    }  # fmt: skip


def csv_response(reply: ScanReply) -> Response:
    """One row for each component and coefficient, component by component; `COLUMNS` heads them."""
    written = io.StringIO()
    rows = csv.writer(written, lineterminator="\n")
    rows.writerow(COLUMNS)
    for each in reply.components:
        about = (each.name, each.kind, each.layer, each.head, each.cluster)
        along = zip(reply.coefficients, each.values, reply.total, reply.scale, strict=True)
        rows.writerows((coefficient, *about, value, total, scale) for coefficient, value, total, scale in along)
    named = {"Content-Disposition": 'attachment; filename="injection-scan.csv"', "Vary": "Accept"}
    return Response(written.getvalue(), media_type=CSV, headers=named)
