"""What an account may store and compute at a time. Callers ask before they begin; the answer says how much there is.

Bytes are what its sources keep (their dashboards, kept activation indexes and uploaded files), its vectors and its
attribution graphs. Who has no account (the operator) and who has no quota is not limited. Who asks holds the account
until the transaction ends, so that of many requests at once each counts what those before it took.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Account, Dashboard, Graph, Job, Revision, Source, Upload, Vector
from backend.services.access import Viewer
from backend.services.shards import ACTIVE

RETRY_AFTER_S = 60
AnySelect = Select[*tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Usage:
    """What an account takes of what it may use."""

    n_bytes: int
    n_jobs: int
    """Queued or running."""


def check_bytes(session: Session, viewer: Viewer, n_bytes: int) -> None:
    """Return if the viewer may store so many bytes more; raises `ForbiddenError`."""
    most = viewer.quota.n_bytes
    if viewer.account_id is None or most is None:
        return
    _hold(session, viewer.account_id)
    stored = stored_bytes(session, viewer.account_id)
    if stored + n_bytes > most:
        raise errors.ForbiddenError(
            f"{_size(n_bytes)} more would be too much: you store {_size(stored)} of {_size(most)}.",
            hint="Delete a source you no longer need, or ask an admin for more.",
        )


def bytes_left(session: Session, viewer: Viewer) -> int | None:
    """That the viewer may store beside what there is; None: any number."""
    if viewer.account_id is None or viewer.quota.n_bytes is None:
        return None
    return max(0, viewer.quota.n_bytes - stored_bytes(session, viewer.account_id))


def check_jobs(session: Session, viewer: Viewer, n_jobs: int = 1) -> None:
    """Return if the viewer may queue so many jobs more; raises `BusyError`."""
    most = viewer.quota.n_jobs
    if viewer.account_id is None or most is None:
        return
    _hold(session, viewer.account_id)
    active = active_jobs(session, viewer.account_id)
    if active + n_jobs > most:
        raise errors.BusyError(
            f"{active} of your jobs are queued or running, and {most} may be at a time.",
            hint="Wait for one to end, or cancel it.", retry_after_s=RETRY_AFTER_S,
        )  # fmt: skip


def usage(session: Session, account_id: int) -> Usage:
    """What the account takes now."""
    return Usage(stored_bytes(session, account_id), active_jobs(session, account_id))


def stored_bytes(session: Session, account_id: int) -> int:
    """Of everything the account's sources keep, earlier revisions not yet cleared included, its uploads, vectors and graphs."""
    uploaded = select(func.sum(Upload.n_bytes)).where(Upload.owner_id == account_id)
    vectors = select(func.sum(func.pg_column_size(Vector.values))).where(Vector.owner_id == account_id)
    graphs = select(func.sum(Graph.n_bytes)).where(Graph.owner_id == account_id)
    apart = sum(int(session.scalar(query) or 0) for query in (uploaded, vectors, graphs))
    return sum(bytes_by_source(session, account_id).values()) + apart


def bytes_by_source(session: Session, account_id: int | None = None) -> dict[int, int]:
    """By the source's id, of one account or of all; packed dashboards count as they are stored, compressed."""
    index = select(Revision.source_id, func.sum(Revision.index_bytes))
    packed = select(Revision.source_id, func.sum(func.pg_column_size(Dashboard.packed)))
    kept: tuple[AnySelect, ...] = (index, packed.join(Dashboard, Dashboard.revision_id == Revision.id))
    total: dict[int, int] = {}
    for query in kept:
        for source_id, n_bytes in session.execute(_of_account(query.group_by(Revision.source_id), account_id)):
            total[source_id] = total.get(source_id, 0) + int(n_bytes or 0)
    return total


def active_jobs(session: Session, account_id: int) -> int:
    """Of the account's, queued or running."""
    of = select(func.count()).select_from(Job).where(Job.owner_id == account_id, Job.state.in_(ACTIVE))
    return session.scalar(of) or 0


def _hold(session: Session, account_id: int) -> None:
    session.execute(select(Account.id).where(Account.id == account_id).with_for_update(key_share=True))


def _of_account(query: AnySelect, account_id: int | None) -> AnySelect:
    if account_id is None:
        return query
    owned = select(Source.id).where(Source.owner_id == account_id, Source.model_id.is_not(None))
    return query.where(Revision.source_id.in_(owned))


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.1f} MB"
