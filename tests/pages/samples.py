"""Views as the services give them, made without a database: of real texts, and of the strange ones pages must bear.

The feature's texts are sentences about brigades; `genuine` reads SAEDashboard's own output instead where it lies in
`../shared/data`. Numbers are drawn with a fixed seed.
"""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from backend.formats.dashboards import Moments
from backend.formats.look import Candidate, Finding, Fit, Look
from backend.formats.quality import Evaluation, Metric, Quality
from backend.services.activation_index import (
    QUANTILES,
    ActivationPage,
    ActivationQuery,
    CofiringPage,
    CofiringQuery,
    CofiringRow,
    PairPage,
    PairQuery,
)
from backend.services.catalog import ModelView, SourceView
from backend.services.corpora import CorpusView
from backend.services.disk import DiskUse
from backend.services.events import EventView, Level
from backend.services.features import (
    ExampleView,
    FeaturePage,
    FeatureQuery,
    FeatureRow,
    FeatureView,
    GroupView,
    HistogramView,
    LogitLensView,
    NeighbourView,
    SignedView,
)
from backend.services.filling import SoFar
from backend.services.kept_index import FeatureFacts, FiringView
from backend.services.progress import JobSourceView, JobView, StageView
from backend.services.uploads import FileView, UploadView

GENUINE = Path(__file__).resolve().parents[3] / "shared/data/dashboards/saedashboard-gpt2-small-0-res-jb/batch-0.json"
AT = datetime(2025, 11, 21, 3, 28, tzinfo=UTC)
MODEL, SOURCE = "gpt2-small", "6-res-jb"

TEXT = """The general sent for the second brigade before dawn .
It was the third brigade , they said , that held the bridge until the light failed .
" Brigade ! " he shouted , and <b> the battalion & the regiment turned as one .
	if brigade is None :
        return { " brigade " : 0 }
Half of the fire brigade was asleep ; the other half played cards in the yard behind the engine house .
\u200f\u05d7\u05d8\u05d9\u05d1\u05d4 is the word for brigade , and \u65c5\u56e3 is another ."""


def source(**changes: object) -> SourceView:
    """A computed source; keyword arguments replace fields."""
    centre = np.linspace(-6, -0.5, 44)
    counts = 3200 * np.exp(-((centre + 3.1) ** 2) / 0.8) + 90 * np.exp(-((centre + 1.0) ** 2) / 0.05)
    facts = {
        "model": MODEL,
        "name": SOURCE,
        "set_name": "res-jb",
        "hook_point": "blocks.6.hook_resid_pre",
        "layer": 6,
        "architecture": "standard",
        "d_in": 768,
        "d_sae": 24_576,
        "config": {"l1_coefficient": 8e-5},
        "created_at": AT,
        "revision_id": 3,
        "corpus": "openwebtext, first 5,000 contexts",
        "n_corpus_tokens": 635_000,
        "n_corpus_contexts": 5_000,
        "context_size": 128,
        "n_alive": 23_911,
        "n_firings": 41_275_000,
        "n_dense": 12,
        "activation_sum": 152_400_000.5,
        "density_low": -6.0,
        "density_high": -0.5,
        "density_counts": tuple(int(c) for c in counts),
        "computed_at": AT,
        "index_bytes": 159_321_500,
    }
    return SourceView(**(facts | changes))


def look(*, is_right: bool = False) -> Look:
    """An SAE declared one layer too early, or where it belongs."""
    here, there = Fit(0.7241, 32.0), Fit(0.9131, 31.4)
    tried = (
        Candidate("place", "at blocks.7.hook_resid_pre", there, is_better=not is_right),
        Candidate("place", "at blocks.6.hook_resid_mid", Fit(0.688, 35.0), is_better=False),
        Candidate("bos", "on contexts without a BOS token", Fit(0.641, 36.5), is_better=False),
        *(
            Candidate("scale", f"with activations multiplied by {4.0**p:.4g}", Fit(-p * 1.5, 900.0), is_better=False)
            for p in range(1, 8)
        ),
    )
    warning = Finding(
        "warning",
        "run as declared, at blocks.6.hook_resid_pre, it explains 72.4% of the variance with L0 32.0; "
        "at blocks.7.hook_resid_pre 91.3% of the variance with L0 31.4.",
        "Check the hook point, and give the one it was trained on (--hook).",
    )
    note = Finding(
        "note",
        "the decoder's rows have norms from 0.376 to 1.27.",
        "Activations are shown multiplied by them, as if the rows had norm 1.",
    )
    return Look(
        "blocks.6.hook_resid_pre", 265, there if is_right else here, 24_576, 3_011, 61.2, (0.376, 1.27), tried,
        () if is_right else (warning, note),
    )  # fmt: skip


