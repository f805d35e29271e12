"""Which features fire most on a text, or on each of its tokens: search over REST, in Neuronpedia's bodies.

What the live worker found is sent as it came. For a single text each feature comes with what its dashboard says, unless
that is not wanted: read in one more short transaction, in a few statements however many features there are.
"""

import functools
import heapq
from collections.abc import Collection, Iterable, Sequence
from operator import itemgetter
from typing import Any, cast

import orjson
from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session

from backend import errors
from backend.formats import messages, neuronpedia
from backend.names import FeatureRef
from backend.services import catalog, features, inference
from backend.web import explanation_rows, live_schemas
from backend.web.api import live as asking
from backend.web.dependencies import transaction

MOST_EXPANDED = 2_000
"""Firings on one text that come with their features, the strongest: those of all of a long text would be some 100 MB."""
Row = dict[str, Any]

router = APIRouter(tags=["live"], responses=asking.REFUSALS)


@router.post("/search-all", response_model=live_schemas.Search)
async def search(request: Request, asked: live_schemas.SearchRequest) -> Response:
    """The features of a source set, or of chosen sources, that fire most on a text, or on each of a list of texts."""
    live: inference.Client = request.app.state.live
    found = await asking.look_up(request, lambda session: _places(session, asked))
    sort_positions = tuple(sorted(set(asked.sortIndexes)))
    question = messages.SearchRequest(
        **live.header(found), sources=tuple(found.sources), texts=asking.texts_of(asked.text),
        sort_positions=sort_positions, is_bos_ignored=asked.ignoreBos, densest=_densest(asked.densityThreshold),
        n_results=asked.numResults,
    )  # fmt: skip
    answer = cast(messages.SearchReply, await live.ask(question, has_left=request.is_disconnected))
    _check_positions(sort_positions, answer.texts)
    results = [_search(asked.modelId, text, sort_positions) for text in answer.texts]
    if not isinstance(asked.text, str):
        return asking.as_json({"results": results})
    if not asked.expand:
        return asking.as_json(results[0])
    return await asking.aside(request, functools.partial(_with_neurons, request, results[0]))


@router.post("/search-topk-by-token", response_model=live_schemas.TopByToken)
async def search_by_token(request: Request, asked: live_schemas.TopByTokenRequest) -> Response:
    """The features of a source that fire most on each token of a text, or of each of a list of texts."""
    live: inference.Client = request.app.state.live
    found = await asking.places(request, asked.modelId, asked.source)
    question = messages.TopByTokenRequest(
        **live.header(found), source=asked.source, texts=asking.texts_of(asked.text), is_bos_ignored=asked.ignoreBos,
        densest=_densest(asked.densityThreshold), n_results=asked.numResults,
    )  # fmt: skip
    answer = cast(messages.TopByTokenReply, await live.ask(question, has_left=request.is_disconnected))
    results: list[Row] = [{"source": asked.source, "results": _by_token(text)} for text in answer.texts]
    if not isinstance(asked.text, str):
        return asking.as_json({"results": results})
    if asked.ignoreBos:  # Neuronpedia keeps them in a list of texts
        results[0]["results"] = [token for token in results[0]["results"] if not token["isSpecial"]]
    if not asked.expand:
        return asking.as_json(results[0])
    return await asking.aside(request, functools.partial(_with_features, request, asked.modelId, results[0]))


def _places(session: Session, asked: live_schemas.SearchRequest) -> inference.Places:
    """The sources of a search; raises `NotFoundError`, or `InvalidInputError` for a source of another set."""
    set_name = asked.sourceSet.partition("__")[0]  # clients cut it off a source's id
    if not asked.selectedLayers:
        return inference.places_of_set(session, asked.modelId, set_name)
    found = inference.places(session, asked.modelId, asked.selectedLayers)
    for place in found.sources.values():
        if set_name not in ("", place.set_name):
            raise errors.InvalidInputError(
                f"'{place.name}' is of the source set '{place.set_name}', not of '{set_name}'.",
                hint="Name the set of the selected layers, or none.",
            )
    return found


def _densest(threshold: float) -> float | None:
    return threshold if threshold > 0 else None


def _check_positions(positions: Sequence[int], texts: Iterable[messages.TextSearch]) -> None:
    """Raises `InvalidInputError` for a token that none of the texts has."""
    n_most = max(len(text.tokens) for text in texts)
    if positions and positions[-1] >= n_most:
        raise errors.InvalidInputError(
            f"sortIndexes: there is no token {positions[-1]}.", hint=f"There are 0 to {n_most - 1}."
        )


def _search(model: str, text: messages.TextSearch, sort_positions: Sequence[int]) -> Row:
    return {
        "tokens": text.tokens,
        "result": [_result(model, found, max(found.values)) for found in text.found],
        "sortIndexes": sort_positions,
    }


def _result(model: str, found: messages.Found, greatest: float) -> Row:
    return {
        "modelId": model,
        "layer": found.source,
        "index": str(found.index),
        "values": found.values,
        "maxValue": greatest,
        "maxValueIndex": found.values.index(greatest),
    }


def _by_token(text: messages.TextTopByToken) -> list[Row]:
    tokens = zip(text.tokens, text.is_special, text.features, text.values, strict=True)
    return [
        {
            "position": position,
            "token": token,
            "isSpecial": is_special,
            "topFeatures": [
                {"activationValue": value, "featureIndex": index} for index, value in zip(indexes, values, strict=True)
            ],
        }
        for position, (token, is_special, indexes, values) in enumerate(tokens)
    ]


def _with_neurons(request: Request, body: Row) -> Response:
    """The answer with a `neuron` in each result."""
    refs = [FeatureRef(row["modelId"], row["layer"], int(row["index"])) for row in body["result"]]
    with transaction(request) as session:
        views = features.several(session, refs)
        sets = {view.source.set_name: view.source for view in views if view is not None}
        origins = {name: catalog.origin(session, source) for name, source in sets.items()}
        explained = explanation_rows.of_features(session, views)
    for row, view in zip(body["result"], views, strict=True):
        row["neuron"] = None
        if view is not None:
            origin = origins[view.source.set_name]
            row["neuron"] = neuronpedia.feature_in_list(view, *origin, explanations=explained(view))
    return asking.as_json(body)


def _with_features(request: Request, model: str, body: Row) -> Response:
    """The answer with a `feature` in each of the strongest firings, and null in the others."""
    firings = [firing for token in body["results"] for firing in token["topFeatures"]]
    strongest = heapq.nlargest(MOST_EXPANDED, firings, key=itemgetter("activationValue"))
    packed = _packed(request, model, body["source"], {firing["featureIndex"] for firing in strongest})
    for firing in firings:
        firing["feature"] = None
    for firing in strongest:
        firing["feature"] = packed.get(firing["featureIndex"])
    return asking.as_json(body)


def _packed(request: Request, model: str, source: str, indexes: Collection[int]) -> dict[int, orjson.Fragment]:
    """Features as JSON, by index: one that fires on many tokens is written once."""
    with transaction(request) as session:
        views = features.several(session, [FeatureRef(model, source, index) for index in indexes], n_examples=0)
        explained = explanation_rows.of_features(session, views)
    return {
        view.index: orjson.Fragment(orjson.dumps(neuronpedia.explained_neuron(view, explanations=explained(view)[:1])))
        for view in views
        if view is not None
    }
