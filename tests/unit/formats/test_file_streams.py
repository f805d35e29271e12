import io
import zipfile

import pytest

from backend.formats import file_streams

FILES = [("a.jsonl", [b"one", b"", b"two"]), ("deep/b.bin", [bytes(range(256)) * 1024])]


def broken():
    yield "a.jsonl", [b"one"]
    raise ValueError("the middle")


def test_a_zip_holds_the_files_as_they_came_and_is_the_same_each_time():
    first, again = (b"".join(file_streams.zipped(FILES)) for _ in range(2))
    assert first == again
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == {n: b"".join(p) for n, p in FILES}


def test_a_zip_is_sent_while_its_files_are_made():
    n_made = 0

    def pieces():
        nonlocal n_made
        for _ in range(50):
            n_made += 1
            yield bytes(file_streams.MIN_PIECE_BYTES)

    sent = file_streams.zipped([("large", pieces())])
    assert len(next(sent)) < 2 * file_streams.MIN_PIECE_BYTES
    assert n_made == 1
    sent.close()


def test_a_zip_that_fails_on_the_way_does_not_open():
    sent = []
    with pytest.raises(ValueError, match="the middle"):
        sent.extend(file_streams.zipped(broken()))
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(io.BytesIO(b"".join(sent)))


@pytest.mark.parametrize(("write", "name"), [(file_streams.write_folder, "out"), (file_streams.write_zip, "out.zip")])
def test_what_is_written_is_whole_or_as_it_was(write, name, tmp_path):
    path = tmp_path / "new" / name
    assert write(path, FILES) > 0
    before = contents(path)
    with pytest.raises(ValueError, match="the middle"):
        write(path, broken())
    assert contents(path) == before
    assert [each.name for each in path.parent.iterdir()] == [name]
    write(path, FILES[:1])
    assert len(contents(path)) < len(before) or path.suffix == ".zip"


def contents(path):
    if path.is_file():
        return path.read_bytes()
    return {each.relative_to(path).as_posix(): each.read_bytes() for each in path.rglob("*") if each.is_file()}
