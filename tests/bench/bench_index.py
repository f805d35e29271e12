"""A kept activation index of 24,576 features over 3 M tokens: its size, how fast it is built, how fast it answers.

1. Firings are drawn: log-normal densities, mean L0 60, each token independently, which is the least compressible way.
2. Built as workers build it: a tokens file for each shard of contexts, features files from the shards' joined postings.
3. Every query runs over REST, with its database, on features drawn evenly from those that fire; each once before the
   clock starts, so that files are in the page cache. Beside it the same firings, uncompressed in memory-mapped arrays,
   answer the same questions in plain numpy.
4. A hundred of the features are put into a Postgres table with an index, for its bytes a firing.
`python -m tests.bench.bench_index [--write] [--small]`; results go to tests/bench/results/index.json.
"""

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from sqlalchemy import insert, text, update
from sqlalchemy.orm import Session

from backend import storage
from backend.cli.migrate import migrate
from backend.db.session import create_engine, session_factory, transaction
from backend.db.tables import Corpus, Feature, Revision, Source
from backend.formats import activation_index as files
from backend.formats.activation_index import PackedFeatures
from backend.settings import REPOSITORY, Settings
from backend.web.app import create_app
from tests import hosted
from tests import postings as postings_files
from tests.database import server
from workers.compute import activation_index, index_packing, merge
from workers.compute.activation_index import Postings
from workers.compute.jit import compiled

IS_SMALL = "--small" in sys.argv
D_SAE, CONTEXT_SIZE, L0, SIGMA = 24_576, 128, 60.0, 1.5
N_CONTEXTS = 2_048 if IS_SMALL else 23_552
SHARD_CONTEXTS, BLOCK_FEATURES, RANGE_FEATURES = 2_048, 256, 4_096
N_QUERIES, SEED = 300, 0
N_TOKENS = N_CONTEXTS * CONTEXT_SIZE
IN_TABLE = 100


def main() -> None:
    """Build, ask, print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        densities = _densities()
        shards = [_draw(folder, densities, first) for first in range(0, N_CONTEXTS, SHARD_CONTEXTS)]
        built = _build(folder, shards)
        raw = _raw(folder, shards)
        with server() as url:
            result = {
                "date": datetime.now(UTC).date().isoformat(),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
                "n_features": D_SAE,
                "n_tokens": N_TOKENS,
                "n_firings": int(raw.offset[-1]),
                "build": built["seconds"],
                "bytes_per_firing": built["bytes"],
                "queries_ms": _ask(url, folder, built["names"], raw),
                "postgres_table_bytes_per_firing": _table_bytes(url, raw),
            }
    print(json.dumps(result, indent=1))
    if "--write" in sys.argv:
        (REPOSITORY / "tests" / "bench" / "results" / "index.json").write_text(json.dumps(result, indent=1) + "\n")


def _densities() -> np.ndarray:
    drawn = np.random.default_rng(SEED).lognormal(0, SIGMA, D_SAE)
    return np.minimum(drawn * L0 / drawn.sum(), 0.8)


def _draw(folder: Path, densities: np.ndarray, first: int) -> Path:
    """The postings of one shard, as its encode stage leaves them."""
    n_contexts = min(SHARD_CONTEXTS, N_CONTEXTS - first)
    offset, token, value = _firings(densities, n_contexts * CONTEXT_SIZE, SEED + first)
    context, position = token // CONTEXT_SIZE + first, token % CONTEXT_SIZE
    postings = Postings(offset, context.astype(np.uint32), position.astype(np.uint16), value)
    postings.write(folder / f"{first}.postings", {})
    return folder / f"{first}.postings"


@compiled
def _firings(densities: np.ndarray, n_tokens: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    np.random.seed(seed)
    offset = np.zeros(densities.size + 1, np.int64)
    token = np.empty(int(densities.sum() * n_tokens * 1.1) + 10_000, np.int64)
    n = 0
    for f in range(densities.size):
        t = np.random.geometric(densities[f]) - 1
        while t < n_tokens and n < token.size:
            token[n] = t
            n += 1
            t += np.random.geometric(densities[f])
        offset[f + 1] = n
    value = np.empty(n, np.float32)
    for i in range(n):
        value[i] = 0.05 + np.random.gamma(1.5, 2.0)
    return offset, token[:n], value


def _build(folder: Path, shards: list[Path]) -> dict[str, Any]:
    """The index's files, and CPU seconds of one thread."""
    seconds = {"tokens": 0.0, "features": 0.0, "join": 0.0}
    n_bytes = {"tokens": 0, "features": 0}
    names: dict[str, list[dict[str, Any]]] = {"features": [], "tokens": []}
    warm = activation_index.read(shards[0]).of(0, 2)
    index_packing.pack_features(warm, context_size=CONTEXT_SIZE, n_tokens=N_TOKENS)
    index_packing.pack_tokens(warm, first_context=0, n_contexts=SHARD_CONTEXTS, context_size=CONTEXT_SIZE)
    (folder / "indexes").mkdir()
    n_firings = 0
    for number, shard in enumerate(shards):
        postings, first = activation_index.read(shard), number * SHARD_CONTEXTS
        postings = merge.join([postings])  # into memory
        n_firings += postings.value.size
        started = time.process_time()
        n_contexts = min(SHARD_CONTEXTS, N_CONTEXTS - first)
        packed = index_packing.pack_tokens(
            postings, first_context=first, n_contexts=n_contexts, context_size=CONTEXT_SIZE
        )
        path = folder / "indexes" / f"{number}.tokens"
        n_bytes["tokens"] += files.write_tokens(path, packed, first_token=first * CONTEXT_SIZE, n_features=D_SAE)
        seconds["tokens"] += time.process_time() - started
        names["tokens"].append({"key": f"indexes/{number}.tokens", "first": first * CONTEXT_SIZE})
    parts = [activation_index.read(shard) for shard in shards]

    def blocks(first: int) -> Iterator[PackedFeatures]:
        for at in range(first, min(first + RANGE_FEATURES, D_SAE), BLOCK_FEATURES):
            started = time.process_time()
            block = merge.join(parts, at, at + BLOCK_FEATURES)
            joined = time.process_time()
            yield index_packing.pack_features(block, context_size=CONTEXT_SIZE, n_tokens=N_TOKENS)
            seconds["join"] += joined - started

    started = time.process_time()
    for first in range(0, D_SAE, RANGE_FEATURES):
        path = folder / "indexes" / f"{first}.features"
        n_bytes["features"] += postings_files.write_features(path, blocks(first), first=first, n_tokens=N_TOKENS)
        names["features"].append({"key": f"indexes/{first}.features", "first": first})
    seconds["features"] = time.process_time() - started - seconds.pop("join")
    per_firing = {kind: round(n / n_firings, 3) for kind, n in n_bytes.items()}
    return {
        "names": names,
        "bytes": per_firing | {"all": round(sum(n_bytes.values()) / n_firings, 3)},
        "seconds": {f"{kind}_cpu_s": round(spent, 2) for kind, spent in seconds.items()}
        | {"firings_per_s": round(n_firings / sum(seconds.values()))},
    }


