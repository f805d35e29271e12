"""The API as OpenAPI describes it, over all routes."""

import re

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from backend.web import schemas

ROUTES = {
    ("get", "/api/feature/{model}/{source}/{index}"): "Feature",
    ("post", "/api/features-offset"): ["FeatureInList"],
    ("post", "/api/activation/get"): ["Activation"],
    ("get", "/api/features/{model}/{source}"): "FeatureTable",
    ("post", "/api/explanation/new"): "ExplanationAnswer",
    ("post", "/api/explanation/search"): "FoundExplanations",
    ("post", "/api/explanation/search-model"): "FoundExplanations",
    ("post", "/api/explanation/search-release"): "FoundExplanations",
    ("post", "/api/explanation/search-all"): "FoundExplanations",
    ("get", "/api/explanation/export"): ["ExportedExplanation"],
    ("get", "/api/explanation/{explanation_id}"): "ExplanationRow",
    ("patch", "/api/explanation/{explanation_id}"): "ExplanationAnswer",
    ("delete", "/api/explanation/{explanation_id}"): "ExplanationDeleted",
    ("post", "/api/explanation/{explanation_id}/delete"): "ExplanationDeleted",
    ("post", "/api/explanation/{explanation_id}/vote"): "ExplanationVotes",
    ("post", "/api/explanation/{explanation_id}/unvote"): "ExplanationVotes",
    ("get", "/api/index/{model}/{source}"): "IndexFacts",
    ("get", "/api/index/{model}/{source}/{index}/activations"): "Firings",
    ("get", "/api/index/{model}/{source}/{index}/quantiles"): ["Quantile"],
    ("get", "/api/index/{model}/{source}/{index}/cofiring"): "Cofirings",
    ("get", "/api/index/{model}/{source}/{index}/pair/{other}"): "Pair",
    ("post", "/api/features"): ["FeatureInList"],
    ("post", "/api/umap"): "Umap",
    ("post", "/api/model/list"): ["ModelInList"],
    ("post", "/api/model/get"): "ModelWithSources",
    ("post", "/api/model/new"): "Model",
    ("post", "/api/source-set/new"): "SourceSetWithRelations",
    ("post", "/api/global"): "Catalog",
    ("post", "/api/test"): "KeyTested",
    ("get", "/api/source-set/{model}/{name}"): "SourceSetWithRelations",
    ("get", "/api/source/{model}/{source}"): "SourceFacts",
    ("patch", "/api/source/{model}/{source}"): "SourceFacts",
    ("delete", "/api/source/{model}/{source}"): "SourceDeleted",
    ("get", "/api/source/{model}/{source}/quality"): "SourceQuality",
    ("get", "/api/source/{model}/{source}/look"): "SourceLook",
    ("get", "/api/jobs"): ["Job"],
    ("get", "/api/jobs/{job_id}"): "Job",
    ("post", "/api/jobs"): "Job",
    ("get", "/api/jobs/{job_id}/events"): ["JobEvent"],
    ("post", "/api/jobs/{job_id}/cancel"): "Job",
    ("post", "/api/jobs/{job_id}/retry"): "Job",
    ("post", "/api/sources"): "Hosted",
    ("get", "/api/uploads"): ["Upload"],
    ("post", "/api/uploads"): "Upload",
    ("post", "/api/uploads/whole"): "Upload",
    ("get", "/api/uploads/{upload_id}"): "Upload",
    ("delete", "/api/uploads/{upload_id}"): "UploadDeleted",
    ("patch", "/api/uploads/{upload_id}/files/{name}"): "ChunkReceived",
    ("post", "/api/uploads/{upload_id}/complete"): "Upload",
    ("get", "/api/corpora/{model}"): ["CorpusFacts"],
    ("get", "/api/tokens"): ["Token"],
    ("put", "/api/tokens/{service}"): ["Token"],
    ("delete", "/api/tokens/{service}"): ["Token"],
    ("get", "/api/health"): "Health",
    ("post", "/api/activation/new"): "NewActivations",
    ("post", "/api/activation/source"): "SourceActivations",
    ("post", "/api/search-all"): "Search",
    ("post", "/api/search-topk-by-token"): "TopByToken",
    ("post", "/api/cossim"): "Cosines",
    ("post", "/api/tokenize"): "Tokens",
    ("post", "/api/steer"): "SteeredCompletion",
    ("post", "/api/steer-chat"): "SteeredChat",
    ("post", "/api/steer-load"): "SavedSteer",
    ("delete", "/api/steer/{run_id}"): "SteerDeleted",
    ("post", "/api/steer/presets"): "SteerPresets",
    ("post", "/api/vector/new"): "VectorAdded",
    ("post", "/api/vector/get"): "VectorFound",
    ("post", "/api/vector/list-owned"): "VectorsOwned",
    ("post", "/api/vector/delete"): "VectorDeleted",
    ("get", "/api/export/{model}/{source}"): "application/zip",
    ("post", "/api/imports"): ["ImportBegun"],
    ("post", "/api/feature/upload-batch"): "Created",
    ("post", "/api/activation/upload-batch"): "Created",
    ("post", "/api/injection-scan"): "InjectionScan",
    ("get", "/api/graph/{model}/{slug}"): "GraphMetadata",
    ("get", "/api/graph/{model}/{slug}/json"): "GraphFile",
    ("post", "/api/graph/signed-put"): "GraphPut",
    ("put", "/api/graph/put/{upload_id}"): "GraphReceived",
    ("post", "/api/graph/save-to-db"): "GraphSaved",
    ("post", "/api/graph/list-owned"): ["GraphMetadata"],
    ("post", "/api/graph/delete"): "GraphDeleted",
    ("post", "/api/graph/features"): "GraphFeatures",
    ("post", "/api/graph/subgraph/save"): "SubgraphSaved",
    ("post", "/api/graph/subgraph/list"): "Subgraphs",
    ("post", "/api/graph/subgraph/delete"): "SubgraphDeleted",
    ("post", "/api/list/list"): ["FeatureList"],
    ("post", "/api/list/new"): "NewFeatureList",
    ("post", "/api/list/new-with-features"): "NewFeatureList",
    ("post", "/api/list/add-features"): ["ListItem"],
    ("post", "/api/list/get"): "FeatureListWithItems",
    ("post", "/api/list/update"): "FeatureList",
    ("post", "/api/list/edit-feature"): "ListItem",
    ("post", "/api/list/remove"): "ListItem",
    ("post", "/api/list/delete"): "ListDeleted",
    ("post", "/api/list/comment/new"): "ListCommentRow",
    ("post", "/api/list/comment/delete"): "Count",
    ("get", "/api/list/{list_id}/export"): ["ExportedItem"],
    ("post", "/api/comment/new"): "Comment",
    ("post", "/api/comment/delete"): "CommentDeleted",
    ("post", "/api/bookmark/add"): "Bookmark",
    ("post", "/api/bookmark/delete"): "Count",
    ("post", "/api/user/bookmarks"): ["Bookmark"],
}
LISTS = (
    "/api/model/list",
    "/api/global",
    "/api/jobs",
    "/api/uploads",
    "/api/tokens",
    "/api/vector/list-owned",
    "/api/explanation/search-all",
    "/api/graph/list-owned",
    "/api/list/list",
    "/api/user/bookmarks",
)
BODIES_OF_THEIR_OWN = {
    ("post", "/api/jobs"), ("post", "/api/uploads"), ("post", "/api/sources"), ("post", "/api/uploads/whole"),
    ("post", "/api/uploads/{upload_id}/complete"), ("put", "/api/tokens/{service}"),
    ("post", "/api/steer-chat"), ("post", "/api/steer-load"), ("post", "/api/vector/new"),
    ("post", "/api/injection-scan"), ("get", "/api/explanation/export"), ("post", "/api/features"),
    ("post", "/api/model/new"), ("post", "/api/source-set/new"), ("post", "/api/imports"), ("post", "/api/feature/upload-batch"),
    ("post", "/api/activation/upload-batch"),
    ("post", "/api/graph/signed-put"), ("post", "/api/graph/save-to-db"),
    ("post", "/api/graph/features"), ("post", "/api/graph/subgraph/delete"),
    ("post", "/api/list/new"), ("post", "/api/list/new-with-features"),
    ("post", "/api/list/add-features"), ("post", "/api/list/update"),
}  # fmt: skip
"""They refuse the body below before they look for anything."""


