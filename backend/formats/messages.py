"""What passes between the web server and the live workers: one JSON object a message, told apart by `kind`.

Messages carry names, never weights or paths: the rows say where a source's files lie, and `version` which state of those
rows the caller saw. Each is checked as it is read. Activations are fp32 and written with as few digits as tell them apart.
Does not own how they travel (`services/inference`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from backend import errors


def numbers(values: NDArray[Any]) -> Any:
    """An array in the place of a tuple of numbers in a reply that is only written: it is written without a copy."""
    return np.ascontiguousarray(values)


# --- requests ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What every request has."""

    id: str
    """The caller's, unique."""
    reply_to: str
    """The Redis list its replies are left on."""
    deadline_at: float
    """Unix seconds; the caller is gone then and nothing has to be computed."""
    model: str
    versions: Mapping[str, str] = field(default_factory=dict)
    """By source, and by "" for the model: `inference.Place.version` as the caller saw it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationsRequest(Ask):
    """How strongly does this feature fire on these texts?"""

    source: str
    index: int
    texts: tuple[str, ...]
    is_leading_special_dropped: bool = False
    """A special token the text itself opens with is left out, as the BOS put before it always is."""
    kind: Literal["activations"] = "activations"


@dataclass(frozen=True, slots=True, kw_only=True)
class FiringsRequest(Ask):
    """Which features of a source fire on these texts, and where?"""

    source: str
    texts: tuple[str, ...]
    kind: Literal["firings"] = "firings"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest(Ask):
    """Which features of these sources fire most on each text?

    Ranked by their greatest activation, or by the sum of those at `sort_positions`. Tokens that dashboards do not count
    keep their value 0 where `is_bos_ignored`; else they count as the model has them.
    """

    sources: tuple[str, ...]
    texts: tuple[str, ...]
    sort_positions: tuple[int, ...] = ()
    """Into the tokens of the reply, the BOS put before the text being 0."""
    is_bos_ignored: bool = True
    densest: float | None = None
    """Features with dashboards and a density above it are left out."""
    n_results: int = 50
    best_of: Literal["text", "source", "token"] = "text"
    """Of what `n_results` are the best: of all there is, of each source, or of each token (of those at
    `sort_positions`, where any are named)."""
    kind: Literal["search"] = "search"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopByTokenRequest(Ask):
    """Which features of a source fire most on each token of these texts?"""

    source: str
    texts: tuple[str, ...]
    is_bos_ignored: bool = True
    densest: float | None = None
    n_results: int = 10
    kind: Literal["top_by_token"] = "top_by_token"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensRequest(Ask):
    """How does this model cut this text?"""

    text: str
    is_bos_prepended: bool
    kind: Literal["tokens"] = "tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineRequest(Ask):
    """Which decoder rows of a source of this model are nearest in direction to a feature of it, or to a vector?"""

    source: str
    """Of the feature; empty: the vector."""
    index: int = 0
    vector: tuple[float, ...] = ()
    target: str
    n_results: int = 10
    kind: Literal["cosine"] = "cosine"


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectionRequest(Ask):
    """What does this feature write, at unit norm, and where?"""

    source: str
    index: int
    kind: Literal["direction"] = "direction"


Method = Literal["add", "orthogonal", "cap", "ablate", "clamp", "reconstruct"]
"""add: x + c·v. orthogonal: x without its part along v, + c·v. cap: that part at most c. ablate: what the feature writes
is taken out. clamp: the feature's activation is c. reconstruct: x becomes what the SAE makes of it. `workers/compute/edits`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """One change to the residual stream while text is generated."""

    method: Method = "add"
    strength: float = 0.0
    """c above: of a unit decoder row, in the units activations have here; of a vector as it is given."""
    source: str = ""
    """Of a hosted feature; for `reconstruct` the SAE."""
    index: int = 0
    hook_point: str = ""
    """Of a vector, such as `blocks.6.hook_resid_post`."""
    vector: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message of a chat."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen."""

    n_tokens: int
    temperature: float = 1.0
    """0: the likeliest token."""
    top_p: float = 1.0
    frequency_penalty: float = 0.0
    """Taken off a token's logit for each time it was generated before (OpenAI's definition)."""
    seed: int = 0
    n_alternatives: int = 0
    """Likeliest tokens told with each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SteerRequest(Ask):
    """Go on with a text, or answer a chat, as the model is and with the pushes, side by side in one batch."""

    prompt: str = ""
    """Of both; empty for a chat."""
    steered_chat: tuple[Turn, ...] = ()
    default_chat: tuple[Turn, ...] = ()
    """Put into words by the model's own chat template, the assistant's turn opened."""
    pushes: tuple[Push, ...]
    are_special_tokens_pushed: bool = True
    sampling: Sampling
    is_streamed: bool = False
    """Replies come while it is generated, the last with `is_done`; else only the last."""
    kind: Literal["steer"] = "steer"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanRequest(Ask):
    """How does each component of the model answer to more and more of one feature? See `workers/compute/injection_scan`."""

    text: str
    push: Push
    """`add` of a feature or a vector; its strength is not read."""
    lowest: float = -10.0
    highest: float = 10.0
    n_coefficients: int = 128
    token: str
    """Whose logit the components are read along: text of one token."""
    minus_token: str = ""
    """Less this one's; empty: none."""
    position: int = -1
    """Token at which they are read."""
    is_only_there_injected: bool = False
    """Else at every token."""
    are_heads_apart: bool = False
    n_clusters: int = 4
    kind: Literal["scan"] = "scan"


