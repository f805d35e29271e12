"""Neuronpedia's own Python client (PyPI: neuronpedia), unchanged, against our server."""

import json
import warnings
from types import SimpleNamespace

import pytest
import requests

from backend.web import rendering
from tests import graph_samples, hosted
from tests.hosted import MODEL, RICH, SOURCE
from tests.serving import served
from tests.stand_in import redis_url as redis_url
from tests.stand_in import worker as worker

pytest.importorskip("neuronpedia", reason="Neuronpedia's client is not installed")


@pytest.fixture
def server(app, session, monkeypatch):
    from neuronpedia.requests.base_request import NPRequest

    hosted.host(session)
    session.commit()
    with served(app) as port:
        monkeypatch.setattr(NPRequest, "BASE_URL", f"http://127.0.0.1:{port}/api")
        monkeypatch.setenv("NEURONPEDIA_API_KEY", "any")
        yield


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


@pytest.mark.usefixtures("server")
def test_the_client_steers_a_completion(worker):
    from neuronpedia.np_feature import SteerFeature
    from neuronpedia.requests.steer_request import SteerCompletionRequest

    features = [SteerFeature(modelId=MODEL, source=SOURCE, index=RICH, strength=5)]
    answer = SteerCompletionRequest().steer_features(MODEL, features, "The cat", n_tokens=4, strength_multiplier=2)
    assert (answer["STEERED"], answer["DEFAULT"]) == (" a +1", " a\0é")
    assert answer["shareUrl"].endswith(f"/steer/{answer['id']}")
    (asked,) = worker.steered
    assert [(push.source, push.index, push.strength) for push in asked.pushes] == [(SOURCE, RICH, 10)]
    assert (asked.sampling.n_tokens, asked.sampling.frequency_penalty) == (4, 2)


@pytest.mark.usefixtures("server")
def test_the_client_steers_a_chat(worker):
    from neuronpedia.np_feature import SteerFeature
    from neuronpedia.requests.steer_request import SteerChatRequest

    features = [SteerFeature(modelId=MODEL, source=SOURCE, index=RICH, strength=5)]
    chat = [{"role": "user", "content": "Hello"}]
    answer = SteerChatRequest().steer_features(MODEL, features, chat, chat, steer_special_tokens=False)
    assert answer["STEERED"]["chat_template"] == [*chat, {"role": "assistant", "content": " a +1"}]
    (asked,) = worker.steered
    assert [turn.content for turn in asked.default_chat] == ["Hello"]
    assert not asked.are_special_tokens_pushed


@pytest.mark.usefixtures("server")
def test_the_client_keeps_vectors_and_steers_with_them(worker):
    from neuronpedia.np_vector import NPVector
    from neuronpedia.requests.vector_request import VectorRequest

    values = [0.1 * i for i in range(16)]
    made = NPVector.new("mine", MODEL, 1, "hook_resid_pre", values, default_steer_strength=3)
    assert (made.source, made.hook_name, made.values) == ("1-neuronpedia-resid-pre", "blocks.1.hook_resid_pre", values)
    assert NPVector.get(MODEL, made.source, made.index) == made
    assert NPVector.get_owned() == [made]
    assert made.steer_completion("The cat")["STEERED"] == " a +1"
    assert made.steer_chat([{"role": "user", "content": "Hello"}])["STEERED"]["raw"] == "<user>Hello a +1"
    assert [asked.pushes[0].vector for asked in worker.steered] == [tuple(values)] * 2
    assert [asked.pushes[0].strength for asked in worker.steered] == [12, 12], "times the client's multiplier of 4"
    assert VectorRequest().delete(made) == {"message": "Success"}
    assert VectorRequest().get_owned() == []


@pytest.mark.usefixtures("server")
def test_the_client_uploads_finds_and_deletes_graphs(tmp_path):
    from neuronpedia.np_graph_metadata import NPGraphMetadata
    from neuronpedia.requests.base_request import NPRequest

    large, file = graph_samples.large(n_features=200, n_links=2_000), tmp_path / "small.json"
    file.write_text(json.dumps(graph_samples.small(title_prefix="Mine:")))
    first, second = NPGraphMetadata.upload(json.dumps(large)), NPGraphMetadata.upload_file(str(file))
    assert (first.model_id, first.slug, first.prompt) == ("gemma-2-2b", "dallas", large["metadata"]["prompt"])
    assert (first.prompt_tokens, first.title_prefix, second.title_prefix) == (list(graph_samples.TOKENS), "", "Mine:")
    assert requests.get(first.json_url, timeout=60).json() == large
    assert NPGraphMetadata.get("tiny", "small") == second
    assert NPGraphMetadata.list_owned() == [second, first]
    page = requests.get(
        second.url.replace("https://neuronpedia.org", NPRequest.BASE_URL.removesuffix("/api")), timeout=60
    )
    assert page.url.endswith("/tiny/graph/small"), "the client's own address of it leads to its page"
    assert second.delete() == {"message": "Success"}
    assert NPGraphMetadata.list_owned() == [first]
    with pytest.raises(Exception, match="Resource not found"):
        NPGraphMetadata.get("tiny", "small")


