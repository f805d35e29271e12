"""What else is handed over by REST than uploads: SAEs of the hub, neurons and vector sets, with a real worker."""

import shutil

import numpy as np
import pytest
from sqlalchemy import select

from backend import hub
from backend.db import tables
from backend.db.session import transaction
from backend.web.api import hosting as hosting_api
from tests import tiny
from tests.fake_hub import COMMIT
from tests.integration.test_hosting import MODEL, wait
from tests.integration.test_hosting import api as api
from tests.integration.test_hosting import text as text
from tests.site import Site
from tests.site import site as site


@pytest.fixture
def wish(site: Site, text):
    model = {"weights": str(site.folder / "tiny-gpt2"), "id": MODEL}
    return {"model": model, "corpus": {"path": text}, "options": {"quality_tokens": 0}}


def host(site, api, wish):
    answer = api.post("sources", json=wish)
    assert answer.status_code == 200, answer.text
    site.wake()
    wait(site, answer.json()["job"])
    (ref,) = answer.json()["sources"]
    with transaction(site.sessions) as session:
        found = session.scalars(select(tables.Source).where(tables.Source.name == ref.split("/")[1])).one()
        return found.weights, found.architecture, found.d_sae


def test_saes_of_the_hub_neurons_and_vectors_are_hosted(site, api, wish, tmp_path, monkeypatch):
    made = tiny.save_sae(tmp_path / "made", d_sae=64, seed=1, metadata={"hook_name": "blocks.1.hook_resid_post"})
    asked = []

    def download(self, wanted, into, *, check_room):
        check_room(1)
        asked.append((wanted, self.token))
        shutil.copytree(made, into, dirs_exist_ok=True)
        return COMMIT

    monkeypatch.setattr(hub.Hub, "sae", download)
    site.fork_worker()
    weights, _, d_sae = host(site, api, wish | {"weights": "hf:a/saes:x/blocks.1"})
    assert (weights, d_sae) == (f"blob:saes/hub/a--saes/{COMMIT}/x/blocks.1", 64)
    assert asked == [(hub.SaeFolder("a/saes", "main", "x/blocks.1"), None)]

    weights, architecture, _ = host(site, api, wish | {"neurons": "blocks.1.mlp.hook_post"})
    assert (weights, architecture) == ("neurons:blocks.1.mlp.hook_post", "neurons")

    vectors = tmp_path / "probes.npz"
    np.savez(vectors, vectors=np.eye(3, 16, dtype=np.float32), hook_point="blocks.1.hook_resid_post")
    weights, architecture, n = host(site, api, wish | {"weights": str(vectors)})
    assert (weights, architecture, n) == (str(vectors), "vectors", 3)


@pytest.mark.parametrize(
    ("changed", "status", "said"),
    [
        ({}, 400, "either"),
        ({"neurons": "blocks.1.mlp.hook_post", "weights": "/x"}, 400, "either"),
        ({"neurons": "blocks.1.hook_resid_post"}, 422, "not a place"),
        ({"neurons": "../x"}, 400, "hook point"),
        ({"weights": "hf:a/b/c:x"}, 400, "no folder of a repository"),
        ({"weights": "saelens:none/x"}, 400, "no release"),
    ],
)
def test_what_cannot_be_is_said(api, wish, changed, status, said):
    answer = api.post("sources", json=wish | changed)
    assert (answer.status_code, said in answer.json()["message"]) == (status, True), answer.text


def test_one_sae_of_the_hub_at_a_time_is_downloaded(api, wish):
    with hosting_api._downloading:
        answer = api.post("sources", json=wish | {"weights": "hf:a/b:x"})
    assert (answer.status_code, "another SAE" in answer.json()["message"]) == (429, True), answer.text
