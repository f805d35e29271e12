"""The sockets' folder: short, private, cleaned, and never somebody else's."""

import os
import stat
from pathlib import Path

import pytest

from backend.embedded import sockets
from backend.embedded.account import Account

LONG = Path("/" + "a long name/" * 30)
SOCKET_PATH_BYTES = 107


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sockets, "PARENT", tmp_path)
    return tmp_path


def test_path_stays_short_however_long_the_data_folders_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "PARENT", Path("/tmp"))
    with sockets.opened(LONG, None) as path:
        assert len(os.fsencode(path / ".s.PGSQL.5432.lock")) < SOCKET_PATH_BYTES
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert not path.exists()


def test_is_the_same_each_time_and_differs_by_data_folder() -> None:
    with sockets.opened(LONG, None) as first:
        pass
    with sockets.opened(LONG, None) as second, sockets.opened(LONG / "other", None) as third:
        assert first == second != third


def test_leftovers_of_a_killed_eyepiece_are_removed() -> None:
    with sockets.opened(LONG, None) as path:
        pass
    path.mkdir(mode=0o700)
    (path / ".s.PGSQL.5432.lock").touch()
    with sockets.opened(LONG, None) as again:
        assert again == path
        assert list(again.iterdir()) == []


def test_folder_others_could_write_to_is_not_used(parent: Path) -> None:
    with sockets.opened(LONG, None) as path:
        pass
    path.mkdir()
    path.chmod(0o777)
    with sockets.opened(LONG, None) as other:
        assert other != path
        assert stat.S_IMODE(other.stat().st_mode) == 0o700
    assert path.exists()


def test_symbolic_link_in_its_place_is_not_followed(parent: Path) -> None:
    with sockets.opened(LONG, None) as path:
        pass
    (parent / "elsewhere").mkdir(mode=0o700)
    (parent / "elsewhere" / "precious").touch()
    path.symlink_to(parent / "elsewhere")
    with sockets.opened(LONG, None) as other:
        assert other != path
    assert (parent / "elsewhere" / "precious").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
def test_folder_belongs_to_the_account_servers_run_as() -> None:
    with sockets.opened(LONG, Account(12345, 12346)) as path:
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346)