@pytest.fixture
def document(app):
    return app.openapi()


def operations(document):
    return {(verb, path): found for path, verbs in document["paths"].items() for verb, found in verbs.items()}


def test_every_route_is_described_and_no_other(document):
    assert operations(document).keys() == ROUTES.keys()


def test_every_route_describes_its_answer(document):
    for route, operation in operations(document).items():
        content = operation["responses"]["200"]["content"]
        assert operation["summary"]
        assert operation["description"]
        if ROUTES[route] in tuple(content):  # a file, not JSON
            continue
        answer = content["application/json"]["schema"]
        found = re.findall(r"#/components/schemas/(\w+)", str(answer))
        name = ROUTES[route]
        assert found == (name if isinstance(name, list) else [name]), route
        assert (answer.get("type") == "array") == isinstance(name, list), route


def test_every_route_describes_its_refusals(document):
    for route, operation in operations(document).items():
        refusal = operation["responses"]["4XX"]["content"]["application/json"]["schema"]
        assert refusal == {"$ref": "#/components/schemas/Error"}, route
        listed = operation["responses"].get("422")  # only where several things may be wrong, and never FastAPI's own
        if listed is not None:
            told = re.findall(r"#/components/schemas/(\w+)", str(listed["content"]["application/json"]["schema"]))
            assert told in (["Problems"], ["Problems", "Error"]), route


def _kinds_of(base):
    for each in base.__subclasses__():
        yield each
        yield from _kinds_of(each)


@pytest.mark.usefixtures("app")
def test_answers_have_no_defaults():
    answers = list(_kinds_of(schemas.Answer))
    assert len(answers) > 40
    for answer in answers:
        assert issubclass(answer, BaseModel)
        for name, field in answer.model_fields.items():
            assert field.is_required(), f"{answer.__name__}.{name}"
            assert field.default is PydanticUndefined


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_refuses_what_is_not_there_in_one_shape(api, route):
    verb, path = route
    filled = re.sub(r"{(\w+)}", lambda match: "7" if match[1] in ("index", "other", "job_id") else "none", path)
    address = {"modelId": "none", "source": "none", "layer": "none", "index": 1}
    texts = {"customText": "x", "prompt": "x", "text": "x", "description": "x", "query": "cat", "releaseName": "none"}
    texts |= {"slug": "none", "listId": "none", "id": "none"}
    full = {**address, **texts, "feature": address, "sourceSet": "none", "visibility": "public"}
    body = full if verb in ("post", "patch") else None
    response = api.request(verb, f"http://localhost{filled}", json=body)
    if response.status_code == 200:
        assert path in (*LISTS, "/api/source-set/{model}/{name}", "/api/health", "/api/test")
    else:
        assert response.status_code == (400 if route in BODIES_OF_THEIR_OWN else 404)
        schemas.Error.model_validate(response.json())
