"""Every route × (nobody, another user, the owner, an admin) × (private, unlisted, public).

Routes come from the application, so one without a line in `RULES` fails. A line says which rule the route follows and
how to ask it; the rules say who gets what. A hidden thing must be answered exactly as one that is not there.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts
from sqlalchemy import select, update

from backend import names, storage
from backend.db.tables import (
    Explanation,
    FeatureComment,
    FeatureList,
    Graph,
    GraphUpload,
    Job,
    ListComment,
    Revision,
    SignIn,
    Source,
    SteerRun,
    Subgraph,
    Upload,
    Vector,
)
from backend.formats import messages, quality
from backend.names import FeatureRef
from backend.services import (
    comments,
    explanations,
    feature_lists,
    inference,
    ingest,
    invitations,
    jobs,
    steering,
    subgraphs,
    uploads,
    vectors,
)
from tests import graph_samples, hosted, kept
from tests.signing_in import ORIGIN, Person, browser, person, program

KINDS = ("private", "unlisted", "public")
ACTORS = ("nobody", "other", "owner", "admin")
PASSED, HIDDEN, SIGN_IN, FORBIDDEN = "passed", "hidden", "sign in", "forbidden"

NAMES = (
    "model",
    "source",
    "name",
    "job_id",
    "run_id",
    "vector",
    "explanation_id",
    "slug",
    "put",
    "subgraph",
    "list_id",
    "comment_id",
    "list_comment_id",
)
"""What differs from case to case."""

Outcome = Callable[[str, str], str]
"""Of actor and visibility."""


def is_reachable(actor: str, kind: str) -> bool:
    return actor in ("owner", "admin") or kind != "private"


def is_listed(actor: str, kind: str) -> bool:
    return actor in ("owner", "admin") or kind == "public"


def everybody(actor: str, kind: str) -> str:
    """Answered, and silent about what is hidden. Lists are of this kind."""
    return PASSED


def by_address(actor: str, kind: str) -> str:
    """A source, or something of it."""
    return PASSED if is_reachable(actor, kind) else HIDDEN


def if_listed(actor: str, kind: str) -> str:
    """Something that leads to sources, such as a model or a job."""
    return PASSED if is_listed(actor, kind) else HIDDEN


def _change(is_seen: Callable[[str, str], bool]) -> Outcome:
    def outcome(actor: str, kind: str) -> str:
        if not is_seen(actor, kind):
            return HIDDEN
        return {"nobody": SIGN_IN, "other": FORBIDDEN}.get(actor, PASSED)

    return outcome


change_by_address = _change(is_reachable)
"""Only the owner and admins may; others see it or not, as always."""
change_if_listed = _change(is_listed)


def add_if_listed(actor: str, kind: str) -> str:
    """Whoever sees it and is signed in may add to it."""
    if not is_listed(actor, kind):
        return HIDDEN
    return SIGN_IN if actor == "nobody" else PASSED


def add_by_address(actor: str, kind: str) -> str:
    """Whoever reaches it and is signed in may add to it."""
    if not is_reachable(actor, kind):
        return HIDDEN
    return SIGN_IN if actor == "nobody" else PASSED


def own(actor: str, kind: str) -> str:
    """An upload: its owner's business, and admins'."""
    return PASSED if actor in ("owner", "admin") else HIDDEN


def change_own(actor: str, kind: str) -> str:
    return SIGN_IN if actor == "nobody" else own(actor, kind)


def signed_in(actor: str, kind: str) -> str:
    return SIGN_IN if actor == "nobody" else PASSED


def admins(actor: str, kind: str) -> str:
    return {"nobody": SIGN_IN, "admin": PASSED}.get(actor, HIDDEN)


def none(actor: str, kind: str) -> str:
    return HIDDEN


@dataclass(frozen=True)
class Rule:
    """How a route is asked and what it answers to whom; `{…}` is filled in from the case."""

    outcome: Outcome
    query: str = ""
    json: dict[str, Any] | None = None
    form: dict[str, str] | None = None
    statuses: frozenset[int] = frozenset({200, 201, 303})
    """When it passed."""
    is_nothing_a_null: bool = False
    """What is hidden or not there is `null`, or no item of a list, with status 200."""
    is_listing: bool = False
    """Names every source that the actor may see in lists."""


FEATURE = {"modelId": "{model}", "source": "{source}", "index": 1}
STEERING = {"modelId": "{model}", "features": [{"layer": "{source}", "index": 1, "strength": 1}]}
VECTOR = {"modelId": "{model}", "source": "1-neuronpedia-resid-post", "index": "{vector}"}
GRAPH = {"modelId": "{model}", "slug": "{slug}"}
LISTED = {"modelId": "{model}", "layer": "{source}", "index": 1}
LIVE = frozenset({503})
"""No live worker runs in this test; what is hidden is refused before that is found out."""

UNMIXED = frozenset({409})
"""What was computed here takes no uploads; who may not is refused before that is found out."""

UNFIT = frozenset({400, 429})
"""The job there is has no corpus, and its owner has many under way; who may not is refused before that is found out."""

RULES: dict[str, Rule] = {
    "GET /openapi.json": Rule(everybody),
    "GET /": Rule(everybody, is_listing=True),
    "GET /definitions": Rule(everybody),
    "GET /add": Rule(signed_in),
    "GET /import": Rule(signed_in),
    "GET /jobs": Rule(everybody, is_listing=True),
    "GET /jobs/{job_id}": Rule(if_listed),
    "GET /jobs/{job_id}/progress": Rule(if_listed),
    "POST /jobs/{job_id}/cancel": Rule(change_if_listed),
    "POST /jobs/{job_id}/retry": Rule(change_if_listed, statuses=frozenset({409})),
    "GET /steer": Rule(everybody),
    "GET /steer/{run_id}": Rule(by_address),
    "GET /graphs": Rule(everybody, is_listing=True),
    "GET /{model}/graphs": Rule(everybody),
    "GET /{model}/graph": Rule(everybody),
    "GET /{model}/graph/{slug}": Rule(by_address),
    "POST /{model}/graph/{slug}/delete": Rule(change_by_address),
    "GET /search-explanations": Rule(by_address, query="q=what+explains&modelId={model}&sources={source}"),
    "POST /{model}/{source}/{index}/explanations": Rule(add_by_address, form={"description": "x"}),
    "POST /explanations/{explanation_id}/edit": Rule(change_by_address, form={"description": "x"}),
    "POST /explanations/{explanation_id}/delete": Rule(change_by_address),
    "POST /explanations/{explanation_id}/vote": Rule(add_by_address),
    "POST /explanations/{explanation_id}/unvote": Rule(add_by_address),
    "GET /lists": Rule(everybody),
    "POST /lists": Rule(signed_in, form={"name": "x"}),
    "GET /list/{list_id}": Rule(by_address),
    "POST /list/{list_id}/edit": Rule(change_by_address, form={"name": "x"}),
    "POST /list/{list_id}/add": Rule(change_by_address, form={"features": "{model}/{source}/2"}),
    "POST /list/{list_id}/describe": Rule(
        change_by_address, form={"feature": "{model}/{source}/1", "description": "x"}
    ),
    "POST /list/{list_id}/remove": Rule(change_by_address, form={"feature": "{model}/{source}/1"}),
    "POST /list/{list_id}/delete": Rule(change_by_address),
    "POST /list/{list_id}/comments": Rule(add_by_address, form={"text": "hello"}),
    "POST /list/{list_id}/comments/{list_comment_id}/delete": Rule(change_by_address),
    "GET /quick-list": Rule(everybody, query="name=x"),
    "POST /quick-list": Rule(signed_in, form={"name": "x"}),
    "GET /oembed": Rule(by_address, query=f"url={ORIGIN}/{{model}}/{{source}}/1"),
    "GET /{model}": Rule(if_listed),
    "GET /{model}/steer": Rule(if_listed),
    "GET /{model}/search": Rule(if_listed),
    "GET /{model}/search/results": Rule(if_listed, query="text=x", statuses=LIVE),
    "GET /{model}/{source}": Rule(by_address),
    "POST /{model}/{source}/visibility": Rule(change_by_address, form={"visibility": "public"}),
    "GET /{model}/{source}/rerun": Rule(change_by_address),
    "POST /{model}/{source}/rerun": Rule(change_by_address, form={}, statuses=UNFIT),
    "GET /{model}/{source}/delete": Rule(change_by_address),
    "POST /{model}/{source}/delete": Rule(change_by_address),
    "GET /{model}/{source}/random": Rule(by_address),
    "GET /{model}/{source}/find": Rule(by_address, query="q=1"),
    "GET /{model}/{source}/index": Rule(by_address, query="feature=1"),
    "GET /{model}/{source}/{index}": Rule(by_address),
    "GET /{model}/{source}/{index}/card.png": Rule(by_address),
    "POST /{model}/{source}/{index}/bookmark": Rule(add_by_address, form={"is_set": "1"}),
    "POST /{model}/{source}/{index}/lists": Rule(add_by_address, form={"name": "x"}),
    "POST /{model}/{source}/{index}/comments": Rule(add_by_address, form={"text": "hello"}),
    "POST /{model}/{source}/{index}/comments/{comment_id}/delete": Rule(change_by_address),
    "GET /{model}/{source}/{index}/try": Rule(by_address, query="text=x", statuses=LIVE),
    "GET /{model}/{source}/{index}/activations": Rule(by_address),
    "GET /{model}/{source}/{index}/cofiring": Rule(by_address),
    "GET /{model}/{source}/{index}/pair/{other}": Rule(by_address),
    "GET /{model}/{source}/{index}/scan": Rule(by_address),
    "GET /{model}/{source}/{index}/scan.csv": Rule(by_address, query="text=x&token=y", statuses=LIVE),
    "GET /sign-in": Rule(everybody),
    "POST /sign-in": Rule(everybody, form={"name": "nobody", "password": "x"}, statuses=frozenset({401})),
    "POST /sign-out": Rule(everybody),
    "GET /set-up/{token}": Rule(everybody),
    "POST /set-up/{token}": Rule(everybody, form={"password": "correct horse battery"}),
    "GET /account": Rule(signed_in),
    "POST /account/password": Rule(signed_in, form={"current": "wrong", "password": "x" * 12}, statuses=frozenset({400})),
    "POST /account/keys": Rule(signed_in, form={"name": "x", "scope": "read", "days": "1"}),
    "POST /account/keys/{key_id}/revoke": Rule(signed_in, statuses=frozenset({404})),
    "POST /account/sign-ins/others/end": Rule(signed_in),
    "POST /account/sign-ins/{sign_in_id}/end": Rule(signed_in),
    "GET /admin": Rule(admins, is_listing=True),
    "POST /admin/accounts": Rule(admins, form={"name": "somebody"}),
    "POST /admin/accounts/{account_id}/link": Rule(admins),
    "POST /admin/accounts/{account_id}/disable": Rule(admins),
    "POST /admin/accounts/{account_id}/enable": Rule(admins),
    "POST /admin/accounts/{account_id}/admin": Rule(admins),
    "POST /admin/accounts/{account_id}/quota": Rule(admins, form={"gigabytes": "1"}),
    "GET /api/feature/{model}/{source}/{index}": Rule(by_address),
    "POST /api/features-offset": Rule(by_address, json={"modelId": "{model}", "layer": "{source}", "offset": 0}),
    "POST /api/activation/get": Rule(by_address, json=FEATURE),
    "GET /api/features/{model}/{source}": Rule(by_address),
    "GET /api/index/{model}/{source}": Rule(by_address),
    "GET /api/index/{model}/{source}/{index}/activations": Rule(by_address),
    "GET /api/index/{model}/{source}/{index}/quantiles": Rule(by_address),
    "GET /api/index/{model}/{source}/{index}/cofiring": Rule(by_address),
    "GET /api/index/{model}/{source}/{index}/pair/{other}": Rule(by_address),
    "POST /api/explanation/new": Rule(add_by_address, json=FEATURE | {"description": "x"}),
    "POST /api/explanation/search": Rule(
        by_address, json={"modelId": "{model}", "layers": ["{source}"], "query": "what explains"}
    ),
    "POST /api/explanation/search-model": Rule(if_listed, json={"modelId": "{model}", "query": "what explains"}),
    "POST /api/explanation/search-release": Rule(if_listed, json={"releaseName": "{name}", "query": "what explains"}),
    "POST /api/explanation/search-all": Rule(everybody, json={"query": "what explains"}, is_listing=True),
    "GET /api/explanation/export": Rule(by_address, query="modelId={model}&saeId={source}"),
    "GET /api/explanation/{explanation_id}": Rule(by_address),
    "PATCH /api/explanation/{explanation_id}": Rule(change_by_address, json={"description": "x"}),
    "DELETE /api/explanation/{explanation_id}": Rule(change_by_address),
    "POST /api/explanation/{explanation_id}/delete": Rule(change_by_address),
    "POST /api/explanation/{explanation_id}/vote": Rule(add_by_address),
    "POST /api/explanation/{explanation_id}/unvote": Rule(add_by_address),
    "GET /api/export/{model}/{source}": Rule(by_address),
    "POST /api/imports": Rule(signed_in, json={"upload": "0" * 32}, statuses=frozenset({404})),
    "POST /api/feature/upload-batch": Rule(
        change_by_address, json={"modelId": "{model}", "source": "{source}", "features": [{"index": 1}]}, statuses=UNMIXED
    ),
    "POST /api/activation/upload-batch": Rule(
        change_by_address, json=FEATURE | {"activations": [{"tokens": ["a"], "values": [1]}]}, statuses=UNMIXED
    ),
    "POST /api/features": Rule(by_address, json=[FEATURE], is_nothing_a_null=True),
    "POST /api/umap": Rule(by_address, json={"modelId": "{model}", "layers": ["{source}"]}),
    "POST /api/model/list": Rule(everybody, is_listing=True),
    "POST /api/global": Rule(everybody, is_listing=True),
    "POST /api/model/get": Rule(if_listed, json={"id": "{model}"}),
    "POST /api/model/new": Rule(signed_in, json={"id": "new-model", "layers": 2}),
    "POST /api/source-set/new": Rule(add_if_listed, json={"modelId": "{model}", "name": "new"}),
    "POST /api/test": Rule(everybody, statuses=frozenset({200, 401})),
    "GET /api/source-set/{model}/{name}": Rule(if_listed, is_nothing_a_null=True),
    "GET /api/source/{model}/{source}": Rule(by_address),
    "PATCH /api/source/{model}/{source}": Rule(change_by_address, json={"visibility": "public"}),
    "DELETE /api/source/{model}/{source}": Rule(change_by_address),
    "GET /api/source/{model}/{source}/quality": Rule(by_address),
    "GET /api/source/{model}/{source}/look": Rule(by_address),
    "GET /api/jobs": Rule(everybody, is_listing=True),
    "GET /api/jobs/{job_id}": Rule(if_listed),
    "POST /api/jobs": Rule(change_by_address, json={"sources": ["{model}/{source}"]}, statuses=UNFIT),
    "GET /api/jobs/{job_id}/events": Rule(if_listed),
    "POST /api/jobs/{job_id}/cancel": Rule(change_if_listed),
    "POST /api/jobs/{job_id}/retry": Rule(change_if_listed, statuses=frozenset({409})),
    "POST /api/injection-scan": Rule(
        by_address, json={"model": "{model}", "source": "{source}", "index": 1, "text": "x", "token": "y"}, statuses=LIVE
    ),
    "POST /api/activation/new": Rule(by_address, json={"feature": FEATURE, "customText": "x"}, statuses=LIVE),
    "POST /api/activation/source": Rule(
        by_address, json={"modelId": "{model}", "source": "{source}", "customText": "x"}, statuses=LIVE
    ),
    "POST /api/search-all": Rule(
        if_listed, json={"modelId": "{model}", "sourceSet": "{name}", "text": "x"}, statuses=LIVE
    ),
    "POST /api/search-topk-by-token": Rule(
        by_address, json={"modelId": "{model}", "source": "{source}", "text": "x"}, statuses=LIVE
    ),
    "POST /api/cossim": Rule(by_address, json=FEATURE, statuses=LIVE),
    "POST /api/tokenize": Rule(if_listed, json={"modelId": "{model}", "prompt": "x"}, statuses=LIVE),
    "POST /api/steer": Rule(by_address, json=STEERING | {"prompt": "x"}, statuses=LIVE),
    "POST /api/steer-chat": Rule(
        by_address, json=STEERING | {"defaultChatMessages": [{"role": "user", "content": "x"}]}, statuses=LIVE
    ),
    "POST /api/steer-load": Rule(by_address, json={"steerOutputId": "{run_id}"}),
    "DELETE /api/steer/{run_id}": Rule(change_by_address),
    "POST /api/steer/presets": Rule(if_listed, json={"modelId": "{model}"}),
    "POST /api/vector/new": Rule(
        add_if_listed,
        json={"modelId": "{model}", "layerNumber": 1, "hookType": "hook_resid_post", "vector": [1.0] * 16},
    ),
    "POST /api/vector/get": Rule(if_listed, json=VECTOR),
    "POST /api/vector/list-owned": Rule(signed_in),
    "POST /api/vector/delete": Rule(change_if_listed, json=VECTOR),
    "GET /api/graph/{model}/{slug}": Rule(by_address),
    "GET /api/graph/{model}/{slug}/json": Rule(by_address),
    "POST /api/graph/signed-put": Rule(signed_in, json={"filename": "a.json", "contentLength": 1}),
    "PUT /api/graph/put/{upload_id}": Rule(none, query="token=guessed"),
    "POST /api/graph/save-to-db": Rule(change_own, json={"putRequestId": "{put}"}),
    "POST /api/graph/list-owned": Rule(signed_in),
    "POST /api/graph/delete": Rule(change_by_address, json=GRAPH),
    "POST /api/graph/generate": Rule(everybody, json={}, statuses=frozenset({422})),
    "POST /api/graph/features": Rule(by_address, json=GRAPH | {"features": [{"layer": 1, "index": 1}]}),
    "POST /api/graph/subgraph/save": Rule(add_by_address, json=GRAPH),
    "POST /api/graph/subgraph/list": Rule(by_address, json=GRAPH),
    "POST /api/graph/subgraph/delete": Rule(own, json={"subgraphId": "{subgraph}"}),
    "POST /api/list/list": Rule(signed_in),
    "POST /api/list/new": Rule(signed_in, json={"name": "x"}),
    "POST /api/list/new-with-features": Rule(signed_in, json={"name": "x", "features": [LISTED]}),
    "POST /api/list/add-features": Rule(change_by_address, json={"listId": "{list_id}", "featuresToAdd": [LISTED]}),
    "POST /api/list/get": Rule(by_address, json={"listId": "{list_id}"}),
    "POST /api/list/update": Rule(change_by_address, json={"listId": "{list_id}", "name": "x"}),
    "POST /api/list/edit-feature": Rule(change_by_address, json=LISTED | {"listId": "{list_id}", "description": "x"}),
    "POST /api/list/remove": Rule(change_by_address, json=LISTED | {"listId": "{list_id}"}),
    "POST /api/list/delete": Rule(change_by_address, json={"listId": "{list_id}"}),
    "POST /api/list/comment/new": Rule(add_by_address, json={"listId": "{list_id}", "text": "hello"}),
    "POST /api/list/comment/delete": Rule(change_by_address, json={"commentId": "{list_comment_id}"}),
    "GET /api/list/{list_id}/export": Rule(by_address),
    "POST /api/comment/new": Rule(add_by_address, json=LISTED | {"text": "hello"}),
    "POST /api/comment/delete": Rule(change_by_address, json={"id": "{comment_id}"}),
    "POST /api/bookmark/add": Rule(add_by_address, json=LISTED),
    "POST /api/bookmark/delete": Rule(add_by_address, json=LISTED),
    "POST /api/user/bookmarks": Rule(signed_in),
    "GET /api/uploads": Rule(everybody),
    "POST /api/uploads": Rule(signed_in, json={"files": [{"name": "a", "size": 1}]}),
    "POST /api/uploads/whole": Rule(signed_in, query="name=a", statuses=frozenset({422})),
    "GET /api/uploads/{upload_id}": Rule(own),
    "PATCH /api/uploads/{upload_id}/files/{name}": Rule(change_own, statuses=frozenset({400})),
    "POST /api/uploads/{upload_id}/complete": Rule(change_own, json={}, statuses=frozenset({422})),
    "DELETE /api/uploads/{upload_id}": Rule(change_own),
    "POST /api/sources": Rule(
        change_own, json={"model": "{model}", "upload": "{upload_id}", "corpus": {}}, statuses=frozenset({409})
    ),
    "GET /api/corpora/{model}": Rule(if_listed),
    "GET /api/tokens": Rule(signed_in),
    "PUT /api/tokens/{service}": Rule(signed_in, json={"token": "hf_123456"}),
    "DELETE /api/tokens/{service}": Rule(signed_in, statuses=frozenset({404})),
    "GET /api/health": Rule(everybody),
} | {f"{method} /api/{{path}}": Rule(none) for method in ("GET", "POST", "PUT", "PATCH", "DELETE")}  # fmt: skip


@pytest.fixture
def case(site, session, tmp_path):
    """What the routes' parameters are, by visibility: a model, a computed source that keeps its index, a job of it."""
    settings = site.state.settings
    owner = person(session, settings, "owner")
    people: dict[str, Person | None] = {
        "nobody": None, "other": person(session, settings, "other"), "owner": owner,
        "admin": person(session, settings, "admin", is_admin=True),
    }  # fmt: skip
    third = person(session, settings, "third")
    found = {}
    for kind in KINDS:
        model, source = f"{kind}-model", f"1-{kind}"
        firings = kept.random()
        made = kept.keep(session, storage.mirror(settings), tmp_path, firings, model=model, source=source)
        measured = quality.to_json(hosted.some_quality())
        session.execute(update(Revision).where(Revision.id == made.revision_id).values(quality=measured))
        session.execute(update(Source).where(Source.id == made.source_id).values(owner_id=owner.id, visibility=kind))
        ingest.store_look(session, made.source_id, hosted.some_look())
        job_id = jobs.create(session, [made.source_id], {})
        session.execute(update(Job).where(Job.id == job_id).values(owner_id=owner.id))
        found[kind] = {"model": model, "source": source, "name": kind, "job_id": job_id, "path": "none"}
        files = [{"name": kind, "size": 8, "sha256": None}]
        upload = Upload(
            id=uploads.new_id(), owner_id=owner.id, kind="sae", name=kind, files=files, n_bytes=8, state="open"
        )  # fmt: skip
        session.add(upload)
        session.flush()
        found[kind]["upload_id"] = upload.id
        found[kind] |= steered(session, owner, made.source_id, model)
        found[kind]["explanation_id"] = explained(session, owner, model, source)
        found[kind] |= graphed(session, settings, owner, kind)
        found[kind] |= noted(session, owner, FeatureRef(model, source, 1), kind)
    absent = {
        "model": "absent-model",
        "source": "1-absent",
        "name": "absent",
        "job_id": 10**6,
        "path": "none",
        "upload_id": "0" * 32,
        "run_id": "absent-run",
        "vector": 10**8,
        "explanation_id": "absent-explanation",
        "slug": "absent",
        "put": "0" * 32,
        "subgraph": "0" * 16,
        "list_id": "absent-list",
        "comment_id": "absent-comment",
        "list_comment_id": "absent-list-comment",
    }
    shared = {
        "service": "huggingface", "index": 1, "other": 2, "key_id": 10**6, "account_id": third.id,
        "sign_in_id": session.scalar(select(SignIn.id).where(SignIn.account_id == third.id)),
        "token": invitations.invite(session, third.id),
    }  # fmt: skip
    session.commit()
    return people, {kind: values | shared for kind, values in found.items()}, absent | shared


