"""Every REST route, below /api. Refusals of any of them are `schemas.Error`."""

from fastapi import APIRouter

from backend.web import schemas
from backend.web.api import (
    activation_index,
    bookmarks,
    catalog,
    comments,
    corpora,
    explanations,
    exports,
    features,
    graphs,
    health,
    hosting,
    imports,
    jobs,
    key_test,
    lists,
    live,
    looks,
    removal,
    scan,
    search,
    steer,
    uploads,
    vectors,
)

router = APIRouter(
    prefix="/api",
    # Named "4XX" it also replaces FastAPI's own description of a malformed request, which we answer otherwise.
    responses={"4XX": {"model": schemas.Error, "description": "What is wrong with the request, or not hosted here."}},
)
# What is asked most comes first: routes are tried one after the other.
router.include_router(features.router)
router.include_router(live.router)
router.include_router(search.router)
router.include_router(steer.router)
router.include_router(imports.router)
router.include_router(explanations.router)
router.include_router(exports.router)
router.include_router(activation_index.router)
router.include_router(catalog.router)
router.include_router(removal.router)
router.include_router(looks.router)
router.include_router(jobs.router)
router.include_router(vectors.router)
router.include_router(scan.router)
router.include_router(lists.router)
router.include_router(comments.router)
router.include_router(bookmarks.router)
router.include_router(uploads.router)
router.include_router(hosting.router)
router.include_router(corpora.router)
router.include_router(key_test.router)
router.include_router(graphs.router)
router.include_router(health.router)
