"""SAEDashboard's own virtual environment, made once from PyPI and kept below `.bench`.

Exact versions are in `requirements.txt`. torch comes first and with what it requires, since its PyPI build brings
libraries of its own; everything else comes with no dependency looked up, or `decode-clt` would replace torch.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements.txt"
RUNNER = Path(__file__).parent / "runner.py"
PYTHONS = ((3, 11), (3, 12))
"""Those with a wheel of numpy 1.26, which TransformerLens 2 needs."""


class NoPythonError(Exception):
    """No interpreter here can run the peer."""


def ensure(folder: Path) -> Path:
    """The environment's Python, made anew when the requirements changed.

    Raises:
        NoPythonError: Neither Python 3.11 nor 3.12 is installed.
        subprocess.CalledProcessError: pip failed; its own words are in `<folder>.log`.
    """
    stamp = folder / "requirements.sha256"
    python = folder / "bin" / "python"
    if stamp.is_file() and stamp.read_text() == digest():
        return python
    print(f"installing SAEDashboard 0.8.0 into {folder} (a minute or two)", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    pip = [python, "-m", "pip", "install", "--no-input"]
    with folder.with_suffix(".log").open("w") as log:
        for command in (
            [find_python(), "-m", "venv", folder],
            [*pip, "--constraint", REQUIREMENTS, torch_requirement()],
            [*pip, "--no-deps", "--requirement", REQUIREMENTS],
        ):
            subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    stamp.write_text(digest())
    return python


def digest() -> str:
    """What an environment made from the requirements is known by."""
    return hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()


def variables() -> dict[str, str]:
    """The environment variables it runs with: ours, but nothing that would let it see our packages."""
    return {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }


def torch_requirement() -> str:
    """The line of `requirements.txt` that pins torch."""
    return next(line for line in REQUIREMENTS.read_text().splitlines() if line.startswith("torch=="))


def find_python() -> str:
    """An interpreter of a version the peer's packages exist for; raises `NoPythonError`."""
    if sys.version_info[:2] in PYTHONS:
        return sys.executable
    for major, minor in PYTHONS:
        python = shutil.which(f"python{major}.{minor}")
        works = python and subprocess.run([python, "-c", "import venv, ensurepip"], capture_output=True, check=False)
        if python and works and works.returncode == 0:
            return python
    raise NoPythonError("SAEDashboard 0.8.0 needs Python 3.11 or 3.12, and neither is installed here.")
