"""Documents of every kind of file, and files that are not what they say."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backend import errors
from workers.compute import documents
from workers.compute.documents import Document

ROWS = [
    {"text": "one", "id": 7},
    {"text": " ", "id": 8},
    {"text": "two", "url": "https://a.example/\u0007b"},
    {"text": "three", "meta": {"title": "A title"}},
    {"text": None},
    {"text": "four"},
]
NAMED = ["7", "https://a.example/b", "A title"]


def read(path: Path, field: str = "") -> list[Document]:
    return list(documents.read(documents.files_of(path), field))


def as_lines(field: str = "text") -> bytes:
    rows = [{(field if key == "text" else key): value for key, value in row.items()} for row in ROWS]
    return b"\n".join(json.dumps(row).encode() for row in rows)


def test_text_is_cut_at_separators(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text(f"two{documents.SEPARATOR} \n{documents.SEPARATOR}three")
    (tmp_path / "a.txt").write_text("one")
    assert read(tmp_path) == [Document("one", "a.txt"), Document("two", "b.txt"), Document("three", "b.txt #3")]


def test_lines_and_rows_are_documents(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(as_lines())
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(as_lines()))
    with pa.output_stream(str(tmp_path / "c.jsonl.zst"), compression="zstd") as packed:
        packed.write(as_lines())
    pq.write_table(pa.Table.from_pylist(ROWS[:1] + ROWS[4:], pa.schema({"text": pa.string(), "id": pa.int64()})),
                   tmp_path / "d.parquet")  # fmt: skip
    for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst"):
        found = read(tmp_path / name)
        assert [document.text for document in found] == ["one", "two", "three", "four"]
        assert [document.name for document in found] == [*NAMED, f"{name} #6"]
    assert read(tmp_path / "d.parquet") == [Document("one", "7"), Document("four", "d.parquet #3")]
    assert len(read(tmp_path)) == 3 * 4 + 2


def test_the_field_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(as_lines("content"))
    assert len(read(tmp_path, "content")) == 4
    with pytest.raises(errors.InvalidInputError, match=r"a\.jsonl, line 1: there is no 'text'.*'content', 'id'"):
        read(tmp_path)
    pq.write_table(pa.table({"content": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(errors.InvalidInputError, match=r"a\.parquet: there is no 'text'"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"\xff\xfe", "a.txt is not UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}', "line 2, is not UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"text"', "line 2, is not JSON"),
        ("a.jsonl", b"[" * 100_000, "line 1, is not JSON"),
        ("a.jsonl", b'["text"]', "line 1, is JSON but no object"),
        ("a.jsonl", b'{"text": 5}', "line 1: 'text' is int"),
        ("a.jsonl.gz", b"not packed", "cannot be unpacked"),
        ("a.jsonl.gz", gzip.compress(as_lines())[:-12], "cannot be unpacked"),
        ("a.txt.zst", b"not packed", "cannot be unpacked"),
        ("a.parquet", b"PAR1 no PAR1", "not Parquet"),
        ("a.bin.gz", gzip.compress(bytes(200 << 20)), "unpacks to more than 100 times"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(errors.InvalidInputError, match=said):
        read(tmp_path / name)


def test_lines_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_LINE_BYTES", 40)
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' + json.dumps({"text": "b" * 40}))
    with pytest.raises(errors.InvalidInputError, match=r"a\.jsonl, line 2, is longer than 40"):
        read(tmp_path)


def test_a_folder_without_documents_is_no_corpus(tmp_path: Path) -> None:
    (tmp_path / ".hidden.txt").write_text("x")
    (tmp_path / "a.bin").write_text("x")
    for path in (tmp_path, tmp_path / "none.txt"):
        with pytest.raises(errors.InvalidInputError, match="not a corpus"):
            read(path)


def test_fingerprints_tell_bytes_and_names(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    first = documents.fingerprint(documents.files_of(tmp_path))
    assert first == documents.fingerprint(documents.files_of(tmp_path / "a.txt"))
    (tmp_path / "a.txt").write_text("two")
    second = documents.fingerprint(documents.files_of(tmp_path))
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    assert len({first, second, documents.fingerprint(documents.files_of(tmp_path))}) == 3
