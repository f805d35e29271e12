"""Errors as answers: JSON for programs, a page for readers, the same words in both.

Every JSON error is `{"error": text, "message": text}`, which is what clients of Neuronpedia's API read; where several
things are wrong there is a list `problems` too.
"""

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.routing import iter_route_contexts
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from backend import errors
from backend.web import callers, links, rendering
from backend.web.middleware import is_api

_TITLES = {
    400: "This cannot be read",
    401: "Sign in first",
    403: "Not from here",
    404: "Not found",
    405: "Not found",
    413: "Too large",
    429: "Too busy",
    503: "Not available",
}


router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class ErrorContext:
    """What `pages/error.html` shows."""

    title: str
    message: str
    problems: tuple[str, ...]
    """Each a sentence; empty unless there is a list of them."""
    hint: str
    request_id: str
    """Only for errors nobody expected; empty otherwise."""


@router.api_route("/api/{path:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
def refuse_unknown(request: Request, path: str) -> None:
    """Nothing below /api is a model's page. What is there for other methods is answered with 405 and names them."""
    known = _methods(request)
    if known:
        raise HTTPException(405, f"{request.method} is not a method of this address", {"Allow": ", ".join(known)})
    raise HTTPException(404)


def _methods(request: Request) -> list[str]:
    """Of the API's routes at this address."""
    found: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        path = route.path or ""
        if path.startswith("/api/") and route.endpoint is not refuse_unknown:
            regex, _, _ = compile_path(path)
            found |= (route.methods or set()) if regex.match(request.scope["path"]) else set()
    return sorted(found)


def respond(request: Request, error: Exception) -> Response:
    """The answer to a request that raised `error`."""
    status, message, hint = describe(error)
    message, hint = _sendable(message), _sendable(hint)
    if wants_json(request):
        text = f"{message} {hint}".strip()
        told: dict[str, object] = {"error": text, "message": text}
        if isinstance(error, errors.ProblemsError):
            told["problems"] = list(map(_sendable, error.problems))
        return JSONResponse(told, status, headers=headers(error))
    if status == 401 and request.method == "GET" and callers.api_key(request.headers) is None:
        return RedirectResponse(links.sign_in_url(rendering.visitor_of(request).path), 303)
    request_id = getattr(request.state, "request_id", "") if status == 500 else ""
    problems: tuple[str, ...] = ()
    if isinstance(error, errors.ProblemsError):
        message = _sendable(f"{error.what} cannot be used:")
        problems = tuple(map(_sendable, error.problems))
    page = ErrorContext(_TITLES.get(status, "That did not work"), message, problems, hint, request_id)
    response = rendering.respond(request, "pages/error.html", page, status=status)
    response.headers.update(headers(error))
    return response


def _sendable(text: str) -> str:
    """What was given is quoted, and half of a character, which JSON may hold by its number, cannot be sent back."""
    return text.encode("utf-8", "replace").decode()


def headers(error: Exception) -> dict[str, str]:
    """What programs read of an error besides its words."""
    match error:
        case errors.BusyError():
            return {"Retry-After": str(error.retry_after_s)}
        case errors.UnauthorizedError():
            return {"WWW-Authenticate": "Bearer"}
        case errors.MisplacedError():
            return {"Upload-Offset": str(error.offset)}
        case HTTPException():
            return dict(error.headers or {})
    return {}


def describe(error: Exception) -> tuple[int, str, str]:
    """Status, message and hint. What nobody expected is not told."""
    match error:
        case errors.SiteError():
            return error.status, error.message, error.hint
        case RequestValidationError() if any(e["loc"][0] == "path" for e in error.errors()):
            return 404, "There is nothing at this address.", ""
        case RequestValidationError():
            return errors.InvalidInputError.status, _what_is_invalid(error), ""
        case HTTPException(status_code=404):
            return 404, "There is nothing at this address.", ""
        case HTTPException(status_code=405):
            return 405, f"{error.detail}.", f"It has {(error.headers or {}).get('Allow', 'others')}."
        case HTTPException():
            return error.status_code, f"{error.detail}.", ""
        case OperationalError():
            return errors.UnavailableError.status, "The database does not answer.", "Try again in a moment."
    return 500, "Something went wrong inside Eyepiece.", ""


def wants_json(request: Request) -> bool:
    """True for the API, and for callers who ask for JSON and not for HTML."""
    accept = request.headers.get("accept", "")
    return is_api(request.url.path) or ("application/json" in accept and "text/html" not in accept)


def _what_is_invalid(error: RequestValidationError) -> str:
    """Every problem, named by where it is: `modelId: Field required`. What was sent is not sent back."""
    if isinstance(error.body, bytes):
        return "The body is not sent as JSON: give it the Content-Type application/json."
    places = [(".".join(map(str, e["loc"][1:])) or str(e["loc"][0]), e["msg"]) for e in error.errors()]
    return "; ".join(f"{place}: {message}" for place, message in places) + "."