def steered(session, owner: Person, source_id: int, model: str) -> dict[str, Any]:
    """A saved run and a vector of the owner's."""
    asked = steering.Asked(kind="completion", model=model, prompt="x", sampling=messages.Sampling(n_tokens=1))
    text = messages.Generated("x", "y", (), is_done=True)
    answer = messages.SteerReply(id="", steered=text, default=text, is_done=True)
    question = steering.Question(asked, inference.places(session, model), ())
    run_id = steering.save(session, question, answer, n_kept=10)
    session.execute(update(SteerRun).where(SteerRun.id == run_id).values(owner_id=owner.id, source_ids=[source_id]))
    given = vectors.NewVector(
        model=model, layer=1, hook_type="hook_resid_post", label="", values=(1.0,) * 16, default_strength=1.0
    )
    vector = vectors.add(session, given)
    session.execute(update(Vector).where(Vector.index == vector.index).values(owner_id=owner.id))
    return {"run_id": run_id, "vector": vector.index}


def explained(session, owner: Person, model: str, source: str) -> str:
    """An explanation of the owner's."""
    given = explanations.NewExplanation(description="what explains it")
    view = explanations.add(session, names.FeatureRef(model, source, 1), given)
    session.execute(update(Explanation).where(Explanation.id == view.id).values(author_id=owner.id))
    return view.id


