"""How SAEDashboard's environment is set up."""

import re

from tests.bench.peer import environment


def pins():
    lines = environment.REQUIREMENTS.read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_the_peer_is_the_version_the_issue_names() -> None:
    assert pins()["sae-dashboard"] == "0.8.0"


def test_every_pin_is_a_version_any_machine_can_get() -> None:
    for name, version in pins().items():
        assert re.fullmatch(r"[0-9][0-9a-z.!]*", version), f"{name}=={version}"


def test_nothing_is_installed_that_replaces_torch_or_breaks_datasets() -> None:
    """decode-clt asks for CUDA's newest torch; pyarrow 21 and later refuse the numpy that TransformerLens 2 needs."""
    found = pins()
    assert "decode-clt" not in found
    assert int(found["pyarrow"].split(".")[0]) < 21
    assert found["numpy"].startswith("1.")
    assert environment.torch_requirement() == f"torch=={found['torch']}"


def test_an_environment_with_these_requirements_is_not_made_again(tmp_path) -> None:
    folder = tmp_path / "venv"
    folder.mkdir()
    (folder / "requirements.sha256").write_text(environment.digest())
    assert environment.ensure(folder) == folder / "bin" / "python"
    assert not folder.with_suffix(".log").exists()


def test_our_packages_stay_out_of_its_sight(monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("HOME", "/home")
    assert "PYTHONPATH" not in environment.variables()
    assert environment.variables()["HOME"] == "/home"
