"""What imported features take of the disk, beside the same rows in Neuronpedia's own tables.

Tables: hijohnnylin/neuronpedia at ebb8426f, `apps/webapp/prisma/schema.prisma`: the columns that an export has, their
types, and the indexes of `Neuron` and `Activation`.
"""

import gzip
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import text

from backend.db.session import transaction
from tests import exports
from tests.integration.test_imports import begin, done
from tests.site import Site
from tests.site import site as site

N_FEATURES = 512
NEURON = {
    "modelId": "text", "layer": "text", "index": "text", "sourceSetName": "text", "creatorId": "text",
    "createdAt": "timestamp(3) NOT NULL DEFAULT now()", "maxActApprox": "float8", "hasVector": "bool", "vector": "float8[]",
    "vectorLabel": "text", "vectorDefaultSteerStrength": "float8", "hookName": "text", "topkCosSimIndices": "int4[]",
    "topkCosSimValues": "float8[]", "neuron_alignment_indices": "int4[]", "neuron_alignment_values": "float8[]",
    "neuron_alignment_l1": "float8[]", "correlated_neurons_indices": "int4[]", "correlated_neurons_pearson": "float8[]",
    "correlated_neurons_l1": "float8[]", "neg_str": "text[]", "neg_values": "float8[]", "pos_str": "text[]",
    "pos_values": "float8[]", "frac_nonzero": "float8", "freq_hist_data_bar_heights": "float8[]",
    "freq_hist_data_bar_values": "float8[]", "logits_hist_data_bar_heights": "float8[]",
    "logits_hist_data_bar_values": "float8[]", "decoder_weights_dist": "float8[]",
}  # fmt: skip
ACTIVATION = {
    "id": "text PRIMARY KEY", "tokens": "text[]", "dataIndex": "text", "index": "text", "layer": "text", "modelId": "text",
    "dataSource": "text", "maxValue": "float8", "maxValueTokenIndex": "int4", "minValue": "float8", "values": "float8[]",
    "dfaValues": "float8[]", "dfaTargetIndex": "int4", "dfaMaxValue": "float8", "creatorId": "text",
    "createdAt": "timestamp(3) NOT NULL DEFAULT now()", "lossValues": "float8[]", "logitContributions": "text",
    "binMin": "float8", "binMax": "float8", "binContains": "float8", "qualifyingTokenIndex": "int4",
}  # fmt: skip
INDEXES = (
    'CREATE UNIQUE INDEX ON np.neuron ("modelId", layer, index)',
    'CREATE INDEX ON np.neuron ("modelId")',
    'CREATE INDEX ON np.neuron ("modelId", layer)',
    'CREATE INDEX ON np.neuron ("maxActApprox")',
    'CREATE INDEX ON np.neuron ("creatorId")',
    'CREATE INDEX ON np.neuron ("creatorId", "hasVector")',
    'CREATE INDEX ON np.neuron ("modelId", "creatorId", "hasVector")',
    'CREATE INDEX ON np.neuron ("hasVector")',
    'CREATE INDEX ON np.neuron ("modelId", "hasVector")',
    'CREATE INDEX ON np.activation ("modelId", layer, index)',
)


@pytest.mark.parametrize(("n_contexts", "times"), [(N_FEATURES, 15), (0, 6)], ids=["shared texts", "a text each"])
def test_a_feature_takes_a_fraction_of_what_it_takes_in_neuronpedia_s_tables(
    site: Site, tmp_path: Path, n_contexts: int, times: float
) -> None:
    name = f"6-size{n_contexts}"
    exports.write(tmp_path, n_features=N_FEATURES, n_contexts=n_contexts, source=name)
    theirs = _bytes_in_their_tables(site, tmp_path)
    before = _bytes(site, "dashboard", "feature", "context", "vocabulary")
    site.start_worker()
    done(site, begin(site, tmp_path))
    ours = _bytes(site, "dashboard", "feature", "context", "vocabulary") - before
    assert theirs / ours >= times, f"{theirs / N_FEATURES:,.0f} bytes a feature there, {ours / N_FEATURES:,.0f} here"


def _bytes(site: Site, *tables: str) -> int:
    with transaction(site.sessions) as session:
        return sum(session.execute(text(f"SELECT pg_total_relation_size('{table}')")).scalar_one() for table in tables)


def _bytes_in_their_tables(site: Site, export: Path) -> int:
    with transaction(site.sessions) as session:
        connection = session.connection()
        connection.exec_driver_sql("DROP SCHEMA IF EXISTS np CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA np")
        for table, columns in (("neuron", NEURON), ("activation", ACTIVATION)):
            typed = ", ".join(f'"{column}" {kind}' for column, kind in columns.items())
            connection.exec_driver_sql(f"CREATE TABLE np.{table} ({typed})")
        for statement in INDEXES:
            connection.exec_driver_sql(statement)
        for table, columns in (("neuron", NEURON), ("activation", ACTIVATION)):
            folder = {"neuron": "features", "activation": "activations"}[table]
            for path in sorted((export / folder).iterdir()):
                rows = [_row(line, columns) for line in gzip.decompress(path.read_bytes()).splitlines()]
                names = ", ".join(f'"{column}"' for column in columns)
                given = ", ".join(f"%({column})s" for column in columns)
                connection.exec_driver_sql(f"INSERT INTO np.{table} ({names}) VALUES ({given})", rows)
    return _bytes(site, "np.neuron", "np.activation")


def _row(line: bytes, columns: dict[str, str]) -> dict[str, Any]:
    row = orjson.loads(line)
    empty = {column: [] if kind.endswith("[]") else None for column, kind in columns.items()}
    return {column: row.get(column, empty[column]) for column in columns} | {
        "createdAt": row.get("createdAt", "2024-05-06T07:08:09.010Z")
    }