def _raw(folder: Path, shards: list[Path]) -> Postings:
    """All postings as mapped arrays, 10 bytes a firing."""
    parts = [activation_index.read(shard) for shard in shards]
    offset = sum(part.offset for part in parts)
    n = int(offset[-1])
    made = {
        "context": np.lib.format.open_memmap(folder / "context.npy", "w+", np.uint32, (n,)),
        "position": np.lib.format.open_memmap(folder / "position.npy", "w+", np.uint16, (n,)),
        "value": np.lib.format.open_memmap(folder / "value.npy", "w+", np.float32, (n,)),
    }
    for first in range(0, D_SAE, BLOCK_FEATURES):
        block = merge.join(parts, first, first + BLOCK_FEATURES)
        for name, array in made.items():
            array[offset[first] : offset[first + BLOCK_FEATURES]] = getattr(block, name)
    return Postings(offset, **made)


def _ask(url: str, folder: Path, names: dict[str, Any], raw: Postings) -> dict[str, Any]:
    (folder / "assets").mkdir()
    (folder / "assets" / "manifest.json").write_text("{}")
    settings = Settings(database_url=url, assets=folder / "assets", data=folder / "data", blob_url=str(folder))
    migrate(settings)
    engine = create_engine(url)
    with transaction(session_factory(engine)) as session:
        _host(session, settings, folder, names, raw)
    engine.dispose()
    rng = np.random.default_rng(SEED)
    asked = rng.choice(np.flatnonzero(np.diff(raw.offset)), N_QUERIES).tolist()
    others = rng.permutation(asked).tolist()
    base = f"index/{hosted.MODEL}/{hosted.SOURCE}"
    with TestClient(create_app(settings), base_url="http://localhost/api/") as api:

        def get(path: str) -> dict[str, Any] | list[Any]:
            response = api.get(f"{base}/{path}")
            assert response.status_code == 200, response.text
            found: dict[str, Any] = response.json()
            return found

        return {
            "activations": _times(
                asked, others, lambda a, b: get(f"{a}/activations?low=1&high=5"), lambda a, b: _raw_range(raw, a)
            ),
            "quantiles": _times(asked, others, lambda a, b: get(f"{a}/quantiles"), lambda a, b: _raw_quantiles(raw, a)),
            "together": _times(asked, others, lambda a, b: get(f"{a}/pair/{b}"), lambda a, b: _raw_pair(raw, a, b)),
            "without": _times(
                asked, others, lambda a, b: get(f"{a}/pair/{b}?where=without"), lambda a, b: _raw_pair(raw, a, b)
            ),
            "cofiring": _times(asked, others, lambda a, b: get(f"{a}/cofiring"), None),
        }


