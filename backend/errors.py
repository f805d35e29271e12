"""The errors users see. Services, formats and computation raise these; only the edges (web, CLI, tasks) render them.

A message says what was given, what was expected and what to do. `hint` is the last part, on its own.
"""

from collections.abc import Sequence


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


class ProblemsError(SiteError):
    """Something given, such as an upload, has several things wrong with it, all of them found before any work."""

    status = 422
    code = "problems"

    def __init__(self, what: str, problems: Sequence[str], *, hint: str = "") -> None:
        """`what` cannot be used because of `problems`, each a sentence that says what to do."""
        super().__init__(f"{what} cannot be used: {' '.join(problems)}", hint=hint)
        self.what = what
        self.problems = tuple(problems)


class UnauthorizedError(SiteError):
    """Nobody is signed in, or the key is unknown, expired or revoked."""

    status = 401
    code = "unauthorized"


class ForbiddenError(SiteError):
    """Who asks is known and may not do this."""

    status = 403
    code = "forbidden"


class NotFoundError(SiteError):
    """Nothing is hosted under that name."""

    status = 404
    code = "not_found"


class ConflictError(SiteError):
    """The request does not fit the present state, such as retrying a job that still runs."""

    status = 409
    code = "conflict"


class MisplacedError(ConflictError):
    """Bytes of an upload that do not follow those that are there."""

    def __init__(self, message: str, *, offset: int, hint: str = "") -> None:
        super().__init__(message, hint=hint or "Send the bytes from there on.")
        self.offset = offset


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


class TimedOutError(SiteError):
    """A part that works did not answer in time."""

    status = 504
    code = "timed_out"


class CancelledError(SiteError):
    """The user cancelled the job while it computed."""

    status = 409
    code = "cancelled"
