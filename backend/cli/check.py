"""`eyepiece check`: hands over to `workers/check.py` in a fresh interpreter, since only workers know torch."""

import os
import sys

import typer


def check(context: typer.Context) -> None:
    """Look at SAEs of a model before any work: files, place, way of running (--help says how)."""
    os.execv(sys.executable, [sys.executable, "-m", "workers.check", *context.args])  # noqa: S606 - our own module
