"""Writing an activation index that is kept: whether it is, which blobs it has, and which nobody needs any more.

A tokens file is written with each part of the postings while encoding, where all features of a token are at hand; a
features file with each range of features while finishing. Blobs lie at `indexes/SOURCE/JOB/`, named by the attempt that
made them; `backend/services/kept_index.py` deletes what nobody names.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from backend import logs, storage
from backend.formats import activation_index as files
from backend.services import kept_index
from backend.settings import Settings
from workers.compute import index_packing
from workers.compute.activation_index import Postings

_logger = logging.getLogger(__name__)

BYTES_PER_FIRING = 4
"""What an index is taken to need before it is written."""


def may_be_kept(settings: Settings, keep_index: bool | None) -> bool:
    """Whether to write tokens files: what a job asks for, or else unless the setting forbids every index."""
    return settings.keep_index_gb > 0 if keep_index is None else keep_index


def is_kept(settings: Settings, keep_index: bool | None, n_firings: int) -> bool:
    """Whether to keep an index of so many firings: what a job asks for, or else if it is small enough."""
    if keep_index is not None:
        return keep_index
    return n_firings * BYTES_PER_FIRING <= settings.keep_index_gb * 1e9


def tokens_key(source_id: int, postings_key: str) -> str:
    """Where the tokens file of a part of the postings (`jobs/JOB/…`) lies."""
    _, job_id, *name = postings_key.removesuffix(".postings").split("/")
    return f"indexes/{source_id}/{job_id}/{'-'.join(name)}.tokens"


def put_tokens(
    blobs: storage.Store, key: str, scratch: Path, postings: Postings, *, context_size: int
) -> dict[str, Any]:
    """Store which features fire on the tokens of a part of the postings; what `name_files` has to know of the file."""
    first, packed = index_packing.pack_part(postings, context_size=context_size)
    files.write_tokens(scratch, packed, first_token=first * context_size, n_features=postings.n_features)
    n_bytes = scratch.stat().st_size
    blobs.put(key, scratch)
    return {"key": key, "first": first * context_size, "n_bytes": n_bytes, "is_empty": not postings.context.size}


@contextlib.contextmanager
def features_file(
    path: Path | None, *, first: int, context_size: int, n_contexts: int
) -> Iterator[Callable[[Postings], None]]:
    """Gives a function that takes the postings of features from `first` on, block by block; the file is there afterwards.

    Without a path nothing is written.
    """
    if path is None:
        yield lambda block: None
        return
    n_tokens = context_size * n_contexts
    with files.FeaturesWriter(path, first=first, n_tokens=n_tokens) as writer:
        yield lambda block: writer.add(index_packing.pack_features(block, context_size=context_size, n_tokens=n_tokens))


def put_features(blobs: storage.Store, key: str, scratch: Path, *, first: int) -> dict[str, Any]:
    """Store a finished features file; what `name_files` has to know of it."""
    n_bytes = scratch.stat().st_size
    blobs.put(key, scratch)
    return {"key": key, "first": first, "n_bytes": n_bytes}


def name_files(
    session: Session, revision_id: int, features: Sequence[dict[str, Any]], tokens: Sequence[dict[str, Any] | None]
) -> None:
    """Make these blobs the revision's index, and count their size.

    Where one is missing (a worker whose setting forbids indexes has encoded the part) none is kept.

    Args:
        session: Committed by the caller.
        revision_id: A revision of theirs.
        features: What `put_features` gave for each range, ascending.
        tokens: What `put_tokens` gave for each part, in order of context; None for one that was not put.
    """
    given = [file for file in tokens if file is not None]
    if len(given) < len(tokens):
        logs.event(_logger, "index.not_kept", revision_id=revision_id, n_missing=len(tokens) - len(given))
        return
    used = {"features": list(features), "tokens": [file for file in given if not file["is_empty"]]}
    named = {kind: [{"key": file["key"], "first": file["first"]} for file in of] for kind, of in used.items()}
    kept_index.set_files(session, revision_id, named, sum(file["n_bytes"] for of in used.values() for file in of))
