"""The page where an SAE is handed over. Its script does it over REST (`api/uploads`, `api/hosting`)."""

import json
import shlex
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from backend.services import access, catalog, corpora, uploads
from backend.services.access import Viewer
from backend.services.catalog import ModelFacts
from backend.services.corpora import CorpusView
from backend.services.uploads import UploadView
from backend.web import links, rendering
from backend.web.api.uploads import Area
from backend.web.dependencies import DbSession, Viewing
from backend.web.pages import commands

ACTIVATIONS = ("standard", "topk", "batchtopk", "jumprelu", "gated")
"""What can be declared; architectures with weights of their own are told from the files."""

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


@dataclass(frozen=True, slots=True)
class AddContext:
    """What `pages/add.html` shows."""

    models: tuple[ModelFacts, ...]
    corpora: tuple[CorpusView, ...]
    pending: tuple[UploadView, ...]
    """The reader's uploads that are not hosted yet."""
    is_operator: bool
    """May name files of the host."""
    curl_upload: str
    curl_host: str
    command: str
    activations: tuple[str, ...] = ACTIVATIONS
    visibilities: tuple[str, ...] = access.VISIBILITIES[::-1]


@router.get("/add")
def show(request: Request, session: DbSession, viewer: Viewing, place: Area) -> HTMLResponse:
    """Where files are dropped."""
    access.check_may_write(viewer)
    models = catalog.models(session)
    pending = uploads.latest(session, place, viewer)
    known = corpora.of_every_model(session)
    page = context(viewer, models, known, pending, origin=str(request.base_url).rstrip("/"))
    return rendering.respond(request, "pages/add.html", page)


def context(
    viewer: Viewer,
    models: tuple[ModelFacts, ...],
    known: tuple[CorpusView, ...],
    pending: tuple[UploadView, ...],
    *,
    origin: str,
) -> AddContext:
    """The page, with commands that reach this site at `origin`."""
    key = commands.curl_key(viewer)
    upload = f"{origin}{links.uploads_api_url()}/whole?name=my-sae.zip"
    model = models[0].id if models else {"weights": "openai-community/gpt2"}
    wish = {"model": model, "upload": "…", "corpus": {"hub": "NeelNanda/pile-10k"}}
    body = f"-H 'content-type: application/json' -d {shlex.quote(json.dumps(wish, ensure_ascii=False))}"
    return AddContext(
        models, known, pending, viewer.is_admin,
        f"curl -X POST -T my-sae.zip{key} '{upload}'",
        f"curl{key} {body} {origin}{links.sources_api_url()}",
        commands.add(),
    )  # fmt: skip
