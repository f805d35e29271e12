"""A corpus is tokenised once: found again by all it was made from, or by its id."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy.orm import Session, sessionmaker

from backend import errors, hub, storage
from backend.services import catalog, corpora, ingest
from backend.settings import Settings
from tests import tiny
from tests.database import connection as connection
from tests.database import database_url as database_url
from tests.database import engine as engine
from tests.database import session as session
from tests.database import sessions as sessions
from workers import prepared, runtime
from workers.compute import corpus as rows_of


@pytest.fixture
def place(sessions: sessionmaker[Session], session: Session, tmp_path: Path) -> prepared.Place:
    catalog.add_model(session, "m", "/m")
    session.commit()
    settings = Settings(data=tmp_path / "data")

    @contextlib.contextmanager
    def scratch(name: str) -> Iterator[Path]:
        (tmp_path / "scratch").mkdir(exist_ok=True)
        yield tmp_path / "scratch" / name

    of = hub.Hub(tmp_path / "hub", False)
    return prepared.Place(sessions, storage.store(settings), storage.mirror(settings), scratch, "m", of)


@pytest.fixture
def n_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that texts are tokenised."""
    read: list[int] = []
    tokenise = rows_of._token_ids

    def counted(batch, tokenizer):
        if batch:
            read.append(len(batch))
        return tokenise(batch, tokenizer)

    monkeypatch.setattr(rows_of, "_token_ids", counted)
    return read


def prepare(place, loaded, spec, corpus_id=None) -> tuple[int, np.ndarray, bool]:
    with prepared.prepare(place, loaded, spec, corpus_id) as found:
        with place.sessions() as session:
            vocabulary_id = ingest.store_vocabulary(session, loaded.vocabulary, loaded.model.special_tokens)
            stored = found.store(session, "m", vocabulary_id)
            session.commit()
        return stored, np.array(found.rows.rows), found.longer is not None


def test_the_same_again_reads_nothing(place: prepared.Place, n_read: list[int], tmp_path: Path) -> None:
    model = tiny.save_model(tmp_path / "m")
    first, second = (tiny.save_sae(tmp_path / f"sae{i}", seed=i) for i in range(2))
    (tmp_path / "text.txt").write_text(tiny.text())
    spec = runtime.Spec(corpus=str(tmp_path / "text.txt"), device="cpu", threads=1, context_size=8)
    loaded = runtime.load(str(model), [first], spec)
    corpus_id, rows, has_longer = prepare(place, loaded, spec)
    assert n_read
    n_read.clear()
    assert prepare(place, loaded, spec)[0] == corpus_id
    again = prepare(place, runtime.load(str(model), [second], spec), spec)
    assert again[0] == corpus_id
    assert again[1].tobytes() == rows.tobytes()
    assert again[2] == has_longer
    chosen = prepare(place, loaded, replace(spec, corpus=f"corpus:{corpus_id}"))
    assert chosen[0] == prepare(place, loaded, replace(spec, corpus=""), corpus_id)[0] == corpus_id
    assert not n_read, "nothing was tokenised"
    for other in (replace(spec, context_size=16), replace(spec, max_tokens=160), replace(spec, is_apart=True)):
        with contextlib.suppress(errors.InvalidInputError):
            assert prepare(place, loaded, other)[0] != corpus_id
        assert n_read
        n_read.clear()
    (tmp_path / "text.txt").write_text(tiny.text() + "more" * 50)
    assert prepare(place, loaded, spec)[0] != corpus_id
    with place.sessions() as session:
        listed = corpora.of_model(session, "m")
    assert {each.id for each in listed} >= {corpus_id}
    assert all(each.name == "text.txt" and each.has_documents and each.used_by == () for each in listed)
    with pytest.raises(errors.InvalidInputError, match="no corpus 999"):
        prepare(place, loaded, replace(spec, corpus="corpus:999"))
    with pytest.raises(errors.InvalidInputError, match="names no corpus"):
        prepare(place, loaded, replace(spec, corpus="corpus:x"))


def test_an_attempt_that_ends_early_leaves_no_corpus(place: prepared.Place, tmp_path: Path) -> None:
    model, sae = tiny.save_model(tmp_path / "m"), tiny.save_sae(tmp_path / "sae")
    (tmp_path / "text.txt").write_text(tiny.text())
    spec = runtime.Spec(corpus=str(tmp_path / "text.txt"), device="cpu", threads=1, context_size=8)
    loaded = runtime.load(str(model), [sae], spec)
    with pytest.raises(KeyError), prepared.prepare(place, loaded, spec):
        raise KeyError("killed after its blobs were put")
    with place.sessions() as session:
        assert corpora.of_model(session, "m") == ()
    assert prepare(place, loaded, spec)[0]
    blobs = Path(place.blobs.root)
    assert not [path for path in blobs.rglob("*") if path.name.endswith(".partial")]


def test_uploads_are_read_by_key(place: prepared.Place, tmp_path: Path) -> None:
    model, sae = tiny.save_model(tmp_path / "m"), tiny.save_sae(tmp_path / "sae")
    (tmp_path / "given").write_text(tiny.text())
    place.blobs.put("corpora-raw/ab/story.txt", tmp_path / "given")
    spec = runtime.Spec(corpus="blob:corpora-raw/ab", device="cpu", threads=1, context_size=8)
    loaded = runtime.load(str(model), [sae], spec)
    with prepared.prepare(place, loaded, spec) as found:
        assert found.facts.name == "story.txt"
        assert found.rows.starts is not None
        assert found.rows.starts.of(0)[0] == (0, "story.txt")
    with (
        pytest.raises(errors.InvalidInputError, match="Upload it again"),
        prepared.prepare(place, loaded, replace(spec, corpus="blob:corpora-raw/none")),
    ):
        pass