def quality(*, longer: int = 512) -> Quality:
    """An SAE trained on 128 tokens that gets worse beyond; the first position counts in nothing."""

    def evaluation(size: int) -> Evaluation:
        p = np.arange(size)
        worse = np.clip((p - 128) / 256, 0, 1) + 0.15 * np.exp(-p / 6)
        noise = np.random.default_rng(0).normal(0, 1, (8, size))
        alone = 3.1 + 2.4 * np.exp(-p / 12) + 0.06 * noise[0]
        spliced = alone + 0.22 + 0.6 * worse + 0.01 * noise[1]
        curves = {
            "l0": 62 + 30 * worse + noise[2],
            "l1": 240 + 60 * worse + noise[2],
            "mse": 1100 + 1500 * worse + 20 * noise[3],
            "explained_variance": 0.93 - 0.25 * worse + 0.004 * noise[4],
            "cosine": 0.965 - 0.1 * worse + 0.002 * noise[5],
            "loss_clean": alone,
            "loss_sae": spliced,
            "loss_zero": 11.4 + 0.05 * noise[6],
            "loss_mean": 9.8 + 0.05 * noise[6],
            "loss_recovered_zero": (11.4 - spliced) / (11.4 - alone),
            "loss_recovered_mean": (9.8 - spliced) / (9.8 - alone),
            "kl_sae": spliced - alone + 0.02,
            "kl_zero": 8.1 + 0.05 * noise[7],
            "kl_mean": 6.4 + 0.05 * noise[7],
        }
        n_contexts = 65_536 // size
        metrics = {
            name: Metric(
                float(f"{curve[1:].mean():.7g}"), float(f"{curve[1:].std() / n_contexts**0.5:.7g}"), _by(curve)
            )
            for name, curve in curves.items()
        }
        return Evaluation(size, n_contexts, n_contexts * (size - 1), metrics)

    return Quality(128, 0, evaluation(128), evaluation(longer) if longer else None, ())


def _by(curve: np.ndarray) -> tuple[float | None, ...]:
    return (None, *(float(f"{value:.7g}") for value in curve[1:]))


def uncomputed_source() -> SourceView:
    """A source nothing is known of yet but its weights."""
    return SourceView(MODEL, "7-res-jb", "res-jb", "blocks.7.hook_resid_pre", 7, "jumprelu", 768, 24_576, {}, AT, None)


def imported_source(**changes: object) -> SourceView:
    """A computed source whose weights nobody has named."""
    unknown = {
        "has_weights": False,
        "hook_point": "",
        "architecture": "",
        "d_in": 0,
        "index_bytes": None,
        "is_imported": True,
    }
    return source(**(unknown | changes))


def made_source() -> SourceView:
    """A source that was only named."""
    return SourceView(MODEL, "8-mine", "mine", "", 8, "", 0, 0, {}, AT, None, has_weights=False)


def model() -> ModelView:
    """A model with a computed and an uncomputed source, and one of another set."""
    facts = {"id": MODEL, "display_name": "GPT-2 small", "weights": "gpt2", "architecture": "GPT2LMHeadModel"}
    sources = (source(), uncomputed_source(), source(name="6-mlp-topk", set_name="mlp-topk", architecture="topk"))
    return ModelView(**facts, n_layers=12, d_model=768, n_context=1024, created_at=AT, sources=sources)


