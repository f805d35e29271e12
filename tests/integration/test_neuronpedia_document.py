"""docs/neuronpedia.md: its snippets run, and the routes it lists are there."""

import re

import pytest

from backend.settings import REPOSITORY
from tests import hosted
from tests.serving import lead, served

pytest.importorskip("neuronpedia", reason="Neuronpedia's client is not installed")
DOCUMENT = (REPOSITORY / "docs" / "neuronpedia.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", DOCUMENT, flags=re.DOTALL)
LISTED = re.findall(r"^\| `(GET|POST|DELETE|PUT) (.*?) \|", DOCUMENT, flags=re.MULTILINE)
NEEDED = ("neuronpedia", "requests", "sae_lens")


def test_there_is_a_snippet_for_each_client():
    assert len(SNIPPETS) == len(NEEDED)
    assert all(f"{name} " in of or f"{name}." in of for name, of in zip(NEEDED, SNIPPETS, strict=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # SAELens's own, of TransformerLens
@pytest.mark.parametrize("snippet", SNIPPETS, ids=NEEDED)
def test_a_snippet_runs_as_it_stands(app, session, monkeypatch, capsys, snippet):
    from neuronpedia.requests.base_request import NPRequest
    from sae_lens.analysis import neuronpedia_integration

    monkeypatch.setattr(NPRequest, "BASE_URL", NPRequest.BASE_URL)  # what snippets change is put back
    monkeypatch.setattr(neuronpedia_integration, "NEURONPEDIA_DOMAIN", neuronpedia_integration.NEURONPEDIA_DOMAIN)
    hosted.host(session, model="stdlib-4l", source="2-res-2k")
    session.commit()
    names: dict[str, object] = {}
    with served(app) as port:
        lead(monkeypatch, "localhost", 3000, port)
        exec(snippet, names)
    assert "error" not in capsys.readouterr().out
    assert names.get("feature") or names.get("rows")


def test_the_routes_that_are_listed_are_there(app):
    there = {(verb.upper(), path) for path, verbs in app.openapi()["paths"].items() for verb in verbs}
    listed = {(verb, f"/api/{path}") for verb, paths in LISTED for path in paths.rstrip("`").split("`, `")}
    assert len(listed) > 20
    assert listed <= there, sorted(listed - there)
