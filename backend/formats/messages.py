"""What passes between the web server and the live worker: one JSON object a message, told apart by `kind`.

Messages carry names, never weights or paths: the rows say where a source's files lie. Each is checked as it is read.
Does not own how they travel (`services/inference`).
"""

from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from backend import errors


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationsRequest:
    """How strongly does this feature fire on these texts?"""

    id: str
    """The caller's, unique; names the key its reply is left under."""
    deadline_at: float
    """Unix seconds; the caller is gone then and nothing has to be computed."""
    model: str
    source: str
    index: int
    texts: tuple[str, ...]
    is_leading_special_dropped: bool = False
    """A special token the text itself opens with is left out, as the BOS put before it always is."""
    kind: Literal["activations"] = "activations"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensRequest:
    """How does this model cut this text?"""

    id: str
    deadline_at: float
    model: str
    text: str
    is_bos_prepended: bool
    kind: Literal["tokens"] = "tokens"


@dataclass(frozen=True, slots=True)
class TextActivations:
    """One text as the feature sees it; a value for each token."""

    tokens: tuple[str, ...]
    values: tuple[float, ...]
    """0 where it does not fire, and at tokens that dashboards do not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationsReply:
    """The texts in the order they were asked in."""

    texts: tuple[TextActivations, ...]
    kind: Literal["activations"] = "activations"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensReply:
    """The ids of a text's tokens and their texts."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]
    kind: Literal["tokens"] = "tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorReply:
    """Why there is no answer; `code` is a `SiteError`'s."""

    code: str
    error: str
    hint: str = ""
    kind: Literal["error"] = "error"


Request = ActivationsRequest | TokensRequest
Reply = ActivationsReply | TokensReply | ErrorReply
_Message = TypeVar("_Message")

_requests: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="kind")])
_replies: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Field(discriminator="kind")])


def write_request(request: Request) -> bytes:
    """The request as JSON."""
    return _requests.dump_json(request)


def write_reply(reply: Reply) -> bytes:
    """The reply as JSON; numbers keep every bit."""
    return _replies.dump_json(reply)


def read_request(packed: bytes) -> Request:
    """The request in `packed`; raises `InvalidInputError`."""
    return _read(_requests, packed)


def read_reply(packed: bytes) -> Reply:
    """The reply in `packed`; raises `InvalidInputError`."""
    return _read(_replies, packed)


def _read(adapter: TypeAdapter[_Message], packed: bytes) -> _Message:
    try:
        return adapter.validate_json(packed)
    except ValidationError as error:
        places = sorted({".".join(map(str, problem["loc"])) or "all of it" for problem in error.errors()})
        raise errors.InvalidInputError(f"a live message cannot be read: {', '.join(places)}.") from error
