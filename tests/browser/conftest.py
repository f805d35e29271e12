"""A real browser on pages served from samples: no database, the real assets. Gone after each module: services are patched.

Skipped where Chromium, Playwright or the built assets are missing; `make setup` builds the latter.
"""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright
from sqlalchemy.orm import Session

from backend.formats import messages
from backend.services import catalog, events, explanations, feature_notes, features, filling, inference, jobs
from backend.settings import Settings
from backend.web.app import create_app
from backend.web.dependencies import db_session
from tests.pages import samples, scan_samples

expect.set_options(timeout=60_000)  # a busy machine makes no test fail
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FEATURE = f"/{samples.MODEL}/{samples.SOURCE}/12345"
SOURCE = f"/{samples.MODEL}/{samples.SOURCE}"

Open = Callable[..., Page]


class Work:
    """The job that pages show; tests change it while they watch."""

    def __init__(self) -> None:
        self.job = samples.job()


@pytest.fixture
def work() -> Work:
    _work.job = samples.job()
    return _work


_work = Work()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed; CHROMIUM may name its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    assets = Settings().assets
    if not Path(assets, "manifest.json").exists():
        pytest.skip(f"{assets} is not built; run `make setup`")
    with pytest.MonkeyPatch.context() as patch:
        _serve_samples(patch)
        app = create_app(Settings(database_url="postgresql+psycopg2://nobody@localhost/none", assets=assets))
        app.dependency_overrides[db_session] = Session  # of no database: services answer with samples
        config = uvicorn.Config(app, port=0, ws="none", lifespan="off", log_level="error")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        server.should_exit = True
        thread.join()


def _serve_samples(patch: pytest.MonkeyPatch) -> None:
    def feature(_: object, ref: object) -> features.FeatureView:
        return (
            samples.dead_feature()
            if getattr(ref, "index", 0) == 77
            else samples.feature(index=getattr(ref, "index", 0))
        )

    def source(_: object, model: str, name: str) -> catalog.SourceView:
        return samples.uncomputed_source() if name.startswith("7") else samples.source()

    patch.setattr(features, "get", feature)
    patch.setattr(explanations, "of_feature", lambda *_: ())
    patch.setattr(explanations, "headlines", lambda *_: {})
    patch.setattr(feature_notes, "of", lambda *_: feature_notes.FeatureNotes(False, (), (), ()))
    patch.setattr(features, "browse", lambda _, model, source, query: samples.page(query))
    patch.setattr(features, "random_index", lambda *_: 4242)
    patch.setattr(catalog, "source", source)
    patch.setattr(catalog, "quality", lambda *_: samples.quality())
    patch.setattr(catalog, "model", lambda *_: samples.model())
    patch.setattr(catalog, "sources_of", lambda *_: samples.model().sources)
    patch.setattr(catalog, "models", lambda *_: (samples.model(),))
    patch.setattr(jobs, "of_source", lambda _, model, source: _work.job if source.startswith("7") else None)
    patch.setattr(jobs, "get", lambda *_: _work.job)
    patch.setattr(jobs, "latest", lambda *_: (_work.job,))
    patch.setattr(catalog, "look", lambda *_: samples.look())
    patch.setattr(events, "newest", lambda *_: samples.log())
    patch.setattr(filling, "of_job", lambda *_: samples.so_far())
    patch.setattr(inference, "places", lambda _, model, sources: inference.Places(model, "gpt2", 1024, {}))
    patch.setattr(inference.Client, "check_worker", lambda *_: None)
    patch.setattr(inference.Client, "ask", _answer)


async def _answer(client: inference.Client, request: messages.Request, **_: object) -> messages.Reply:
    """What a live worker would say."""
    assert isinstance(request, messages.ScanRequest)
    return scan_samples.reply()


@pytest.fixture
def open_page(browser: Browser, base_url: str) -> Iterator[Open]:
    """Opens a path; whatever the console says, or the content security policy refuses, fails the test."""
    said: list[str] = []
    contexts = []

    def open_(path: str, *, width: int = 1440, scheme: str = "light", scripts: bool = True) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            java_script_enabled=scripts,
            base_url=base_url,
            permissions=["clipboard-read", "clipboard-write"],
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(path)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not said
