"""Neuronpedia's file layout, as its exporter writes and its importer reads it.

`release|model|sourceset|source.jsonl` with one object each, the first only where there is a release, and `features/`,
`activations/` and `explanations/` in gzipped batches of 1,024 features or explanations. Layout: hijohnnylin/neuronpedia at
ebb8426f, `utils/neuronpedia-utils/neuronpedia_utils/export-data.py`; columns it does not know are passed over by its
importer (`apps/webapp/lib/db/import.ts`). Rows are those of the REST API (`neuronpedia.py`) less what only relations have,
and of an imported feature also the keys that nobody knows. Does not own writing: `file_streams` does.
"""

import itertools
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import orjson

from backend.formats import neuronpedia
from backend.formats.file_streams import File
from backend.formats.neuronpedia import Row

Item = TypeVar("Item")
BATCH = 1024
"""Features of a file of features and of activations; explanations of a file of those."""
_GZIP_LEVEL = 5
_GZIP_WINDOW = 31
"""zlib's number for a gzip stream of the largest window; its header has no time."""


@dataclass(frozen=True, slots=True)
class Heads:
    """What the features are of."""

    model: neuronpedia.Model
    source_set: neuronpedia.SourceSet
    source: neuronpedia.Source
    release: neuronpedia.Release | None = None


def files(heads: Heads, features: Iterable[neuronpedia.Feature], explanations: Iterable[Row]) -> Iterator[File]:
    """Every file of the layout, made as it is read: one feature is held as rows at a time.

    `explanations` are rows of `neuronpedia_explanations.file_row`. No file is empty: Neuronpedia's importer stops at one.
    """
    for name, row in _heads(heads).items():
        yield f"{name}.jsonl", [_line(row)]
    for number, batch in enumerate(_batches(features)):
        neurons: list[bytes] = []
        lines = _activations(batch, neurons)
        if first := next(lines, b""):
            yield f"activations/batch-{number}.jsonl.gz", _gzipped(itertools.chain([first], lines))
        yield f"features/batch-{number}.jsonl.gz", _gzipped(neurons)
    for number, some in enumerate(_batches(explanations)):
        yield f"explanations/batch-{number}.jsonl.gz", _gzipped(map(_line, some))


def _heads(heads: Heads) -> dict[str, Row]:
    rows = {
        "model": neuronpedia.model_row(heads.model),
        "sourceset": neuronpedia.source_set_row(heads.source_set, has_dashboards=True),
        "source": neuronpedia.source_row(heads.source),
    }
    return rows if heads.release is None else {"release": neuronpedia.release_row(heads.release)} | rows


def _activations(features: Iterable[neuronpedia.Feature], neurons: list[bytes]) -> Iterator[bytes]:
    """Lines of the activations of each feature that has some; on the way the line of each is put into `neurons`."""
    for feature in features:
        neurons.append(_line(neuronpedia.file_neuron(feature)))
        if rows := neuronpedia.file_activations(feature):
            yield b"".join(map(_line, rows))


def _batches(items: Iterable[Item]) -> Iterator[Iterable[Item]]:
    """Runs of `BATCH` items; one has to be read before the next is asked for."""
    rest = iter(items)
    for first in rest:
        yield itertools.chain([first], itertools.islice(rest, BATCH - 1))


def _gzipped(lines: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP_WINDOW)
    for line in lines:
        if piece := packer.compress(line):
            yield piece
    yield packer.flush()


def _line(row: Row) -> bytes:
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
