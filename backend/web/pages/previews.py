"""What other sites are told of our pages: a feature's card as a picture, and oEmbed's answer how to embed a page.

oEmbed: https://oembed.com, version 1.0, type `rich`, as JSON only; what the reader may not see is answered with 404.
"""

import hashlib
from urllib.parse import parse_qsl, urlsplit

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from backend import errors, names
from backend.names import FeatureRef
from backend.services import explanations, feature_lists, features
from backend.services.features import FeatureView
from backend.settings import Access
from backend.web import callers, embedding, feature_card, links
from backend.web.dependencies import DbSession

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

KEPT_S = 3600
"""How long a card may be shown before it is asked for again."""
_LIST = "/list/"


class NotImplementedHereError(errors.SiteError):
    """A form of answer that the standard has and this site has not."""

    status = 501
    code = "not_implemented"


@router.get("/{model}/{source}/{index:int}/card.png")
def card(request: Request, session: DbSession, model: str, source: str, index: int) -> Response:
    """The feature as a picture of 1200 × 630 pixels. Only a public source's may be kept by caches on the way."""
    ref = FeatureRef(model, source, index)
    view = features.get(session, ref)
    said = explanations.headlines(session, [ref]).get(ref, "")
    is_public = view.source.visibility == "public"
    headers = {
        "ETag": _etag(view, said),
        "Cache-Control": f"public, max-age={KEPT_S}" if is_public else "private, no-cache",
    }
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if headers["ETag"] in known:
        return Response(status_code=304, headers=headers)
    return Response(feature_card.draw(view, said), media_type="image/png", headers=headers)


@router.get("/oembed")
def oembed(
    request: Request,
    session: DbSession,
    url: str = "",
    format: str = "json",
    maxwidth: int = Query(embedding.WIDTH, ge=1, le=100_000),
    maxheight: int = Query(embedding.HEIGHT, ge=1, le=100_000),
) -> JSONResponse:
    """How to embed the page of a feature or of a list, by its whole address."""
    if format != "json":
        raise NotImplementedHereError(f"oEmbed is not answered as '{format[:20]}'.", hint="Ask for format=json.")
    site = _site(request, url)
    parts = urlsplit(url)
    size = {"width": min(embedding.WIDTH, maxwidth), "height": min(embedding.HEIGHT, maxheight)}
    page, pictured = f"{site}{parts.path}", {}
    if parts.path.startswith(_LIST):
        title = feature_lists.get(session, parts.path.removeprefix(_LIST).rstrip("/")).name
    else:
        view = features.get(session, _feature(parts.path))
        title = f"{view.label} · {view.source.model}/{view.source.name}/{view.index}".removeprefix(" · ")
        picture = links.card_url(view.source.model, view.source.name, view.index)
        pictured = {
            "thumbnail_url": site + picture,
            "thumbnail_width": feature_card.WIDTH,
            "thumbnail_height": feature_card.HEIGHT,
        }
    shown = embedding.parts(dict(parse_qsl(parts.query, keep_blank_values=True)))
    answer = {
        "version": "1.0", "type": "rich", "title": title, "provider_name": "Eyepiece", "provider_url": site,
        "cache_age": KEPT_S, "html": embedding.code(page, title, **size, shown=shown), **size, **pictured,
    }  # fmt: skip
    return JSONResponse(answer)


def _site(request: Request, url: str) -> str:
    """The site's own address, which `url` begins with; raises `NotFoundError` for another's."""
    settings = request.app.state.settings
    own = callers.public_origins(settings) if settings.access is Access.ACCOUNTS else ()
    known = own or (callers.site_url(request.headers, settings),)
    for site in known:
        if url.startswith(f"{site}/"):
            return site
    raise errors.NotFoundError(
        f"'{url[:200]}' is no page of this site.", hint=f"Ask about an address that begins with {known[0]}/."
    )


def _feature(path: str) -> FeatureRef:
    """The feature whose page has that path; raises `NotFoundError`."""
    try:
        ref = names.parse_feature_ref(path)
    except errors.InvalidInputError as error:
        raise errors.NotFoundError(f"'{path[:200]}' cannot be embedded.", hint="Features and lists can.") from error
    if path.rstrip("/") != names.feature_url(ref.model, ref.source, ref.index):
        raise errors.NotFoundError(f"'{path[:200]}' cannot be embedded.", hint="Features and lists can.")
    return ref


def _etag(view: FeatureView, said: str) -> str:
    place = f"{view.source.model}/{view.source.name}/{view.index}"
    shown = f"{feature_card.VERSION} {view.source.revision_id} {place} {view.label} {said}"
    return f'"{hashlib.sha256(shown.encode()).hexdigest()[:32]}"'
