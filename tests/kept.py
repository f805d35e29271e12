"""A hosted source whose activation index is kept, from firings that can be counted by hand."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sqlalchemy import delete, insert, update
from sqlalchemy.orm import Session

from backend.db.tables import Corpus, Feature, Revision, Source
from backend.names import FeatureRef
from backend.storage import Mirror
from tests import hosted
from tests import postings as made
from tests.hosted import CONTEXT_SIZE, MODEL, N_CONTEXTS, TEXTS
from tests.hosted import SOURCE as SOURCE

D_SAE = 40
N_TOKENS = N_CONTEXTS * (CONTEXT_SIZE - 1)
"""That count: the first of each context is masked."""
DEAD, ALWAYS, SINGLE = 0, 1, 2

Firings = list[dict[int, float]]


def random(seed: int = 0) -> Firings:
    """Firings {token: value} of each feature; some features are as `DEAD`, `ALWAYS` and `SINGLE` say."""
    return made.random(n_features=D_SAE, n_contexts=N_CONTEXTS, context_size=CONTEXT_SIZE, l0=6, seed=seed)


def keep(
    session: Session,
    mirror: Mirror,
    folder: Path,
    firings: Firings,
    *,
    model: str = MODEL,
    source: str = SOURCE,
    ranges: Sequence[int] = (0, 7, D_SAE),
    shards: Sequence[int] = (0, 32, N_CONTEXTS),
) -> hosted.Hosted:
    """Host `hosted`'s source with these features instead of its own, and put their index into the store."""
    host = hosted.host(session, model=model, source=source)
    session.execute(delete(Feature).where(Feature.revision_id == host.revision_id))
    rows = [
        {
            "revision_id": host.revision_id, "index": i, "n_firings": len(of_one), "density": len(of_one) / N_TOKENS,
            "max_activation": max(of_one.values(), default=0.0), "logit_kurtosis": None,
            "fires_on": [TEXTS[1 + i % 9]] if of_one else [], "promotes": [], "token_texts": "",
        }
        for i, of_one in enumerate(firings)
    ]  # fmt: skip
    session.execute(insert(Feature), rows)
    names = made.write(
        folder / "made", made.of(firings, CONTEXT_SIZE), n_contexts=N_CONTEXTS, context_size=CONTEXT_SIZE,
        ranges=list(ranges), shards=list(shards),
    )  # fmt: skip
    prefix = f"indexes/{host.source_id}/1"
    found = {
        "features": [
            {"key": f"{prefix}/{name}", "first": a} for name, a in zip(names["features"], ranges, strict=False)
        ],
        "tokens": [
            {"key": f"{prefix}/{name}", "first": a * CONTEXT_SIZE}
            for name, a in zip(names["tokens"], shards, strict=False)
        ],
    }
    n_bytes = 0
    for name in names["features"] + names["tokens"]:
        n_bytes += (folder / "made" / name).stat().st_size
        mirror.store.put(f"{prefix}/{name}", folder / "made" / name)
    np.save(folder / "corpus.npy", np.stack([hosted.tokens_of(i) for i in range(N_CONTEXTS)]).astype(np.uint16))
    mirror.store.put("corpora/kept.npy", folder / "corpus.npy")
    facts = {"index_files": found, "index_bytes": n_bytes, "n_firings": sum(map(len, firings))}
    session.execute(update(Revision).where(Revision.id == host.revision_id).values(facts))
    kept = {"n_tokens": N_TOKENS, "blob_key": "corpora/kept.npy"}
    session.execute(update(Corpus).where(Corpus.id == host.corpus_id).values(kept))
    session.execute(update(Source).where(Source.id == host.source_id).values(d_sae=len(firings)))
    return host


def ref(index: int) -> FeatureRef:
    return FeatureRef(MODEL, SOURCE, index)
