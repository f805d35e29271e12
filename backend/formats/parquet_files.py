"""A source's dashboards as Parquet: `features.parquet`, `activations.parquet` and `explanations.parquet`.

Columns are the keys of Neuronpedia's rows (`neuronpedia`, `neuronpedia_explanations`), typed, `index` a number; what an
import said beyond them is JSON in `more`. A value that is not of its column's type, as other tools' files may hold, is null.
Each table is one reading of the source, a row group at a time. pyarrow is no dependency of the web host: `check` says so.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import orjson

from backend import errors
from backend.formats import neuronpedia
from backend.formats.file_streams import File, Sink
from backend.formats.neuronpedia import Row

ROWS_PER_GROUP = 2048
_INDEX = 2**31


def _columns(kind: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), kind)


_PLACE = _columns("text", "modelId layer") | {"index": "whole"}
FEATURE = (
    _PLACE
    | _columns("text", "sourceSetName creatorId createdAt vectorLabel hookName")
    | _columns("number", "maxActApprox frac_nonzero vectorDefaultSteerStrength")
    | _columns("flag", "hasVector")
    | _columns("texts", "pos_str neg_str")
    | _columns("wholes", "topkCosSimIndices neuron_alignment_indices correlated_neurons_indices correlated_features_indices")
    | _columns(
        "numbers",
        "pos_values neg_values topkCosSimValues vector decoder_weights_dist freq_hist_data_bar_heights "
        "freq_hist_data_bar_values logits_hist_data_bar_heights logits_hist_data_bar_values neuron_alignment_values "
        "neuron_alignment_l1 correlated_neurons_pearson correlated_neurons_l1 correlated_features_pearson "
        "correlated_features_l1",
    )
    | _columns("number", "umap_x umap_y umap_cluster umap_log_feature_sparsity")
)  # fmt: skip
"""Kind of each column of features."""
ACTIVATION = (
    {"id": "text"}
    | _PLACE
    | _columns("texts", "tokens")
    | _columns("numbers", "values")
    | _columns("number", "maxValue minValue binMin binMax binContains dfaMaxValue")
    | _columns("whole", "maxValueTokenIndex qualifyingTokenIndex dfaTargetIndex")
    | _columns("text", "dataIndex dataSource creatorId createdAt logitContributions documents")
    | _columns("numbers", "dfaValues lossValues zValues")
    | _columns("wholes", "zQIndices zKIndices")
)
"""Kind of each column of activations; `documents` are JSON."""
EXPLANATION = (
    {"id": "text"}
    | _PLACE
    | _columns("text", "description typeName explanationModelName authorId notes createdAt embeddingModel")
    | _columns("number", "scoreV1 scoreV2 umap_x umap_y umap_cluster umap_log_feature_sparsity")
    | _columns("numbers", "embedding")
)
"""Kind of each column of explanations."""


def check() -> None:
    """Raise `UnavailableError` where Parquet cannot be written."""
    try:
        import pyarrow  # noqa: F401 - a large extra: a host without it does everything else
    except ImportError as error:
        raise errors.UnavailableError(
            "Parquet cannot be written here: pyarrow is not installed.",
            hint="Install it (`pip install pyarrow`), or export Neuronpedia's layout.",
        ) from error


def files(
    features: Callable[[], Iterable[neuronpedia.Feature]], explanations: Callable[[], Iterable[Row]]
) -> Iterator[File]:
    """The three tables; features are read once for each of the first two."""
    yield "features.parquet", _table(FEATURE, map(neuronpedia.file_neuron, features()))
    rows = (row for feature in features() for row in neuronpedia.file_activations(feature))
    yield "activations.parquet", _table(ACTIVATION, rows)
    yield "explanations.parquet", _table(EXPLANATION, explanations())


def _table(columns: Mapping[str, str], rows: Iterable[Row]) -> Iterator[bytes]:
    import pyarrow as pa  # a large extra, see `check`
    import pyarrow.parquet as pq

    scalars = {"text": pa.string(), "number": pa.float64(), "whole": pa.int32(), "flag": pa.bool_()}
    lists = {f"{name}s": pa.list_(of) for name, of in scalars.items()}
    types = scalars | lists
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()] + [("more", pa.string())])
    sink = Sink()
    with pq.ParquetWriter(pa.PythonFile(sink, mode="w"), schema, compression="zstd") as writer:
        rest = iter(rows)
        while some := list(islice(rest, ROWS_PER_GROUP)):
            arrays = [
                pa.array([fit(kind, row.get(name)) for row in some], types[kind]) for name, kind in columns.items()
            ]
            arrays.append(pa.array([_more(row, columns) for row in some], pa.string()))
            writer.write_table(pa.table(arrays, schema=schema))
            yield sink.taken()
    yield sink.taken()


def fit(kind: str, value: Any) -> Any:
    """The value as a column of that kind holds it; null for what it cannot hold. Text holds anything, as JSON."""
    if value is None:
        return None
    match kind:
        case "text":
            return value if isinstance(value, str) else orjson.dumps(value).decode()
        case "flag":
            return value if isinstance(value, bool) else None
        case "number":
            return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
        case "whole":
            return _whole(value)
    return [fit(kind.removesuffix("s"), each) for each in value] if isinstance(value, list | tuple) else None


def _whole(value: Any) -> int | None:
    """Also of digits, as an index is given."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_whole = isinstance(value, int) and not isinstance(value, bool) and -_INDEX <= value < _INDEX
    return value if is_whole else None


def _more(row: Row, columns: Mapping[str, str]) -> str | None:
    rest = {name: value for name, value in row.items() if name not in columns and name != "source"}
    return orjson.dumps(rest).decode() if rest else None
