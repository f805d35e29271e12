"""The hub over real HTTP, in a process of its own, as the library reads HF_ENDPOINT when it is imported."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend import errors, hub
from tests import fake_hub, tiny
from tests.fake_hub import COMMIT, GOOD, FakeHub

ASK = """
import json, sys
from pathlib import Path
from backend import errors, hub
cache, token, what, name, into = sys.argv[1:]
of = hub.Hub(Path(cache), token or False)
try:
    if what == "dataset":
        listed = of.dataset_files(hub.parse_dataset(name))
        print(json.dumps([listed.commit, [[n, p.read_text()] for n, p in of.documents(listed)]]))
    elif what == "model":
        folder = of.model(name)
        print(json.dumps([folder.name, sorted(p.name for p in folder.iterdir())]))
    else:
        commit = of.sae(hub.parse_folder(name), Path(into))
        print(json.dumps([commit, sorted(p.name for p in Path(into).iterdir())]))
except errors.SiteError as error:
    print(json.dumps({"error": str(error), "repr": repr(of)}))
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[FakeHub]:
    with FakeHub(tmp_path / "hub").running() as found:
        yield found


def ask(site: FakeHub | None, tmp_path: Path, what: str, name: str, token: str = "", **environment: str) -> Any:
    into = tmp_path / "into"
    into.mkdir(parents=True, exist_ok=True)
    url = "http://127.0.0.1:9" if site is None else site.url
    given = (
        os.environ | {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"} | environment
    )
    command = [sys.executable, "-c", ASK, str(tmp_path / "cache"), token, what, name, str(into)]
    done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=120, check=True)
    assert not token or token not in done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_data_sets_files_are_read_at_one_commit(site: FakeHub, tmp_path: Path) -> None:
    folder = site.folder / "datasets" / "a" / "texts"
    for name in ("en/train-0.jsonl", "en/test-0.jsonl", "de/train-0.jsonl", "README.md", "script.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    whole = ask(site, tmp_path, "dataset", "a/texts")
    assert whole == [COMMIT, [[name, name] for name in ("de/train-0.jsonl", "en/test-0.jsonl", "en/train-0.jsonl")]]
    assert ask(site, tmp_path, "dataset", "a/texts@main:en:train")[1] == [["en/train-0.jsonl", "en/train-0.jsonl"]]
    assert "no Parquet" in ask(site, tmp_path, "dataset", "a/texts:fr")["error"]
    assert "no such revision" in ask(site, tmp_path, "dataset", "a/texts@v9")["error"]


def test_a_model_is_weights_as_safetensors_and_no_code(site: FakeHub, tmp_path: Path) -> None:
    folder = tiny.save_model(site.folder / "models" / "a" / "tiny")
    (folder / "modeling.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    commit, names = ask(site, tmp_path, "model", "a/tiny")
    assert commit == COMMIT
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(names)
    assert not {"modeling.py", "pytorch_model.bin"} & set(names)
    site.asked.clear()
    assert ask(site, tmp_path, "model", "a/tiny") == [commit, names]
    assert [path for path in site.asked if "tiny" in path] == ["api/models/a/tiny/revision/main"], "nothing is loaded"
    (folder / "model.safetensors").unlink()
    assert "no weights as safetensors" in ask(site, tmp_path / "other", "model", "a/tiny")["error"]


def test_an_sae_is_a_folder_of_a_repository(site: FakeHub, tmp_path: Path) -> None:
    tiny.save_sae(site.folder / "models" / "a" / "saes" / "blocks.1")
    assert ask(site, tmp_path, "sae", "a/saes:blocks.1") == [COMMIT, ["cfg.json", "sae_weights.safetensors"]]
    assert "Its folders: blocks.1" in ask(site, tmp_path, "sae", "a/saes:blocks.2")["error"]


def test_refusals_say_what_to_do(site: FakeHub, tmp_path: Path) -> None:
    tiny.save_sae(site.folder / "models" / "a" / "saes" / "blocks.1")
    site.gated.add("a/saes")
    for token in ("", "hf_bad_token"):
        assert "is gated" in ask(site, tmp_path, "sae", "a/saes:blocks.1", token)["error"]
    assert ask(site, tmp_path, "sae", "a/saes:blocks.1", GOOD)[0] == COMMIT
    refused = ask(site, tmp_path, "model", "a/none", "hf_bad_token")
    assert "the hub has no 'a/none'" in refused["error"]
    site.status = 403
    assert "status 403" in ask(site, tmp_path, "model", "a/none")["error"]
    assert "cannot be reached" in ask(None, tmp_path, "model", "a/none")["error"]
    assert "cannot be reached" in ask(site, tmp_path, "model", "a/none", HF_HUB_OFFLINE="1")["error"]


@pytest.mark.parametrize("name", ["", "../x", "a/b/c", "a/b:c:d:e", "a/b@../..:c d", "a/b:../x:y", "http://x/y"])
def test_names_that_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(errors.InvalidInputError, match="hf:OWNER/NAME"):
        hub.parse_dataset(name)


def test_names_are_read_and_written() -> None:
    for name in ("a/b", "a/b@v1:c", "b:c:d"):
        assert str(hub.parse_dataset(name)) == name
    assert hub.parse_folder("a/b@v1:x/y/") == hub.SaeFolder("a/b", "v1", "x/y")
    with pytest.raises(errors.InvalidInputError, match="FOLDER"):
        hub.parse_folder("a/b:x/../../y")
    assert fake_hub.GOOD not in repr(hub.Hub(Path("x"), fake_hub.GOOD))
