"""The folder of the servers' unix sockets: short, private, the same each time for one data folder.

A socket's path may have 107 bytes, a data folder's has as many as it likes, so sockets cannot live in the data.
They are in `/tmp/eyepiece-<hash of the data folder>`, mode 700, owned by the user the servers run as.
Not in `$XDG_RUNTIME_DIR`: it is removed when the user logs out, under an Eyepiece left running.
"""

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.embedded.account import Account

PARENT = Path("/tmp")  # noqa: S108 - the folder made in it is private


@contextmanager
def opened(data: Path, account: Account | None) -> Iterator[Path]:
    """The folder, empty at first and removed at the end. The caller holds the data folder's lock."""
    path = _private_folder(data, account)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _private_folder(data: Path, account: Account | None) -> Path:
    parent = PARENT if os.access(PARENT, os.W_OK) else Path(tempfile.gettempdir())
    uid = os.geteuid() if account is None else account.uid
    path = parent / f"eyepiece-{hashlib.sha256(os.fsencode(data)).hexdigest()[:12]}"
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if _is_ours(path, uid):  # left by an Eyepiece that was killed
            for entry in path.iterdir():
                entry.unlink()
        else:
            path = Path(tempfile.mkdtemp(prefix=f"{path.name}-", dir=parent))
    if account is not None:
        os.chown(path, account.uid, account.gid)
    return path


def _is_ours(path: Path, uid: int) -> bool:
    found = path.lstat()
    return (
        stat.S_ISDIR(found.st_mode)
        and found.st_uid in (uid, os.geteuid())
        and stat.S_IMODE(found.st_mode) == 0o700  # else others may have put something in
    )
