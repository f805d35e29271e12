"""Attribution graphs for tests, in circuit-tracer's JSON: one of a few nodes, and one as large and as odd as real ones."""

import json
import random
import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from backend.formats import graphs as graph_files
from backend.services import graphs
from backend.services.access import Visibility
from backend.storage import Store

PROMPT = "The capital of the state containing Dallas is"
TOKENS = ("<bos>", "The", " capital", " of", " the", " state", " containing", " Dallas", " is")
N_LAYERS = 26

Node = dict[str, Any]


def embedding(position: int, **changed: Any) -> Node:
    node = {"node_id": f"E_{100 + position}_{position}", "feature": position, "layer": "E", "ctx_idx": position}
    words = {"feature_type": "embedding", "jsNodeId": f"E_{100 + position}-{position}", "clerp": ""}
    return node | words | {"influence": None, "activation": None} | changed


def feature(layer: int, index: int, position: int, **changed: Any) -> Node:
    """The number of layer and index is paired, as circuit-tracer writes it."""
    paired = (layer + index) * (layer + index + 1) // 2 + index
    node = {"node_id": f"{layer}_{index}_{position}", "feature": paired, "layer": str(layer), "ctx_idx": position}
    words = {"feature_type": "cross layer transcoder", "jsNodeId": f"{layer}_{index}-0", "clerp": ""}
    return node | words | {"influence": 0.5, "activation": 3.25} | changed


def error(layer: int, position: int, **changed: Any) -> Node:
    node = {"node_id": f"{layer}_-1_{position}", "feature": -1, "layer": str(layer), "ctx_idx": position}
    words = {"feature_type": "mlp reconstruction error", "jsNodeId": f"{layer}_-1-{position}", "clerp": ""}
    return node | words | {"influence": 0.7, "activation": None} | changed


def logit(index: int, token: str, probability: float, position: int, *, n_layers: int = N_LAYERS) -> Node:
    node = {"node_id": f"{n_layers + 1}_{index}_{position}", "feature": index, "layer": str(n_layers + 1)}
    words = {"feature_type": "logit", "jsNodeId": f"L_{index}-{position}", "token_prob": probability}
    clerp = f'Output "{token}" (p={probability:.3f})'
    return node | words | {"ctx_idx": position, "clerp": clerp, "influence": None, "activation": None}


def link(source: Node, target: Node, weight: float) -> dict[str, Any]:
    return {"source": source["node_id"], "target": target["node_id"], "weight": weight}


def small(**metadata: Any) -> dict[str, Any]:
    """Two tokens, two features, an error and a logit: 6 nodes, 6 links."""
    one, two = embedding(0), embedding(1)
    low = feature(0, 3, 1, clerp="says a", influence=0.3, activation=1.5)
    high = feature(1, 2, 1, influence=0.55)
    rest = error(0, 1, influence=0.9)
    out = logit(7, " b", 0.8, 1, n_layers=2)
    links = [
        link(one, low, 2.0), link(two, low, -1.0), link(low, high, 4.0), link(rest, high, 0.5),
        link(high, out, 3.0), link(low, out, -2.5),
    ]  # fmt: skip
    facts = {
        "slug": "small",
        "scan": "tiny",
        "prompt": "<bos>a",
        "prompt_tokens": ["<bos>", "a"],
        "node_threshold": 0.8,
    }
    return {
        "metadata": facts | metadata,
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": [one, two, low, high, rest, out],
        "links": links,
    }


def large(n_features: int = 620, n_links: int = 15_000, **metadata: Any) -> dict[str, Any]:
    """Nine tokens and 26 layers, most of it at the last tokens and in low layers, as in graphs of real prompts."""
    drawn = random.Random(0)
    n_tokens = len(TOKENS)
    places = set()
    while len(places) < n_features:
        position = min(n_tokens - 1, max(1, round(drawn.triangular(1, n_tokens - 0.5, n_tokens - 1))))
        places.add((min(N_LAYERS - 1, int(drawn.triangular(0, N_LAYERS, 2))), drawn.randrange(16_384), position))
    embeddings = [embedding(i) for i in range(n_tokens)]
    found = [
        feature(
            *place, influence=round(0.2 + 0.78 * drawn.random() ** 0.5, 4), activation=round(drawn.expovariate(0.2), 3)
        )
        for place in sorted(places)
    ]
    errors = [
        error(layer, position, influence=round(0.5 + 0.5 * drawn.random(), 4))
        for layer in range(0, N_LAYERS, 2) for position in range(1, n_tokens)
    ]  # fmt: skip
    said = ((" Austin", 0.41), (" Texas", 0.12), (" the", 0.07), (" Houston", 0.03), (" a", 0.02))
    outputs = [logit(1000 + i, token, share, n_tokens - 1) for i, (token, share) in enumerate(said)]
    nodes = [*embeddings, *found, *errors, *outputs]
    for node in found[:40]:
        node["clerp"] = f"feature about {drawn.choice(['places', 'Texas', 'capitals', 'prepositions'])}"
    links = {}
    while len(links) < n_links:
        source, target = drawn.choice(nodes), drawn.choice(nodes)
        if _height(source) < _height(target) and source["ctx_idx"] <= target["ctx_idx"] and target not in errors:
            links[source["node_id"], target["node_id"]] = link(source, target, round(drawn.gauss(0, 1) ** 3, 5))
    facts = {
        "slug": "dallas", "scan": "gemma-2-2b", "prompt": "<bos>" + PROMPT, "prompt_tokens": list(TOKENS),
        "node_threshold": 0.8, "feature_details": {"neuronpedia_source_set": "gemmascope-transcoder-16k"},
    }  # fmt: skip
    parameters = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
    return {"metadata": facts | metadata, "qParams": parameters, "nodes": nodes, "links": list(links.values())}


def host(
    session: Session, given: dict[str, Any], blobs: Store | None = None, *, visibility: Visibility = "public"
) -> graphs.GraphView:
    """The graph, as if its file had been handed over; without a store there is no file."""
    graph = graph_files.parse(json.dumps(given).encode())
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder, graphs.PACKED)
        n_bytes = graphs.pack(graph.text, packed)
        asked = graphs.NewUpload(filename="graph.json", content_type="application/json", n_bytes=n_bytes)
        upload_id, _ = graphs.begin(session, asked, max_bytes=n_bytes)
        if blobs is not None:
            graphs.put_blob(blobs, upload_id, packed)
    return graphs.save(session, upload_id, graph, n_bytes=n_bytes, visibility=visibility)


def _height(node: Node) -> int:
    return -1 if node["layer"] == "E" else int(node["layer"])
