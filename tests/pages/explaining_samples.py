"""Pages with explanations, made without a database: a feature's panel to different readers, tables, and the search."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from backend.names import FeatureRef
from backend.services.access import NOBODY, OPERATOR, Viewer
from backend.services.explanation_search import Found, FoundPage
from backend.services.explanations import ExplanationView, ScoreView, VoteView
from backend.services.features import FeatureQuery
from backend.web.pages import explaining, explanation_search, features, sources
from backend.web.pages.explanation_search import ExplanationQuery
from tests.pages import samples

ANNA = Viewer(7, "anna", frozenset({"read", "write"}))
WORDS = (
    "military units such as brigades and battalions, above all where they are ordered to hold or to withdraw",
    "brigade <b>units</b>",
    "army words",
    "tokens of a regiment’s name\n(and of ships)",
)
REF = FeatureRef(samples.MODEL, samples.SOURCE, 12_345)


def explanation(number: int = 0, **changes: object) -> ExplanationView:
    """One by a person, one by a model with scores, one imported, one without any facts; keyword arguments replace fields."""
    made_by: dict[int, dict[str, Any]] = {
        0: {"author_id": 7, "author": "anna"},
        1: {"author": "clkht01d40000jv08hvalcvly", "type_name": "oai_token-act-pair", "model_name": "gpt-4o-mini"},
        2: {"author": "clkht01d40000jv08hvalcvly"},
    }
    votes = tuple(VoteView(account_id, samples.AT) for account_id in range(7, 10 - number))
    scores = (ScoreView("s", 0.8125, "eleuther_fuzz", "gpt-4o", "", samples.AT),) if number == 1 else ()
    facts = {
        "id": f"explanation-{number}", "ref": REF, "description": WORDS[number % len(WORDS)], "author_id": None, "author": "",
        "type_name": None, "model_name": None, "notes": None, "score_v1": None, "score_v2": None, "umap_x": None,
        "umap_y": None, "umap_cluster": None, "umap_log_feature_sparsity": None, "scores": scores, "votes": votes,
        "created_at": samples.AT - timedelta(days=number), "updated_at": samples.AT,
    }  # fmt: skip
    return ExplanationView(**(facts | made_by.get(number, {}) | changes))


def feature(viewer: Viewer, n: int = 4) -> features.FeatureContext:
    """A feature's page with its first `n` explanations."""
    shown = explaining.shown(viewer, [explanation(number) for number in range(n)])
    near = {900: WORDS[2], 974: WORDS[0]} if n else {}
    return replace(features.context(samples.feature()), explanations=shown, near=near)


def searched(query: ExplanationQuery, *, n: int = 20, has_more: bool = True) -> explanation_search.SearchContext:
    """A page of results: of a living feature, a dead one, one not computed."""
    models = (samples.model(), replace(samples.model(), id="pythia-70m", display_name="Pythia 70M", sources=()))
    chosen = models[0].sources if query.model else ()
    if not query.words:
        return explanation_search.context(query, models, chosen)
    living = samples.feature()
    top = replace(living.groups[0], examples=living.groups[0].examples[: explanation_search.N_EXAMPLES])
    views = [replace(living, groups=(top,)), samples.dead_feature(), None]
    results = tuple(Found(explanation(number % 4, id=f"found-{number}"), 0.5 / (number + 1)) for number in range(n))
    found = FoundPage(results, query.offset, has_more)
    return explanation_search.context(query, models, chosen, found, [views[k % 3] for k in range(n)])


def pages() -> dict[str, tuple[str, Any]]:
    """Template and context by name."""
    query = FeatureQuery()
    table = sources.context(samples.source(), None, query, samples.page())
    search, words = "pages/explanation_search.html", ExplanationQuery("brigade")
    return {
        "explained": ("pages/feature.html", feature(OPERATOR)),
        "explained-mine": ("pages/feature.html", feature(ANNA)),
        "explained-stranger": ("pages/feature.html", feature(NOBODY)),
        "unexplained-stranger": ("pages/feature.html", feature(NOBODY, 0)),
        "explained-table": ("pages/source.html", replace(table, explained={0: WORDS[0], 61: WORDS[2], 122: WORDS[1]})),
        "explanations": (search, searched(ExplanationQuery())),
        "explanations-found": (search, searched(replace(words, offset=20))),
        "explanations-in-sources": (
            search,
            searched(replace(words, model=samples.MODEL, sources=(samples.SOURCE,)), n=3, has_more=False),
        ),
        "explanations-none": (search, searched(replace(words, release="res-jb"), n=0, has_more=False)),
        "explanations-problem": (
            search,
            replace(searched(ExplanationQuery()), query=ExplanationQuery("ab"), problem="The query has 2 characters."),
        ),
    }
