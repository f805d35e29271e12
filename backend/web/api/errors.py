"""Malformed requests, answered as every other refusal is: `{error, message}` with status 400."""

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse


async def validation_error_handler(request: Request, error: Exception) -> JSONResponse:
    """Says what is wrong with each value, and where it stands; the values themselves are not sent back."""
    if not isinstance(error, RequestValidationError):
        raise TypeError(f"not a validation error: {error!r}") from error
    problems = "; ".join(f"{_place(problem['loc'])}: {problem['msg']}" for problem in error.errors())
    return JSONResponse({"error": problems, "message": problems}, 400)


def _place(location: tuple[str | int, ...]) -> str:
    """`modelId` for ("body", "modelId"); the part of the request where nothing inside it is named."""
    inner = [str(part) for part in location[1:]]
    return ".".join(inner) or str(location[0])
