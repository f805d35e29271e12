"""`eyepiece compute`: hands over to `workers/standalone.py` in a fresh interpreter, since only workers know torch."""

import os
import sys
from typing import Any

import typer

PASSED_ON: dict[str, Any] = {
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
}


def compute(context: typer.Context) -> None:
    """Compute one SAE's dashboards in this process, with no servers (--help says how)."""
    os.execv(sys.executable, [sys.executable, "-m", "workers.standalone", *context.args])  # noqa: S606 - our own module
