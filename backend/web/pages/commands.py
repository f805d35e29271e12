"""The commands that pages give readers to copy."""

import shutil
import sys
from functools import cache
from pathlib import Path

from backend.services.access import Viewer
from backend.settings import REPOSITORY


@cache
def add() -> str:
    """Hosts a dictionary of the reader's own; begins with the program as this machine finds it."""
    return f"{_program()} add path/to/model --sae path/to/sae --corpus text.txt"


def attach(model: str, source: str) -> str:
    """Gives a source that was imported its weights, and leaves its dashboards as they are."""
    return f"{_program()} add path/to/model --model-id {model} --sae path/to/sae --source {source} --no-compute"


@cache
def import_() -> str:
    """Imports dashboards that another tool made."""
    return f"{_program()} import path/to/export"


def export(model: str, source: str) -> str:
    """Exports the dashboards of a source into a folder."""
    return f"{_program()} export {model}/{source} {source}"


def curl_key(viewer: Viewer) -> str:
    """The option of `curl` that a request by this viewer needs; empty where there are no accounts, or nobody is signed in."""
    return "" if viewer.account_id is None else " -H 'x-api-key: …'"


def _program() -> str:
    beside = Path(sys.prefix) / "bin" / "eyepiece"
    if shutil.which("eyepiece") or not beside.exists():
        return "eyepiece"
    return str(beside.relative_to(REPOSITORY)) if beside.is_relative_to(REPOSITORY) else str(beside)
