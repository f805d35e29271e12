"""The errors users see. Services, formats and computation raise these; only the edges (web, CLI, tasks) render them.

A message says what was given, what was expected and what to do. `hint` is the last part, on its own.
"""


class SiteError(Exception):
    """Base of every expected error; carries the HTTP status and a stable code."""

    status = 500
    code = "internal"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Message and hint in one line."""
        return f"{self.message} {self.hint}".strip()


class InvalidInputError(SiteError):
    """The request, file or option is malformed or contradicts itself."""

    status = 400
    code = "invalid_input"


class NotFoundError(SiteError):
    """Nothing is hosted under that name."""

    status = 404
    code = "not_found"


class ConflictError(SiteError):
    """The request does not fit the present state, such as retrying a job that still runs."""

    status = 409
    code = "conflict"


class UnsupportedError(SiteError):
    """Well formed, but of a kind Eyepiece refuses; the message says which and what to do instead."""

    status = 422
    code = "unsupported"


class BusyError(SiteError):
    """More is asked than can be done now; the same request will do in `retry_after_s`."""

    status = 429
    code = "busy"

    def __init__(self, message: str, *, hint: str = "", retry_after_s: int) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class UnavailableError(SiteError):
    """A part this needs is down: database, queue or worker."""

    status = 503
    code = "unavailable"


class CancelledError(SiteError):
    """The user cancelled the job while it computed."""

    status = 409
    code = "cancelled"
