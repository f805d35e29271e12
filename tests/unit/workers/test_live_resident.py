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
from tests.unit.embedded.waiting import until
from workers.live.resident import Ready, Residents

MODELS = ("tiny-a", "tiny-b")
MB = 1e-3
"""In gigabytes."""
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
            facts = {"hook_point": "blocks.1.hook_resid_post", "layer": 1, "architecture": "jumprelu", "d_in": 16}
            catalog.add_source(
                session, model, "1-x", weights=str(folder / f"sae-{model}"), config={}, d_sae=64, **facts
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