def example(context: int, text: str = TEXT, *, peak: float = 14.0, hit: str = "brigade", which: int = 0) -> ExampleView:
    """`text` in tokens that begin with their space, firing on `hit` and a little beside it."""
    tokens = tuple(_tokens(text))
    hits = [i for i, token in enumerate(tokens) if token.strip().lower() == hit]
    centre = hits[which % len(hits)]
    rng = np.random.default_rng(context)
    values = {i: float(np.float32(peak * rng.uniform(0.2, 0.9))) for i in hits}
    values |= {i: float(np.float32(peak * rng.uniform(0.02, 0.3))) for i in (centre - 2, centre + 1, centre + 2)}
    values[centre] = float(np.float32(peak))
    positions = tuple(sorted(i for i in values if 0 <= i < len(tokens)))
    return ExampleView(context, tokens, positions, tuple(values[i] for i in positions), values[centre], centre)


def feature(**changes: object) -> FeatureView:
    """A living feature with every part; keyword arguments replace fields."""
    maximum = 14.2134
    peaks = np.linspace(maximum, 11.0, 20)
    groups = [GroupView(True, 11.0, maximum, 1.0, tuple(example(i, peak=p, which=i) for i, p in enumerate(peaks)))]
    for k, fraction in ((5, 0.008), (4, 0.021), (3, 0.06), (2, 0.17), (1, 0.741)):
        low, high = maximum * (k - 1) / 5, maximum * k / 5
        chosen = tuple(example(100 * k + i, peak=low + (high - low) * (0.9 - i / 7), which=i) for i in range(5))
        groups.append(GroupView(False, low, high, fraction, chosen))
    facts = {
        "source": source(),
        "index": 12_345,
        "n_firings": 1204,
        "n_contexts": 998,
        "density": 1204 / 635_000,
        "max_value": maximum,
        "min_value": 0.0213,
        "moments": Moments(2.81, 2.44, 1.61, 5.93),
        "decoder_norm": 0.8231,
        "fires_on": (" brigade", " Brigade", " battalion", " regiment", "\n", "if", "<b>", " ", " troops", " fire"),
        "log_histogram": _log_histogram(0.0213, maximum),
        "linear_histogram": _linear_histogram(0.0213, maximum),
        "groups": tuple(groups),
        "logit_lens": lens(),
        "neighbours": tuple(
            NeighbourView(900 + 37 * i, 0.83 - 0.06 * i, 0.001 / (i + 1), (" brig", " Regiment", " corps") if i else ())
            for i in range(10)
        ),
        "previous_index": 12_344,
        "next_index": 12_347,
    }
    return FeatureView(**(facts | changes))


def dead_feature() -> FeatureView:
    """One that never fired: no examples, no histograms, but weights."""
    none = HistogramView((), ())
    undefined = Moments(math.nan, math.nan, math.nan, math.nan)
    return feature(
        index=77, n_firings=0, n_contexts=0, density=0.0, max_value=0.0, min_value=0.0, moments=undefined,
        fires_on=(), log_histogram=none, linear_histogram=none, groups=(),
    )  # fmt: skip


def signed_feature(**changes: object) -> FeatureView:
    """A labelled vector with values at every token, from -6.4 to 14.2."""
    living, (low, high) = feature(), (-6.4120, 14.2134)
    rng = np.random.default_rng(9)

    def dense(example: ExampleView, sign: int) -> ExampleView:
        peak = example.max_value * (0.45 if sign < 0 else 1) * sign
        values = np.clip(rng.normal(0, 0.6, len(example.tokens)), -abs(peak) * 0.8, abs(peak) * 0.8)
        values[example.max_position] = peak
        at = int(values.argmax())
        positions = tuple(range(len(values)))
        return ExampleView(example.context, example.tokens, positions, tuple(values.tolist()), float(values[at]), at)

    above = tuple(replace(g, examples=tuple(dense(e, 1) for e in g.examples)) for g in living.groups)
    below = tuple(
        replace(
            g, low=low if g.is_top else g.high / high * low, high=(g.low / high) * low, is_negative=True,
            examples=tuple(dense(e, -1) for e in g.examples),
        )
        for g in living.groups
    )  # fmt: skip
    edges = np.arange(-13, 30) / 2
    counts = tuple(int(90_000 * math.exp(-((x + 0.25) ** 2) / 2)) + int(3 * abs(x)) for x in edges[:-1])
    facts = {
        "source": source(
            name="6-probes", set_name="probes", architecture="vectors", d_sae=12_346, index_bytes=None,
            config={"labels": [f"probe {i}" for i in range(12_345)] + ["talks about the military"]},
        ),
        "n_firings": 635_000, "n_contexts": 5_000, "density": 1.0, "min_value": low, "moments": Moments(0.1, 0.9, 1.2, 9.0),
        "log_histogram": HistogramView((), ()), "linear_histogram": HistogramView(tuple(map(float, edges)), counts),
        "groups": (*above, *below),
        "signed": SignedView(True, 0.43, 0.57, (" cards", " asleep", " yard", " house")),
    }  # fmt: skip
    return feature(**(facts | changes))


