"""The rules that tools enforce, and the files that set up a machine."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from backend.settings import REPOSITORY

BIN = Path(sys.executable).parent
HEAVY = {"torch", "transformers", "transformer_lens", "sae_lens", "tokenizers"}


def run(*command, **options):
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, **options)


def project():
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def required(*extras):
    """The requirements of these extras and of Eyepiece itself, extras of our own followed."""
    texts = [*project()["dependencies"]]
    for extra in extras:
        texts += project()["optional-dependencies"][extra]
    found = []
    for requirement in map(Requirement, texts):
        found += required(*sorted(requirement.extras)) if requirement.name == "eyepiece" else [requirement]
    return found


def constraints():
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_packages_import_only_what_the_contracts_allow():
    done = run(BIN / "lint-imports", "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing():
    done = run(BIN / "ruff", "check", "--no-cache", ".")
    assert done.returncode == 0, done.stdout


def test_a_web_process_loads_no_heavy_package():
    code = "import sys, json, backend.web.app; print(json.dumps(sorted(sys.modules)))"
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert {name.partition(".")[0] for name in json.loads(done.stdout)} & HEAVY == set()


def test_a_web_host_needs_only_what_its_image_installs():
    """`eyepiece migrate` and the site start without the packages that only workers and embedded servers need."""
    there = {canonicalize_name(requirement.name) for requirement in required("web", "s3")} | {"psutil"}
    absent = {canonicalize_name(requirement.name) for requirement in required("worker", "embedded")} - there
    code = f"""
import sys
for name in {sorted(name.replace("-", "_") for name in absent)}:
    sys.modules[name] = None
import backend.cli.main, backend.web.app
"""
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr


def test_help_lists_every_command():
    targets = re.search(r"(?m)^\.PHONY: (.*)$", (REPOSITORY / "Makefile").read_text())[1].split()
    done = run("make", "help")
    assert re.findall(r"(?m)^  make (\S+)", done.stdout) == targets
    assert re.findall(r"(?m)^([a-z-]+):", (REPOSITORY / "Makefile").read_text()) == targets


def test_make_works_from_any_folder(tmp_path):
    done = subprocess.run(["make", "-C", REPOSITORY, "help"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "make run" in done.stdout


def test_constraints_name_an_exact_version_of_everything_required():
    pins = constraints()
    for requirement in required("dev", "s3"):
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is not pinned: `make pin`"
        assert requirement.specifier.contains(pins[name]), f"{requirement} does not allow {pins[name]}: `make pin`"


def test_constraints_fit_every_machine():
    """No local build, path or address of the machine that wrote them."""
    for name, version in constraints().items():
        assert name == canonicalize_name(name)
        assert re.fullmatch(r"[0-9][0-9a-z.!]*", version), f"{name}=={version}"


def test_the_lock_file_names_no_registry():
    lock = json.loads((REPOSITORY / "frontend" / "package-lock.json").read_text())
    packages = {path: package for path, package in lock["packages"].items() if path}
    assert packages
    for package in packages.values():
        assert package.get("resolved", "https://registry.npmjs.org/").startswith("https://registry.npmjs.org/")
        assert package["integrity"].startswith("sha512-")


def test_requirements_of_the_web_image_contain_no_torch():
    done = run(sys.executable, "bin/requirements.py", "web", "s3", check=True)
    names = {Requirement(line).name for line in done.stdout.splitlines()}
    assert {"fastapi", "sqlalchemy", "s3fs"} <= names
    assert not names & HEAVY


@pytest.mark.parametrize("name", ["bin/setup", "bin/bench", ".ci/run"])
def test_scripts_are_executable_and_parse(name):
    script = REPOSITORY / name
    assert os.access(script, os.X_OK)
    shell = script.read_text().splitlines()[0].removeprefix("#!").removeprefix("/usr/bin/env ")
    assert run(shell, "-n", script).returncode == 0


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("import sys; sys.exit(1)", "needs Python 3.11 or newer"),
        ("import sys; 'ensurepip' in sys.argv[2] and sys.exit(1); print('python3.12')", "apt install python3.12-venv"),
    ],
)
def test_setup_says_in_one_line_what_python_is_missing(tmp_path, said, message):
    """A Python too old, and Debian's without python3-venv, played by a stand-in on an otherwise empty PATH."""
    fake = tmp_path / "python3"
    fake.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{said}" "$@"\n')
    fake.chmod(0o755)
    (tmp_path / "dirname").symlink_to("/usr/bin/dirname")
    environment = {"PATH": str(tmp_path)}
    done = run("/bin/sh", "bin/setup", "run", env=environment)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_setup_refuses_a_pytorch_that_is_no_version():
    done = run("bin/setup", "--torch", "newest", "run")
    assert done.returncode == 2
    assert "is not a version" in done.stderr
