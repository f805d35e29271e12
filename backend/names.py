"""Names of things: feature references, source ids, hook points, and the URLs of pages.

Parsed once at the edge; inside the code nobody splits strings again. URLs are built here and nowhere else.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlencode

from backend import errors

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_HOOK_POINT = re.compile(r"blocks\.(?P<layer>\d+)\.(?P<place>(?:attn\.|mlp\.|ln1\.|ln2\.)?hook_\w+)")
_MOST_DIGITS = 9
RESERVED = frozenset(
    {
        "api", "static", "jobs", "docs", "openapi.json", "definitions", "health", "favicon.ico",
        "account", "add", "admin", "explanations", "graph", "graphs", "import", "list", "lists", "oembed", "quick-list",
        "search", "search-explanations", "sign-in", "sign-out", "set-up", "steer",
    }
)  # fmt: skip
"""Ids that neither a model nor a source may have: pages of the site, or of a model (`/gpt2-small/search`), are there."""


@dataclass(frozen=True, slots=True, order=True)
class FeatureRef:
    """One feature: `gpt2-small/6-res-jb/12345`."""

    model: str
    source: str
    index: int

    def __str__(self) -> str:
        """The reference as users write it."""
        return f"{self.model}/{self.source}/{self.index}"


def parse_feature_ref(text: str) -> FeatureRef:
    """The feature named by `model/source/index`, or by an address that ends so; raises `InvalidInputError`."""
    parts = text.strip().partition("?")[0].partition("#")[0].rstrip("/").split("/")[-3:]
    if len(parts) == 3:
        model, source, index = (unquote(part) for part in parts)
        are_names = _NAME.fullmatch(model) and _NAME.fullmatch(source)
        if are_names and index.isascii() and index.isdigit() and len(index) <= _MOST_DIGITS:
            return FeatureRef(model, source, int(index))
    raise errors.InvalidInputError(
        f"'{text[:200]}' is not the address of a feature.", hint="Write model/source/index, such as gpt2-small/6-res-jb/12345."
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class HookPoint:
    """TransformerLens's name of a place in a model, such as `blocks.6.hook_resid_pre`."""

    layer: int
    place: str
    """What follows `blocks.N.`: `hook_resid_pre`, `attn.hook_z`, …"""

    def __str__(self) -> str:
        """The full name."""
        return f"blocks.{self.layer}.{self.place}"


def is_hook_point(text: str) -> bool:
    """Whether `parse_hook_point` takes it."""
    return _HOOK_POINT.fullmatch(text) is not None


def parse_hook_point(text: str) -> HookPoint:
    """Return the hook point named by `text`, or raise `InvalidInputError`."""
    match = _HOOK_POINT.fullmatch(text)
    if match is None:
        raise errors.InvalidInputError(
            f"'{text}' is not a hook point inside a block.",
            hint="Expected TransformerLens's form, such as 'blocks.6.hook_resid_pre'.",
        )
    return HookPoint(int(match["layer"]), match["place"])


def check_id(text: str, what: str) -> str:
    """Return `text` if it can be the id of a model or source, or raise `InvalidInputError`."""
    if text in RESERVED:
        raise errors.InvalidInputError(
            f"'{text}' cannot be the id of a {what}.", hint="A page of the site has that address; choose another id."
        )
    return check_name(text, f"id of a {what}")


def check_name(text: str, what: str) -> str:
    """Return `text` if it can be part of an address, no page of the site being there, or raise `InvalidInputError`."""
    if _NAME.fullmatch(text) is None:
        raise errors.InvalidInputError(
            f"'{text}' cannot be the {what}.",
            hint="Use letters, digits, '.', '_' and '-', at most 128, starting with a letter or digit.",
        )
    return text


def default_source_id(layer: int, folder_name: str) -> str:
    """`{layer}-{folder}`, with every character an id cannot hold replaced by '-'; a folder so named already is kept."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder_name).strip("-.") or "sae"
    return name if name.startswith(f"{layer}-") else f"{layer}-{name}"


def source_set_of(source: str) -> str:
    """The set a source id belongs to: the text after the first '-' and before '__' (Neuronpedia's rule)."""
    _, _, name = source.partition("-")
    return (name or source).split("__")[0]


def home_url() -> str:
    """The page of all that is hosted."""
    return "/"


def model_url(model: str) -> str:
    """A model's page."""
    return f"/{quote(model)}"


def source_url(model: str, source: str, **query: str | int | float | None) -> str:
    """A source's page; `query` holds sort, filters and page, None meaning absent."""
    given = {key: value for key, value in query.items() if value is not None and value != ""}
    return f"/{quote(model)}/{quote(source)}" + (f"?{urlencode(given)}" if given else "")


def feature_url(model: str, source: str, index: int) -> str:
    """A feature's dashboard."""
    return f"/{quote(model)}/{quote(source)}/{index}"


def feature_api_url(model: str, source: str, index: int) -> str:
    """The same dashboard as JSON."""
    return f"/api/feature/{quote(model)}/{quote(source)}/{index}"


def job_url(job_id: int) -> str:
    """A job's page."""
    return f"/jobs/{job_id}"


def steer_url(model: str, *features: str, through: Iterable[str] = (), **query: str | int | float) -> str:
    """A model's steering page, to begin with `steered` features, through the SAEs named, and with what `query` says."""
    given = [*(("feature", each) for each in features), *(("through", each) for each in through), *query.items()]
    return f"{model_url(model)}/steer" + (f"?{urlencode(given, safe='/:')}" if given else "")


def steered(source: str, index: int, strength: float | None = None, method: str = "") -> str:
    """A feature in the address of the steering page: `6-res-jb/12345:42.5`, the method behind it if it is not the usual."""
    if strength is None and not method:
        return f"{source}/{index}"
    return f"{source}/{index}:{strength or 0:.10g}" + (f":{method}" if method else "")


def steer_run_url(run_id: str) -> str:
    """The page of a saved steering run."""
    return f"/steer/{quote(run_id)}"


def graphs_url(model: str = "") -> str:
    """The attribution graphs of a model, or all of them."""
    return f"{model_url(model)}/graphs" if model else "/graphs"


def graph_url(model: str, slug: str) -> str:
    """An attribution graph's page."""
    return f"{model_url(model)}/graph/{quote(slug)}"


def graph_json_url(model: str, slug: str) -> str:
    """The file of an attribution graph."""
    return f"/api/graph/{quote(model)}/{quote(slug)}/json"


def graph_put_url(upload_id: str, token: str) -> str:
    """Where the bytes of a graph are put to, by who has the address."""
    return f"/api/graph/put/{upload_id}?{urlencode({'token': token})}"


def explanations_url(
    words: str = "", *, model: str = "", sources: Iterable[str] = (), release: str = "", offset: int = 0
) -> str:
    """The search by the words of explanations; what is left out is not in the address, so that it stays short."""
    given = [("q", words), ("modelId", model), ("sources", ",".join(sources)), ("releaseName", release)]
    given = [(key, value) for key, value in (*given, ("offset", str(offset or ""))) if value]
    return "/search-explanations" + (f"?{urlencode(given, safe=',')}" if given else "")


def list_url(list_id: str) -> str:
    """The page of a list of features."""
    return f"/list/{quote(list_id)}"


def set_up_url(token: str) -> str:
    """Where a password is chosen, by who has the link."""
    return f"/set-up/{quote(token)}"
