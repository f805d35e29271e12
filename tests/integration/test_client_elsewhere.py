"""Clients of Neuronpedia at the places they expect a server: its own Python client and SAELens, both unchanged.

The client is pointed at Eyepiece in the two ways there are: `USE_LOCALHOST`, which means port 3000 of this machine, and
`BASE_URL`. Names and ports are led to where the test's server is, so no port has to be free.
"""

import json
import subprocess
import sys

import pytest
from requests.exceptions import HTTPError
from sqlalchemy import update

from backend.db.tables import Source
from backend.formats import messages
from backend.settings import REPOSITORY, Settings
from tests import hosted
from tests.hosted import MODEL, RICH, SOURCE
from tests.serving import lead, served
from tests.signing_in import person, program
from tests.stand_in import redis_url as redis_url
from tests.stand_in import worker as worker

pytest.importorskip("neuronpedia", reason="Neuronpedia's client is not installed")

HOST = "eyepiece.example.org"
ON_LOCALHOST = """
import json, sys
import urllib3.util.connection as connection
connect = connection.create_connection
to = {("localhost", 3000): ("127.0.0.1", int(sys.argv[1]))}
connection.create_connection = lambda address, *rest, **more: connect(to.get(address, address), *rest, **more)
import neuronpedia
feature = neuronpedia.FeatureRequest().get(sys.argv[2], sys.argv[3], sys.argv[4])
sys.stderr.write(json.dumps([feature.modelId, feature.source, feature.index, len(feature.activations)]))
"""


@pytest.fixture
def base_url(app, session, monkeypatch):
    """The client is led to a site without accounts; its key means nothing."""
    from neuronpedia.requests.base_request import NPRequest

    hosted.host(session)
    session.commit()
    with served(app) as port:
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(NPRequest, "BASE_URL", f"http://127.0.0.1:{port}/api")
        monkeypatch.setenv("NEURONPEDIA_API_KEY", "sk-np-any")
        yield


@pytest.mark.usefixtures("base_url")
def test_models_and_source_sets_are_made():
    from neuronpedia.np_model import Model
    from neuronpedia.np_source_set import SourceSet

    assert Model.new("new-model", 3, "A new model", "https://new.example") == Model(
        "new-model", 3, "A new model", "https://new.example"
    )
    assert Model.new("bare-model", 1) == Model("bare-model", 1, "bare-model", None)
    made = SourceSet.new("some-set", "new-model", "Some set", "https://set.example")
    assert (made.name, made.model_id, made.description, made.url) == (
        "some-set", "new-model", "Some set", "https://set.example",
    )  # fmt: skip
    assert [(source.id, source.set_name) for source in made.sources] == [
        (f"{i}-some-set", "some-set") for i in range(3)
    ]
    assert SourceSet.get("new-model", "some-set") == made
    assert made.get_source_for_layer_number(2).id == "2-some-set"
    for again in (lambda: Model.new("new-model", 3), lambda: SourceSet.new("some-set", "new-model")):
        with pytest.raises(HTTPError, match="already"):
            again()
    with pytest.raises(HTTPError, match="not found"):
        SourceSet.new("some-set", "no-model")


