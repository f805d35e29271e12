"""Explanations as features carry them in Neuronpedia's bodies, and what a search for them answers."""

from collections.abc import Callable, Sequence

from sqlalchemy.orm import Session

from backend.formats import neuronpedia, neuronpedia_explanations
from backend.formats.neuronpedia import Row
from backend.names import FeatureRef
from backend.services import catalog, explanations, features
from backend.services.explanation_search import Found, FoundPage
from backend.services.explanations import ExplanationView
from backend.services.features import FeatureView

N_EXAMPLES = 3
"""Top contexts of each feature found."""


def of_feature(views: Sequence[ExplanationView]) -> list[Row]:
    """A feature's `explanations`, in their order."""
    return [neuronpedia_explanations.of_feature(view) for view in views]


def of_features(session: Session, views: Sequence[FeatureView | None]) -> Callable[[FeatureView], list[Row]]:
    """The `explanations` of each of the features; one statement for all of them."""
    found = explanations.of_features(session, [_ref(view) for view in views if view is not None])
    return lambda view: of_feature(found.get(_ref(view), ()))


def found(session: Session, page: FoundPage, request: Row) -> Row:
    """What the four searches answer: each explanation with its feature, null where that has no dashboard."""
    views = features.several(session, [each.explanation.ref for each in page.results], n_examples=N_EXAMPLES)
    explained = of_features(session, views)
    sets = {(view.source.model, view.source.set_name): view.source for view in views if view is not None}
    origins = {name: catalog.origin(session, source) for name, source in sets.items()}

    def neuron(view: FeatureView) -> Row:
        origin = origins[view.source.model, view.source.set_name]
        return neuronpedia.feature_in_list(view, *origin, explanations=explained(view))

    return {
        "request": request,
        "results": [
            {**_result(each), "neuron": None if view is None else neuron(view)}
            for each, view in zip(page.results, views, strict=True)
        ],
        "resultsCount": len(page.results),
        "hasMore": page.has_more,
        "nextOffset": page.next_offset,
    }


def _result(found: Found) -> Row:
    flat = neuronpedia_explanations.exported(found.explanation)
    return {**flat, "id": found.explanation.id, "cosine_similarity": found.rank}


def _ref(view: FeatureView) -> FeatureRef:
    return FeatureRef(view.source.model, view.source.name, view.index)