@pytest.mark.usefixtures("server")
def test_the_client_is_told_why_a_graph_is_refused_and_that_none_is_made_here():
    from neuronpedia.np_graph_metadata import NPGraphMetadata

    with pytest.raises(Exception, match=r"cannot be used: .*'nodes' is empty"):
        NPGraphMetadata.upload(json.dumps(graph_samples.small() | {"nodes": []}))
    with pytest.raises(Exception, match="stores and shows attribution graphs, and does not compute them"):
        NPGraphMetadata.generate("tiny", "The cat", "cat")


@pytest.mark.usefixtures("server")
def test_the_client_keeps_lists():
    from neuronpedia.np_list import NPList, NPListItem

    made = NPList.new("mine", "some of them")
    assert (made.name, made.description, made.items) == ("mine", "some of them", [])
    item = NPListItem(model_id=MODEL, source=SOURCE, index=str(RICH), description="the rich one")
    filled = made.add_items([item])
    assert [(each.model_id, each.source, each.index) for each in filled.items] == [(MODEL, SOURCE, str(RICH))]
    found = NPList.get(made.id)
    assert (found.id, found.name, found.items) == (made.id, "mine", filled.items)
    assert [(each.id, each.name) for each in NPList.get_owned()] == [(made.id, "mine")]


@pytest.fixture
def saelens(server, monkeypatch):
    """SAELens's helpers with their constant set to our server, as somebody does who uses them with it."""
    from neuronpedia.requests.base_request import NPRequest

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what it imports
        from sae_lens.analysis import neuronpedia_integration
    monkeypatch.setattr(neuronpedia_integration, "NEURONPEDIA_DOMAIN", NPRequest.BASE_URL.removesuffix("/api"))
    return neuronpedia_integration


def test_saelens_makes_a_list_with_features(saelens, monkeypatch):
    site = saelens.NEURONPEDIA_DOMAIN
    opened: list[str] = []
    monkeypatch.setattr(saelens.webbrowser, "open", opened.append)
    layer, _, dataset = SOURCE.partition("-")
    features = [
        saelens.NeuronpediaFeature(MODEL, int(layer), dataset, index, description=f"number {index}")
        for index in (RICH, 10**6)
    ]
    url = saelens.make_neuronpedia_list_with_features("any", "mine", features)
    assert opened == [url]
    list_id = url.removeprefix(f"{site}/list/")
    exported = requests.get(f"{site}/api/list/{list_id}/export", timeout=60).json()
    assert [(each["index"], each["description"]) for each in exported] == [(str(RICH), f"number {RICH}")]
    with pytest.raises(Exception, match="name of the list has 0 characters"):
        saelens.make_neuronpedia_list_with_features("any", " ", features)


def test_saelens_links_to_a_quick_list(saelens, app, tmp_path, monkeypatch):
    built = {"main.js": "main-1.js", "main.css": "main-2.css", "icon.svg": "icon.svg"}
    (tmp_path / "manifest.json").write_text(json.dumps(built))
    app.state.renderer = rendering.Renderer(tmp_path)
    monkeypatch.setattr(saelens.webbrowser, "open", lambda url: None)
    metadata = SimpleNamespace(neuronpedia_id=f"{MODEL}/{SOURCE}", model_name=MODEL)
    sae = SimpleNamespace(cfg=SimpleNamespace(metadata=metadata))
    url = saelens.get_neuronpedia_quick_list(sae, [RICH, 2], name="some & others")
    page = requests.get(url, timeout=60)
    assert page.status_code == 200, page.text
    assert "some &amp; others" in page.text
    assert all(f'href="/{MODEL}/{SOURCE}/{index}"' in page.text for index in (RICH, 2))


@pytest.mark.usefixtures("server")
def test_the_client_uploads_features_and_their_activations():
    from neuronpedia.np_activation import Activation
    from neuronpedia.np_explanation import Explanation
    from neuronpedia.np_feature import Feature, Logit
    from neuronpedia.np_model import Model
    from neuronpedia.np_source_set import SourceSet
    from neuronpedia.requests.activation_request import ActivationRequest

    Model.new("toy", layers=2)
    source = SourceSet.new("mine", "toy").get_source_for_layer_number(1)
    place = ("toy", source.id, 3)
    texts = [
        Activation(*place, ["The", " cat", ""], [0.0, 2.5, 0.25], 3.0, 2.0, 0.5),
        Activation(*place, ["a", " dog"], [0.0, 1.0]),
    ]
    feature = Feature(
        *place, top_logits=[Logit(" meow", 1.5)], activations=texts, explanations=[Explanation(*place, "cats")]
    )
    for _ in range(2):
        assert source.upload_batch([feature]) == {"message": "1 features created."}
    found = Feature.get(*place)
    assert (found.density, [each.text for each in found.explanations]) == (0.0, ["cats"])
    assert found.activations == texts
    more = Activation(*place, ["cats"], [9.0])
    assert ActivationRequest().upload_batch("toy", source.id, "3", [more]) == {"message": "1 activations created."}
    assert Feature.get(*place).activations == [more, *texts]
