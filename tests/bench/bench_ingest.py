"""How fast dashboards with 45 examples each go into Postgres: packed, copied, summed up and published.

A Postgres of its own from the wheel, as tests have it (fsync off); features in blocks, as `finish` yields them.
Beside it, in the same run and in turn, a plain binary COPY of the very bytes that ended up in the tables into empty
tables with the same indexes, in one stream: what Postgres alone needs. Printed, and written with --write to
tests/bench/results/ingest.json.
"""

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from io import BytesIO

import numpy as np
import psutil
from sqlalchemy import text
from sqlalchemy.orm import Session

from backend.cli.migrate import migrate
from backend.db.session import create_engine
from backend.formats.dashboards import Dashboard, Examples, LogitLens, Moments
from backend.services import ingest
from backend.settings import REPOSITORY, Settings
from tests import database, hosted

N_FEATURES, BLOCK, N_ROUNDS = 16_384, 256, 3
N_EXAMPLES, N_CONTEXTS, CONTEXT_SIZE, N_VOCABULARY = 45, 4096, 128, 5000
TABLES = ("feature", "dashboard")


def main() -> None:
    """Measure and print."""
    rng = np.random.default_rng(0)
    kinds = [dashboard(rng) for _ in range(512)]
    made = [replace(kinds[i % len(kinds)], index=i) for i in range(N_FEATURES)]
    with database.server() as url:
        migrate(Settings(database_url=url))
        engine = create_engine(url)
        rounds: dict[str, list[dict[str, float]]] = {"ingest": [], "plain": []}
        with Session(engine) as session:
            hosting = hosted.host(session)
            session.commit()
            for _ in range(N_ROUNDS):
                rounds["ingest"].append(_timed(session, partial(_ingest, session, hosting, made)))
                streams = _streams(session)
                session.commit()
                rounds["plain"].append(_timed(session, partial(_plain, session, streams)))
            n_bytes = session.scalar(
                text("SELECT pg_total_relation_size('plain_feature') + pg_total_relation_size('plain_dashboard')")
            )
        engine.dispose()
    medians = {
        name: {key: statistics.median(each[key] for each in found) for key in found[0]}
        for name, found in rounds.items()
    }
    ours, plain = medians["ingest"], medians["plain"]
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {psutil.cpu_count()} cores",
        "n_features": N_FEATURES,
        "examples_per_feature": N_EXAMPLES,
        "bytes_per_feature_in_postgres": round(n_bytes / N_FEATURES),
        "features_per_s": round(N_FEATURES / ours["wall_s"]),
        "worker_us_per_feature": round(ours["worker_cpu_s"] / N_FEATURES * 1e6, 1),
        "postgres_us_per_feature": round(ours["postgres_cpu_s"] / N_FEATURES * 1e6, 1),
        "plain_copy_features_per_s": round(N_FEATURES / plain["wall_s"]),
        "plain_copy_postgres_us_per_feature": round(plain["postgres_cpu_s"] / N_FEATURES * 1e6, 1),
        "ratio_to_plain_copy": round(ours["wall_s"] / plain["wall_s"], 2),
    }
    print(json.dumps(result))
    if "--write" in sys.argv:
        (REPOSITORY / "tests" / "bench" / "results" / "ingest.json").write_text(json.dumps(result, indent=1) + "\n")


def dashboard(rng: np.random.Generator) -> Dashboard:
    """Random numbers of a real dashboard's sizes: 45 examples of about three firings, all histograms, a lens."""
    counts = rng.integers(1, 6, N_EXAMPLES)
    offset = np.cumsum([0, *counts], dtype=np.int64)
    n_firings = 3000
    examples = Examples(
        group=np.repeat(np.arange(6, dtype=np.uint8), [20, 5, 5, 5, 5, 5]),
        context=rng.choice(N_CONTEXTS, N_EXAMPLES, replace=False),
        offset=offset,
        position=np.concatenate([np.sort(rng.choice(CONTEXT_SIZE, n, replace=False)) for n in counts]).astype(
            np.uint16
        ),
        value=(rng.exponential(1, int(offset[-1])) + 0.1).astype(np.float32),
    )

    def ids(n: int, below: int) -> np.ndarray:
        return rng.choice(below, n, replace=False).astype(np.int32)

    def numbers(n: int) -> np.ndarray:
        return rng.standard_normal(n).astype(np.float32)

    def histogram(n_bins: int, n: int) -> np.ndarray:
        return rng.multinomial(n, rng.dirichlet(np.ones(n_bins)))

    lens = LogitLens(
        ids(10, N_VOCABULARY), numbers(10), ids(10, N_VOCABULARY), numbers(10), histogram(50, N_VOCABULARY), -4.0, 4.0,
        Moments(*rng.random(4).tolist()),
    )  # fmt: skip
    return Dashboard(
        0, n_firings, 1000, 9.5, 0.1, Moments(*rng.random(4).tolist()), 1.5, histogram(50, n_firings),
        histogram(40, n_firings), histogram(5, n_firings), ids(10, N_VOCABULARY), examples, lens, ids(10, N_FEATURES),
        numbers(10),
    )  # fmt: skip


def _ingest(session: Session, hosting: hosted.Hosted, made: list[Dashboard]) -> None:
    rows = np.zeros((N_CONTEXTS, CONTEXT_SIZE), np.uint16)
    vocabulary = [f" token{i}" for i in range(N_VOCABULARY)]
    revision = ingest.begin_revision(
        session, source_id=hosting.source_id, corpus_id=hosting.corpus_id, job_id=None, n_features=N_FEATURES, spec={}
    )
    for start in range(0, len(made), BLOCK):
        block = made[start : start + BLOCK]
        ingest.copy_dashboards(session, revision, block, n_tokens=500_000, vocabulary=vocabulary)
    ingest.store_contexts(session, hosting.corpus_id, np.concatenate([d.examples.context for d in made]), rows)
    ingest.publish(session, revision)
    session.commit()


def _streams(session: Session) -> dict[str, BytesIO]:
    """The published revision's rows as Postgres writes them, and empty tables to copy them into."""
    streams = {}
    cursor = session.connection().connection.cursor()
    for table in TABLES:
        streams[table] = BytesIO()
        query = f"SELECT {table}.* FROM {table} JOIN source USING (revision_id) ORDER BY revision_id, index"
        cursor.copy_expert(f"COPY ({query}) TO STDOUT (FORMAT binary)", streams[table])
        cursor.execute(f"DROP TABLE IF EXISTS plain_{table}")
        cursor.execute(f"CREATE TABLE plain_{table} (LIKE {table} INCLUDING ALL)")
    return streams


def _plain(session: Session, streams: dict[str, BytesIO]) -> None:
    cursor = session.connection().connection.cursor()
    for table, stream in streams.items():
        stream.seek(0)
        cursor.copy_expert(f"COPY plain_{table} FROM STDIN (FORMAT binary)", stream)
    session.commit()


def _timed(session: Session, run: Callable[[], None]) -> dict[str, float]:
    """Wall seconds, and CPU seconds of this process and of its server process."""
    server = psutil.Process(session.connection().connection.driver_connection.info.backend_pid)
    wall, worker, postgres = time.perf_counter(), time.process_time(), sum(server.cpu_times()[:2])
    run()
    return {
        "wall_s": time.perf_counter() - wall,
        "worker_cpu_s": time.process_time() - worker,
        "postgres_cpu_s": sum(server.cpu_times()[:2]) - postgres,
    }


if __name__ == "__main__":
    main()
