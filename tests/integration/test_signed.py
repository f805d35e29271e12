"""Neurons, labelled vectors and an abs-top-k SAE hosted by one job: pages, REST, live, and a worker killed on the way."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import save_file

from backend import errors
from backend.cli import children
from backend.db.session import transaction
from backend.formats import dashboards
from backend.services import hosting
from backend.settings import REPOSITORY
from backend.web import schemas
from backend.web.app import create_app
from tests import tiny
from tests.integration import test_live
from tests.site import Site
from tests.site import site as site
from workers import runtime
from workers.compute import language_model

HOOK = "blocks.1.mlp.hook_post"
NEURONS, PROBES, SAE = "1-mlp-neurons", "1-probes", "1-abstopk"
LABELS = ["the cat", "<rain> & moon", "a town"]


SHARED = tiny.SHARED / "models" / "tinystories-260k"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"no trained model at {SHARED}: one of random weights has few features of both signs"
)


def model_of(site: Site) -> Path:
    return SHARED if SHARED.is_dir() else site.folder / "tiny-gpt2"


@pytest.fixture(scope="module")
def hosted(site: Site) -> Site:
    """All three computed; the first worker is killed while it encodes."""
    model = model_of(site)
    d_model = json.loads((model / "config.json").read_text()).get("hidden_size", 16)
    tiny.save_sae(site.folder / "sae" / "abstopk", architecture="abstopk", d_in=d_model, d_sae=64)
    probes = site.folder / "probes.safetensors"
    vectors = torch.randn(3, d_model, generator=torch.Generator().manual_seed(0))
    hook = {"hook_point": "blocks.1.hook_resid_post", "labels": json.dumps(LABELS)}
    save_file({"vectors": vectors}, probes, metadata=hook)
    (site.folder / "text.txt").write_text(tiny.text(60))
    spec = {"corpus": str(site.folder / "text.txt"), "context_size": 32, "threads": 1, "quality_tokens": 512}
    with transaction(site.sessions) as session:
        found = hosting.register(
            session, str(model), [site.folder / "sae" / "abstopk"], spec, model_id="m",
            dense=[f"neurons:{HOOK}", str(probes)],
        )  # fmt: skip
    job_id = found.job_id
    assert found.refs == (f"m/{SAE}", f"m/{NEURONS}", f"m/{PROBES}")
    first = site.start_worker()
    site.wait(job_id, lambda view: view.stage == "encode")
    first.send_signal(signal.SIGKILL)
    first.wait()
    site.start_worker()
    view = site.wait(job_id, lambda view: view.state in ("done", "failed"))
    assert view.state == "done", view.error
    return site


@pytest.fixture(scope="module")
def client(hosted: Site) -> Iterator[TestClient]:
    built = {name: name for name in ("icon.svg", "main.css", "main.js")}
    (hosted.folder / "manifest.json").write_text(json.dumps(built))
    app = create_app(hosted.settings.model_copy(update={"assets": hosted.folder}))
    with TestClient(app, base_url="http://localhost/") as client:
        yield client


def values_at(site: Site, weights: Path, feature: int, contexts: np.ndarray) -> np.ndarray:
    """A feature's values on the contexts, by the hook point itself."""
    loaded = runtime.load(str(model_of(site)), [weights], runtime.Spec(corpus="", threads=1))
    x = language_model.residuals(loaded.model, loaded.sources[0].capture, torch.from_numpy(contexts))
    if str(weights).startswith("neurons:"):
        return x[:, :, feature].numpy()
    return (x @ loaded.sources[0].sae.written[feature]).numpy()


