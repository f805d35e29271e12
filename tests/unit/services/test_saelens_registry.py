"""Releases of SAELens, found in the registry of the package that is installed."""

from importlib import metadata

import pytest
import yaml

from backend import errors, hub
from backend.services import saelens_registry

REGISTRY = yaml.load(saelens_registry._registry(), yaml.CSafeLoader)


def test_every_release_is_found_as_the_whole_file_has_it() -> None:
    for name, release in REGISTRY.items():
        sae = release["saes"][-1]
        if str(sae["path"]).endswith((".pt", ".npz", ".safetensors")):
            with pytest.raises(errors.UnsupportedError, match="not a folder"):
                saelens_registry.find(f"{name}/{sae['id']}")
            continue
        found = saelens_registry.find(f"{name}/{sae['id']}")
        assert (found.folder.repo, found.folder.folder) == (release["repo_id"], str(sae["path"]))


def test_ids_may_have_slashes() -> None:
    found = saelens_registry.find("gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71")
    assert found.folder == hub.SaeFolder("google/gemma-scope-2b-pt-res", "main", "layer_20/width_16k/average_l0_71")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpt2-small-res-jb/blocks.99", "no SAE 'blocks.99'"),
        ("gpt2-small-res-jb", "no SAE ''"),
        ("none/x", "no release"),
        ("  saes/x", "no release"),
        ("", "no release"),
    ],
)
def test_what_is_not_there_is_said(text: str, said: str) -> None:
    with pytest.raises(errors.InvalidInputError, match=said):
        saelens_registry.find(text)


def test_without_saelens_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(errors.UnsupportedError, match="pip install sae-lens"):
        saelens_registry.find("gpt2-small-res-jb/blocks.8.hook_resid_pre")