def graphed(session, settings, owner: Person, kind: str) -> dict[str, Any]:
    """An attribution graph of the owner's with features of the source, and what was saved of it."""
    details = {"neuronpedia_source_set": f"1-{kind}"}
    given = graph_samples.small(scan=f"{kind}-model", slug=kind, feature_details=details)
    view = graph_samples.host(session, given, storage.store(settings), visibility=kind)
    state = {"pinnedIds": [], "supernodes": [], "clerps": [], "pruningThreshold": None, "densityThreshold": None}
    saved = subgraphs.save(session, view.model, view.slug, state)
    for table in (Graph, GraphUpload, Subgraph):
        session.execute(update(table).where(table.owner_id.is_(None)).values(owner_id=owner.id))
    return {"slug": kind, "put": view.upload_id, "subgraph": saved.id}


def noted(session, owner: Person, ref: FeatureRef, kind: str) -> dict[str, Any]:
    """A list of the owner's with a feature in it, and a comment on each."""
    text = feature_lists.ListText(name="x", visibility=kind)
    list_id = feature_lists.create(session, text, [feature_lists.NewItem(ref)]).id
    said = comments.add_to_feature(session, ref, "hello").id
    list_comment_id = comments.add_to_list(session, list_id, "hello").id
    session.execute(update(FeatureList).where(FeatureList.id == list_id).values(owner_id=owner.id))
    session.execute(update(FeatureComment).where(FeatureComment.id == said).values(author_id=owner.id))
    session.execute(update(ListComment).where(ListComment.id == list_comment_id).values(author_id=owner.id))
    return {"list_id": list_id, "comment_id": said, "list_comment_id": list_comment_id}


