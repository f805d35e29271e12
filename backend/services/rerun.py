"""Computing sources again, as they were last computed but for what is changed: another corpus, context size or limit.

Readers see the dashboards there are until the new ones are complete. Another width is another SAE, so another source of
the set: it is added, not computed again.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Job, JobSource, Source
from backend.services import access, catalog, hosting, jobs, limits
from backend.services.visibility import addressed, unrestricted

OPTIONS = ("context_size", "max_tokens", "dtype", "seed", "quality_tokens", "keep_index")


def last_spec(session: Session, source_id: int) -> dict[str, Any]:
    """What was asked when the source was last computed; empty if it never was, an import left aside."""
    found = select(Job.spec).join(JobSource, JobSource.job_id == Job.id).where(JobSource.source_id == source_id)
    found = found.where(~Job.spec.has_key("import"))
    spec = session.scalar(unrestricted(found.order_by(Job.id.desc()).limit(1)))
    return {} if spec is None else jobs.asked(spec)


def corpus_given(
    session: Session, model: str, *, corpus_id: int | None, corpus_path: str | None, is_tokens: bool
) -> dict[str, Any]:
    """The part of a spec that another corpus is; empty for the one there was. Raises as `hosting.corpus_of` and `_at`."""
    if corpus_id is not None and corpus_path:
        raise errors.InvalidInputError("give one corpus, by its id or by its path.")
    if corpus_id is not None:
        return hosting.corpus_of(session, model, corpus_id)
    if corpus_path:
        return hosting.corpus_at(access.viewer_of(session), corpus_path) | {"is_tokens": is_tokens}
    return {}


def rerun(session: Session, model: str, sources: Sequence[str], changed: dict[str, Any]) -> int:
    """Queue a job that computes sources of a model again; its id.

    Args:
        session: Committed by the caller.
        model: Theirs.
        sources: Their names, in the order they are to be finished.
        changed: Parts of the spec that differ from the first source's last job: `OPTIONS`, and `corpus_given`'s.

    Raises:
        NotFoundError: There is no such source.
        InvalidInputError: It was never computed and no corpus is given, or a prepared corpus is to be cut anew.
        ConflictError: One of them is being computed.
        SiteError: The asker may not.
    """
    viewer = access.viewer_of(session)
    ids = []
    for name in sources:
        access.check_may_change(viewer, catalog.source(session, model, name).owner_id)
        found = select(Source.id).where(Source.model_id == model, Source.name == name)
        ids.append(session.scalars(addressed(found)).one())
    if not ids:
        raise errors.InvalidInputError("no source is named.", hint="Name one or several, each model/source.")
    limits.check_jobs(session, viewer)
    base = last_spec(session, ids[0])
    if "corpus" in changed:
        base = {name: value for name, value in base.items() if name not in ("corpus", "corpus_id", "is_tokens")}
    spec = base | changed
    if "corpus" not in spec:
        raise errors.InvalidInputError(f"'{model}/{sources[0]}' was never computed.", hint="Give a corpus.")
    hosting.check_cut(spec, changed)
    return jobs.create(session, ids, spec, owner_id=viewer.account_id)
