"""Attribution graph files: circuit-tracer's JSON, as Neuronpedia and its clients exchange it.

Reads a file, gzipped or not, says everything that is wrong with it, and gives the facts lists show. Files in circulation
differ, so these are taken as they are: a layer as number or text (`"E"` of embeddings, one past the last of logits), a
`feature` that is null, missing, or a pairing of layer and index (the index stands in `node_id`), NaN for what is not
known, links to nodes that were pruned away, and whatever else an object has. Does not lay anything out.

Keys: hijohnnylin/neuronpedia at b8efe843, `apps/webapp/app/api/graph/graph-schema.json`; what circuit-tracer writes:
safety-research/circuit-tracer at 196e2cec, `circuit_tracer/frontend/graph_models.py`.
"""

import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from backend import errors, names

GZIP_MAGIC = b"\x1f\x8b"
MOST_TOLD = 5
"""Problems of one kind that are told one by one."""
WHAT = "the graph"
_READ_BYTES = 1 << 20
_NOT_NUMBERS = (b"NaN", b"Infinity")
_LAYER = re.compile(r"E|-?[0-9]{1,4}")
_REPLACEMENT = "\ufffd"


@dataclass(frozen=True, slots=True)
class GraphFile:
    """What a graph file says of itself."""

    model: str
    """`metadata.scan`: of a hosted model or of any other."""
    slug: str
    prompt: str
    prompt_tokens: tuple[str, ...]
    """(n_tokens,)"""
    title_prefix: str
    source_set: str
    """Neuronpedia's source set that its features are of; empty: it does not say."""
    n_nodes: int
    n_links: int
    """Of those between two of its nodes."""
    text: bytes
    """The file as strict JSON in UTF-8, as it came or with null for NaN."""


def unpacked(path: Path, *, max_bytes: int) -> bytes:
    """The bytes of a file, gunzipped if it is gzipped; raises `InvalidInputError` where it is broken or too large."""
    with path.open("rb") as file:
        is_packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    parts, n_read = [], 0
    try:
        with gzip.open(path) if is_packed else path.open("rb") as file:
            while part := file.read(_READ_BYTES):
                parts.append(part)
                n_read += len(part)
                if n_read > max_bytes:
                    raise errors.InvalidInputError(
                        f"The graph has more than the {max_bytes:,} bytes this host takes.",
                        hint="Prune it further, or ask the host's operator to raise EYEPIECE_GRAPH_MB.",
                    )
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise errors.InvalidInputError(
            f"The graph is gzipped, and cannot be unpacked: {error}.", hint="Send it again."
        ) from error
    return b"".join(parts)


def parse(data: bytes, *, model: str = "", slug: str = "") -> GraphFile:
    """The graph that the bytes are, under the address given where that is not the file's own.

    Raises `ProblemsError` with all that is wrong with it, or `InvalidInputError` where it is no JSON.
    """
    given, text = _json(data)
    if not isinstance(given, dict):
        raise errors.ProblemsError(WHAT, [f"It is {_kind(given)}, not an object with metadata, nodes and links."])
    metadata, nodes, links = (given.get(key) for key in ("metadata", "nodes", "links"))
    if isinstance(metadata, dict):
        metadata = metadata | {key: value for key, value in (("scan", model), ("slug", slug)) if value}
    problems = [*_metadata_problems(metadata), *_node_problems(nodes)]
    problems += [*_link_problems(links), *_parameter_problems(given.get("qParams"))]
    if problems:
        raise errors.ProblemsError(WHAT, problems, hint="docs/graphs.md says what a graph file holds.")
    assert isinstance(metadata, dict)
    assert isinstance(nodes, list)
    assert isinstance(links, list)
    known = {node["node_id"] for node in nodes}
    details = metadata.get("feature_details")
    source_set = details.get("neuronpedia_source_set") if isinstance(details, dict) else None
    return GraphFile(
        metadata["scan"], metadata["slug"], _stored(metadata["prompt"]), tuple(map(_stored, metadata["prompt_tokens"])),
        _stored(_text(metadata.get("title_prefix"))), _stored(_text(source_set)), len(nodes),
        sum(link["source"] in known and link["target"] in known for link in links), text,
    )  # fmt: skip


