"""What holds of every page: strict enough for the content security policy, usable without a mouse, links that lead on."""

import re
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from starlette.routing import Match

from backend.settings import REPOSITORY, Settings
from backend.web.app import create_app
from tests.pages import preview
from tests.pages.dom import Element

PAGES = sorted(preview.pages())
INTERACTIVE = ("a", "button", "input", "select", "textarea", "summary")
TEMPLATES = REPOSITORY / "frontend" / "templates"


@pytest.fixture(scope="module")
def app(assets):
    return create_app(Settings(database_url="postgresql+psycopg2://nobody@localhost/none", assets=assets))


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_inline_that_the_policy_forbids(rendered, name):
    for element in rendered(name).walk():
        assert element.tag != "style"
        assert element.tag != "script" or (element["src"] and not element.text.strip())
        assert not [a for a in element.attributes if a == "style" or a.startswith("on")], element
        assert not (element.get("href") or "").startswith("javascript:")


@pytest.mark.parametrize("name", PAGES)
def test_every_interactive_element_has_a_name(rendered, name):
    page = rendered(name)
    labels = {label["for"]: label.text for label in page.all("label") if label.get("for")}
    wrapped = {id(e): label.text for label in page.all("label") for e in label.walk()}
    for element in page.walk():
        if element.tag not in INTERACTIVE or element.get("type") == "hidden":
            continue
        names = (
            element.get("aria-label"),
            element.text,
            labels.get(element.get("id") or ""),
            wrapped.get(id(element)),
            *(image.get("aria-label") for image in element.all("svg")),
        )
        assert any(name and name.strip() for name in names), element


@pytest.mark.parametrize("name", PAGES)
def test_every_page_has_one_heading_a_title_and_unique_ids(rendered, name):
    page = rendered(name)
    assert page.one("h1").text.strip()
    assert page.one("html")["lang"] == "en"
    assert page.one("head").all("title")[0].text.endswith(" · Eyepiece")
    assert not [i for i, n in Counter(e["id"] for e in page.walk() if e.get("id")).items() if n > 1]


@pytest.mark.parametrize("name", PAGES)
def test_references_inside_the_page_lead_somewhere(rendered, name):
    page = rendered(name)
    ids = {e["id"] for e in page.walk() if e.get("id")}
    for element in page.walk():
        for attribute in ("aria-labelledby", "aria-controls", "for", "data-opens"):
            assert set((element.get(attribute) or "").split()) <= ids, element


@pytest.mark.parametrize("name", PAGES)
def test_every_link_and_form_leads_to_a_route(rendered, name, app):
    for element in rendered(name).walk():
        url = element.get("href") or element.get("action") or element.get("data-url")
        if element.get("type") == "application/json+oembed":  # read by other sites, which want whole addresses
            url = (url or "").removeprefix(preview.ORIGIN)
        if url and not url.startswith("#") and element.tag != "use":
            method = (element.get("method") or "get").upper()
            assert url.startswith("/"), element
            assert leads_somewhere(app, method, urlsplit(url).path), element


@pytest.mark.parametrize("name", PAGES)
def test_fragments_of_links_to_definitions_exist(rendered, name):
    ids = {e.get("id") for e in rendered("definitions").walk()}
    linked = {urlsplit(a.get("href") or "").fragment for a in rendered(name).all("a", "term")}
    assert linked <= ids


@pytest.mark.parametrize("path", sorted(TEMPLATES.rglob("*.html")), ids=lambda p: p.name)
def test_templates_build_no_urls_themselves(path: Path):
    """They come from `names`, `links`, the asset manifest or the page's context."""
    for url in re.findall(r'(?:href|action|src|data-url)="([^"]*)"', path.read_text()):
        assert re.fullmatch(r"#[\w-]+|\{\{ ?[^}]+\}\}", url), url
    assert len(path.read_text().splitlines()) <= 150


@pytest.mark.parametrize("path", sorted((REPOSITORY / "frontend/static/js").glob("*.js")), ids=lambda p: p.name)
def test_each_controller_is_short(path: Path):
    assert len(path.read_text().splitlines()) <= 150


def leads_somewhere(app, method: str, path: str) -> bool:
    """True if some route other than the refusals answers."""
    scope = {"type": "http", "method": method, "path": path, "headers": [], "root_path": ""}
    return any(
        route.matches(scope)[0] is Match.FULL
        for route in app.routes
        if getattr(route, "path", "") != "/api/{path:path}"
    )


def test_the_check_of_links_finds_dead_ones(app):
    assert leads_somewhere(app, "GET", "/gpt2-small/6-res-jb/3")
    assert not leads_somewhere(app, "GET", "/gpt2-small/6-res-jb/three")
    assert not leads_somewhere(app, "GET", "/jobs/1/cancel")


def test_the_tree_refuses_wrong_nesting():
    from tests.pages import dom

    with pytest.raises(AssertionError):
        dom.parse("<p><b></p></b>")
    assert isinstance(dom.parse("<br><p class='x y'>a&amp;b</p>").one("p", "y"), Element)
