"""A small hosted source, made without any model: every kind of feature once, in numbers that can be checked by hand.

Contexts are 8 tokens, the first of them masked; the vocabulary holds what is hard to match, quote and escape.
"""

import hashlib
import zlib
from dataclasses import dataclass, replace

import numpy as np
import orjson
from numpy.typing import ArrayLike
from sqlalchemy import insert, update
from sqlalchemy.orm import Session

from backend.db.tables import Context, Corpus, Dashboard, Feature, Revision, Source, Vocabulary
from backend.db.tables import Model as ModelRow
from backend.formats import copy_rows, dashboards, look, quality
from backend.formats.dashboards import Examples, LogitLens, Moments
from backend.services import catalog

MODEL = "tiny-model"
SOURCE = "2-tiny-sae"
HOOK_POINT = "blocks.2.hook_resid_post"
TEXTS = ("<|endoftext|>", " the", " cat", "\n", "100%", "a_b", "C:\\n", '"', ", ", "Émile", " ab%cd", "x" * 30)
CONTEXT_SIZE = 8
N_CONTEXTS = 60
N_TOKENS = 10_000

DEAD, RICH, SINGLE, NO_LENS, LAST = 0, 1, 2, 3, 5
"""Feature 4 is dead too; 5 is like 1."""
D_SAE = 6


@dataclass(frozen=True)
class Hosted:
    """Keys of the rows made."""

    source_id: int
    revision_id: int
    corpus_id: int
    vocabulary_id: int


def host(session: Session, *, model: str = MODEL, source: str = SOURCE, is_first_masked: bool = True) -> Hosted:
    """A model, a source and its computed dashboards."""
    vocabulary_id = add_vocabulary(session, TEXTS)
    catalog.add_model(session, model, f"/models/{model}", display_name="A tiny model")
    facts = {"architecture": "gpt2", "n_layers": 4, "d_model": 16, "n_context": 8, "vocabulary_id": vocabulary_id}
    session.execute(update(ModelRow).where(ModelRow.id == model).values(facts))
    source_id = add_source(session, model=model, source=source)
    corpus_id = add_corpus(session, model, vocabulary_id, is_first_masked=is_first_masked)
    revision_id = add_revision(session, source_id, corpus_id)
    for made in every_kind(with_first=not is_first_masked):
        add_feature(session, revision_id, made)
    return Hosted(source_id, revision_id, corpus_id, vocabulary_id)


def add_vocabulary(session: Session, texts: tuple[str, ...]) -> int:
    packed = zlib.compress(orjson.dumps(texts))
    values = {"n_tokens": len(texts), "strings": packed, "special_tokens": [0]}
    sha256 = hashlib.sha256(packed + np.random.bytes(8)).hexdigest()
    return session.execute(insert(Vocabulary).values(sha256=sha256, **values).returning(Vocabulary.id)).scalar_one()


def add_source(session: Session, *, model: str = MODEL, source: str = SOURCE) -> int:
    return catalog.add_source(
        session,
        model,
        source,
        hook_point=HOOK_POINT,
        architecture="topk",
        d_in=16,
        d_sae=D_SAE,
        weights=f"/saes/{source}",
        config={"k": 4, "hook_name": HOOK_POINT},
    )


def add_corpus(session: Session, model: str, vocabulary_id: int, *, is_first_masked: bool = True) -> int:
    query = insert(Corpus).values(
        model_id=model, vocabulary_id=vocabulary_id, name="some text", fingerprint=f"f{vocabulary_id}",
        context_size=CONTEXT_SIZE, n_contexts=N_CONTEXTS, n_tokens=N_TOKENS, is_first_masked=is_first_masked,
        blob_key="corpora/x.npy",
    )  # fmt: skip
    corpus_id = session.execute(query.returning(Corpus.id)).scalar_one()
    rows = [
        {"corpus_id": corpus_id, "index": index, "tokens": tokens_of(index).astype("<u2").tobytes()}
        for index in range(N_CONTEXTS)
    ]
    session.execute(insert(Context), rows)
    return corpus_id


