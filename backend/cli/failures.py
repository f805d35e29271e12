"""How every command fails: one line on stderr and exit status 1, no traceback, for what a user can put right.

Those are our own errors, settings that do not parse, a full disk and files we may not touch. Anything else is a
mistake of ours and keeps its traceback. Ctrl-C ends a command with 130.
"""

import errno
from typing import Any

import typer
from alembic.util import CommandError
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError
from typer.core import TyperGroup

from backend.errors import SiteError

FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
DISK_FULL_STATE = "53100"
"""SQLSTATE `disk_full`."""


class Commands(TyperGroup):
    """The group of all commands."""

    def invoke(self, ctx: Any) -> Any:  # typer's own Context is private to it
        """Runs the chosen command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise typer.Exit(130) from error
        except (SiteError, ValidationError, CommandError, OSError, DBAPIError) as error:
            line = describe(error)
            if line is None:
                raise
            typer.echo(line, err=True)
            raise typer.Exit(1) from error


def describe(error: Exception) -> str | None:
    """What to tell the user, on one line; None if a traceback serves better."""
    match error:
        case SiteError():
            line: str | None = str(error)
        case ValidationError():
            line = " ".join(_setting(dict(detail)) for detail in error.errors())
        case CommandError():
            line = (
                f"The tables cannot be brought up to date: {error}. Perhaps a newer Eyepiece made them: use that one."
            )
        case OSError(errno=number) if number in FULL:
            line = "The disk is full. Free some space and start again: what was committed is kept."
        case OSError(errno=number) if number in FORBIDDEN:
            line = f"{error.filename or 'A file'} cannot be used: {error.strerror}."
        case DBAPIError() if getattr(error.orig, "pgcode", None) == DISK_FULL_STATE:
            line = "The disk of the database is full. Free some space and start again: what was committed is kept."
        case _:
            line = None
    return None if line is None else " ".join(line.split())


def _setting(detail: dict[str, Any]) -> str:
    name = "_".join(map(str, detail["loc"])).upper()
    return f"EYEPIECE_{name}={detail['input']}: {detail['msg']}."
