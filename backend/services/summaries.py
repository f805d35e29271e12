"""Features of several sources in a line each, as lists show them beside one another."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from backend.db.tables import Dashboard, Feature
from backend.formats import dashboards
from backend.names import FeatureRef
from backend.services import explanations
from backend.services.catalog import SourceView


@dataclass(frozen=True, slots=True)
class SummaryView:
    """What is said of a feature in one line."""

    source: SourceView
    index: int
    n_firings: int
    density: float
    max_value: float
    min_value: float
    """The most negative activation; 0 for features that are never negative."""
    fires_on: tuple[str, ...]
    promotes: tuple[str, ...]
    explanation: str = ""
    """The best there is; empty where there is none, or nobody asked for it."""

    @property
    def label(self) -> str:
        """What a vector of a set is called; empty for what has no name."""
        return self.source.label(self.index)


def of(session: Session, wanted: Collection[tuple[SourceView, int]]) -> dict[tuple[str, int], SummaryView]:
    """Those of the features that have dashboards, by source name and index; one statement, two with signed sources.

    The sources are of one model. Only a dashboard knows how negative its feature gets, so those of signed sources are
    read too.
    """
    sources = {source.revision_id: source for source, _ in wanted if source.revision_id is not None}
    keys = [(source.revision_id, index) for source, index in wanted if source.revision_id is not None]
    signed = [key for key in keys if sources[key[0]].is_signed]
    if not keys:
        return {}
    rows = session.execute(
        select(
            Feature.revision_id, Feature.index.label("feature"), Feature.n_firings, Feature.density,
            Feature.max_activation, Feature.fires_on, Feature.promotes,
        ).where(tuple_(Feature.revision_id, Feature.index).in_(keys))
    ).all()  # fmt: skip
    lowest = _lowest(session, signed)
    return {
        (sources[row.revision_id].name, row.feature): SummaryView(
            sources[row.revision_id], row.feature, row.n_firings, row.density, row.max_activation,
            min(0.0, lowest.get((row.revision_id, row.feature), 0.0)), tuple(row.fires_on), tuple(row.promotes),
        )
        for row in rows
    }  # fmt: skip


def explained(session: Session, found: Mapping[tuple[str, int], SummaryView]) -> dict[tuple[str, int], SummaryView]:
    """The features with their best explanations; one statement, or none."""
    refs = {key: FeatureRef(view.source.model, view.source.name, view.index) for key, view in found.items()}
    said = explanations.headlines(session, refs.values())
    return {key: replace(view, explanation=said.get(refs[key], "")) for key, view in found.items()}


def _lowest(session: Session, keys: Collection[tuple[int, int]]) -> dict[tuple[int, int], float]:
    """The smallest activation of each feature, by revision and index."""
    if not keys:
        return {}
    query = select(Dashboard.revision_id, Dashboard.index.label("feature"), Dashboard.packed)
    rows = session.execute(query.where(tuple_(Dashboard.revision_id, Dashboard.index).in_(keys)))
    return {(row.revision_id, row.feature): dashboards.unpack(row.packed).min for row in rows}
