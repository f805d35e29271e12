"""Attribution graphs: rows that lists show, a blob each, and how a file becomes one, in steps that can be killed anywhere.

1. `begin` announces a file: a row with a secret, in whose address its bytes may be put for an hour.
2. Bytes arrive in the staging folder of uploads; `arrived` says that all are there.
3. `put_blob` stores what was read and checked, gzipped, as `graphs/{id}.json.gz`; `save` makes the graph, or replaces
   one's own at the same address. Until then nobody sees anything of it.
4. A graph that is deleted or replaced leaves the row of its file, expired. `clear_step`, by workers and at the next
   upload, deletes blob and row of what has expired, and so of what was announced and never saved.

Does not read files (`formats/graphs`) and does not own what people save of a graph (`subgraphs`).
"""

import gzip
import hashlib
import hmac
import secrets
import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import delete as deletion
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Graph, GraphUpload
from backend.formats.graphs import GraphFile
from backend.services import access, limits
from backend.services.access import Visibility
from backend.services.catalog import as_key
from backend.services.visibility import addressed, unrestricted
from backend.storage import Store

MOST_LISTED = 500
KEEP_S = 3_600
"""Seconds from announcing a file to saving the graph."""
PACKED = "graph.json.gz"
"""Of a file that is being stored, in its staging folder."""
_GZIP_LEVEL = 6


