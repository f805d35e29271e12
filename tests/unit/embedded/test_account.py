"""Which user runs the servers, and that it can run their programs without a mode changed outside our folders."""

import os
import pwd
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.embedded import account
from backend.embedded.account import Account, Install
from backend.errors import ConflictError, UnavailableError

NOBODY = Account(pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes user")


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """A wheel's folder with a program, below a folder only we can enter."""
    folder = tmp_path / "wheel"
    (folder / "bin").mkdir(parents=True)
    (folder / "share" / "deep").mkdir(parents=True)
    (folder / "unused").mkdir()
    shutil.copy("/bin/true", folder / "bin" / "server")
    (folder / "share" / "deep" / "words").write_text("text")
    tmp_path.chmod(0o700)
    return Install(folder, ("bin/server",), ("share", "not in every wheel"), "v1")


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of copies that others can reach, as /var/cache is."""
    place = Path("/var/tmp") / f"eyepiece-test-{os.getpid()}"
    monkeypatch.setattr(account, "COPY_FOLDERS", (place,))
    yield place
    shutil.rmtree(place, ignore_errors=True)


def test_ordinary_user_stays_who_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert account.choose(tmp_path) is None


@as_root
def test_root_becomes_nobody_on_its_own_folder(tmp_path: Path) -> None:
    assert account.choose(tmp_path) == NOBODY


@as_root
def test_root_becomes_the_owner_of_a_users_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12346)
    assert account.choose(tmp_path) == Account(12345, 12346)


@as_root
def test_own_gives_a_whole_tree_and_makes_it_private(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    (folder / "base").mkdir(parents=True)
    (folder / "base" / "1").touch()
    account.own(folder, NOBODY)
    assert {path.stat().st_uid for path in (folder, folder / "base", folder / "base" / "1")} == {NOBODY.uid}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert tmp_path.stat().st_uid == 0


@as_root
def test_own_refuses_another_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(tmp_path, 12345, 12346)
    with pytest.raises(ConflictError, match="belongs to another user"):
        account.own(tmp_path, None)


def test_programs_are_used_where_they_are_by_an_ordinary_user(install: Install) -> None:
    assert account.reachable(install, None) == install.place


@as_root
def test_programs_are_used_where_they_are_if_the_account_reaches_them(copies: Path) -> None:
    assert account.reachable(Install(Path("/bin"), ("true",), (), "v1"), NOBODY) == Path("/bin")
    assert not copies.exists()


@as_root
def test_programs_out_of_reach_are_copied_and_the_copy_mended(install: Install, copies: Path) -> None:
    before = stat.S_IMODE(install.place.parent.stat().st_mode)
    old = os.umask(0o077)
    try:
        copy = account.reachable(install, NOBODY)
        assert copy == copies / "v1"
        (copy / "share" / "deep" / "words").unlink()  # as a cleaner of old files would
        account.reachable(install, NOBODY)
    finally:
        os.umask(old)
    found = subprocess.run(
        account.command(["/bin/cat", str(copy / "share" / "deep" / "words")], NOBODY, death_signal=signal.SIGKILL),
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "text"
    assert not (copy / "unused").exists()
    assert stat.S_IMODE(install.place.parent.stat().st_mode) == before == 0o700


@as_root
def test_copy_somebody_else_could_have_made_is_not_run(install: Install, copies: Path) -> None:
    copies.mkdir()
    os.chown(copies, 12345, 12346)
    with pytest.raises(UnavailableError, match="cannot run those"):
        account.reachable(install, NOBODY)
    assert list(copies.iterdir()) == []