def lens() -> LogitLensView:
    """Ten tokens up, ten down, a bell over the vocabulary."""
    top = (" Brigade", " brigade", " Brig", " brig", " battalion", " Battalion", " Regiment", "alions", "\n\n", " Sq")
    bottom = ("sequence", "ogen", " Lex", "Kenn", "ENN", "lex", "ap", "ITED", "orce", "<|endoftext|>")
    edges = np.linspace(-0.71, 3.75, 51)
    counts = 9900 * np.exp(-((edges[:-1] + 0.04) ** 2) / 0.06) + np.where(edges[:-1] > 2, np.arange(50) % 2, 0)
    return LogitLensView(
        tuple(zip(top, (3.75, 3.06, 2.41, 2.27, 1.67, 1.41, 1.31, 1.16, 1.15, 1.1), strict=True)),
        tuple(zip(bottom, (-0.71, -0.67, -0.67, -0.64, -0.63, -0.61, -0.6, -0.6, -0.6, -0.59), strict=True)),
        HistogramView(tuple(map(float, edges)), tuple(int(c) for c in counts)),
        Moments(0.001, 0.19, 0.41, 5.12),
    )


@cache
def genuine(number: int = 0) -> FeatureView:
    """A feature as SAEDashboard computed it for gpt2-small; groups and values are its own."""
    raw = json.loads(GENUINE.read_text())["features"][number]
    by_interval: dict[tuple[float, float], list[ExampleView]] = {}
    for i, found in enumerate(raw["activations"]):
        fires = [k for k, v in enumerate(found["values"]) if v > 0]
        if not fires:
            continue
        best = max(fires, key=lambda k: found["values"][k])
        view = ExampleView(
            i,
            tuple(found["tokens"]),
            tuple(fires),
            tuple(found["values"][k] for k in fires),
            found["values"][best],
            best,
        )
        key = (found["bin_min"], found["bin_max"], found["bin_contains"])
        by_interval.setdefault(key, []).append(view)
    groups = [
        GroupView(low < 0, max(low, min(e.max_value for e in views)), high, fraction, tuple(views[:20]))
        for (low, high, fraction), views in sorted(by_interval.items(), key=lambda item: (item[0][0] >= 0, -item[0][1]))
    ]
    edges = np.array(raw["logits_hist_data_bar_values"])
    width = edges[1] - edges[0]
    histogram = HistogramView((*(edges - width / 2), edges[-1] + width / 2), tuple(raw["logits_hist_data_bar_heights"]))
    return feature(
        source=source(name="0-res-jb", hook_point="blocks.0.hook_resid_pre", layer=0, corpus="openwebtext"),
        index=raw["feature_index"],
        max_value=max(e.max_value for g in groups for e in g.examples),
        density=raw["frac_nonzero"],
        fires_on=tuple(raw["pos_str"]),
        groups=tuple(groups),
        logit_lens=LogitLensView(
            tuple(zip(raw["pos_str"], raw["pos_values"], strict=True)),
            tuple(zip(raw["neg_str"], raw["neg_values"], strict=True)),
            histogram,
            Moments(0.0, 0.2, 0.4, 5.1),
        ),
        previous_index=None,
        next_index=1,
    )


