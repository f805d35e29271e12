"""Attribution graphs: the lists of them, and the page that shows one.

The page comes without nodes and links: its script fetches the graph's file, which browsers keep, and reads from the
address what is pinned, grouped, chosen and pruned. Neuronpedia's addresses, `/{model}/graph?slug=…`, lead to ours.
"""

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from backend import names
from backend.services import access, graphs
from backend.services.graphs import GraphView
from backend.web import links, rendering
from backend.web.dependencies import DbSession, Viewing
from backend.web.middleware import CONTENT_SECURITY_POLICY

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

EMBEDDABLE = CONTENT_SECURITY_POLICY.replace("frame-ancestors 'self'", "frame-ancestors *")
"""Of a page that other sites may show in a frame: nothing on it changes anything here."""


@dataclass(frozen=True, slots=True)
class GraphsContext:
    """What `pages/graphs.html` shows."""

    model: str
    """Empty: of all models."""
    graphs: tuple[GraphView, ...]

    @property
    def is_cut(self) -> bool:
        """There may be more."""
        return len(self.graphs) == graphs.MOST_LISTED


@dataclass(frozen=True, slots=True)
class GraphContext:
    """What `pages/graph.html` shows."""

    graph: GraphView
    is_embedded: bool
    """In another site's frame: the graph, and nothing around it."""
    may_delete: bool

    @property
    def json_url(self) -> str:
        """Of its file."""
        return names.graph_json_url(self.graph.model, self.graph.slug)

    @property
    def url(self) -> str:
        """Of its page."""
        return names.graph_url(self.graph.model, self.graph.slug)

    @property
    def delete_url(self) -> str:
        """Where the form that deletes it leads."""
        return links.graph_delete_url(self.graph.model, self.graph.slug)


@router.get("/graphs")
def show_all(request: Request, session: DbSession) -> HTMLResponse:
    """Every graph, newest first."""
    return rendering.respond(request, "pages/graphs.html", GraphsContext("", graphs.listed(session)))


@router.get("/{model}/graphs")
def show_of_model(request: Request, session: DbSession, model: str) -> HTMLResponse:
    """Those of a model, which need not be hosted."""
    return rendering.respond(request, "pages/graphs.html", GraphsContext(model, graphs.listed(session, model=model)))


@router.get("/{model}/graph")
def lead_on(request: Request, model: str, slug: Annotated[str, Query()] = "") -> RedirectResponse:
    """Neuronpedia's address of a graph leads to ours, with all that it says of the graph's state."""
    if not slug:
        return RedirectResponse(names.graphs_url(model), 303)
    state = [(key, value) for key, value in request.query_params.multi_items() if key != "slug"]
    return RedirectResponse(names.graph_url(model, slug) + (f"?{urlencode(state)}" if state else ""), 303)


@router.get("/{model}/graph/{slug}")
def show(
    request: Request, session: DbSession, viewer: Viewing, model: str, slug: str, embed: Annotated[str, Query()] = ""
) -> HTMLResponse:
    """One graph; with `embed=true` by itself, for a frame."""
    graph = graphs.get(session, model, slug)
    is_embedded = embed == "true"
    page = GraphContext(graph, is_embedded, not is_embedded and access.may_change(viewer, graph.owner_id))
    answer = rendering.respond(request, "pages/graph.html", page)
    if is_embedded:
        answer.headers["Content-Security-Policy"] = EMBEDDABLE
    return answer


@router.post("/{model}/graph/{slug}/delete")
def delete(session: DbSession, model: str, slug: str) -> RedirectResponse:
    """Delete a graph; workers free its space."""
    graphs.delete(session, model, slug)
    return RedirectResponse(names.graphs_url(), 303)
