"""Explanations of features: reading them, and what people do with them.

Whoever may see a source and is signed in may explain its features and vote; only an explanation's author changes or
deletes it, and admins. The best explanation comes first: by votes, then by Neuronpedia's scores, then the newest. Does not
own the search (`explanation_search`), nor importing and exporting (`explanation_files`).
"""

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Integer, Select, SQLColumnExpression, Text, and_, cast, func, or_, select, update
from sqlalchemy import delete as deletion
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, aggregate_order_by, insert
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Account, Explanation, ExplanationScore, ExplanationVote, Source
from backend.names import FeatureRef
from backend.services import access, catalog
from backend.services.catalog import AnyRow, as_key
from backend.services.visibility import addressed

MOST_CHARACTERS = 4_000
"""Of a description that is written here."""
_N_ID_BYTES = 16
AnySelect = Select[*tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class ScoreView:
    """How well an explanation did in one kind of test."""

    id: str
    value: float
    type_name: str | None
    model_name: str | None
    details: str
    """JSON as text; empty: none."""
    created_at: datetime


@dataclass(frozen=True, slots=True)
class VoteView:
    """Somebody finds an explanation good."""

    account_id: int | None
    """None: the host's operator."""
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ExplanationView:
    """An explanation and what is said of it."""

    id: str
    ref: FeatureRef
    description: str
    author_id: int | None
    """None: it was imported, or is the host's operator's."""
    author: str
    """The account's name, or the author's id where it was imported from; empty: not known."""
    type_name: str | None
    model_name: str | None
    """None: a person wrote it."""
    notes: str | None
    score_v1: float | None
    score_v2: float | None
    umap_x: float | None
    umap_y: float | None
    umap_cluster: int | None
    umap_log_feature_sparsity: float | None
    scores: tuple[ScoreView, ...]
    """Oldest first, as the votes."""
    votes: tuple[VoteView, ...]
    created_at: datetime
    updated_at: datetime

    @property
    def n_votes(self) -> int:
        """People who find it good."""
        return len(self.votes)

    def has_vote_of(self, account_id: int | None) -> bool:
        """That account finds it good; None: the host's operator does."""
        return any(vote.account_id == account_id for vote in self.votes)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewExplanation:
    """An explanation to add."""

    description: str
    type_name: str | None = None
    """The method, if it was not written by a person."""
    model_name: str | None = None


def get(session: Session, explanation_id: str) -> ExplanationView:
    """One explanation; raises `NotFoundError`."""
    row = session.execute(addressed(EXPLANATIONS.where(Explanation.id == _as_id(explanation_id)))).one_or_none()
    if row is None:
        raise errors.NotFoundError(
            f"There is no explanation '{explanation_id}'.", hint="The page of its feature lists those there are."
        )
    return view(row)


def of_feature(session: Session, ref: FeatureRef) -> tuple[ExplanationView, ...]:
    """All of a feature, the best first; one statement. Empty where the feature is not hosted."""
    at = (Source.model_id == as_key(ref.model), Source.name == as_key(ref.source), Explanation.index == ref.index)
    return tuple(view(row) for row in session.execute(addressed(EXPLANATIONS.where(*at).order_by(*BEST_FIRST))))


def of_features(session: Session, refs: Collection[FeatureRef]) -> dict[FeatureRef, tuple[ExplanationView, ...]]:
    """All of each feature that has any, the best first; one statement, or none, for any number of features."""
    if not refs:
        return {}
    query = _among(EXPLANATIONS, refs)
    found: dict[FeatureRef, list[ExplanationView]] = {}
    for row in session.execute(addressed(query.order_by(*BEST_FIRST))):
        found.setdefault(FeatureRef(row.model, row.source, row.feature), []).append(view(row))
    return {ref: tuple(views) for ref, views in found.items()}


def mapped(session: Session, model: str, source: str) -> tuple[ExplanationView, ...]:
    """Those of a source that lie on a map, by feature, then id; one statement. An export writes 0, 0 for no place."""
    is_placed = or_(Explanation.umap_x != 0, Explanation.umap_y != 0)
    query = EXPLANATIONS.where(Source.model_id == as_key(model), Source.name == as_key(source), is_placed)
    rows = session.execute(addressed(query.order_by(Explanation.index, Explanation.id)))
    return tuple(view(row) for row in rows)


def headlines(session: Session, refs: Collection[FeatureRef]) -> dict[FeatureRef, str]:
    """The best explanation of each feature that has any; one statement, or none, for any number of features."""
    if not refs:
        return {}
    address = (Source.model_id.label("model"), Source.name.label("source"), Explanation.index.label("feature"))
    place = func.row_number().over(partition_by=address, order_by=BEST_FIRST).label("place")
    query = select(*address, Explanation.description, place).join(Source, Source.id == Explanation.source_id)
    of = _among(query, refs).subquery()
    best = select(of.c.model, of.c.source, of.c.feature, of.c.description).where(of.c.place == 1)
    return {FeatureRef(row.model, row.source, row.feature): row.description for row in session.execute(addressed(best))}


def add(session: Session, ref: FeatureRef, given: NewExplanation) -> ExplanationView:
    """Add an explanation of who asks.

    Raises:
        NotFoundError: The source is not hosted or has no such feature.
        UnauthorizedError, ForbiddenError: Who asks may not write.
        InvalidInputError: The description is empty or too long.
    """
    source = catalog.source(session, ref.model, ref.source)
    if not 0 <= ref.index < source.d_sae:
        raise errors.NotFoundError(
            f"'{ref.model}/{ref.source}' has no feature {ref.index}.", hint=f"Its features are 0 to {source.d_sae - 1}."
        )
    viewer = access.viewer_of(session)
    access.check_may_write(viewer)
    of = select(Source.id).where(Source.model_id == ref.model, Source.name == ref.source)
    explanation_id = secrets.token_urlsafe(_N_ID_BYTES)
    session.execute(
        insert(Explanation).values(
            id=explanation_id, source_id=session.scalars(addressed(of)).one(), index=ref.index,
            description=_description(given.description), author_id=viewer.account_id,
            type_name=_name(given.type_name), model_name=_name(given.model_name),
        )
    )  # fmt: skip
    return get(session, explanation_id)


def edit(session: Session, explanation_id: str, description: str) -> ExplanationView:
    """Replace the words. What was measured of the old ones goes: scores, embedding and place on a map.

    Raises `NotFoundError`, `InvalidInputError`, or as `access.check_may_change`.
    """
    found = get(session, explanation_id)
    access.check_may_change(access.viewer_of(session), found.author_id)
    words = _description(description)
    if words == found.description:
        return found
    measured = dict.fromkeys(_MEASURED)
    changed = update(Explanation).where(Explanation.id == found.id)
    session.execute(addressed(changed.values(description=words, updated_at=func.clock_timestamp(), **measured)))
    session.execute(deletion(ExplanationScore).where(ExplanationScore.explanation_id == found.id))
    return get(session, explanation_id)


def delete(session: Session, explanation_id: str) -> ExplanationView:
    """Delete an explanation, and return what it was; raises `NotFoundError`, or as `access.check_may_change`."""
    found = get(session, explanation_id)
    access.check_may_change(access.viewer_of(session), found.author_id)
    session.execute(addressed(deletion(Explanation).where(Explanation.id == found.id)))
    return found


def vote(session: Session, explanation_id: str) -> ExplanationView:
    """Who asks finds it good, which is counted once; raises `NotFoundError`, or as `access.check_may_write`."""
    found, viewer = get(session, explanation_id), access.viewer_of(session)
    access.check_may_write(viewer)
    given = insert(ExplanationVote).values(explanation_id=found.id, account_id=viewer.account_id)
    session.execute(given.on_conflict_do_nothing())
    return get(session, explanation_id)


def unvote(session: Session, explanation_id: str) -> ExplanationView:
    """Take the vote of who asks back, if there is one; raises `NotFoundError`, or as `access.check_may_write`."""
    found, viewer = get(session, explanation_id), access.viewer_of(session)
    access.check_may_write(viewer)
    is_own = ExplanationVote.account_id.is_not_distinct_from(viewer.account_id)
    session.execute(deletion(ExplanationVote).where(ExplanationVote.explanation_id == found.id, is_own))
    return get(session, explanation_id)


def view(row: AnyRow) -> ExplanationView:
    """What a row of `EXPLANATIONS` says."""
    return ExplanationView(
        row.id, FeatureRef(row.model, row.source, row.feature), row.description, row.author_id, row.author, row.type_name,
        row.model_name, row.notes, row.score_v1, row.score_v2, row.umap_x, row.umap_y, row.umap_cluster,
        row.umap_log_feature_sparsity, tuple(map(_score, row.scores or ())), tuple(map(_vote, row.votes or ())),
        row.created_at, row.updated_at,
    )  # fmt: skip


_MEASURED = (
    "score_v1", "score_v2", "umap_x", "umap_y", "umap_cluster", "umap_log_feature_sparsity", "embedding", "embedding_model",
)  # fmt: skip


def _aggregated(table: Any, *columns: str) -> Any:
    """Rows of a table of an explanation as a JSON list, oldest first; NULL where there are none."""
    pairs = [part for name in columns for part in (name, getattr(table, name))]
    each = aggregate_order_by(func.jsonb_build_object(*pairs), table.created_at, table.id)
    of = select(func.jsonb_agg(each, type_=JSONB)).where(table.explanation_id == Explanation.id)
    return of.correlate(Explanation).scalar_subquery()


_n_votes = (
    select(func.count())
    .select_from(ExplanationVote)
    .where(ExplanationVote.explanation_id == Explanation.id)
    .correlate(Explanation)
    .scalar_subquery()
)
BEST_FIRST: Sequence[SQLColumnExpression[Any]] = (
    _n_votes.desc(),
    Explanation.score_v2.desc().nulls_last(),
    Explanation.score_v1.desc().nulls_last(),
    Explanation.created_at.desc(),
    Explanation.id,
)
"""How the explanations of a feature are ordered."""
# Columns, not entities: a session that holds a row as an object would go on showing it as it was.
EXPLANATIONS: AnySelect = (
    select(
        Explanation.id, Source.model_id.label("model"), Source.name.label("source"), Explanation.index.label("feature"),
        Explanation.description, Explanation.author_id, func.coalesce(Account.name, Explanation.author).label("author"),
        Explanation.type_name, Explanation.model_name, Explanation.notes, Explanation.score_v1, Explanation.score_v2,
        Explanation.umap_x, Explanation.umap_y, Explanation.umap_cluster, Explanation.umap_log_feature_sparsity,
        _aggregated(ExplanationScore, "id", "value", "type_name", "model_name", "details", "created_at").label("scores"),
        _aggregated(ExplanationVote, "account_id", "created_at").label("votes"),
        Explanation.created_at, Explanation.updated_at,
    )
    .join(Source, Source.id == Explanation.source_id)
    .outerjoin(Account, Account.id == Explanation.author_id)
    .where(Source.model_id.is_not(None))
)  # fmt: skip
"""Explanations of sources that are not deleted, as `view` reads them."""


def _among(query: AnySelect, refs: Collection[FeatureRef]) -> AnySelect:
    """The query for the features named: a join, so that each is looked up in the index however many they are."""
    models, sources, indexes = (
        [as_key(ref.model) for ref in refs],
        [as_key(ref.source) for ref in refs],
        [r.index for r in refs],
    )
    wanted = (
        func.unnest(cast(models, ARRAY(Text)), cast(sources, ARRAY(Text)), cast(indexes, ARRAY(Integer)))
        .table_valued("model", "source", "feature")
        .render_derived(name="wanted")
    )
    at = (Source.model_id == wanted.c.model, Source.name == wanted.c.source, Explanation.index == wanted.c.feature)
    return query.join(wanted, and_(*at))


def _as_id(text: str) -> str:
    """`text`, unless no id could be that: Postgres refuses even to compare a NUL."""
    return "" if "\0" in text else text


def _name(text: str | None) -> str | None:
    return (text or "").replace("\0", "␀").strip() or None


def _description(text: str) -> str:
    words = text.replace("\0", "␀").strip()
    if not words:
        raise errors.InvalidInputError("The explanation is empty.", hint="Say what the feature stands for.")
    if len(words) > MOST_CHARACTERS:
        raise errors.InvalidInputError(
            f"The explanation has {len(words):,} characters.", hint=f"Say it in {MOST_CHARACTERS:,} at most."
        )
    return words


def _score(given: Mapping[str, Any]) -> ScoreView:
    return ScoreView(
        given["id"], float(given["value"]), given["type_name"], given["model_name"], given["details"],
        datetime.fromisoformat(given["created_at"]),
    )  # fmt: skip


def _vote(given: Mapping[str, Any]) -> VoteView:
    return VoteView(given["account_id"], datetime.fromisoformat(given["created_at"]))
