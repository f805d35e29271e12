"""Explanations in bulk: imported twice, under taken ids, and exported in order."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import func, select

from backend import errors
from backend.db.tables import Explanation
from backend.formats import neuronpedia_explanations
from backend.services import explanation_files, explanation_search
from backend.services.explanation_search import Scope
from tests import hosted
from tests.hosted import MODEL, SOURCE


@pytest.fixture
def made(session):
    return hosted.host(session)


def row(index: object = 1, description: str = "cats", **given: object) -> dict[str, object]:
    return {"id": "a", "modelId": "gpt2-small", "layer": "6-res-jb", "index": index, "description": description} | given


def stored(session, source: str = SOURCE):
    return list(explanation_files.every(session, MODEL, source))


def test_rows_are_added_then_brought_up_to_date(session, made):
    when = "2024-09-18T20:48:56.632Z"
    rows = [
        row("1", id="a", authorId="clkht01d4", typeName="oai_token-act-pair", explanationModelName="gpt-4o-mini", createdAt=when),
        row(2, "dogs", id="b", embedding="[0.5, -0.1, 1e-60]", embeddingModel="large", umap_x=1.5, umap_cluster=3, scoreV2=0.5),
        row(1, "more cats", id="c", embedding=[0.25]),
    ]  # fmt: skip
    assert explanation_files.upsert_many(session, made.source_id, rows) == 3
    first, second, third = stored(session)
    assert [each.place for each in (first, second, third)] == [(1, "a"), (1, "c"), (2, "b")]
    a, b = first.view, third.view
    assert (a.author, a.author_id, a.type_name, a.model_name) == (
        "clkht01d4",
        None,
        "oai_token-act-pair",
        "gpt-4o-mini",
    )
    assert a.created_at == datetime(2024, 9, 18, 20, 48, 56, 632_000, UTC)
    assert (b.umap_x, b.umap_cluster, b.score_v2, b.score_v1) == (1.5, 3, 0.5, None)
    assert (first.embedding, second.embedding, third.embedding) == (None, (0.25,), (0.5, -0.1, 0.0))
    assert third.embedding_model == "large"
    before = stored(session)
    explanation_files.upsert_many(session, made.source_id, rows)
    assert stored(session) == before
    explanation_files.upsert_many(session, made.source_id, [row(2, "birds", id="b"), row(3, "fish", id="d")])
    assert [each.view.description for each in stored(session)] == ["cats", "more cats", "birds", "fish"]
    assert explanation_search.search(session, "dogs").results == ()


def test_of_rows_with_one_id_the_last_counts_and_rows_without_one_get_theirs(session, made):
    rows = [row(1, "old"), row(1, "new"), row(1, "same", id=None), row("1", "same", id=None), row(2, "same", id=None)]
    assert explanation_files.upsert_many(session, made.source_id, rows) == 5
    assert [each.view.description for each in stored(session)] == ["new", "same", "same"]
    explanation_files.upsert_many(session, made.source_id, rows[2:])
    assert session.scalar(select(func.count()).select_from(Explanation)) == 3
    assert explanation_files.upsert_many(session, made.source_id, []) == 0


def test_an_id_that_another_source_has_is_left_there(session, made):
    other = hosted.add_source(session, source="3-else")
    explanation_files.upsert_many(session, made.source_id, [row()])
    for _ in range(2):
        explanation_files.upsert_many(session, other, [row(4, "other cats"), row(5, "dogs", id="b")])
    assert [each.view.description for each in stored(session)] == ["cats"]
    first, second = stored(session, "3-else")
    assert (first.view.description, second.view.id) == ("other cats", "b")
    assert first.view.id not in ("a", "b")
    session.delete(session.get(Explanation, "a"))
    explanation_files.upsert_many(session, other, [row(4, "still other cats")])
    assert [each.view.id for each in stored(session, "3-else")] == [first.view.id, "b"]


def test_nothing_is_written_where_a_row_cannot_be_read(session, made):
    with pytest.raises(errors.InvalidInputError, match="The explanation 'z' has '' as its description"):
        explanation_files.upsert_many(session, made.source_id, [row(), row(1, "", id="z")])
    assert stored(session) == []


def test_exports_go_on_where_they_stopped_and_read_back(session, made):
    rows = [row(k % 6, f"cats {k}", id=f"{k:03}", embedding=[k / 10]) for k in range(25)]
    explanation_files.upsert_many(session, made.source_id, rows)
    whole = stored(session)
    assert [each.place for each in whole] == sorted(each.place for each in whole)
    some = explanation_files.read(session, MODEL, SOURCE, n=10)
    rest = explanation_files.read(session, MODEL, SOURCE, after=some[-1].place)
    assert [*some, *rest] == whole
    lines = [neuronpedia_explanations.file_row(each.view, each.embedding, each.embedding_model) for each in whole]
    other = hosted.add_source(session, source="3-else")
    for line in lines:
        line["id"] += "-copy"
    explanation_files.upsert_many(session, other, lines)
    copies = stored(session, "3-else")
    assert [(each.view.description, each.embedding) for each in copies] == [
        (each.view.description, each.embedding) for each in whole
    ]
    assert len(explanation_search.search(session, "cats", Scope(MODEL, ("3-else",)), n=30).results) == 25
    assert list(explanation_files.every(session, MODEL, "9-none")) == []