def routes(app: Any) -> set[str]:
    """`GET /jobs/{job_id}` of everything the application answers; types of parameters left out."""
    found = set()
    for route in iter_route_contexts(app.routes):
        for method in (route.methods or set()) - {"HEAD", "OPTIONS"}:
            found.add(f"{method} {re.sub(r':[a-z]+}', '}', route.path)}")
    return found


def test_every_route_has_a_rule_and_every_rule_a_route(site):
    documented = {f"{verb.upper()} {path}" for path, verbs in site.openapi()["paths"].items() for verb in verbs}
    assert documented <= routes(site)
    assert routes(site) == RULES.keys(), "give a new route its line in RULES"


@pytest.mark.parametrize("actor", ACTORS)
def test_browsers_get_what_the_rules_say(site, connection, case, actor):
    people, cases, absent = case
    check(lambda route: new_browser(site, people[actor]), connection, cases, absent, actor, people[actor])


@pytest.mark.parametrize("actor", ACTORS)
def test_programs_get_what_the_rules_say(site, session, connection, case, actor):
    people, cases, absent = case
    scope = "admin" if actor == "admin" else "write"
    client = program(site, session, people[actor], scope)
    client.headers["accept"] = "application/json"
    check(lambda route: client if " /api/" in route else None, connection, cases, absent, actor, people[actor])


