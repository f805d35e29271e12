"""The lists of attribution graphs and their pages, for the preview."""

from typing import Any

from backend.services import graphs
from backend.services.graphs import GraphView
from backend.web.pages.graphs import GraphContext, GraphsContext
from tests import graph_samples
from tests.pages import samples


def view(**changed: Any) -> GraphView:
    given = {
        "id": 1, "model": "gemma-2-2b", "slug": "dallas", "source_set": "gemmascope-transcoder-16k",
        "prompt": f"<bos>{graph_samples.PROMPT}", "prompt_tokens": graph_samples.TOKENS, "title_prefix": "",
        "n_nodes": 738, "n_links": 15_000, "n_bytes": 170_000, "upload_id": "a" * 32, "owner_id": None,
        "visibility": "public", "created_at": samples.AT, "updated_at": samples.AT,
    }  # fmt: skip
    return GraphView(**(given | changed))


def pages() -> dict[str, tuple[str, Any]]:
    """Template and context by name."""
    hostile = view(slug="x", prompt='"><script>\n</script>', source_set="", title_prefix="&", visibility="private")
    return {
        "graphs": ("pages/graphs.html", GraphsContext("", (view(), hostile))),
        "graphs-of-model": ("pages/graphs.html", GraphsContext("gemma-2-2b", (view(),))),
        "many-graphs": ("pages/graphs.html", GraphsContext("", (view(),) * graphs.MOST_LISTED)),
        "no-graphs": ("pages/graphs.html", GraphsContext("", ())),
        "graph": ("pages/graph.html", GraphContext(view(), is_embedded=False, may_delete=True)),
        "graph-hostile": ("pages/graph.html", GraphContext(hostile, is_embedded=False, may_delete=False)),
        "graph-embedded": ("pages/graph.html", GraphContext(view(), is_embedded=True, may_delete=False)),
    }
