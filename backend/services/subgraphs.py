"""What somebody saves of an attribution graph: pinned nodes, their groups and names, and how far it was pruned.

Each is its owner's alone (`visibility`); in `open` mode all of them are the operator's. Who may see a graph and may write
may save. Does not own graphs, and does not check that nodes are in the file: a state is shown as far as they are.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete as deletion
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Subgraph
from backend.services import access, graphs
from backend.services.visibility import unrestricted

MOST = 200
"""Of one graph, for each account."""


@dataclass(frozen=True, slots=True)
class SubgraphView:
    """A saved state."""

    id: str
    name: str
    state: dict[str, Any]
    """Keys of Neuronpedia's: pinnedIds, supernodes, clerps, pruningThreshold, densityThreshold."""
    created_at: datetime
    updated_at: datetime


def save(
    session: Session, model: str, slug: str, state: dict[str, Any], *, name: str = "", replaced: str = ""
) -> SubgraphView:
    """Save a state of a graph, or put it in the place of one's own named `replaced`.

    Raises:
        NotFoundError: There is no such graph, or none such to replace.
        UnauthorizedError, ForbiddenError: Who asks may not add anything.
        ConflictError: There are too many of this graph.
    """
    graph = graphs.get(session, model, slug)
    viewer = access.viewer_of(session)
    access.check_may_write(viewer)
    if replaced:
        of = update(Subgraph).where(Subgraph.id == replaced, Subgraph.graph_id == graph.id)
        changed = of.values(name=name, state=state, updated_at=func.now()).returning(Subgraph.id)
        subgraph_id = session.scalar(changed)
        if subgraph_id is None:
            raise _no_subgraph(replaced)
    else:
        n_saved = select(func.count()).select_from(Subgraph)
        mine = n_saved.where(Subgraph.graph_id == graph.id, Subgraph.owner_id.is_not_distinct_from(viewer.account_id))
        if (session.scalar(mine) or 0) >= MOST:
            raise errors.ConflictError(f"{MOST} subgraphs of this graph are saved.", hint="Delete one first.")
        subgraph_id = secrets.token_hex(8)
        row = Subgraph(id=subgraph_id, graph_id=graph.id, owner_id=viewer.account_id, name=name, state=state)
        session.add(row)
        session.flush()
    return _view(session.execute(_SUBGRAPHS.where(Subgraph.id == subgraph_id)).one())


def of_graph(session: Session, model: str, slug: str) -> tuple[SubgraphView, ...]:
    """Those the viewer saved of a graph, newest first; raises `NotFoundError`."""
    graph = graphs.get(session, model, slug)
    query = _SUBGRAPHS.where(Subgraph.graph_id == graph.id).order_by(Subgraph.updated_at.desc(), Subgraph.id)
    return tuple(_view(row) for row in session.execute(query))


def delete(session: Session, subgraph_id: str) -> None:
    """Delete one; raises `NotFoundError`, or as `access.check_may_change`."""
    owner = session.execute(select(Subgraph.owner_id).where(Subgraph.id == subgraph_id)).one_or_none()
    if owner is None:
        raise _no_subgraph(subgraph_id)
    access.check_may_change(access.viewer_of(session), owner.owner_id)
    session.execute(unrestricted(deletion(Subgraph).where(Subgraph.id == subgraph_id)))


_SUBGRAPHS = select(Subgraph.id, Subgraph.name, Subgraph.state, Subgraph.created_at, Subgraph.updated_at)


def _no_subgraph(subgraph_id: str) -> errors.NotFoundError:
    return errors.NotFoundError(
        f"There is no subgraph '{subgraph_id}' of yours.", hint="POST /api/graph/subgraph/list lists those there are."
    )


def _view(row: Any) -> SubgraphView:
    return SubgraphView(row.id, row.name, row.state, row.created_at, row.updated_at)