def new_browser(site, who: Person | None):
    client = browser(site, who)
    client.headers["accept"] = "application/json"
    return client


def check(client_for, connection, cases, absent, actor: str, who: Person | None) -> None:
    """Asks every route about each visibility, undoing what it did; all that is wrong is told at once."""
    wrong = []
    for route, rule in RULES.items():
        for kind in KINDS if is_about_sources(route, rule) else KINDS[:1]:
            client = client_for(route)
            if client is None:
                continue
            with connection.begin_nested() as undone:
                answer = ask(client, route, rule, cases[kind], who)
                undone.rollback()
            outcome = outcome_of(answer, rule)
            expected = rule.outcome(actor, kind)
            if outcome != expected:
                wrong.append(f"{route}, {kind}: {outcome} ({answer.status_code}), not {expected}; {answer.text[:200]}")
            elif outcome == HIDDEN and rule.outcome is not admins:
                with connection.begin_nested() as undone:
                    nothing = ask(client, route, rule, absent, who)
                    undone.rollback()
                names = asked_about(route, rule)
                if neutral(answer, cases[kind], names) != neutral(nothing, absent, names):
                    wrong.append(f"{route}, {kind}: {answer.text[:200]} differs from {nothing.text[:200]}")
            if rule.is_listing and outcome == PASSED:
                named = {each for each in KINDS if f"1-{each}" in answer.text}
                if named != {each for each in KINDS if is_listed(actor, each)}:
                    wrong.append(f"{route} names {sorted(named)}")
            wrong += [f"{route} tells of {each}" for each in leaks(answer, rule, actor, kind)]
    assert not wrong, "\n".join(wrong)


