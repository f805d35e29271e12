"""Prepared corpora to choose from."""

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Source
from backend.services import access, corpora, visibility
from tests import hosted
from tests.hosted import MODEL, SOURCE


def test_corpora_to_choose_from_are_the_models_and_those_the_viewer_may_see(session: Session) -> None:
    made = hosted.host(session)
    other = hosted.host(session, model="other", source="2-hidden")
    (found,) = corpora.of_model(session, MODEL)
    assert (found.id, found.model, found.name, found.n_tokens) == (made.corpus_id, MODEL, "some text", 10_000)
    assert found.used_by == (SOURCE,)
    assert [each.id for each in corpora.of_every_model(session)] == [other.corpus_id, made.corpus_id]
    with pytest.raises(errors.NotFoundError):
        corpora.of_model(session, "none")

    session.execute(update(Source).where(Source.id == other.source_id).values(visibility="private"))
    visibility.see_as(session, access.Viewer(7, "somebody", frozenset({"read", "write"})))
    assert [each.id for each in corpora.of_every_model(session)] == [made.corpus_id]
