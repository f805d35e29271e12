"""The command that pages give readers to copy."""

import shutil
import sys
from functools import cache
from pathlib import Path

from backend.settings import REPOSITORY


@cache
def add() -> str:
    """Hosts a dictionary of the reader's own; begins with the program as this machine finds it."""
    return f"{_program()} add path/to/model --sae path/to/sae --corpus text.txt"


def attach(model: str, source: str) -> str:
    """Gives a source that was imported its weights, and leaves its dashboards as they are."""
    return f"{_program()} add path/to/model --model-id {model} --sae path/to/sae --source {source} --no-compute"


def _program() -> str:
    beside = Path(sys.prefix) / "bin" / "eyepiece"
    if shutil.which("eyepiece") or not beside.exists():
        return "eyepiece"
    return str(beside.relative_to(REPOSITORY)) if beside.is_relative_to(REPOSITORY) else str(beside)
