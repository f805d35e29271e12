import builtins
import io

import pyarrow.parquet as pq
import pytest

from backend import errors
from backend.formats import parquet_files


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("text", "x", "x"), ("text", [{"a": 1}], '[{"a":1}]'), ("text", None, None),
        ("number", 3, 3.0), ("number", True, None), ("number", "3", None),
        ("whole", "12", 12), ("whole", 12.0, 12), ("whole", 12.5, None), ("whole", 2**31, None), ("whole", True, None),
        ("flag", False, False), ("flag", 0, None),
        ("numbers", [1, None, "x", 2.5], [1.0, None, None, 2.5]), ("numbers", "[1]", None), ("texts", ["a", "\0"], ["a", "\0"]),
        ("wholes", (), []),
    ],
)  # fmt: skip
def test_a_column_holds_what_is_of_its_type_and_null_for_the_rest(kind, value, expected):
    found = parquet_files.fit(kind, value)
    assert (found, type(found)) == (expected, type(expected))


def test_a_table_has_its_columns_where_there_are_no_rows():
    files = {name: b"".join(pieces) for name, pieces in parquet_files.files(lambda: (), lambda: ())}
    tables = {name: pq.read_table(io.BytesIO(data)) for name, data in files.items()}
    assert {name: table.num_rows for name, table in tables.items()} == dict.fromkeys(
        ("features.parquet", "activations.parquet", "explanations.parquet"), 0
    )
    assert set(tables["activations.parquet"].column_names) == {*parquet_files.ACTIVATION, "more"}


def test_row_groups_are_bounded_and_rows_keep_their_order():
    rows = [{"id": str(n), "index": str(n), "theirs": n} for n in range(parquet_files.ROWS_PER_GROUP + 3)]
    data = dict(parquet_files.files(lambda: (), lambda: rows))
    file = pq.ParquetFile(io.BytesIO(b"".join(data["explanations.parquet"])))
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [
        parquet_files.ROWS_PER_GROUP,
        3,
    ]
    table = file.read()
    assert table["index"].to_pylist() == list(range(len(rows)))
    assert table["more"][5].as_py() == '{"theirs":5}'


def test_a_host_without_pyarrow_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "pyarrow":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(errors.UnavailableError, match="pip install pyarrow"):
        parquet_files.check()