def _json(data: bytes) -> tuple[Any, bytes]:
    """What the bytes say, and as strict JSON; Python's writers put NaN where JSON has no number."""
    try:
        return orjson.loads(data), data
    except orjson.JSONDecodeError as error:
        reason = error
    if any(name in data for name in _NOT_NUMBERS):
        try:
            given = json.loads(data, parse_constant=lambda name: None)
            return given, orjson.dumps(given)
        except (ValueError, RecursionError, orjson.JSONEncodeError):
            pass  # it is said what the stricter reader found
    raise errors.InvalidInputError(
        f"The graph is not JSON: {reason}.", hint="Send the file as circuit-tracer wrote it."
    )


def _metadata_problems(metadata: Any) -> Iterator[str]:
    if not isinstance(metadata, dict):
        yield f"'metadata' is {_kind(metadata)}, not an object."
        return
    for key in ("scan", "slug", "prompt"):
        if not isinstance(metadata.get(key), str):
            yield f"'metadata.{key}' is {_kind(metadata.get(key))}, not a text."
    for key, check, what in (("scan", names.check_id, "model"), ("slug", names.check_name, "slug of a graph")):
        if isinstance(text := metadata.get(key), str):
            try:
                check(text, what)
            except errors.InvalidInputError as error:
                yield f"'metadata.{key}': {error}"
    tokens = metadata.get("prompt_tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        yield "'metadata.prompt_tokens' is not a list of texts, one for each token."


def _node_problems(nodes: Any) -> Iterator[str]:
    if not isinstance(nodes, list):
        yield f"'nodes' is {_kind(nodes)}, not a list."
        return
    if not nodes:
        yield "'nodes' is empty."
    told: dict[str, list[str]] = {}
    seen: set[str] = set()
    for i, node in enumerate(nodes):
        where = f"nodes[{i}]"
        if not isinstance(node, dict):
            told.setdefault("not objects", []).append(where)
            continue
        if not isinstance(node_id := node.get("node_id"), str):
            told.setdefault("without a text as node_id", []).append(where)
        elif node_id in seen:
            told.setdefault("with the node_id of another", []).append(f"{where} ('{node_id}')")
        else:
            seen.add(node_id)
        if not isinstance(node.get("feature_type"), str):
            told.setdefault("without a text as feature_type", []).append(where)
        if not _is_layer(node.get("layer")):
            told.setdefault("whose layer is neither a number nor 'E'", []).append(where)
        if not _is_whole(node.get("ctx_idx")) or node["ctx_idx"] < 0:
            told.setdefault("whose ctx_idx is not the number of a token, from 0", []).append(where)
    yield from _told("nodes", told)


def _link_problems(links: Any) -> Iterator[str]:
    if not isinstance(links, list):
        yield f"'links' is {_kind(links)}, not a list."
        return
    told: dict[str, list[str]] = {}
    for i, link in enumerate(links):
        where = f"links[{i}]"
        if not isinstance(link, dict):
            told.setdefault("not objects", []).append(where)
            continue
        if not (isinstance(link.get("source"), str) and isinstance(link.get("target"), str)):
            told.setdefault("without a node_id as source and as target", []).append(where)
        if not (link.get("weight") is None or _is_number(link["weight"])):
            told.setdefault("whose weight is not a number", []).append(where)
    yield from _told("links", told)


def _parameter_problems(parameters: Any) -> Iterator[str]:
    if parameters is not None and not isinstance(parameters, dict):
        yield f"'qParams' is {_kind(parameters)}, not an object."


def _told(what: str, told: dict[str, list[str]]) -> Iterator[str]:
    for problem, places in told.items():
        more = f" and {len(places) - MOST_TOLD:,} more" if len(places) > MOST_TOLD else ""
        yield f"{len(places):,} of its {what} {problem}: {', '.join(places[:MOST_TOLD])}{more}."


def _is_layer(layer: Any) -> bool:
    return _is_whole(layer) or (isinstance(layer, str) and _LAYER.fullmatch(layer) is not None)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "missing or null"}
    return kinds.get(type(value), "a number")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _stored(text: str) -> str:
    """As Postgres can hold it: without U+0000 and halves of surrogate pairs."""
    return text.replace("\0", _REPLACEMENT).encode(errors="replace").decode()