# --- replies -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TextActivations:
    """One text as the feature sees it; a value for each token."""

    tokens: tuple[str, ...]
    values: tuple[float, ...]
    """0 where it does not fire, and at tokens that dashboards do not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationsReply:
    """The texts in the order they were asked in, as everywhere below."""

    id: str
    texts: tuple[TextActivations, ...]
    kind: Literal["activations"] = "activations"


@dataclass(frozen=True, slots=True)
class TextFirings:
    """The firings on one text, ascending by feature and token."""

    tokens: tuple[str, ...]
    """With the BOS put before them."""
    features: tuple[int, ...]
    positions: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FiringsReply:
    """Position 0, and tokens dashboards do not count, are left out."""

    id: str
    texts: tuple[TextFirings, ...]
    kind: Literal["firings"] = "firings"


@dataclass(frozen=True, slots=True)
class Found:
    """One feature of a search."""

    source: str
    index: int
    values: tuple[float, ...]
    """One for each token of the text."""


@dataclass(frozen=True, slots=True)
class TextSearch:
    """What one text's search found, best first, each feature once; features that fire nowhere are left out."""

    tokens: tuple[str, ...]
    """With the BOS put before them."""
    found: tuple[Found, ...]
    is_special: tuple[bool, ...] = ()
    """Of each token; empty from workers that do not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchReply:
    """What each text's search found."""

    id: str
    texts: tuple[TextSearch, ...]
    kind: Literal["search"] = "search"


