"""From a page's context to its HTML: the template environment, and where the built browser assets are.

A page is a frozen dataclass and the template named for it; templates see it as `page`, besides the modules that write
links, numbers and tokens. Undefined names are errors. Assets are named by content, so they are cached for ever.
"""

import json
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from backend import errors, names
from backend.settings import REPOSITORY
from backend.web import charts, definitions, links, numerals, token_text

TEMPLATES = REPOSITORY / "frontend" / "templates"
THEMES = frozenset({"light", "dark"})
STATIC_URL = "/static"


class Renderer:
    """Renders templates with the assets of one build."""

    def __init__(self, assets: Path) -> None:
        self._manifest = read_manifest(assets)
        self._environment = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.globals.update(
            asset=self.asset_url, names=names, links=links, defined=definitions.get, charts=charts
        )
        self._environment.filters.update(
            count=numerals.count,
            short_count=numerals.short_count,
            size=numerals.size,
            percent=numerals.percent,
            exact_percent=numerals.exact_percent,
            fixed=numerals.fixed,
            signed=numerals.signed,
            significant=numerals.significant,
            duration=numerals.duration,
            moment=numerals.moment,
            token=token_text.isolated,
        )

    def asset_url(self, name: str) -> str:
        """Where the browser finds a built asset, such as `main.js`."""
        return f"{STATIC_URL}/{self._manifest[name]}"

    def html(self, template: str, page: Any, *, theme: str = "") -> str:
        """The page as text. `theme` is light, dark, or empty for what the reader's system says."""
        return self._environment.get_template(template).render(page=page, theme=theme if theme in THEMES else "")


def read_manifest(assets: Path) -> dict[str, str]:
    """Asset names to file names; raises `UnavailableError` if nothing was built."""
    try:
        manifest: dict[str, str] = json.loads((assets / "manifest.json").read_text())
    except (OSError, ValueError) as error:
        raise errors.UnavailableError("The browser assets are not built.", hint="Run `make setup` first.") from error
    return manifest


def respond(request: Request, template: str, page: Any, *, status: int = 200) -> HTMLResponse:
    """The page as a response, in the theme the reader chose."""
    renderer: Renderer = request.app.state.renderer
    html = renderer.html(template, page, theme=request.cookies.get("theme", ""))
    return HTMLResponse(html, status, headers={"Vary": "Cookie", "Cache-Control": "no-cache"})
