# ruff: noqa: T201 (prints for a shell)
"""Prints what the named extras of pyproject.toml require, without Eyepiece itself; the Dockerfile's cached layer."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text())["project"]
print(*project["dependencies"], sep="\n")
for extra in sys.argv[1:]:
    print(*project["optional-dependencies"][extra], sep="\n")
