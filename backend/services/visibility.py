"""What a viewer may see: one rule, put into every ORM statement of a session that has a viewer.

A source is public (in lists), unlisted (by its address only) or private (its owner and admins). Everything else follows
from the sources it belongs to: a model, source set, release or corpus is there for those who may see a source of it, a job for
those who see all of its sources in lists (its number is easily guessed, so it must not tell of an unlisted one). What
somebody owns they always see; an upload nobody else does, and a vector nobody else in lists: by its address it is there
for those who see its model in lists. A steering run, whoever's, is there for those who may see all its sources, or its
model where it has none. An explanation is there for those who see its source. An attribution graph is public, unlisted
or private by itself, as a source is; its file on the way here, and what somebody saved of it, is nobody else's. A list
of features says itself who sees it, as a source does; what is in it, and all comments and bookmarks, are there for those
who see what they are about. Features, dashboards and contexts are only reached through their source or corpus, scores
and votes through their explanation.

Statements leave unlisted things out unless they say `addressed`, so a new list cannot forget to. Raw SQL and statements
over tables are not restricted, nor are commands and workers, whose sessions have no viewer.
"""

from typing import Any, TypeVar, cast

from sqlalchemy import (
    ColumnElement,
    Executable,
    Select,
    Table,
    and_,
    any_,
    event,
    exists,
    false,
    func,
    literal,
    or_,
    select,
    true,
)
from sqlalchemy.orm import InstrumentedAttribute, ORMExecuteState, Session, sessionmaker, with_loader_criteria
from sqlalchemy.sql.base import ExecutableOption

from backend.db.tables import (
    Bookmark,
    Corpus,
    Explanation,
    FeatureComment,
    FeatureList,
    FeatureListItem,
    Graph,
    GraphUpload,
    Job,
    JobSource,
    ListComment,
    Model,
    Release,
    Revision,
    Source,
    SourceSet,
    SteerRun,
    Subgraph,
    Upload,
    Vector,
)
from backend.services import access
from backend.services.access import Viewer

S = TypeVar("S", bound=Executable)
PUBLIC = ("public",)
REACHABLE = ("public", "unlisted")
_OPTION = "eyepiece_visibility"
_NO_ACCOUNT = -1
"""Owns nothing; NULL would be the host."""


def see_as(session: Session, viewer: Viewer) -> None:
    """From now on the session shows what `viewer` may see."""
    session.info["viewer"] = viewer


def only_public(sessions: sessionmaker[Session]) -> sessionmaker[Session]:
    """Sessions that show what is public until somebody says who sees: so nothing is shown by an oversight."""
    sessions.configure(info={"viewer": access.NOBODY})
    return sessions


def addressed(statement: S) -> S:
    """The statement looks for a source that the reader has named, so it finds unlisted ones too."""
    return statement.execution_options(**{_OPTION: "addressed"})


def unrestricted(statement: S) -> S:
    """The statement guards the data's integrity, such as that an id is free; its rows are not shown to anybody."""
    return statement.execution_options(**{_OPTION: "unrestricted"})


def is_own(viewer: Viewer, owner: InstrumentedAttribute[int | None]) -> ColumnElement[bool]:
    """Rows of the viewer's own, for lists of them: an admin's are not everybody's. In `open` mode all there are."""
    if viewer.account_id is None:
        return true() if viewer.is_admin else false()
    return owner == viewer.account_id


@event.listens_for(Session, "do_orm_execute")
def _restrict(state: ORMExecuteState) -> None:
    viewer = access.viewer_of(state.session)
    wanted = state.execution_options.get(_OPTION)
    if viewer.is_admin or wanted == "unrestricted" or not state.is_orm_statement or state.is_insert:
        return
    if state.is_column_load or state.is_relationship_load:
        return  # of a row that was found under the rule
    me = _NO_ACCOUNT if viewer.account_id is None else viewer.account_id
    statement = cast("Select[Any]", state.statement)
    state.statement = statement.options(*_rules(me, PUBLIC if wanted is None else REACHABLE))


def _rules(me: int, seen: tuple[str, ...]) -> tuple[ExecutableOption, ...]:
    """Of each entity; SQLAlchemy puts them wherever the entity or an alias of it stands, in joins and subqueries too."""
    return (
        with_loader_criteria(Source, lambda source: _is_seen(source, me, seen), include_aliases=True),
        with_loader_criteria(Model, lambda model: _is_model_seen(model, me, seen), include_aliases=True),
        with_loader_criteria(SourceSet, lambda of: _is_set_seen(of, me, seen), include_aliases=True),
        with_loader_criteria(Release, lambda release: _is_release_seen(release, me, seen), include_aliases=True),
        with_loader_criteria(Corpus, lambda corpus: _is_corpus_seen(corpus, me, seen), include_aliases=True),
        with_loader_criteria(Job, lambda job: _is_job_seen(job, me), include_aliases=True),
        with_loader_criteria(Upload, lambda upload: upload.owner_id == me, include_aliases=True),
        with_loader_criteria(Vector, lambda vector: _is_vector_seen(vector, me, seen), include_aliases=True),
        with_loader_criteria(Explanation, lambda of: _is_explanation_seen(of, me, seen), include_aliases=True),
        with_loader_criteria(SteerRun, lambda run: _is_run_seen(run, me, seen), include_aliases=True),
        with_loader_criteria(Graph, lambda graph: _is_seen(graph, me, seen), include_aliases=True),
        with_loader_criteria(GraphUpload, lambda upload: upload.owner_id == me, include_aliases=True),
        with_loader_criteria(Subgraph, lambda saved: saved.owner_id == me, include_aliases=True),
        with_loader_criteria(FeatureList, lambda of: _is_list_seen(of, me, seen), include_aliases=True),
        with_loader_criteria(FeatureListItem, lambda item: _is_item_seen(item, me, seen), include_aliases=True),
        with_loader_criteria(ListComment, lambda said: _is_of_seen_list(said, me, seen), include_aliases=True),
        with_loader_criteria(FeatureComment, lambda said: _is_of_seen_source(said, me, seen), include_aliases=True),
        with_loader_criteria(Bookmark, lambda of: _is_bookmark_seen(of, me), include_aliases=True),
    )