@pytest.mark.parametrize("source", [NEURONS, PROBES])
def test_examples_have_the_model_s_own_values_and_the_corpus_s_extremes(hosted: Site, source: str) -> None:
    weights = Path(f"neurons:{HOOK}") if source == NEURONS else hosted.folder / "probes.safetensors"
    (blob,) = _corpora(hosted)
    rows = np.load(blob).astype(np.int64)
    for index, *_, data in hosted.rows(source)[:3]:
        d = dashboards.unpack(data)
        values = values_at(hosted, weights, index, rows)[:, 1:]
        special = np.isin(rows[:, 1:], (0, 1, 2))
        counted = np.where(special, np.nan, values)
        np.testing.assert_allclose(d.max, np.nanmax(counted), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(d.min, np.nanmin(counted), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(d.moments.mean, np.nanmean(counted, dtype=np.float64), rtol=1e-3, atol=1e-5)
        assert d.signed is not None
        e = d.examples
        for i in range(len(e.group)):
            at = slice(int(e.offset[i]), int(e.offset[i + 1]))
            expected = values[e.context[i], e.position[at].astype(int) - 1]
            np.testing.assert_allclose(e.value[at], expected, rtol=1e-3, atol=2e-5)


def _corpora(site: Site) -> list[Path]:
    return [
        path for path in site.settings.data.rglob("*.npy") if path.parent.name == "corpora" and "-" not in path.name
    ]


@needs_shared
@pytest.mark.parametrize("source", [NEURONS, PROBES, SAE])
def test_pages_and_rest_show_both_signs(client: TestClient, hosted: Site, source: str) -> None:
    index = next(d.index for *_, data in hosted.rows(source) if (d := dashboards.unpack(data)).min < 0 < d.max)
    page = client.get(f"/m/{source}/{index}")
    assert page.status_code == 200, page.text[:2000]
    assert "Most negative contexts" in page.text
    assert 'class="n10"' in page.text
    assert 'class="a10"' in page.text
    row = client.get(f"/api/feature/m/{source}/{index}").json()
    schemas.Feature.model_validate(row)
    activations = row["activations"]
    assert len({a["id"] for a in activations}) == len(activations)
    bottom = [a for a in activations if a["binContains"] == -1 and a["binMin"] < -1e-9 and a["binMin"] != -1]
    top = [a for a in activations if a["binMin"] == -1]
    assert len(top) == 20
    assert len(bottom) == 20
    assert max(a["maxValue"] for a in top) == row["maxActApprox"]
    assert min(a["minValue"] for a in bottom) == bottom[0]["binMin"]
    for a in bottom:
        assert a["values"][a["qualifyingTokenIndex"]] == a["minValue"] < 0
    assert sum(row["freq_hist_data_bar_heights"]) > 0
    assert row["freq_hist_data_bar_values"] == sorted(row["freq_hist_data_bar_values"])


def test_a_vector_is_shown_by_its_label(client: TestClient, hosted: Site) -> None:
    page = client.get(f"/m/{PROBES}/1").text
    assert "&lt;rain&gt; &amp; moon" in page
    assert client.get(f"/api/feature/m/{PROBES}/1").json()["vectorLabel"] == LABELS[1]
    listed = client.get(f"/m/{PROBES}").text
    assert all(label in listed for label in ("the cat", "&lt;rain&gt; &amp; moon", "a town"))


def test_sources_without_quality_or_index_say_why(client: TestClient, hosted: Site) -> None:
    page = client.get(f"/m/{NEURONS}").text
    assert "reconstruct nothing" in page
    assert "not kept: its values are dense" in page
    page = client.get(f"/m/{SAE}").text
    assert "reconstruct nothing" not in page
    assert "not kept: its activations are signed" in page
    assert client.get(f"/api/source/m/{SAE}/quality").status_code == 200


@needs_shared
@pytest.mark.parametrize("source", [NEURONS, PROBES, SAE])
def test_live_values_are_signed(client: TestClient, hosted: Site, source: str) -> None:
    if not test_live.is_reported(hosted):
        _start_live(hosted)
        test_live.until(lambda: test_live.is_reported(hosted), hosted)
    index = next(d.index for *_, data in hosted.rows(source) if (d := dashboards.unpack(data)).min < 0)
    feature = {"modelId": "m", "source": source, "index": index}
    text = (" ".join(tiny.text(3).split()))[:400]
    answer = client.post("/api/activation/new", json={"feature": feature, "customText": text})
    assert answer.status_code == 200, answer.text
    row = answer.json()
    assert row["minValue"] == min(row["values"])
    if source != SAE:
        assert row["minValue"] < 0
        assert sum(v != 0 for v in row["values"]) >= len(row["values"]) - 1
    else:
        assert any(row["values"])


def _start_live(site: Site) -> None:
    environment = children.environment(site.settings.model_copy(update={"heartbeat_s": 0.3}))
    with (site.folder / "live.log").open("ab") as log:
        site.workers.append(
            subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "workers.live"],
                cwd=REPOSITORY,
                env=environment,
                stdout=log,
                stderr=log,
            )
        )


def test_what_cannot_be_asked_of_them_is_refused_before_any_work(site: Site) -> None:
    model = str(model_of(site))

    def register(dense: list[str], **spec: object) -> None:
        with transaction(site.sessions) as session:
            hosting.register(session, model, (), {"corpus": "x", **spec}, model_id="other", dense=dense)

    with pytest.raises(errors.UnsupportedError, match="cannot be kept"):
        register([f"neurons:{HOOK}"], keep_index=True)
    with pytest.raises(errors.InvalidInputError, match="names its own hook point"):
        register([f"neurons:{HOOK}"], hook_point="blocks.0.hook_resid_pre")
    with pytest.raises(errors.UnsupportedError, match="not a place whose neurons"):
        register(["neurons:blocks.1.hook_resid_post"])
    with pytest.raises(errors.InvalidInputError, match="0 are given"):
        register([])
    with pytest.raises(errors.InvalidInputError, match="is not a file"):
        register([str(site.folder / "none.npz")])
