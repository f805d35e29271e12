"""Every page rendered from `samples`: `python -m tests.pages.preview /tmp/preview` writes them to a folder.

For looking at pages while designing them; the tests render the same ones.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend import errors
from backend.formats.messages import ScanReply
from backend.services.access import NOBODY, OPERATOR
from backend.services.activation_index import (
    ActivationPage,
    ActivationQuery,
    CofiringPage,
    CofiringQuery,
    PairPage,
    PairQuery,
)
from backend.services.features import FeatureQuery, HistogramView
from backend.services.progress import JobSourceView
from backend.settings import Settings
from backend.web import definitions
from backend.web.pages import (
    activations,
    adding,
    deletion,
    failures,
    features,
    home,
    importing,
    jobs,
    look,
    models,
    rerun,
    scan,
    sources,
)
from backend.web.pages.scan import ScanContext
from backend.web.rendering import Renderer, Visitor
from backend.web.scan_schemas import ScanQuery
from tests.pages import (
    account_samples,
    asking_samples,
    explaining_samples,
    graph_pages,
    list_samples,
    samples,
    scan_samples,
    steering_samples,
)

RANGE = ActivationQuery(low=2.5, high=5.0, page=2)
ANNA = Visitor("anna", is_admin=False, has_accounts=True, form_token="f" * 64)
STRANGER = Visitor(is_admin=False, can_write=False, has_accounts=True)
VISITORS = dict.fromkeys(
    ("account", "new-key", "account-problem", "mine", "explained-mine", "list", "lists", "noted"), ANNA
) | dict.fromkeys(
    (
        "sign-in", "sign-in-again", "set-up", "set-up-password", "unlisted", "explained-stranger",
        "unexplained-stranger", "list-of-another",
    ),
    STRANGER,
)  # fmt: skip
"""Who looks at a page, where it is not the operator."""
FILTERED = FeatureQuery(sort="density", is_descending=True, min_density=0.0001, max_density=0.01, token=' "x')
NO_WORKER = errors.UnavailableError("No live worker runs.", hint="`eyepiece up` starts one.")
ORIGIN = "http://localhost:3000"


def pages() -> dict[str, tuple[str, Any]]:
    """Template and context by name."""
    every, bare = FeatureQuery(), samples.uncomputed_source()
    work = (
        samples.job(),
        samples.job(
            id=6,
            sources=(JobSourceView("7-res-jb", 24_576, 0, is_published=False),),
            state="queued",
            fraction=0.0,
            stages=(),
        ),
    )
    done = samples.job(id=3, state="done", fraction=1.0, finished_at=samples.AT)
    failed = samples.job(state="failed", error="Shard 3 failed 5 times: out of <memory>.", finished_at=samples.AT)
    short = replace(samples.quality(longer=0), notes=("Longer contexts are not measured: the model takes 128 tokens.",))
    found = {
        "feature": ("pages/feature.html", features.context(samples.feature())),
        "dead": ("pages/feature.html", features.context(samples.dead_feature())),
        "signed": ("pages/feature.html", features.context(samples.signed_feature())),
        "vectors": ("pages/source.html", _source(every, n_total=120, **_VECTORS)),
        "no-lens": ("pages/feature.html", features.context(samples.feature(logit_lens=None, neighbours=()))),
        "activations": ("pages/activations.html", activations.activations_context(samples.activations())),
        "range": ("pages/activations.html", activations.activations_context(samples.activations(RANGE, n_total=320))),
        "empty-range": ("pages/activations.html", activations.activations_context(_nothing(RANGE))),
        "dead-activations": ("pages/activations.html", activations.activations_context(_nothing(is_dead=True))),
        "scan": ("pages/scan.html", _scan(scan_samples.reply())),
        "scan-minus": ("pages/scan.html", _scan(scan_samples.reply(minus_token=" the", token="Brigade"))),
        "scan-single": ("pages/scan.html", _scan(scan_samples.single())),
        "scan-heads": ("pages/scan.html", _scan(scan_samples.with_heads())),
        "scan-empty": ("pages/scan.html", scan.context(samples.feature(), ScanQuery(), None, NO_WORKER)),
        "cofiring": ("pages/cofiring.html", activations.cofiring_context(samples.cofiring())),
        "sampled": ("pages/cofiring.html", activations.cofiring_context(_sampled())),
        "none-cofiring": ("pages/cofiring.html", activations.cofiring_context(samples.cofiring(n_total=0, rows=()))),
        "pair": ("pages/pair.html", activations.pair_context(samples.pair())),
        "no-pair": ("pages/pair.html", activations.pair_context(_no_pair())),
        "no-index": ("pages/source.html", _source(every, n_total=120, index_bytes=None)),
        "source": ("pages/source.html", sources.context(samples.source(), None, FILTERED, samples.page(FILTERED))),
        "quality": (
            "pages/source.html",
            sources.context(samples.source(), None, every, samples.page(), samples.quality()),
        ),
        "quality-short": (
            "pages/source.html",
            sources.context(samples.source(n_dense=None, activation_sum=None), None, every, samples.page(), short),
        ),
        "looked": (
            "pages/source.html",
            replace(sources.context(samples.source(), None, every, samples.page()), look=look.panel(samples.look())),
        ),
        "looked-right": (
            "pages/source.html",
            replace(
                sources.context(samples.source(), None, every, samples.page(), samples.quality()),
                look=look.panel(samples.look(is_right=True)),
            ),
        ),
        "looked-uncomputed": (
            "pages/source.html",
            replace(sources.context(bare, failed, every, None), look=look.panel(samples.look())),
        ),
        "nothing-found": ("pages/source.html", _source(FILTERED, n_total=0)),
        "past-the-end": ("pages/source.html", _source(FeatureQuery(page=600), n_total=120)),
        "filling": ("pages/source.html", _filling()),
        "delete": ("pages/delete.html", deletion.DeletionContext(samples.source(), samples.disk_use(), samples.job())),
        "rerun": ("pages/rerun.html", rerun.RerunContext(samples.source(), samples.corpora(), may_give_path=True)),
        "running": ("pages/source.html", sources.context(bare, samples.job(), every, None)),
        "uncomputed": ("pages/source.html", sources.context(bare, None, every, None)),
        "home": ("pages/home.html", home.context((samples.model(),), work)),
        "empty": ("pages/home.html", home.context((), ())),
        "model": ("pages/model.html", models.context(samples.model(), work)),
        "jobs": ("pages/jobs.html", jobs.context((*work, done))),
        "no-jobs": ("pages/jobs.html", jobs.context(())),
        "job": ("pages/job.html", jobs.JobContext(samples.job(), samples.log(), samples.so_far())),
        "failed": ("pages/job.html", jobs.JobContext(failed)),
        "add": (
            "pages/add.html",
            adding.context(OPERATOR, (samples.model(),), samples.corpora(), samples.uploads(), origin=ORIGIN),
        ),
        "add-nothing": ("pages/add.html", adding.context(NOBODY, (), (), (), origin=ORIGIN)),
        "import": ("pages/import.html", importing.context(OPERATOR, samples.import_uploads(), origin=ORIGIN)),
        "definitions": ("pages/definitions.html", home.DefinitionsContext(definitions.NUMBERS, definitions.THINGS)),
        "mine": (
            "pages/source.html",
            replace(_source(every, n_total=120, visibility="unlisted"), can_change=True),
        ),
        "imported": (
            "pages/source.html",
            replace(
                sources.context(samples.imported_source(), None, every, samples.page()),
                can_change=True,
                exported=sources.export_panel(OPERATOR, samples.imported_source(), origin=ORIGIN),
                files={f"{what}/batch-{n}.jsonl.gz": "0f" * 32 for what in ("features", "activations") for n in (0, 1)},
            ),
        ),
        "made": ("pages/source.html", sources.context(samples.made_source(), None, every, None)),
        "imported-feature": (
            "pages/feature.html",
            features.context(samples.feature(source=samples.imported_source(), logit_lens=None)),
        ),
        "unlisted": ("pages/source.html", _source(every, n_total=120, visibility="unlisted")),
        **account_samples.pages(),
        **steering_samples.pages(),
        **asking_samples.pages(),
        **graph_pages.pages(),
        **explaining_samples.pages(),
        **list_samples.pages(),
        "error": (
            "pages/error.html",
            failures.ErrorContext("Not found", "No model 'x' is hosted.", (), "See home.", ""),
        ),
    }
    if samples.GENUINE.exists():
        found["genuine"] = ("pages/feature.html", features.context(samples.genuine()))
    return found


def _filling() -> sources.SourceContext:
    """The first computation is under way and some features can be read."""
    (so_far,) = samples.so_far(ready=((0, 4_095), (8_192, 9_999)))
    shown = sources.context(
        samples.source(is_partial=True), samples.job(stage="finish"), FeatureQuery(), samples.page()
    )
    return replace(shown, log=samples.log(), so_far=so_far, can_change=True)


_VECTORS = {
    "name": "6-probes", "architecture": "vectors", "index_bytes": None,
    "config": {"labels": [f"probe {i}" for i in range(24_576)]},
}  # fmt: skip


def _scan(reply: ScanReply) -> ScanContext:
    return scan.context(samples.feature(), scan_samples.ASKED, reply)


def _source(query: FeatureQuery, *, n_total: int, **changes: object) -> sources.SourceContext:
    page = samples.page(query, n_total=n_total)
    return sources.context(samples.source(**changes), None, query, page)


def _nothing(query: ActivationQuery = ActivationQuery(), *, is_dead: bool = False) -> ActivationPage:  # noqa: B008 - frozen
    """No firing in the range; a dead feature has none at all."""
    if not is_dead:
        return samples.activations(query, n_total=0, rows=())
    dead, none = samples.facts(n_firings=0, max_value=0.0, fires_on=()), HistogramView((), ())
    return samples.activations(query, feature=dead, n_total=0, rows=(), histogram=none, bin_ends=(), quantiles=())


def _sampled() -> CofiringPage:
    query = CofiringQuery(sort="lift", min_count=2, page=3)
    return samples.cofiring(query, feature=samples.facts(n_firings=40_312), n_looked_at=8_192)


def _no_pair() -> PairPage:
    query = PairQuery("without", "context")
    return samples.pair(query, n_total=0, rows=(), lift=None, correlation=None, value_correlation=None)


def main(folder: Path) -> None:
    renderer = Renderer(Settings().assets)
    folder.mkdir(parents=True, exist_ok=True)
    for name, (template, context) in pages().items():
        (folder / f"{name}.html").write_text(renderer.html(template, context, visitor=VISITORS.get(name, Visitor())))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