@dataclass(frozen=True, slots=True)
class TextTopByToken:
    """For each token the features that fire most there, greatest first."""

    tokens: tuple[str, ...]
    """With the BOS put before them."""
    is_special: tuple[bool, ...]
    features: tuple[tuple[int, ...], ...]
    values: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopByTokenReply:
    """The top features of each text's tokens."""

    id: str
    texts: tuple[TextTopByToken, ...]
    kind: Literal["top_by_token"] = "top_by_token"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensReply:
    """The ids of a text's tokens and their texts."""

    id: str
    ids: tuple[int, ...]
    texts: tuple[str, ...]
    kind: Literal["tokens"] = "tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineReply:
    """Nearest first; the feature itself is left out."""

    id: str
    features: tuple[int, ...]
    cosines: tuple[float, ...]
    kind: Literal["cosine"] = "cosine"


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectionReply:
    """A decoder row at unit norm, and the hook point it is written at."""

    id: str
    hook_point: str
    vector: tuple[float, ...]
    kind: Literal["direction"] = "direction"


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that could have stood there."""

    token: str
    logprob: float


@dataclass(frozen=True, slots=True)
class GeneratedToken:
    """One generated token; log-probabilities are of the model's own distribution, at temperature 1 and unpenalised."""

    token: str
    logprob: float
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True, slots=True)
class Generated:
    """One of the two texts, so far."""

    prompt: str
    """As the model reads it, the chat template applied."""
    text: str
    """What was generated, the prompt not in it; whole characters only."""
    tokens: tuple[GeneratedToken, ...]
    """Those since the last reply."""
    is_done: bool
    """No token follows: it ended by itself, or has as many as were asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SteerReply:
    """The two texts so far."""

    id: str
    steered: Generated
    default: Generated
    is_done: bool
    """No reply follows."""
    kind: Literal["steer"] = "steer"


@dataclass(frozen=True, slots=True)
class Component:
    """One part of the residual stream, and what it gives the chosen logit direction at each coefficient."""

    name: str
    """`embedding`, `injected`, `3.attention`, `3.mlp`, `3.head.5`, `rest`."""
    kind: Literal["embedding", "injected", "attention", "mlp", "head", "rest"]
    layer: int | None
    head: int | None
    values: tuple[float, ...]
    cluster: int
    """Numbers of components whose profiles have the same shape, from 0; -1 for one that does not change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanReply:
    """The components sum to `total` at every coefficient."""

    id: str
    tokens: tuple[str, ...]
    position: int
    """From 0."""
    direction: str
    """The token, or the difference of two, as their texts."""
    hook_point: str
    coefficients: tuple[float, ...]
    components: tuple[Component, ...]
    total: tuple[float, ...]
    """The logit, or the difference of two, as the model computes it, less the mean logit."""
    scale: tuple[float, ...] = ()
    """What the final norm divides by, at each coefficient."""
    token: str = ""
    """The text of the token that was read: the one asked for, or that after a space."""
    minus_token: str = ""
    """Likewise; empty: none was asked for."""
    kind: Literal["scan"] = "scan"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorReply:
    """Why there is no answer; `code` is a `SiteError`'s."""

    id: str
    code: str
    error: str
    hint: str = ""
    kind: Literal["error"] = "error"


Request = (
    ActivationsRequest | FiringsRequest | SearchRequest | TopByTokenRequest | TokensRequest | CosineRequest
    | DirectionRequest | SteerRequest | ScanRequest
)  # fmt: skip
Reply = (
    ActivationsReply | FiringsReply | SearchReply | TopByTokenReply | TokensReply | CosineReply | DirectionReply
    | SteerReply | ScanReply | ErrorReply
)  # fmt: skip
_Message = TypeVar("_Message")
_ID = re.compile(rb'\{"id":"([0-9a-zA-Z-]+)"')
"""Fields are written in the order of their classes, `id` first: who routes replies need not read them."""

_requests: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="kind")])
_replies: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Field(discriminator="kind")])


def sources_of(request: Request) -> tuple[str, ...]:
    """The sources a request is about, each once."""
    named: tuple[str, ...]
    match request:
        case TokensRequest():
            return ()
        case SearchRequest():
            return request.sources
        case CosineRequest():
            named = (request.source, request.target)
        case SteerRequest():
            named = tuple(push.source for push in request.pushes)
        case ScanRequest():
            named = (request.push.source,)
        case _:
            named = (request.source,)
    return tuple(dict.fromkeys(name for name in named if name))


def write_request(request: Request) -> bytes:
    """The request as JSON."""
    return orjson.dumps(request)


def write_reply(reply: Reply) -> bytes:
    """The reply as JSON; numbers keep every bit of their type."""
    return orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)


def read_request(packed: bytes) -> Request:
    """The request in `packed`; raises `InvalidInputError`."""
    return _read(_requests, packed)


def read_reply(packed: bytes) -> Reply:
    """The reply in `packed`; raises `InvalidInputError`."""
    return _read(_replies, packed)


def is_last(packed: bytes) -> bool:
    """No reply to the same request follows this one."""
    return not packed.endswith(b',"is_done":false,"kind":"steer"}')


def id_of(packed: bytes) -> str:
    """The id of the request or reply in `packed`; empty where it has none."""
    found = _ID.match(packed)
    return found[1].decode() if found else ""


def _read(adapter: TypeAdapter[_Message], packed: bytes) -> _Message:
    try:
        return adapter.validate_json(packed)
    except ValidationError as error:
        places = sorted({".".join(map(str, problem["loc"])) or "all of it" for problem in error.errors()})
        raise errors.InvalidInputError(f"a live message cannot be read: {', '.join(places)}.") from error
