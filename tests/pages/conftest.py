"""Pages rendered from samples; the built assets are stand-ins, so no test here needs Node."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.web.rendering import Renderer
from tests.database import connection as connection
from tests.database import database_url as database_url
from tests.database import engine as engine
from tests.database import session as session
from tests.database import sessions as sessions
from tests.pages import dom, preview

Rendered = Callable[[str], dom.Element]


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("assets")
    built = {"main.js": "main-1.js", "main.css": "main-2.css", "icon.svg": "icon-3.svg"}
    for name in built.values():
        (folder / name).write_text("/* built */")
    (folder / "manifest.json").write_text(json.dumps(built))
    return folder


@pytest.fixture(scope="session")
def renderer(assets: Path) -> Renderer:
    return Renderer(assets)


@pytest.fixture(scope="session")
def html(renderer: Renderer) -> Callable[[str], str]:
    """A sample page by its name in `preview`, as text."""
    pages = preview.pages()
    return lambda name: renderer.html(*pages[name])


@pytest.fixture(scope="session")
def rendered(html: Callable[[str], str]) -> Rendered:
    """A sample page by its name, as a tree."""
    return lambda name: dom.parse(html(name))