def page(query: FeatureQuery = FeatureQuery(), *, n_total: int = 23_911) -> FeaturePage:  # noqa: B008 - frozen
    """Fifty rows."""
    rng = np.random.default_rng(0)
    fires = ((" brigade", " battalion"), ("\n", "\t"), ("import", " from", " as"), (" the",), ("'s", " of", " which"))
    rows = tuple(
        FeatureRow(
            61 * i, float(10 ** rng.normal(-3, 0.8)), float(rng.gamma(4, 3)), float(rng.gamma(3, 2)) + 2,
            fires[i % 5] if i % 11 else (), (" Brigade", " Brig", "alions", "<b>"),
        )
        for i in range(max(0, min(query.per_page, n_total - query.per_page * (query.page - 1))))
    )  # fmt: skip
    return FeaturePage(rows, n_total, query)


def facts(index: int = 12_345, **changes: object) -> FeatureFacts:
    """A feature as tables name it."""
    fires_on = (" brigade", " Brigade", " battalion", "\n", "<b>", " ")
    given = {"index": index, "n_firings": 1204, "density": 1204 / 635_000, "max_value": 14.2134, "fires_on": fires_on}
    return FeatureFacts(**(given | changes))


def activations(query: ActivationQuery = ActivationQuery(), **changes: object) -> ActivationPage:  # noqa: B008 - frozen
    """Fifty firings, and what lies around them."""
    views = [example(i, peak=14.0 - i / 6, which=i) for i in range(50)]
    edges = np.geomspace(0.0213, 14.2134, 41).tolist()
    counts = tuple(int(60 * math.exp(-((i - 27) ** 2) / 90)) for i in range(40))
    given = {
        "source": source(),
        "feature": facts(),
        "query": query,
        "n_total": 1204,
        "rows": tuple(FiringView(e.context, e.max_position, e.max_value, e) for e in views),
        "histogram": HistogramView(tuple(edges), counts),
        "bin_ends": tuple((low, high * 0.999) for low, high in pairwise(edges)),
        "quantiles": tuple(zip(QUANTILES, (0.0381, 0.119, 0.93, 2.31, 4.02, 8.5, 12.1), strict=True)),
    }
    return ActivationPage(**(given | changes))


def cofiring(query: CofiringQuery = CofiringQuery(), **changes: object) -> CofiringPage:  # noqa: B008 - frozen
    """Fifty features, one of them on every token."""
    rows = tuple(
        CofiringRow(facts(300 + 7 * i), 1204 - 20 * i, 1 - i / 60, 0.9 / (i + 1), 412.0 / (i + 1), 0.6 / (i + 1))
        for i in range(50)
    )
    rows = (CofiringRow(facts(9, n_firings=635_000), 1204, 1.0, 0.0019, 1.0, None), *rows[1:])
    given = {
        "source": source(), "feature": facts(), "query": query, "n_total": 733, "n_looked_at": 1204, "rows": rows,
    }  # fmt: skip
    return CofiringPage(**(given | changes))


def pair(query: PairQuery = PairQuery(), **changes: object) -> PairPage:  # noqa: B008 - frozen
    """Twenty contexts; the other feature fires beside the first, on it, or not at all."""
    views = [example(i, peak=14.0 - i / 3, which=i) for i in range(20)]
    rows = tuple(
        FiringView(
            e.context,
            e.max_position,
            e.max_value,
            e,
            (e.max_position - 4, e.max_position)[: i % 3],
            (1.5, 2.0)[: i % 3],
        )
        for i, e in enumerate(views)
    )
    given = {
        "source": source(), "feature": facts(), "other": facts(20_112, n_firings=5120), "query": query,
        "n_tokens_both": 803, "n_contexts": 998, "n_contexts_other": 2031, "n_contexts_both": 940, "lift": 82.7,
        "correlation": 0.3216, "value_correlation": 0.2871, "n_total": 801, "rows": rows,
    }  # fmt: skip
    return PairPage(**(given | changes))