def _times(
    asked: list[int],
    others: list[int],
    query: Callable[[int, int], object],
    uncompressed: Callable[[int, int], object] | None,
) -> dict[str, float]:
    """Milliseconds of wall time and of this process's CPU; the same without compression and without a server."""
    spent: dict[str, list[float]] = {"": [], "cpu_": [], "uncompressed_": []}
    for a, b in zip(asked, others, strict=True):
        query(a, b)
        started, cpu = time.perf_counter(), time.process_time()
        query(a, b)
        spent["cpu_"].append(1000 * (time.process_time() - cpu))
        spent[""].append(1000 * (time.perf_counter() - started))
        if uncompressed is not None:
            uncompressed(a, b)
            started = time.perf_counter()
            uncompressed(a, b)
            spent["uncompressed_"].append(1000 * (time.perf_counter() - started))
    return {
        f"{name}p{share}": round(float(np.percentile(times, share)), 2)
        for name, times in spent.items()
        if times
        for share in (50, 95, 100)
    }


def _host(session: Session, settings: Settings, folder: Path, names: dict[str, Any], raw: Postings) -> None:
    host = hosted.host(session)
    session.execute(text("DELETE FROM feature"))
    n = np.diff(raw.offset)
    maxima = np.maximum.reduceat(raw.value, np.minimum(raw.offset[:-1], raw.offset[-1] - 1))
    rows = [
        {
            "revision_id": host.revision_id, "index": i, "n_firings": int(n[i]), "density": float(n[i] / N_TOKENS),
            "max_activation": float(maxima[i]), "logit_kurtosis": None, "fires_on": [" a", " the"], "promotes": [],
            "token_texts": "",
        }
        for i in range(D_SAE)
    ]  # fmt: skip
    session.execute(insert(Feature), rows)
    np.save(
        folder / "corpus.npy", np.random.default_rng(0).integers(1, 12, (N_CONTEXTS, CONTEXT_SIZE)).astype(np.uint16)
    )
    storage.store(settings).put("corpora/bench.npy", folder / "corpus.npy")
    session.execute(update(Source).values(d_sae=D_SAE))
    corpus = {"n_tokens": N_TOKENS, "n_contexts": N_CONTEXTS, "context_size": CONTEXT_SIZE, "is_first_masked": False}
    session.execute(update(Corpus).values(blob_key="corpora/bench.npy", **corpus))
    session.execute(update(Revision).values(index_files=names, index_bytes=1, n_firings=int(raw.offset[-1])))


def _of(raw: Postings, feature: int) -> tuple[np.ndarray, np.ndarray]:
    at = slice(int(raw.offset[feature]), int(raw.offset[feature + 1]))
    return raw.context[at].astype(np.int64) * CONTEXT_SIZE + raw.position[at], np.asarray(raw.value[at])


def _raw_range(raw: Postings, feature: int) -> np.ndarray:
    token, value = _of(raw, feature)
    kept = np.flatnonzero((value >= 1) & (value <= 5))
    return token[kept[np.argsort(-value[kept], kind="stable")[:50]]]


def _raw_quantiles(raw: Postings, feature: int) -> np.ndarray:
    found: np.ndarray = np.quantile(
        _of(raw, feature)[1], (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99), method="inverted_cdf"
    )
    return found


def _raw_pair(raw: Postings, a: int, b: int) -> np.ndarray:
    (token, value), (other, _) = _of(raw, a), _of(raw, b)
    both = np.isin(token, other, assume_unique=True)
    return token[both][np.argsort(-value[both], kind="stable")[:50]]


def _table_bytes(url: str, raw: Postings) -> float:
    """Of a table (feature, token, value) with its primary key, for a few features."""
    engine = create_engine(url)
    chosen = np.random.default_rng(SEED).choice(D_SAE, IN_TABLE, replace=False).tolist()
    n = 0
    with engine.begin() as connection:
        connection.execute(
            text("CREATE TABLE firing (feature int, token int, value real, PRIMARY KEY (feature, token))")
        )
        for feature in chosen:
            token, value = _of(raw, feature)
            connection.execute(
                text("INSERT INTO firing SELECT :f, unnest(CAST(:t AS int[])), unnest(CAST(:v AS real[]))"),
                {"f": feature, "t": token.tolist(), "v": value.tolist()},
            )
            n += token.size
        size = connection.execute(text("SELECT pg_total_relation_size('firing')")).scalar_one()
    engine.dispose()
    return round(float(size) / n, 1)


if __name__ == "__main__":
    main()