def tokens_of(context: int) -> np.ndarray:
    """Token ids of a context: it begins with the special token, no two are alike."""
    return np.array([0, *((context + np.arange(CONTEXT_SIZE - 1) * (1 + context // 12)) % (len(TEXTS) - 1) + 1)])


def add_revision(session: Session, source_id: int, corpus_id: int) -> int:
    """A revision readers see from now on."""
    query = insert(Revision).values(
        source_id=source_id, corpus_id=corpus_id, n_features=D_SAE, n_alive=4, n_firings=5_000, spec={},
        n_dense=3, activation_sum=15_000.0,
        density_histogram={"low": -4.0, "high": 0.0, "counts": [1, 0, 3, 0]},
    )  # fmt: skip
    revision_id = session.execute(query.returning(Revision.id)).scalar_one()
    session.execute(update(Source).where(Source.id == source_id).values(revision_id=revision_id))
    return revision_id


def some_quality(*, n_metrics: int = 14, longer: int = 0) -> quality.Quality:
    """An evaluation in plain numbers: metric k is k + 1/4, and at position p k + p/100; nothing counts at position 0."""

    def evaluation(size: int) -> quality.Evaluation:
        names = (quality.RECONSTRUCTION + quality.LOSS)[:n_metrics]
        metrics = {
            name: quality.Metric(k + 0.25, 0.125, (None, *(k + p / 100 for p in range(1, size))))
            for k, name in enumerate(names)
        }
        return quality.Evaluation(size, N_CONTEXTS, N_CONTEXTS * (size - 1), metrics)

    return quality.Quality(
        CONTEXT_SIZE, 0, evaluation(CONTEXT_SIZE), evaluation(longer) if longer else None, ("Something is missing.",)
    )


def some_look() -> look.Look:
    """A look in plain numbers, with one finding of each severity and a candidate that fits better."""
    return look.Look(
        HOOK_POINT, 64, look.Fit(0.5, 6.0), D_SAE, 5, 3.5, (0.25, 4.0),
        (
            look.Candidate("place", "at blocks.2.hook_resid_post", look.Fit(0.875, 4.0), is_better=True),
            look.Candidate("b_dec", "with b_dec not subtracted from the input", look.Fit(None, 4.5), is_better=False),
        ),
        tuple(look.Finding(severity, f"something is {severity}.", "Do this.") for severity in ("fatal", "warning", "note")),
    )  # fmt: skip


def add_feature(session: Session, revision_id: int, made: dashboards.Dashboard) -> None:
    lens = made.logit_lens
    row = {
        "n_firings": made.n_firings,
        "density": made.n_firings / N_TOKENS,
        "max_activation": made.max,
        "mean_activation": made.moments.mean if made.n_firings else None,
        "logit_kurtosis": None if lens is None else lens.moments.kurtosis,
        "fires_on": [TEXTS[token] for token in made.top_tokens],
        "promotes": [] if lens is None else [TEXTS[token] for token in lens.top_tokens],
    }
    row["token_texts"] = copy_rows.token_texts([*row["fires_on"], *row["promotes"]])
    session.execute(insert(Feature).values(revision_id=revision_id, index=made.index, **row))
    packed = dashboards.pack(made)
    session.execute(insert(Dashboard).values(revision_id=revision_id, index=made.index, packed=packed))


def every_kind(*, with_first: bool = False) -> list[dashboards.Dashboard]:
    """One feature of each kind, by index."""
    rich = replace(_rich(), index=RICH) if not with_first else _firing_first()
    return [_dead(DEAD), rich, _single(), replace(_rich(), index=NO_LENS, logit_lens=None), _dead(4), _last()]


def _dead(index: int) -> dashboards.Dashboard:
    nan = Moments(*[float("nan")] * 4)
    return dashboards.Dashboard(
        index, 0, 0, 0.0, 0.0, nan, 1.0, _counts(50), _counts(40), _counts(5), _ids([]),
        _examples([]), _lens(), _ids([1, 2]), np.array([0.5, 0.25], np.float32),
    )  # fmt: skip


def _single() -> dashboards.Dashboard:
    """Fires once, at 0.1: an fp32 number whose double is not 0.1."""
    value = float(np.float32(0.1))
    once = _examples([(0, 7, [3], [value])])
    return dashboards.Dashboard(
        SINGLE, 1, 1, value, value, Moments(value, 0.0, float("nan"), float("nan")), 2.0, _counts(50, {49: 1}),
        _counts(40, {39: 1}), _counts(5, {4: 1}), _ids([2]), once, _lens(), _ids([]), np.array([], np.float32),
    )  # fmt: skip


def _rich() -> dashboards.Dashboard:
    """45 examples; the k-th top context fires at 10 − k/4, and beside its maximum once at half of that."""
    top = [(0, k, [1 + k % 6, 7], [10 - k / 4, (10 - k / 4) / 2]) for k in range(20)]
    sampled = [(i, 20 + 5 * i + k, [2], [2 * i - 0.1 - 0.2 * k]) for i in range(1, 6) for k in range(5)]
    return dashboards.Dashboard(
        RICH, 1_000, 400, 10.0, 0.5, Moments(3.0, 1.5, 0.7, 3.25), 1.5,
        np.arange(50, dtype=np.int64), np.arange(40, dtype=np.int64)[::-1].copy(),
        np.array([500, 250, 125, 100, 25], np.int64), _ids([1, 2, 3]), _examples(top + sampled), _lens(),
        _ids([2, 5]), np.array([0.9, -0.25], np.float32),
    )  # fmt: skip


def _last() -> dashboards.Dashboard:
    lens = replace(_lens(), top_tokens=_ids([10, 9, 8, 7, 6, 5, 4, 3, 2, 11]), moments=Moments(0.0, 1.0, 0.0, 4.5))
    return replace(_rich(), index=LAST, n_firings=4_000, top_tokens=_ids([4, 5, 6]), logit_lens=lens)


def _firing_first() -> dashboards.Dashboard:
    return replace(_rich(), examples=_examples([(0, 3, [0, 2], [10.0, 1.0])]))


def _lens() -> LogitLens:
    logits = np.linspace(2, 1, 10).astype(np.float32)
    return LogitLens(
        _ids(range(1, 11)), logits, _ids(range(11, 1, -1)), -logits, _counts(50, {0: 5, 49: 7}), -2.0, 2.0,
        Moments(0.0, 1.0, 0.1, 2.5),
    )  # fmt: skip


def _examples(given: list[tuple[int, int, list[int], list[float]]]) -> Examples:
    """From (group, context, positions, values)."""
    sizes = [len(positions) for _, _, positions, _ in given]
    return Examples(
        group=np.array([group for group, *_ in given], np.uint8),
        context=np.array([context for _, context, *_ in given], np.int64),
        offset=np.cumsum([0, *sizes]).astype(np.int64),
        position=np.array([p for *_, positions, _ in given for p in positions], np.uint16),
        value=np.array([v for *_, values in given for v in values], np.float32),
    )


def _ids(ids: ArrayLike | range) -> np.ndarray:
    return np.array(ids, np.int32)


def _counts(n: int, filled: dict[int, int] | None = None) -> np.ndarray:
    counts = np.zeros(n, np.int64)
    for at, count in (filled or {}).items():
        counts[at] = count
    return counts
