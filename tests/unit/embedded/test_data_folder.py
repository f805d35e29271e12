"""The data folder: made once, used by one, refused when it is not ours."""

import os
from collections import namedtuple
from pathlib import Path

import pytest

from backend.embedded import data_folder
from backend.errors import ConflictError, InvalidInputError, UnavailableError

Usage = namedtuple("Usage", "total used free")


def test_creates_the_folder_with_parents_and_subfolders(tmp_path: Path) -> None:
    with data_folder.opened(tmp_path / "a" / "b") as folder:
        assert folder.path == tmp_path / "a" / "b"
        places = (folder.postgres, folder.queue, folder.blobs, folder.logs, folder.run)
        assert all(place.is_dir() for place in places)
        assert (folder.path / "VERSION").read_text() == "1\n"


def test_opens_again_after_it_was_closed(tmp_path: Path) -> None:
    for _ in range(2):
        with data_folder.opened(tmp_path / "d") as folder:
            (folder.blobs / "kept").touch()
    assert (tmp_path / "d" / "blobs" / "kept").exists()


def test_second_opener_is_told_who_holds_it(tmp_path: Path) -> None:
    with (
        data_folder.opened(tmp_path / "d", address="http://127.0.0.1:3000"),
        pytest.raises(ConflictError, match=rf"process {os.getpid()}, http://127.0.0.1:3000\) already runs on"),
        data_folder.opened(tmp_path / "d"),
    ):
        pass


def test_second_opener_is_refused_before_the_first_has_signed(tmp_path: Path) -> None:
    with data_folder.opened(tmp_path / "d"):
        (tmp_path / "d" / "lock").write_bytes(b"")
        with pytest.raises(ConflictError, match="Another Eyepiece already runs on"), data_folder.opened(tmp_path / "d"):
            pass


def test_an_error_inside_gives_the_lock_back(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), data_folder.opened(tmp_path / "d"):
        raise ZeroDivisionError
    with data_folder.opened(tmp_path / "d"):
        pass


def test_another_format_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "VERSION").write_text("2\n")
    expected = r"format version '2'; this Eyepiece reads version 1.*--data"
    with pytest.raises(ConflictError, match=expected) as caught, data_folder.opened(tmp_path):
        pass
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "postgres").exists()
    with pytest.raises(ConflictError, match="format version"), data_folder.opened(tmp_path):
        pass  # the refusal has let go of the lock


def test_somebody_elses_folder_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    (tmp_path / ".hidden").touch()
    with pytest.raises(InvalidInputError, match=r"holds other files \(thesis.tex\)"), data_folder.opened(tmp_path):
        pass
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".hidden", "thesis.tex"]


def test_blobs_stored_before_the_first_start_are_ours(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    with data_folder.opened(tmp_path):
        pass


def test_nearly_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10**12, 10**12, 12_345_678))
    with pytest.raises(UnavailableError, match=r"only 12 MB free; Eyepiece needs 500 MB"), data_folder.opened(tmp_path):
        pass


def test_path_that_cannot_be_a_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(InvalidInputError, match=r"cannot be used: .*--data"),
        data_folder.opened(tmp_path / "file" / "d"),
    ):
        pass


def test_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with data_folder.opened(tmp_path / "link") as folder:
        assert folder.path == tmp_path / "real"
