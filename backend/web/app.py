"""The web application: everything put together once, from settings to routes.

`uvicorn backend.web.app:create_app --factory` serves it. Sessions, templates and settings are in `app.state`; nothing
connects before the first request. Who passes what on to whom is in `middleware`, what errors look like in `failures`.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from backend import errors, logs, storage
from backend.db import session
from backend.services import inference, visibility
from backend.services.rates import Rates
from backend.settings import Access, Settings
from backend.web import callers, forms, identity, middleware, rendering
from backend.web.api import routes
from backend.web.pages import (
    account,
    activations,
    adding,
    admin,
    deletion,
    explaining,
    explanation_search,
    failures,
    feature_notes,
    features,
    graphs,
    home,
    importing,
    jobs,
    lists,
    models,
    previews,
    quick_list,
    rerun,
    scan,
    sources,
    steered,
    steering,
    text_search,
    trying,
)

GZIP_LEVEL = 6
FOR_EVER = "public, max-age=31536000, immutable"


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application; without settings it is a process of its own, which reads the environment and logs.

    Raises:
        UnavailableError: The browser assets are not built, or no database is named.
        InvalidInputError: People are to sign in, and the site does not know its address.
    """
    if settings is not None:
        return _application(settings)
    settings = Settings()
    logs.configure(settings.log_level)
    try:
        return _application(settings)
    except errors.SiteError as error:
        raise SystemExit(f"eyepiece: {error}") from error


def _application(settings: Settings) -> FastAPI:
    if not settings.database_url:
        raise errors.UnavailableError("No database is named.", hint="Set EYEPIECE_DATABASE_URL, or run `eyepiece up`.")
    callers.public_origins(settings)
    renderer = rendering.Renderer(settings.assets)
    app = FastAPI(
        title="Eyepiece",
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=[
            Middleware(middleware.SecurityHeaders, settings=settings),
            Middleware(middleware.Failures, respond=failures.respond),
            Middleware(middleware.KnownCallers, settings=settings),
            Middleware(middleware.WithoutTrailingSlash),
            Middleware(middleware.ReadAsJson),
            Middleware(middleware.BodyLimits),
            Middleware(identity.Identity, free=(f"{rendering.STATIC_URL}/",)),
            Middleware(GZipMiddleware, minimum_size=500, compresslevel=GZIP_LEVEL),
        ],
    )
    app.state.settings, app.state.renderer = settings, renderer
    app.state.engine = session.create_engine(settings.database_url)
    app.state.sessions = session.session_factory(app.state.engine)
    if settings.access is Access.ACCOUNTS:
        app.state.sessions = visibility.only_public(app.state.sessions)
    app.state.rates = Rates(settings.redis_url)
    app.state.files = storage.mirror(settings)
    app.state.live = inference.Client(settings)
    for kind in (errors.SiteError, HTTPException, RequestValidationError, OperationalError):
        app.add_exception_handler(kind, failures.respond)
    app.mount(rendering.STATIC_URL, _Assets(directory=settings.assets))
    # The API and jobs come first: a model's page would match their paths.
    app.include_router(routes.router)
    app.include_router(failures.router)
    pages = (
        home, account, adding, importing, admin, jobs, explanation_search, explaining, lists, quick_list, previews, steering,
        steered, graphs, text_search, trying, features, feature_notes, activations, scan, deletion, rerun, sources, models,
    )  # fmt: skip
    for page in pages:
        app.include_router(page.router, dependencies=[Depends(forms.check_token)])
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    app.state.live.close()
    app.state.rates.close()
    app.state.engine.dispose()


class _Assets(StaticFiles):
    """Files whose names change with their bytes."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["Cache-Control"] = FOR_EVER
        return response
