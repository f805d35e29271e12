"""From a page's context to its HTML: the template environment, and where the built browser assets are.

A page is a frozen dataclass and the template named for it; templates see it as `page`, besides the modules that write
links, numbers and tokens. Undefined names are errors. Assets are named by content, so they are cached for ever.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from backend import errors, names
from backend.services import access
from backend.services.access import Viewer
from backend.settings import REPOSITORY, Access, Settings
from backend.web import charts, definitions, embedding, links, numerals, token_text

TEMPLATES = REPOSITORY / "frontend" / "templates"
THEMES = frozenset({"light", "dark"})
STATIC_URL = "/static"


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who reads a page, as its top and its forms need to know."""

    name: str = ""
    """Of the account; empty where nobody is signed in."""
    is_admin: bool = True
    can_write: bool = True
    has_accounts: bool = False
    """People may sign in here."""
    form_token: str = ""
    path: str = "/"
    """Of this page: where signing in leads back to."""

    @property
    def form_field(self) -> Markup:
        """What every form that changes something holds."""
        field = Markup('<input type="hidden" name="form_token" value="{}">')
        return field.format(self.form_token) if self.form_token else Markup("")


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
            asset=self.asset_url, names=names, links=links, defined=definitions.get, charts=charts, embedding=embedding
        )
        self._environment.filters.update(
            count=numerals.count,
            short_count=numerals.short_count,
            size=numerals.size,
            percent=numerals.percent,
            exact_percent=numerals.exact_percent,
            fixed=numerals.fixed,
            signed=numerals.signed,
            minus=numerals.minus,
            significant=numerals.significant,
            duration=numerals.duration,
            moment=numerals.moment,
            token=token_text.isolated,
        )

    def asset_url(self, name: str) -> str:
        """Where the browser finds a built asset, such as `main.js`."""
        return f"{STATIC_URL}/{self._manifest[name]}"

    def html(self, template: str, page: Any, *, theme: str = "", visitor: Visitor = Visitor()) -> str:
        """The page as text. `theme` is light, dark, or empty for what the reader's system says."""
        chosen = theme if theme in THEMES else ""
        return self._environment.get_template(template).render(page=page, theme=chosen, visitor=visitor)


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
    html = renderer.html(template, page, theme=request.cookies.get("theme", ""), visitor=visitor_of(request))
    return HTMLResponse(html, status, headers={"Vary": "Cookie", "Cache-Control": "no-cache"})


def visitor_of(request: Request) -> Visitor:
    """Who reads; nobody where an error came before it was known."""
    viewer: Viewer = getattr(request.state, "viewer", access.NOBODY)
    settings: Settings = request.app.state.settings
    path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return Visitor(
        viewer.name, viewer.is_admin, "write" in viewer.scopes, settings.access is Access.ACCOUNTS,
        getattr(request.state, "form_token", ""), path,
    )  # fmt: skip