def job(**changes: object) -> JobView:
    """A job half way through encoding."""
    facts = {
        "id": 7,
        "model": MODEL,
        "sources": (JobSourceView(SOURCE, 24_576, 0, is_published=False),),
        "state": "running",
        "stage": "encode",
        "stages": (
            StageView("prepare", "tokens", 1, 1, 0, 635_000, 635_000),
            StageView("encode", "tokens", 12, 5, 1, 635_000, 290_112),
        ),
        "fraction": 0.43,
        "tokens_per_s": 10_412.0,
        "seconds_left": 73.0,
        "error": None,
        "created_at": AT,
        "started_at": AT,
        "finished_at": None,
    }
    return JobView(**(facts | changes))


def so_far(**changes: Any) -> tuple[SoFar, ...]:
    """A source half way through encoding."""
    facts: dict[str, Any] = {
        "name": SOURCE, "n_features": 24_576, "n_tokens": 288_000, "n_firings": 18_432_113, "n_alive": 23_871,
        "density_low": -6.0, "density_high": 0.0,
        "density_counts": tuple(int(900 * math.exp(-((i - 24) ** 2) / 60)) for i in range(50)), "ready": (),
    }  # fmt: skip
    return (SoFar(**(facts | changes)),)


def disk_use() -> DiskUse:
    """What a source takes."""
    return DiskUse(MODEL, SOURCE, 52_430_112, 9_830_400, 71_303_168, 151_034_112)


def corpora() -> tuple[CorpusView, ...]:
    """Corpora to choose from, the newest without a name."""
    return (
        CorpusView(3, MODEL, "", 64, 18_750, 1_200_000, has_documents=False, used_by=(), created_at=AT),
        CorpusView(
            1, MODEL, "pile-uncopyrighted-sample.txt", 128, 5_000, 635_000, has_documents=True, used_by=(SOURCE,),
            created_at=AT,
        ),
    )  # fmt: skip


def log() -> tuple[EventView, ...]:
    """What a job under way has said, with everything that is hard to show."""
    lines: tuple[tuple[Level, str], ...] = (
        ("info", "Queued."),
        ("info", "Started by worker host-1.example:4711."),
        ("info", "The corpus is ready: 635,000 tokens in 5,000 contexts of 128. 12 shards to encode."),
        ("warning", "Worker host-2:31 went away during shard 3 of encode; worker host-1.example:4711 does it again."),
        ("error", "Failed: a <sentence> of what is wrong."),
    )
    return tuple(EventView(i + 1, AT, level, text) for i, (level, text) in enumerate(lines))


def _tokens(text: str) -> list[str]:
    """A line break is a token; a word takes the space before it along."""
    out: list[str] = []
    for line in text.splitlines(keepends=True):
        for word in line.rstrip("\n").split(" "):
            out.append(word if not out or out[-1] == "\n" else " " + word)
        if line.endswith("\n"):
            out.append("\n")
    return out


def _log_histogram(low: float, high: float) -> HistogramView:
    edges = np.geomspace(low, high, 41)
    return HistogramView(tuple(map(float, edges)), tuple(int(60 * math.exp(-((i - 27) ** 2) / 90)) for i in range(40)))


def _linear_histogram(low: float, high: float) -> HistogramView:
    edges = np.linspace(low, high, 51)
    return HistogramView(tuple(map(float, edges)), tuple(int(220 * math.exp(-i / 7)) + (i > 46) for i in range(50)))


def uploads() -> tuple[UploadView, ...]:
    """One that a connection broke off, one that is complete."""
    files = (
        FileView("cfg.json", 1_422, None, 1_422),
        FileView("sae_weights.safetensors", 151_062_272, None, 64_000_000),
    )
    whole = tuple(FileView(file.name, file.size, "0" * 64, file.size) for file in files)
    n_bytes = sum(file.size for file in files)
    return (
        UploadView("1" * 32, "sae", "batchtopk<512>", "open", files, n_bytes, (), {}, AT),
        UploadView("2" * 32, "sae", "6-res-jb", "complete", whole, n_bytes, (), {}, AT),
    )


def import_uploads() -> tuple[UploadView, ...]:
    """As `uploads`, of dashboards."""
    return tuple(
        replace(each, kind="dashboards", name=name)
        for each, name in zip(uploads(), ("6-<made>", "7-made"), strict=True)
    )