def is_about_sources(route: str, rule: Rule) -> bool:
    return bool(asked_about(route, rule))


def asked_about(route: str, rule: Rule) -> list[str]:
    """Those of `NAMES` that a request has."""
    return [name for name in NAMES if f"{{{name}}}" in f"{route} {rule.query} {rule.json} {rule.form}"]


def ask(client, route: str, rule: Rule, values: dict[str, Any], who: Person | None):
    method, path = route.split(" ")
    form = None if rule.form is None else filled(rule.form, values)
    if method != "GET" and not path.startswith("/api/"):
        form = (form or {}) | ({"form_token": who.form_token} if who else {})
    url = path.format(**values) + (f"?{rule.query.format(**values)}" if rule.query else "")
    client.cookies.set("theme", "light")  # any other cookie is let be
    return client.request(method, url, json=filled(rule.json, values), data=form)


def filled(given: Any, values: dict[str, Any]) -> Any:
    if isinstance(given, dict):
        return {key: filled(value, values) for key, value in given.items()}
    if isinstance(given, list):
        return [filled(value, values) for value in given]
    return given.format(**values) if isinstance(given, str) else given


def outcome_of(answer, rule: Rule) -> str:
    if rule.is_nothing_a_null and answer.status_code == 200 and answer.text in ("null", "[]"):
        return HIDDEN
    if answer.status_code == 401 and 401 not in rule.statuses:
        return SIGN_IN
    if answer.status_code in rule.statuses:
        return PASSED
    return {404: HIDDEN, 403: FORBIDDEN}.get(answer.status_code, f"status {answer.status_code}")


def neutral(answer, values: dict[str, Any], names: list[str]) -> tuple[int, str]:
    """Without the names that were asked for; the rest must not depend on whether they exist."""
    text = answer.text
    for key in names:
        text = text.replace(str(values[key]), key)
    return answer.status_code, text


def leaks(answer, rule: Rule, actor: str, kind: str) -> set[str]:
    """Names of sources that the actor does not see in lists and did not ask about."""
    hidden = {each for each in KINDS if not is_listed(actor, each) and each != kind}
    return {each for each in hidden if f"1-{each}" in answer.text or f"{each}-model" in answer.text}


def test_the_matrix_notices_what_is_wrong(site, connection, case, monkeypatch):
    """A rule that promises too much, and one too little, are both told."""
    people, cases, absent = case
    client = new_browser(site, people["other"])
    for path, rule in (("GET /{model}/{source}", if_listed), ("GET /api/jobs/{job_id}", by_address)):
        monkeypatch.setitem(RULES, path, Rule(rule))
        with pytest.raises(AssertionError, match=re.escape(path)):
            check(
                lambda route, path=path: client if route == path else None,
                connection,
                cases,
                absent,
                "other",
                people["other"],
            )
