"""Every operation of our OpenAPI with what its schema allows and with what it forbids, against a real database.

Whatever comes, no answer is a server error or anything else that the document does not name, and each fits the schema it
names. Cases follow from the document alone (`derandomize`), so the same run today and tomorrow. Half of them name things
that are hosted, else everything would end at "not found".
"""

from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks

from backend.settings import Settings
from backend.web.app import create_app
from tests import hosted
from tests.integration.test_api_documents import ROUTES

N_EXAMPLES = 10
"""Of each operation."""
UNAVAILABLE = 503
"""Of the routes of live inference: no worker runs in this test."""
HOSTED: dict[str, Any] = {
    "model": hosted.MODEL, "modelId": hosted.MODEL, "source": hosted.SOURCE, "layer": hosted.SOURCE,
    "sourceSet": "tiny-sae", "name": "tiny-sae", "index": hosted.RICH, "other": hosted.SINGLE, "layers": [hosted.SOURCE],
}  # fmt: skip
"""By the names that parameters and keys of bodies have."""
CHECKED = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]
SETTINGS = hypothesis.settings(
    max_examples=N_EXAMPLES, derandomize=True, database=None, deadline=None, phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@pytest.fixture(scope="module")
def document(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of an application, read once: making sense of it takes longer than asking."""
    folder = tmp_path_factory.mktemp("document")
    (folder / "manifest.json").write_text("{}")
    app = create_app(Settings(database_url=database_url, redis_url="", assets=folder, data=folder))
    return schemathesis.openapi.from_dict(app.openapi())


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
def test_every_answer_is_one_that_is_documented(api, session, document, route):
    verb, path = route
    operation = document[path][verb]
    hosted.host(session)
    hosted.add_source(session, source="3-tiny-sae")
    session.commit()

    @hypothesis.given(case=cases(operation), is_hosted=st.booleans())
    @SETTINGS
    def ask(case: schemathesis.Case, *, is_hosted: bool) -> None:
        if is_hosted:
            name_hosted(case)
        response = send(api, case)
        assert response.status_code < 500 or response.status_code == UNAVAILABLE, response.text
        case.validate_response(response, checks=CHECKED)

    ask()


def cases(operation: Any) -> st.SearchStrategy[schemathesis.Case]:
    """What the schema allows, and, where it forbids anything, also that: any text is an id, as far as an address goes."""
    allowed = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    raw = operation.definition.raw
    is_number = any(parameter["schema"].get("type") != "string" for parameter in raw.get("parameters", ()))
    if not is_number and "requestBody" not in raw:
        return allowed
    return allowed | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)


def send(api: TestClient, case: schemathesis.Case) -> Any:
    """The case as it would go over the wire."""
    wire = requests.Request(**case.as_transport_kwargs(base_url="http://localhost")).prepare()
    return api.request(wire.method, wire.url, headers=dict(wire.headers), content=wire.body)


def name_hosted(case: schemathesis.Case) -> None:
    """Put hosted things in the place of those that are named."""
    for given in (case.path_parameters, case.body):
        if isinstance(given, dict):
            for key in given.keys() & HOSTED.keys():
                given[key] = HOSTED[key]
