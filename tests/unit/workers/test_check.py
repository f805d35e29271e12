"""`eyepiece check` as a command: what it prints, and the status it ends with."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from backend.settings import REPOSITORY
from tests import tiny
from workers import check

MODEL = REPOSITORY / "demo" / "weights" / "stdlib-4l"
GOOD = REPOSITORY / "demo" / "weights" / "saes" / "2-res-2k"


def run(*arguments: object):
    app = typer.Typer()
    app.command()(check.check)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(tiny.text(60))
    return tmp_path / "text.txt"


def test_a_good_sae_ends_with_0_on_text_it_brings_itself():
    found = run(MODEL, "--sae", GOOD)
    assert found.exit_code == 0, found.output
    assert "topk (saelens), 256 × 2,048, at blocks.2.hook_resid_post" in found.output
    assert "as declared, at blocks.2.hook_resid_post" in found.output
    assert "nothing looks wrong" in found.output


def test_the_wrong_hook_point_ends_with_3_and_is_named():
    found = run(MODEL, "--sae", GOOD, "--hook", "blocks.1.hook_resid_post", "--json")
    (said,) = json.loads(found.stdout)["saes"]
    assert found.exit_code == check.WARNED
    (warning,) = [each for each in said["look"]["findings"] if each["severity"] == "warning"]
    assert "at blocks.2.hook_resid_post" in warning["sentence"]
    assert (said["description"]["hook_point"], said["problems"]) == ("blocks.2.hook_resid_post", [])


def test_every_problem_of_the_files_is_told_and_the_other_sae_looked_at(tmp_path, tiny_model, text):
    folder = tmp_path / "saes"
    tiny.save_sae(folder / "a", architecture="temporal", metadata={"seqpos_slice": [1, 2]})
    tiny.save_sae(folder / "b")
    found = run(tiny_model, "--sae", folder, "--corpus", text)
    assert found.exit_code == 1
    assert found.output.count("problem:") == 2
    assert "40" in found.output.split("problem:")[-1], "the second SAE's figures follow"


def test_an_sae_of_another_width_is_told_so(tmp_path, tiny_model, text):
    found = run(tiny_model, "--sae", tiny.save_sae(tmp_path / "sae", d_in=12), "--corpus", text)
    assert found.exit_code == 1
    assert "width 16" in found.output


@pytest.mark.parametrize(("module", "command"), [("check", "eyepiece check"), ("standalone", "eyepiece compute")])
def test_the_help_names_the_command_as_it_is_called(module: str, command: str) -> None:
    asked = subprocess.run(
        [sys.executable, "-m", f"workers.{module}", "--help"], capture_output=True, text=True, check=True
    )
    assert f"Usage: {command} " in asked.stdout