@dataclass(frozen=True, slots=True)
class GraphView:
    """What pages and the API say of a graph."""

    id: int
    model: str
    slug: str
    source_set: str
    """Empty: the file does not say."""
    prompt: str
    prompt_tokens: tuple[str, ...]
    title_prefix: str
    n_nodes: int
    n_links: int
    n_bytes: int
    """Stored, gzipped."""
    upload_id: str
    owner_id: int | None
    """None: the host's own."""
    visibility: str
    created_at: datetime
    updated_at: datetime

    @property
    def title(self) -> str:
        """Its prompt, behind what was put before it."""
        return f"{self.title_prefix} {self.prompt}".strip() or self.slug

    @property
    def blob_key(self) -> str:
        """Of its file, gzipped."""
        return blob_key(self.upload_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUpload:
    """A file that will come."""

    filename: str
    content_type: str
    n_bytes: int
    """As it is sent, gzipped or not."""


def blob_key(upload_id: str) -> str:
    """Of the file, gzipped."""
    return f"graphs/{upload_id}.json.gz"


def begin(session: Session, given: NewUpload, *, max_bytes: int) -> tuple[str, str]:
    """Announce a file of who asks: its id, and the secret with which its bytes may be put.

    Raises:
        UnauthorizedError, ForbiddenError: Who asks may not add anything, or nothing more.
        InvalidInputError: It is empty or too large.
    """
    viewer = access.viewer_of(session)
    access.check_may_write(viewer)
    if not 0 < given.n_bytes <= max_bytes:
        raise errors.InvalidInputError(
            f"'{given.filename}' is said to have {given.n_bytes:,} bytes; a graph may have 1 to {max_bytes:,}.",
            hint="Prune it further, or ask the host's operator to raise EYEPIECE_GRAPH_MB.",
        )
    limits.check_bytes(session, viewer, given.n_bytes)
    upload_id, token = secrets.token_hex(16), secrets.token_urlsafe(32)
    session.add(
        GraphUpload(
            id=upload_id, token_hash=_hash(token), owner_id=viewer.account_id, filename=given.filename,
            content_type=given.content_type, n_bytes=given.n_bytes, has_arrived=False,
            expires_at=func.now() + timedelta(seconds=KEEP_S),
        )
    )  # fmt: skip
    session.flush()
    return upload_id, token


def announced_bytes(session: Session, upload_id: str, token: str) -> int:
    """Bytes that may be put at this address, by whoever has it; raises `NotFoundError`."""
    query = select(GraphUpload.token_hash, GraphUpload.n_bytes)
    row = session.execute(unrestricted(query.where(GraphUpload.id == as_key(upload_id), _is_open()))).one_or_none()
    if row is None or not hmac.compare_digest(row.token_hash, _hash(token)):
        raise errors.NotFoundError(
            "There is no such address to put a graph to.",
            hint=f"It holds for {KEEP_S // 60} minutes; POST /api/graph/signed-put gives another.",
        )
    return int(row.n_bytes)


def arrived(session: Session, upload_id: str) -> None:
    """All bytes of the file are there."""
    session.execute(unrestricted(update(GraphUpload).where(GraphUpload.id == upload_id).values(has_arrived=True)))


def check_arrived(session: Session, upload_id: str) -> GraphView | None:
    """Return if the file is the viewer's own and there; the graph, where it is saved already.

    Raises `UnauthorizedError`, `NotFoundError` for what is another's, or `ConflictError` while its bytes are missing.
    """
    access.check_may_write(access.viewer_of(session))
    saved = session.execute(_GRAPHS.where(Graph.upload_id == as_key(upload_id))).one_or_none()
    query = select(GraphUpload.has_arrived).where(GraphUpload.id == as_key(upload_id))
    has_arrived = session.scalar(query if saved else query.where(_is_open()))
    if has_arrived is None:
        raise no_upload()
    if saved is None and not has_arrived:
        raise errors.ConflictError("The graph's bytes have not arrived.", hint="PUT them to the address given.")
    return None if saved is None else _view(saved)


def pack(text: bytes, path: Path) -> int:
    """Write a graph gzipped; its bytes then."""
    with gzip.open(path, "wb", compresslevel=_GZIP_LEVEL) as file:
        file.write(text)
    return path.stat().st_size


def put_blob(blobs: Store, upload_id: str, packed: Path) -> None:
    """Store a packed graph; the local file is gone afterwards. Once more is no error."""
    given = packed.with_name(f".{secrets.token_hex(8)}")
    shutil.move(packed, given)
    blobs.put(blob_key(upload_id), given)


def save(
    session: Session, upload_id: str, graph: GraphFile, *, n_bytes: int, visibility: Visibility = "public"
) -> GraphView:
    """Make the graph of a file whose blob is stored, or replace one's own at its address.

    Raises:
        NotFoundError: The file is another's, or expired meanwhile.
        ForbiddenError: The account has no room for it.
        ConflictError: There is a graph of somebody else's at its address.
    """
    viewer = access.viewer_of(session)
    upload = session.scalars(select(GraphUpload).where(GraphUpload.id == upload_id).with_for_update()).one_or_none()
    if upload is None:
        raise no_upload()
    limits.check_bytes(session, viewer, n_bytes)
    facts = {
        "source_set_name": graph.source_set, "prompt": graph.prompt, "prompt_tokens": list(graph.prompt_tokens),
        "title_prefix": graph.title_prefix, "n_nodes": graph.n_nodes, "n_links": graph.n_links, "n_bytes": n_bytes,
        "upload_id": upload_id, "visibility": visibility, "updated_at": func.now(),
    }  # fmt: skip
    place = {"model_id": graph.model, "slug": graph.slug}
    made = insert(Graph).values(**place, **facts, owner_id=upload.owner_id).on_conflict_do_nothing().returning(Graph.id)
    if session.scalar(made) is None:
        there = select(Graph.id, Graph.owner_id, Graph.upload_id).filter_by(**place).with_for_update()
        old = session.execute(unrestricted(there)).one()
        if not access.owns(viewer, old.owner_id):
            raise errors.ConflictError(
                f"There is a graph '{graph.model}/{graph.slug}' already, and it is somebody else's.",
                hint="Choose another slug.",
            )
        session.execute(unrestricted(update(Graph).where(Graph.id == old.id).values(**facts)))
        if old.upload_id != upload_id:
            _expire(session, old.upload_id)
    upload.expires_at = None
    session.flush()
    return get(session, graph.model, graph.slug)


def get(session: Session, model: str, slug: str) -> GraphView:
    """The graph at an address; raises `NotFoundError`."""
    query = _GRAPHS.where(Graph.model_id == as_key(model), Graph.slug == as_key(slug))
    row = session.execute(addressed(query)).one_or_none()
    if row is None:
        raise errors.NotFoundError(f"There is no graph '{model}/{slug}'.", hint="/graphs lists those that are here.")
    return _view(row)


def listed(session: Session, *, model: str | None = None) -> tuple[GraphView, ...]:
    """Those the viewer sees in lists, the newest `MOST_LISTED`, newest first; of one model or of all."""
    query = _GRAPHS if model is None else _GRAPHS.where(Graph.model_id == as_key(model))
    newest = query.order_by(Graph.updated_at.desc(), Graph.id.desc()).limit(MOST_LISTED)
    return tuple(_view(row) for row in session.execute(newest))


def owned(session: Session) -> tuple[GraphView, ...]:
    """The viewer's own, newest first; the host's operator's are all there are."""
    me = access.viewer_of(session).account_id
    query = _GRAPHS if me is None else _GRAPHS.where(Graph.owner_id == me)
    return tuple(_view(row) for row in session.execute(query.order_by(Graph.updated_at.desc(), Graph.id.desc())))


def delete(session: Session, model: str, slug: str) -> None:
    """Delete a graph and what was saved of it; raises `NotFoundError`, or as `access.check_may_change`."""
    view = get(session, model, slug)
    access.check_may_change(access.viewer_of(session), view.owner_id)
    gone = deletion(Graph).where(Graph.id == view.id).returning(Graph.upload_id)
    for upload_id in session.scalars(unrestricted(gone)):
        _expire(session, upload_id)


def clear_step(session: Session, blobs: Store) -> str | None:
    """Delete blob and row of one file that has expired; its id, or None where there is none.

    What is being saved is locked, and passed over; once saved it does not expire.
    """
    expired = select(GraphUpload.id).where(GraphUpload.expires_at <= func.now()).order_by(GraphUpload.expires_at)
    upload_id = session.scalar(unrestricted(expired.limit(1).with_for_update(skip_locked=True)))
    if upload_id is not None:
        blobs.delete(blob_key(upload_id))
        session.execute(unrestricted(deletion(GraphUpload).where(GraphUpload.id == upload_id)))
    return upload_id


def no_upload() -> errors.NotFoundError:
    """What is said of a file that is another's, expired, or not there."""
    return errors.NotFoundError("There is no such put request.", hint="POST /api/graph/signed-put begins another.")


_GRAPHS = select(
    Graph.id, Graph.model_id, Graph.slug, Graph.source_set_name, Graph.prompt, Graph.prompt_tokens, Graph.title_prefix,
    Graph.n_nodes, Graph.n_links, Graph.n_bytes, Graph.upload_id, Graph.owner_id, Graph.visibility, Graph.created_at,
    Graph.updated_at,
)  # fmt: skip


def _expire(session: Session, upload_id: str) -> None:
    of = update(GraphUpload).where(GraphUpload.id == upload_id)
    session.execute(unrestricted(of.values(expires_at=func.now())))


def _is_open() -> Any:
    return GraphUpload.expires_at > func.now()


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()


def _view(row: Any) -> GraphView:
    return GraphView(
        row.id, row.model_id, row.slug, row.source_set_name, row.prompt, tuple(row.prompt_tokens), row.title_prefix,
        row.n_nodes, row.n_links, row.n_bytes, row.upload_id, row.owner_id, row.visibility, row.created_at,
        row.updated_at,
    )  # fmt: skip
