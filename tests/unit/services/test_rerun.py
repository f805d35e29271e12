"""Computing sources again: what stays, what changes, and who may."""

import pytest
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Job
from backend.services import access, jobs, rerun, visibility
from tests import hosted
from tests.hosted import MODEL, SOURCE

ASKED = {"corpus": "/text", "is_tokens": False, "seed": 3, "dtype": "float32"}
PREPARED = {"corpus_id": 7, "longer_key": "", "batch_contexts": 32, "written_at": [1, 2]}


@pytest.fixture
def made(session: Session) -> hosted.Hosted:
    """A source that was computed from a text."""
    made = hosted.host(session)
    jobs.cancel(session, jobs.create(session, [made.source_id], ASKED | PREPARED))
    return made


def spec(session: Session, job_id: int) -> dict[str, object]:
    return session.get_one(Job, job_id).spec


def test_what_is_not_changed_stays_and_what_preparing_found_is_left_out(session: Session, made) -> None:
    assert spec(session, rerun.rerun(session, MODEL, [SOURCE], {})) == ASKED


def test_options_change(session: Session, made) -> None:
    job_id = rerun.rerun(session, MODEL, [SOURCE], {"context_size": 64, "seed": 0})
    assert spec(session, job_id) == ASKED | {"context_size": 64, "seed": 0}


def test_another_corpus_takes_the_place_of_the_one_there_was(session: Session, made, tmp_path) -> None:
    prepared = rerun.corpus_given(session, MODEL, corpus_id=made.corpus_id, corpus_path=None, is_tokens=False)
    job_id = rerun.rerun(session, MODEL, [SOURCE], prepared)
    assert spec(session, job_id) == ASKED | {"corpus": f"corpus:{made.corpus_id}"}
    jobs.cancel(session, job_id)
    with pytest.raises(errors.InvalidInputError, match="prepared already"):
        rerun.rerun(session, MODEL, [SOURCE], {"context_size": 64})
    text = tmp_path / "text.txt"
    text.write_text("x")
    given = rerun.corpus_given(session, MODEL, corpus_id=None, corpus_path=str(text), is_tokens=False)
    again = rerun.rerun(session, MODEL, [SOURCE], given | {"context_size": 64})
    assert spec(session, again) == ASKED | {"corpus": str(text.resolve()), "context_size": 64}


def test_a_retry_keeps_the_corpus_that_was_asked_for(session: Session, made) -> None:
    job_id = rerun.rerun(session, MODEL, [SOURCE], {"corpus": "", "corpus_id": made.corpus_id})
    jobs.cancel(session, job_id)
    jobs.set_cleared(session, job_id)
    jobs.retry(session, job_id)
    assert spec(session, job_id)["corpus_id"] == made.corpus_id


def test_a_source_never_computed_needs_a_corpus(session: Session) -> None:
    hosted.host(session)
    with pytest.raises(errors.InvalidInputError, match="never computed"):
        rerun.rerun(session, MODEL, [SOURCE], {})


def test_one_that_is_being_computed_is_refused(session: Session, made) -> None:
    rerun.rerun(session, MODEL, [SOURCE], {})
    with pytest.raises(errors.ConflictError, match="already"):
        rerun.rerun(session, MODEL, [SOURCE], {})


def test_only_who_may_change_a_source_computes_it_again_and_only_the_operator_names_files(session, made) -> None:
    visibility.see_as(session, access.Viewer(7, "other", frozenset({"read", "write"})))
    with pytest.raises(errors.ForbiddenError):
        rerun.rerun(session, MODEL, [SOURCE], {})
    with pytest.raises(errors.ForbiddenError):
        rerun.corpus_given(session, MODEL, corpus_id=None, corpus_path="/etc/passwd", is_tokens=False)
