"""Pages that show what the live worker said, made without one: texts tried on a feature, and searches by text."""

from dataclasses import replace
from typing import Any

import numpy as np

from backend import errors
from backend.formats.messages import Found, TextActivations, TextSearch
from backend.services.catalog import SourceView
from backend.services.summaries import SummaryView
from backend.web import found_features
from backend.web.pages import features, text_search, trying
from backend.web.text_query import TextQuery
from tests.pages import samples

TEXT = "The second brigade held the bridge\nuntil <b>dawn</b> & then withdrew, “in good order”."
TOKENS = (
    "<|endoftext|>", "The", " second", " brigade", " held", " the", " bridge", "\n", "until", " <", "b", ">", "dawn", "</",
    "b", ">", " &", " then", " withdrew", ",", " “", "in", " good", " order", "”", ".",
)  # fmt: skip
NO_WORKER = errors.UnavailableError("No live worker runs.", hint="`eyepiece up` starts one.")


def summary(index: int = 12_345, source: SourceView | None = None, **changes: object) -> SummaryView:
    """A feature in a line; keyword arguments replace fields."""
    source = source or samples.source()
    fires = ((" brigade", " battalion"), ("\n", "\t"), (" held", " kept", " holds"), (" the",), ("'s", " of", " which"))
    facts = {
        "n_firings": 1204, "density": 0.0019, "max_value": 14.2134, "min_value": -6.4 if source.is_signed else 0.0,
        "fires_on": fires[index % len(fires)], "promotes": (" Brigade", " troops", "\n\n"),
    }  # fmt: skip
    return SummaryView(source=source, index=index, **(facts | changes))


def activations(peak: float = 9.0, *, is_dense: bool = False) -> TextActivations:
    """The text, firing on a few tokens, or with a value on each; nowhere where `peak` is 0."""
    rng = np.random.default_rng(round(peak * 7) + is_dense)
    n = len(TOKENS) - 1
    values = rng.normal(0, peak / 4, n) if is_dense else np.where(rng.random(n) < 0.12, rng.random(n) * peak / 3, 0)
    values[2] = peak
    return TextActivations(TOKENS[1:], tuple(map(float, values.astype(np.float32))))


def search(query: TextQuery = TextQuery(), *, n_sources: int = 3) -> tuple[tuple[SourceView, ...], TextSearch]:  # noqa: B008 - frozen
    """The sources of a set, and what a search over them found."""
    sources = tuple(samples.source(name=f"{layer}-res-jb", layer=layer) for layer in range(4, 4 + n_sources))
    found = []
    for k in range(50):
        rng = np.random.default_rng(k)
        values = np.where(rng.random(len(TOKENS)) < 0.15, rng.random(len(TOKENS)) * (60 - k) / 8, 0)
        values[0], values[(k * 7) % (len(TOKENS) - 1) + 1] = 0, (60 - k) / 4
        found.append(Found(sources[k % n_sources].name, 37 * k, tuple(map(float, values.astype(np.float32)))))
    return sources, TextSearch(TOKENS, tuple(found), (True, *[False] * (len(TOKENS) - 1)))


def searched(query: TextQuery, *, sources: tuple[SourceView, ...] = (), problem: str = "") -> text_search.SearchContext:
    """The page of a search; the last of the features found are dense, and one is not computed yet."""
    mine, answer = search()
    sources = sources or mine
    sets = text_search.choices((*sources, samples.source(name="6-mlp-topk", set_name="mlp-topk")), query)
    if not query.text or problem:
        return text_search.SearchContext(samples.MODEL, query, sets, None, problem)
    by_name = {source.name: source for source in sources}
    known = {(f.source, f.index): summary(f.index, by_name[f.source]) for f in answer.found[:-1]}
    lists = TextSearch(answer.tokens, answer.found[:42] + answer.found[-1:], answer.is_special)
    dense = () if query.densest is None else answer.found[42:-1]
    found = found_features.arranged(query, sources, lists, dense, known)
    return text_search.SearchContext(samples.MODEL, query, sets, found)


def nothing(query: TextQuery) -> text_search.SearchContext:
    """A search that found no feature."""
    whole = searched(query)
    return replace(whole, found=found_features.arranged(query, (), TextSearch(TOKENS, ()), (), {}))


def pages() -> dict[str, tuple[str, Any]]:
    """Template and context by name."""
    texts = (TEXT, "A text of one's own.", "x")
    some = trying.context(
        summary(), (*texts, "Later."),
        (activations(), activations(0.0), errors.InvalidInputError("Text too long: 1025 tokens, max is 1024"), NO_WORKER),
    )  # fmt: skip
    dead = summary(77, n_firings=0, max_value=0.0, fires_on=())
    probes = samples.signed_feature().source
    signed = summary(12_345, probes)
    query = TextQuery(text=TEXT, source_set="res-jb")
    return {
        "trying": ("pages/feature.html", replace(features.context(samples.feature()), texts=texts)),
        "tried": ("pages/tried.html", some),
        "tried-nothing": ("pages/tried.html", trying.context(summary(), (), ())),
        "tried-dead": ("pages/tried.html", trying.context(dead, (TEXT, "x"), (activations(2.0), activations(0.0)))),
        "tried-signed": ("pages/tried.html", trying.context(signed, (TEXT,), (activations(is_dense=True),))),
    } | {
        f"search-{name}": ("pages/text_search.html", page)
        for name, page in {
            "empty": searched(TextQuery()),
            "waiting": replace(searched(query), found=None),
            "found": searched(query),
            "sorted": searched(replace(query, sort=(3, 6), is_bos_counted=True, densest=None)),
            "by-layer": searched(replace(query, by="layer", sources=("4-res-jb", "6-res-jb"))),
            "by-token": searched(replace(query, by="token")),
            "no-worker": searched(query, problem=str(NO_WORKER)),
            "nothing": nothing(query),
            "no-sources": text_search.SearchContext(samples.MODEL, TextQuery(), (), None),
        }.items()
    }
