"""Neuronpedia's own Python client (PyPI: neuronpedia), unchanged, against our server."""

import json
import socket
import threading
import time

import pytest
import uvicorn

from tests import hosted
from tests.hosted import MODEL, RICH, SOURCE

pytest.importorskip("neuronpedia", reason="Neuronpedia's client is not installed")


@pytest.fixture
def server(app, session, monkeypatch):
    from neuronpedia.requests.base_request import NPRequest

    hosted.host(session)
    session.commit()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        monkeypatch.setattr(NPRequest, "BASE_URL", f"http://127.0.0.1:{listener.getsockname()[1]}/api")
        monkeypatch.setenv("NEURONPEDIA_API_KEY", "any")
        while not server.started:
            time.sleep(0.01)
        yield
        server.should_exit = True
        thread.join()


@pytest.mark.usefixtures("server")
def test_the_client_reads_a_feature():
    from neuronpedia.np_feature import Feature

    feature = Feature.get(MODEL, SOURCE, RICH)
    assert (feature.modelId, feature.source, int(feature.index), feature.density) == (MODEL, SOURCE, RICH, 0.1)
    assert (len(feature.activations), feature.explanations) == (45, [])
    top = feature.activations[0]
    assert (top.source, top.index, top.quantileMin, top.quantileFraction) == (SOURCE, RICH, -1, None)
    assert max(top.values) == 10
    assert feature.activations[-1].quantileFraction == 0.5


@pytest.mark.usefixtures("server")
def test_the_client_reads_an_sae_feature():
    from neuronpedia.np_sae_feature import SAEFeature

    feature = SAEFeature.get(MODEL, SOURCE, str(RICH))
    assert (feature.modelId, feature.source, feature.index) == (MODEL, SOURCE, str(RICH))
    assert json.loads(feature.jsonData)["maxActApprox"] == 10


@pytest.mark.usefixtures("server")
def test_the_client_reads_a_source_set():
    from neuronpedia.np_source_set import SourceSet

    found = SourceSet.get(MODEL, "tiny-sae")
    assert (found.name, found.model_id, found.url) == ("tiny-sae", MODEL, None)
    assert [(source.id, source.model_id, source.set_name) for source in found.sources] == [(SOURCE, MODEL, "tiny-sae")]
    assert found.get_source_for_layer_number(2).id == SOURCE


@pytest.mark.usefixtures("server")
def test_the_client_is_told_what_is_not_there():
    from neuronpedia.np_feature import Feature

    with pytest.raises(Exception, match="Resource not found"):
        Feature.get(MODEL, SOURCE, 99)
