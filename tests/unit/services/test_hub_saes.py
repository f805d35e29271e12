"""SAEs of the hub in the blob store."""

import json
import shutil
from pathlib import Path

import pytest

from backend import hub, storage, weights
from backend.formats import sae_files
from backend.services import hub_saes, saelens_registry
from backend.settings import Settings
from tests import tiny

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_an_sae_becomes_blobs_named_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny.save_sae(tmp_path / "made")
    asked = []

    def download(self: hub.Hub, wanted: hub.SaeFolder, into: Path, **_: object) -> str:
        asked.append(wanted)
        shutil.copytree(made, into, dirs_exist_ok=True)
        return COMMIT

    monkeypatch.setattr(hub.Hub, "sae", download)
    mirror = storage.mirror(Settings(data=tmp_path / "data"))
    of = hub.Hub(tmp_path / "cache", False)
    found = hub_saes.bring(of, "hf:a/saes@v1:x/blocks.1", mirror)
    assert asked == [hub.SaeFolder("a/saes", "v1", "x/blocks.1")]
    assert found.weights == f"blob:saes/hub/a--saes/{COMMIT}/x/blocks.1"
    assert sae_files.describe(weights.folder_of(found.weights, mirror)).d_sae == 40
    assert hub_saes.bring(of, "hf:a/saes@v1:x/blocks.1", mirror) == found
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("has_metadata", [True, False])
def test_what_the_registry_of_saelens_says_beside_the_place_comes_along(tmp_path, monkeypatch, has_metadata) -> None:
    metadata = {"hook_name": "blocks.8.hook_resid_pre"}
    made = tiny.save_sae(tmp_path / "made", metadata=metadata)
    if not has_metadata:
        config = json.loads((made / "cfg.json").read_text())
        (made / "cfg.json").write_text(json.dumps(config | config.pop("metadata")))
    asked = []

    def download(self: hub.Hub, wanted: hub.SaeFolder, into: Path, **_: object) -> str:
        asked.append(wanted)
        shutil.copytree(made, into, dirs_exist_ok=True)
        return COMMIT

    monkeypatch.setattr(hub.Hub, "sae", download)
    mirror = storage.mirror(Settings(data=tmp_path / "data"))
    of = hub.Hub(tmp_path / "cache", False)
    found = hub_saes.bring(of, "saelens:gpt2-small-res-jb/blocks.8.hook_resid_pre", mirror)
    assert asked == [hub.SaeFolder("jbloom/GPT2-Small-SAEs-Reformatted", "main", "blocks.8.hook_resid_pre")]
    assert found.weights == f"blob:saes/saelens/gpt2-small-res-jb/{COMMIT}/blocks.8.hook_resid_pre"
    described = sae_files.describe(found.folder, found.declared)
    assert (described.is_centred, str(described.hook_point)) == (True, "blocks.8.hook_resid_pre")
    assert not sae_files.describe(made).is_centred, "the files alone do not say so"


@pytest.mark.parametrize(("asked", "factor"), [("expected_average_only_in", 0.25), ("none", None)])
def test_the_registrys_factor_counts_where_the_configuration_asks_for_one(tmp_path, monkeypatch, asked, factor) -> None:
    made = tiny.save_sae(tmp_path / "made")
    config = json.loads((made / "cfg.json").read_text()) | {"normalize_activations": asked}
    (made / "cfg.json").write_text(json.dumps(config))

    def download(self: hub.Hub, wanted: hub.SaeFolder, into: Path, **_: object) -> str:
        shutil.copytree(made, into, dirs_exist_ok=True)
        return COMMIT

    monkeypatch.setattr(hub.Hub, "sae", download)
    entry = saelens_registry.Entry(hub.SaeFolder("a/b", "main", "x"), {}, 0.25)
    monkeypatch.setattr(saelens_registry, "find", lambda text: entry)
    mirror = storage.mirror(Settings(data=tmp_path / "data"))
    of = hub.Hub(tmp_path / "cache", False)
    assert hub_saes.bring(of, "saelens:r/x", mirror).declared.norm_scaling_factor == factor
    said = hub_saes.bring(of, "saelens:r/x", mirror, sae_files.Declared(norm_scaling_factor=0.5))
    assert said.declared.norm_scaling_factor == 0.5, "what the user says wins"