@pytest.mark.usefixtures("base_url")
def test_activations_on_texts(worker):
    from neuronpedia import ActivationRequest

    def answer(asked):
        texts = [messages.TextActivations((" a", text), (0.0, 2.5)) for text in asked.texts]
        yield messages.ActivationsReply(id="", texts=tuple(texts))

    worker.script = answer
    one = ActivationRequest().compute_activation_for_text(MODEL, SOURCE, RICH, "cat")
    assert (one.tokens, one.values, one.source) == ([" a", "cat"], [0, 2.5], SOURCE)
    two = ActivationRequest().compute_activation_for_texts(MODEL, SOURCE, str(RICH), ["cat", "rain"])
    assert [each.tokens[1] for each in two] == ["cat", "rain"]

    def firings(asked):
        text = messages.TextFirings(("<bos>", "cat"), (1, 1, 3), (1, 2, 1), (0.5, 1.0, 2.0))
        yield messages.FiringsReply(id="", texts=(text,) * len(asked.texts))

    worker.script = firings
    found = ActivationRequest().compute_all_source_activations_for_text(MODEL, SOURCE, "cat")
    assert found == [{"tokens": ["<bos>", "cat"], "activeFeatures": {"1": [[1, 0.5], [2, 1.0]], "3": [[1, 2.0]]}}]


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`:DeprecationWarning")  # its own
@pytest.mark.usefixtures("base_url")
def test_searches_by_text(worker):
    from neuronpedia.requests.source_activation_request import SourceActivationRequest
    from neuronpedia.requests.topk_by_token_request import TopKByTokenRequest

    def answer(asked):
        text = messages.TextSearch(("<bos>", "cat"), (messages.Found(SOURCE, RICH, (0.0, 3.0)),))
        yield messages.SearchReply(id="", texts=(text,) * len(asked.texts))

    worker.script = answer
    (found,) = SourceActivationRequest().compute_top_features_for_text(MODEL, SOURCE, "cat")
    assert (found.source, found.index, found.tokens, found.values) == (SOURCE, str(RICH), ["<bos>", "cat"], [0, 3])
    both = SourceActivationRequest().compute_top_features_for_texts(MODEL, [SOURCE], ["cat", "rain"])
    assert [[each.index for each in of] for of in both] == [[str(RICH)]] * 2

    def by_token(asked):
        text = messages.TextTopByToken(("<bos>", "cat"), (True, False), ((), (RICH,)), ((), (3.0,)))
        yield messages.TopByTokenReply(id="", texts=(text,) * len(asked.texts))

    worker.script = by_token
    (token,) = TopKByTokenRequest().compute_top_features_by_token_for_text(MODEL, SOURCE, "cat")
    assert (token.position, token.token, token.topFeatures[0].activationValue) == (1, "cat", 3)
    assert token.topFeatures[0].feature.index == RICH
    both = TopKByTokenRequest().compute_top_features_by_token_for_texts(MODEL, SOURCE, ["cat", "rain"])
    assert [[each.token for each in of] for of in both] == [["<bos>", "cat"]] * 2


@pytest.mark.usefixtures("base_url")
def test_what_has_no_weights_says_so(session):
    from neuronpedia import ActivationRequest

    session.execute(update(Source).values(weights=None))
    session.commit()
    with pytest.raises(HTTPError, match="No weights of"):
        ActivationRequest().compute_activation_for_text(MODEL, SOURCE, RICH, "cat")


def test_use_localhost_means_our_usual_port(app, session, tmp_path):
    assert Settings.model_fields["port"].default == 3000
    hosted.host(session)
    session.commit()
    with served(app) as port:
        ran = subprocess.run(
            [sys.executable, "-c", ON_LOCALHOST, str(port), MODEL, SOURCE, str(RICH)],
            env={"USE_LOCALHOST": "true", "NEURONPEDIA_API_KEY": "any", "PYTHONPATH": str(REPOSITORY)},
            cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert json.loads(ran.stderr) == [MODEL, SOURCE, str(RICH), 45]


@pytest.fixture
def named(site, session, monkeypatch):
    """The client is led to a site with accounts, by its name."""
    from neuronpedia.requests.base_request import NPRequest

    hosted.host(session)
    session.commit()
    with served(site) as port:
        lead(monkeypatch, HOST, 80, port)
        monkeypatch.setattr(NPRequest, "BASE_URL", f"http://{HOST}/api")
        yield person(session, site.state.settings, "anna")


def test_a_site_with_accounts_takes_its_own_keys(site, session, named):
    import neuronpedia
    from neuronpedia.np_model import Model
    from neuronpedia.np_source_set import SourceSet
    from neuronpedia.requests.base_request import NPUnauthorizedError

    key = program(site, session, named, "write").headers["x-api-key"]
    with neuronpedia.api_key(key):
        assert Model.new("annas", 2).layers == 2
        assert len(SourceSet.new("own", "annas").sources) == 2
        assert neuronpedia.FeatureRequest().get(MODEL, SOURCE, RICH).density == 0.1
    with neuronpedia.api_key("sk-np-of-neuronpedia"):
        assert neuronpedia.FeatureRequest().get(MODEL, SOURCE, RICH).density == 0.1
        with pytest.raises(NPUnauthorizedError):
            Model.new("nobodys", 2)
    with neuronpedia.api_key("ep_unknown"), pytest.raises(NPUnauthorizedError):
        neuronpedia.FeatureRequest().get(MODEL, SOURCE, RICH)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # SAELens's own, of TransformerLens
def test_saelens_reads_a_feature_and_needs_no_key(app, session, monkeypatch):
    from sae_lens.analysis import neuronpedia_integration as saelens

    hosted.host(session, source="2-res-jb")
    session.commit()
    with served(app) as port:
        monkeypatch.setattr(saelens, "NEURONPEDIA_DOMAIN", f"http://127.0.0.1:{port}")
        found = saelens.get_neuronpedia_feature(RICH, 2, model=MODEL)
        assert (found["index"], found["layer"], found["maxActApprox"]) == (RICH, "2-res-jb", 10)
        saelens.test_key("any")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # SAELens's own, of TransformerLens
def test_saelens_is_told_which_keys_are_good(site, session, named, monkeypatch):
    from sae_lens.analysis import neuronpedia_integration as saelens

    monkeypatch.setattr(saelens, "NEURONPEDIA_DOMAIN", f"http://{HOST}")
    saelens.test_key(program(site, session, named, "read").headers["x-api-key"])
    for key in ("ep_unknown", "sk-np-1", ""):
        with pytest.raises(Exception, match="not valid"):
            saelens.test_key(key)
