"""Finding explanations by their words.

Words are matched by their stems, as English has them; what consists of stop words alone is matched as written. The query is
what search engines take (`websearch_to_tsquery`): "a phrase", or, -without. Ranked by Postgres's `ts_rank`, where words
as written count beside their stems and long descriptions count less; ties by id, so that pages never overlap. What the
viewer may not see is left out before a page is cut. Meaning is not compared: embeddings are not searched.
"""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, case, func, or_, select, tuple_
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Explanation, Model, Source, SourceSet
from backend.services import catalog, explanations
from backend.services.catalog import as_key
from backend.services.explanations import ExplanationView
from backend.services.visibility import addressed

N_PER_PAGE = 20
FEWEST_CHARACTERS = 3
MOST_CHARACTERS = 1_000
"""Of a query."""
_SHORT_FIRST, _AS_FRACTION = 1, 32
"""`ts_rank`: divided by 1 + log of the length; rank / (rank + 1), which is below 1."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Where to search: everything the viewer sees in lists, or what is named."""

    model: str = ""
    sources: tuple[str, ...] = ()
    """Of the model; unlisted ones too, as they are named."""
    release: str = ""


EVERYWHERE = Scope()


@dataclass(frozen=True, slots=True)
class Found:
    """An explanation, and how well it matches."""

    explanation: ExplanationView
    rank: float
    """0 to 1; compares within one search only."""


@dataclass(frozen=True, slots=True)
class FoundPage:
    """What was found from `offset` on, the best first."""

    results: tuple[Found, ...]
    offset: int
    has_more: bool

    @property
    def next_offset(self) -> int:
        """Where the next page begins."""
        return self.offset + len(self.results)


def search(
    session: Session, words: str, scope: Scope = EVERYWHERE, *, offset: int = 0, n: int = N_PER_PAGE
) -> FoundPage:
    """Up to `n` explanations that have the words, from the `offset`-th on; one statement, two with a model or release.

    Raises `NotFoundError` for a model, source or release that is not hosted, `InvalidInputError` for too short a query.
    """
    words = words.replace("\0", " ").strip()
    if not FEWEST_CHARACTERS <= len(words) <= MOST_CHARACTERS:
        raise errors.InvalidInputError(
            f"The query has {len(words):,} characters.",
            hint=f"Search for {FEWEST_CHARACTERS} to {MOST_CHARACTERS:,}.",
        )
    stems, written = func.websearch_to_tsquery("english", words), func.websearch_to_tsquery("simple", words)
    rank = func.ts_rank(Explanation.words, stems.op("||")(written), _SHORT_FIRST | _AS_FRACTION).label("rank")
    matches = Explanation.words.op("@@")(case((func.numnode(stems) > 0, stems), else_=written))
    query = explanations.EXPLANATIONS.add_columns(rank).where(matches, *_within(session, scope))
    query = query.order_by(rank.desc(), Explanation.id).offset(offset).limit(n + 1)
    rows = session.execute(addressed(query) if scope.sources else query).all()
    results = tuple(Found(explanations.view(row), row.rank) for row in rows[:n])
    return FoundPage(results, offset, len(rows) > n)


def _within(session: Session, scope: Scope) -> list[ColumnElement[bool]]:
    """What an explanation's source must be."""
    wanted: list[ColumnElement[bool]] = []
    if scope.sources:
        _check_sources(session, scope)
        wanted.append(Source.name.in_(scope.sources))
    elif scope.model:
        _check_model(session, scope.model)
    if scope.model:
        wanted.append(Source.model_id == scope.model)
    if scope.release:
        wanted.append(tuple_(Source.model_id, Source.set_name).in_(_sets_of_release(session, scope.release)))
    return wanted


def _check_sources(session: Session, scope: Scope) -> None:
    if not scope.model:
        raise errors.InvalidInputError("Sources are named without their model.", hint="Give modelId too.")
    names = {view.name for view in catalog.sources_named(session, scope.model, scope.sources)}
    for missing in sorted(set(scope.sources) - names):
        catalog.source(session, scope.model, missing)  # which says that there is none


def _check_model(session: Session, model: str) -> None:
    if session.scalar(select(Model.id).where(Model.id == as_key(model))) is None:
        catalog.model(session, model)  # which says that there is none


def _sets_of_release(session: Session, release: str) -> list[tuple[str, str]]:
    """(model, set) of the source sets of a release; a set of no release is one by itself. Raises `NotFoundError`."""
    is_alone = and_(SourceSet.release_name.is_(None), SourceSet.name == as_key(release))
    of = select(SourceSet.model_id, SourceSet.name).where(or_(SourceSet.release_name == as_key(release), is_alone))
    found: list[tuple[str, str]] = [(row.model_id, row.name) for row in session.execute(of)]
    if not found:
        raise errors.NotFoundError(
            f"No release '{release}' is hosted.",
            hint="POST /api/global lists releases; a source set of none goes by its own name.",
        )
    return found
