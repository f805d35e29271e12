"""Becomes another program that cannot outlive the Eyepiece which started it.

`command` gives the command line; run as a script this file then, in this order (the kernel forgets the death
signal when the user changes): 1. becomes the given user, if any, 2. asks the kernel for a signal when its
parent dies (Linux only), 3. leaves if the parent is already gone, 4. executes the program.
A script of its own rather than subprocess's `preexec_fn`, which is unsafe with threads, and run with `-I -S`,
so it starts in 20 ms and needs nothing but the standard library.
The kernel means the *thread* that called `Popen`: start children from one that lives as long as they should.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
NO_USER = -1
CANNOT_START = 126
"""Exit status when the user cannot be taken or the program not be executed."""


def command(
    program: Sequence[str], *, death_signal: signal.Signals, uid: int = NO_USER, gid: int = NO_USER
) -> list[str]:
    """The command line that runs `program` so that it gets `death_signal` when the calling thread ends."""
    given = [os.getpid(), int(death_signal), uid, gid]
    return [sys.executable, "-I", "-S", __file__, *map(str, given), *program]


def main(arguments: Sequence[str]) -> None:
    """Carries out the steps above; returns only by exiting."""
    parent, death_signal, uid, gid = map(int, arguments[:4])
    program = list(arguments[4:])
    try:
        if uid != NO_USER:
            _become(uid, gid)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)
        if os.getppid() != parent:
            os._exit(CANNOT_START)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and programs inherit that
        os.execv(program[0], program)  # noqa: S606 - no shell is meant
    except OSError as error:
        sys.stderr.write(f"{program[0]} cannot be started as user {os.geteuid()}: {error.strerror}\n")
        sys.stderr.flush()
        os._exit(CANNOT_START)


def _become(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


if __name__ == "__main__":
    main(sys.argv[1:])
