"""Neuronpedia's file layout, as its exporter writes and its importer reads it.

`release|model|sourceset|source.jsonl` with one object each, and `features/` and `activations/` in gzipped batches of
1,024 features. Layout: hijohnnylin/neuronpedia at ebb8426f, `utils/neuronpedia-utils/neuronpedia_utils/export-data.py`.
Rows are those of the REST API (`neuronpedia.py`) less what only relations have. Everything is written beside and
renamed at the end, so an export is whole or absent.
"""

import gzip
import itertools
import shutil
from collections.abc import Iterable
from pathlib import Path

import orjson

from backend.formats import neuronpedia
from backend.formats.neuronpedia import Row

BATCH_FEATURES = 1024
_GZIP_LEVEL = 5


def write(
    folder: Path, features: Iterable[neuronpedia.Feature], model: neuronpedia.Model, source_set: neuronpedia.SourceSet
) -> int:
    """Write every feature and return how many. An export already at `folder` is replaced at the end."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name in ("features", "activations"):
        (partial / name).mkdir(parents=True)
    n_features = 0
    for number, batch in enumerate(_batches(features)):
        if number == 0:
            _write_heads(partial, batch[0], model, source_set)
        _write_lines(
            partial / "features" / f"batch-{number}.jsonl.gz", [neuronpedia.neuron(feature) for feature in batch]
        )
        rows = [row for feature in batch for row in neuronpedia.activations(feature)]
        _write_lines(partial / "activations" / f"batch-{number}.jsonl.gz", rows)
        n_features += len(batch)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return n_features


def _batches(features: Iterable[neuronpedia.Feature]) -> Iterable[list[neuronpedia.Feature]]:
    rest = iter(features)
    while batch := list(itertools.islice(rest, BATCH_FEATURES)):
        yield batch


def _write_heads(
    folder: Path, feature: neuronpedia.Feature, model: neuronpedia.Model, source_set: neuronpedia.SourceSet
) -> None:
    heads: dict[str, Row] = {
        "model": neuronpedia.model_row(model),
        "sourceset": neuronpedia.source_set_row(source_set, has_dashboards=True),
        "source": neuronpedia.source_row(feature.source),
        "release": neuronpedia.release_row(source_set),
    }
    for name, row in heads.items():
        (folder / f"{name}.jsonl").write_bytes(orjson.dumps(row) + b"\n")


def _write_lines(path: Path, rows: list[Row]) -> None:
    data = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    path.write_bytes(gzip.compress(data, _GZIP_LEVEL, mtime=0))