# Subqueries are over tables, not entities: else the rule of sources would stand inside the others' as well.
def _table(entity: Any) -> Table:
    return cast(Table, entity.__table__)


_source, _revision, _of_job, _model, _set, _list = (
    _table(Source).alias("seen"),
    _table(Revision).alias("made"),
    _table(JobSource).alias("of"),
    _table(Model).alias("within"),
    _table(SourceSet).alias("released"),
    _table(FeatureList).alias("listed"),
)
_s = _source.c


def _is_seen(source: Any, me: int, seen: tuple[str, ...]) -> ColumnElement[bool]:
    # Never NULL, so that its opposite is what is hidden.
    return or_(source.visibility.in_(seen), source.owner_id.is_not_distinct_from(me))


def _is_model_seen(model: Any, me: int, seen: tuple[str, ...]) -> ColumnElement[bool]:
    return or_(model.owner_id == me, _some(_s.model_id == model.id, _is_seen(_s, me, seen)))


def _is_set_seen(of: Any, me: int, seen: tuple[str, ...]) -> ColumnElement[bool]:
    return _some(_s.model_id == of.model_id, _s.set_name == of.name, _is_seen(_s, me, seen))


def _is_release_seen(release: Any, me: int, seen: tuple[str, ...]) -> ColumnElement[bool]:
    of_set = (_set.c.release_name == release.name, _s.model_id == _set.c.model_id, _s.set_name == _set.c.name)
    return or_(release.owner_id == me, _some(*of_set, _is_seen(_s, me, seen)))


def _is_corpus_seen(corpus: Any, me: int, seen: tuple[str, ...]) -> ColumnElement[bool]:
    made = (_revision.c.corpus_id == corpus.id, _revision.c.source_id == _s.id)
    return _some(*made, _is_seen(_s, me, seen))


def _is_job_seen(job: Any, me: int) -> ColumnElement[bool]:
    """The owner's, or nothing of it is hidden; one whose sources are gone is its owner's."""
    of_job = (_of_job.c.job_id == job.id, _of_job.c.source_id == _s.id)
    return or_(job.owner_id == me, _some(*of_job) & ~_some(*of_job, ~_is_seen(_s, me, PUBLIC)))


def _is_explanation_seen(of: Any, me: int, seen: tuple[str, ...]) -> ColumnElement[bool]:
    return _some(_s.id == of.source_id, _is_seen(_s, me, seen))


def _is_vector_seen(vector: Any, me: int, seen: tuple[str, ...]) -> ColumnElement[bool]:
    """Every vector is unlisted."""
    return and_(_is_of_listed_model(vector, me), or_(vector.owner_id == me, literal("unlisted").in_(seen)))


def _is_run_seen(run: Any, me: int, seen: tuple[str, ...]) -> ColumnElement[bool]:
    """One without sources is of a model by itself; one that is about a deleted source is nobody's."""
    sources = (_s.id == any_(run.source_ids), _s.model_id == run.model_id, _is_seen(_s, me, seen))
    n_seen = select(func.count()).select_from(_source).where(*sources).correlate_except(_source).scalar_subquery()
    n_sources = func.cardinality(run.source_ids)
    return and_(n_seen == n_sources, or_(n_sources > 0, _is_of_listed_model(run, me)))


def _is_list_seen(of: Any, me: int, seen: tuple[str, ...]) -> ColumnElement[bool]:
    return or_(of.visibility.in_(seen), of.owner_id.is_not_distinct_from(me))


def _is_item_seen(item: Any, me: int, seen: tuple[str, ...]) -> ColumnElement[bool]:
    return and_(_is_of_seen_list(item, me, seen), _is_of_seen_source(item, me, seen))


def _is_of_seen_list(of: Any, me: int, seen: tuple[str, ...]) -> ColumnElement[bool]:
    return _some(_list.c.id == of.list_id, _is_list_seen(_list.c, me, seen))


def _is_of_seen_source(of: Any, me: int, seen: tuple[str, ...]) -> ColumnElement[bool]:
    return _some(_s.id == of.source_id, _is_seen(_s, me, seen))


def _is_bookmark_seen(of: Any, me: int) -> ColumnElement[bool]:
    """Whoever made it had the source's address."""
    return and_(of.owner_id == me, _is_of_seen_source(of, me, REACHABLE))


def _is_of_listed_model(of: Any, me: int) -> ColumnElement[bool]:
    is_own = exists().where(_model.c.id == of.model_id, _model.c.owner_id == me).correlate_except(_model)
    return or_(_some(_s.model_id == of.model_id, _is_seen(_s, me, PUBLIC)), is_own)


def _some(*criteria: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(*criteria).correlate_except(_source, _revision, _of_job, _set, _list)
