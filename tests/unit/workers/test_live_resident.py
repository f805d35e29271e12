"""Models and sources kept within a budget, on real weights and real rows."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from backend import errors, storage
from backend.db.session import transaction
from backend.formats import messages
from backend.services import catalog, inference
from backend.settings import Settings
from tests import tiny
from tests.database import connection as connection
from tests.database import database_url as database_url
from tests.database import engine as engine
from tests.database import sessions as sessions
from tests.unit.embedded.waiting import until
from workers.live.resident import Ready, Residents

MODELS = ("tiny-a", "tiny-b")
Make = Callable[..., Residents]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resident")
    for seed, model in enumerate(MODELS):
        tiny.save_model(folder / model, seed=seed)
        tiny.save_sae(folder / f"sae-{model}", d_sae=64, seed=seed)
    return folder


@pytest.fixture
def make(folder: Path, sessions: sessionmaker[Session], tmp_path: Path) -> Make:
    with transaction(sessions) as session:
        for model in MODELS:
            catalog.add_model(session, model, str(folder / model))
            catalog.add_source(
                session, model, "1-x", hook_point="blocks.1.hook_resid_post", architecture="jumprelu", d_in=16,
                d_sae=64, weights=str(folder / f"sae-{model}"), config={},
            )  # fmt: skip

    def make(memory_gb: float = 1.0) -> Residents:
        settings = Settings(data=tmp_path, live_memory_gb=memory_gb)
        return Residents(settings, sessions, storage.mirror(settings))

    return make


def about(model: str, *, version: str = "1") -> messages.FiringsRequest:
    return messages.FiringsRequest(
        id="a", reply_to="r", deadline_at=2e9, model=model, versions={"": version}, source="1-x", texts=("a",)
    )


def ready(residents: Residents, request: messages.Request) -> Ready:
    """Turns until everything is there."""
    found: list[Ready] = []

    def is_there() -> bool:
        residents.turn()
        now = residents.ready(request)
        found.extend([] if now is None else [now])
        return now is not None

    until(is_there)
    return found[0]


def test_what_a_request_needs_is_loaded_once_and_then_there_at_once(make: Make) -> None:
    residents = make()
    first = ready(residents, about("tiny-a"))
    assert first.model.vocabulary[0] == tiny.SEPARATOR
    assert first.sources["1-x"].place.d_sae == 64
    again = residents.ready(about("tiny-a", version="2"))
    assert again is not None, "rows in another state, the same weights"
    assert again.model is first.model
    assert again.sources["1-x"].encoder is first.sources["1-x"].encoder
    assert residents.n_bytes >= first.model.n_bytes + 2 * 4 * 16 * 64
    residents.close()


def test_the_model_used_longest_ago_goes_when_the_next_does_not_fit(make: Make) -> None:
    whole = make()
    one = ready(whole, about("tiny-a")), whole.n_bytes
    whole.close()
    residents = make(1.9 * one[1] / 1e9)
    for model in (*MODELS, *MODELS):
        assert ready(residents, about(model)).sources["1-x"].place.model_weights.endswith(model)
        assert residents.n_bytes <= 1.9 * one[1]
    assert residents.ready(about("tiny-a")) is None
    residents.close()


def test_what_is_held_stays(make: Make) -> None:
    residents = make(1e-9)
    held = ready(residents, about("tiny-a"))
    residents.hold(held)
    ready(residents, about("tiny-b"))
    still = residents.ready(about("tiny-a"))
    assert still is not None
    assert still.model is held.model
    residents.release(held)
    ready(residents, about("tiny-b"))
    residents.close()


def test_weights_that_cannot_be_loaded_are_told_to_who_asks_and_tried_again(make: Make, folder: Path) -> None:
    residents = make()
    weights = folder / "sae-tiny-a" / "sae_weights.safetensors"
    packed = weights.read_bytes()
    weights.write_bytes(packed[:-8])
    with pytest.raises(errors.SiteError):
        ready(residents, about("tiny-a"))
    weights.write_bytes(packed)
    assert ready(residents, about("tiny-a")).sources["1-x"].place.d_sae == 64
    residents.close()


def test_weights_trained_anew_are_loaded_anew(make: Make, folder: Path) -> None:
    residents = make()
    first = ready(residents, about("tiny-b"))
    weights = folder / "sae-tiny-b" / "sae_weights.safetensors"
    at = weights.stat().st_mtime_ns + 1_000_000_000
    os.utime(weights, ns=(at, at))
    residents.turn()
    assert residents.ready(about("tiny-b")) is None
    assert ready(residents, about("tiny-b")).sources["1-x"].encoder is not first.sources["1-x"].encoder
    residents.close()


def test_what_is_not_hosted_is_refused(make: Make) -> None:
    residents = make()
    with pytest.raises(errors.NotFoundError):
        residents.ready(about("tiny-c"))
    residents.close()


def test_a_version_changes_with_rows_and_with_files(make: Make, folder: Path, sessions: sessionmaker[Session]) -> None:
    make()

    def versions() -> dict[str, str]:
        with transaction(sessions) as session:
            return inference.places(session, "tiny-a", ("1-x",)).versions

    first = versions()
    assert set(first) == {"", "1-x"}
    assert versions() == first
    config = folder / "sae-tiny-a" / "cfg.json"
    at = 2_000_000_000 * 10**9  # later than whatever the other tests wrote
    os.utime(config, ns=(at, at))
    changed = versions()
    assert changed[""] == first[""]
    assert changed["1-x"] != first["1-x"]
