"""One injection coefficient scan: what was asked checked, run as one batch, its profiles put into clusters.

The vector is a feature's decoder row at unit norm (a neuron: one more of its value), or one's own, and is added where the
feature writes. The text is opened by BOS where the source was trained so; for a vector of one's own always. The token
whose logit is read is one token as it is written; where there is none such, the one after a space.
"""

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from backend import errors, names
from backend.formats import messages
from backend.formats.messages import ScanRequest, numbers
from workers import runtime
from workers.compute import dense, injection_scan, language_model, profile_clusters, text_activations
from workers.compute.language_model import Capture, LanguageModel

MAX_COEFFICIENTS = 512


class Token(NamedTuple):
    """One token of the vocabulary."""

    id: int
    text: str


def answer(
    model: LanguageModel, vocabulary: list[str], source: runtime.LoadedSource | None, request: ScanRequest
) -> messages.ScanReply:
    """The scan; `source` is the one the request names, None for a vector of the caller's own.

    Raises:
        InvalidInputError: The text, a token, the range or the vector is not what it should be; says what is.
        NotFoundError: The source has no such feature.
        UnsupportedError: The vector cannot be added there, or the model cannot be taken apart (`injection_scan.scan`).
        TimedOutError: The caller's deadline passed between two forward passes.
    """
    coefficients = _coefficients(request)
    capture, vector = _injected(model, source, request.push)
    prepend_bos = source is None or source.sae.description.prepend_bos
    ids = _ids(model, request.text, prepend_bos=prepend_bos)
    position = _position(request.position, len(ids))
    token, minus = _tokens(model, vocabulary, request)
    question = injection_scan.Question(
        capture=capture, vector=vector, coefficients=coefficients, ids=ids, position=position, token=token.id,
        minus=None if minus is None else minus.id, is_only_there_injected=request.is_only_there_injected,
        are_heads_apart=request.are_heads_apart,
    )  # fmt: skip

    def check_deadline() -> None:
        if time.time() > request.deadline_at:
            raise errors.TimedOutError("The scan took too long.", hint="Ask for fewer coefficients, or a shorter text.")

    scan = injection_scan.scan(model, question, before_pass=check_deadline)
    profiles = torch.stack([part.values for part in scan.parts]).numpy()
    clusters = profile_clusters.clusters(profiles, request.n_clusters).tolist()
    return messages.ScanReply(
        id=request.id, tokens=tuple(vocabulary[i] for i in ids), position=position, hook_point=str(capture.hook_point),
        direction=f"“{token.text}”" if minus is None else f"“{token.text}” − “{minus.text}”",
        token=token.text, minus_token="" if minus is None else minus.text,
        coefficients=numbers(coefficients.astype(np.float32)),
        components=tuple(
            messages.Component(part.name, part.kind, part.layer, part.head, numbers(values), cluster)
            for part, values, cluster in zip(scan.parts, profiles.astype(np.float32), clusters, strict=True)
        ),
        total=numbers(scan.total.numpy().astype(np.float32)), scale=numbers(scan.scale.numpy().astype(np.float32)),
    )  # fmt: skip


def _coefficients(request: ScanRequest) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    if not 1 <= request.n_coefficients <= MAX_COEFFICIENTS:
        raise errors.InvalidInputError(
            f"{request.n_coefficients} coefficients were asked for.", hint=f"Ask for 1 to {MAX_COEFFICIENTS}."
        )
    if request.n_clusters < 1:
        raise errors.InvalidInputError(f"{request.n_clusters} clusters were asked for.", hint="Ask for at least 1.")
    if not (math.isfinite(request.lowest) and math.isfinite(request.highest)):
        raise errors.InvalidInputError("The range of coefficients is not finite.", hint="Give two numbers.")
    if request.n_coefficients > 1 and request.lowest >= request.highest:
        raise errors.InvalidInputError(
            f"The coefficients would go from {request.lowest:g} to {request.highest:g}.",
            hint="The lowest has to be below the highest.",
        )
    return np.linspace(request.lowest, request.highest, request.n_coefficients)


def _injected(
    model: LanguageModel, source: runtime.LoadedSource | None, push: messages.Push
) -> tuple[Capture, Float[Tensor, " d_in"]]:
    """Where what is added."""
    if push.method != "add":
        raise errors.InvalidInputError(f"A scan adds a vector; '{push.method}' was asked for.", hint="Ask for 'add'.")
    if source is None:
        return _given(model, push)
    dictionary = source.sae
    if not 0 <= push.index < dictionary.d_sae:
        raise errors.NotFoundError(f"There is no feature {push.index}.", hint=f"It has {dictionary.d_sae}.")
    if dictionary.description.kind == "neurons":
        vector = torch.zeros(dictionary.description.d_in)
        vector[push.index] = 1.0
        return source.capture, vector
    if isinstance(dictionary, dense.DenseSource):
        return source.capture, dictionary.directions()[push.index]
    # one row: normalising all of them would copy the decoder
    return runtime.written_at_hook(model, source), dictionary.directions(torch.tensor([push.index]))[0]


def _given(model: LanguageModel, push: messages.Push) -> tuple[Capture, Float[Tensor, " d_in"]]:
    capture = language_model.resolve(model, names.parse_hook_point(push.hook_point))
    width = language_model.width(model, capture)
    if len(push.vector) != width:
        raise errors.InvalidInputError(
            f"The vector has {len(push.vector)} numbers; {capture.hook_point} of this model has {width}.",
            hint="Check the hook point.",
        )
    vector = torch.tensor(push.vector, dtype=torch.float32)
    if not bool(torch.isfinite(vector).all()):
        raise errors.InvalidInputError("The vector holds NaN or infinity.", hint="Give finite numbers.")
    return capture, vector


def _ids(model: LanguageModel, text: str, *, prepend_bos: bool) -> list[int]:
    ids = text_activations.tokenise(text, model.tokenizer, prepend_bos=prepend_bos)
    if not text or not ids:
        raise errors.InvalidInputError("The text has no tokens.", hint="Give ordinary text.")
    if len(ids) > model.n_context:
        raise errors.InvalidInputError(f"Text too long: {len(ids)} tokens, max is {model.n_context}")
    return ids


def _position(asked: int, n_tokens: int) -> int:
    position = asked + n_tokens if asked < 0 else asked
    if not 0 <= position < n_tokens:
        raise errors.InvalidInputError(
            f"Token {asked} is outside the text, which has {n_tokens} tokens.",
            hint=f"Give 0 to {n_tokens - 1}, or {-n_tokens} to -1 from its end.",
        )
    return position


def _tokens(model: LanguageModel, vocabulary: Sequence[str], request: ScanRequest) -> tuple[Token, Token | None]:
    token = _token(model, vocabulary, request.token)
    if not request.minus_token:
        return token, None
    minus = _token(model, vocabulary, request.minus_token)
    if minus.id == token.id:
        raise errors.InvalidInputError(f"“{token.text}” less itself is nothing.", hint="Give another token.")
    return token, minus


def _token(model: LanguageModel, vocabulary: Sequence[str], text: str) -> Token:
    """The token of this text, else of this text after a space."""
    ids: list[int] = model.tokenizer([text], add_special_tokens=False, verbose=False)["input_ids"][0] if text else []
    if len(ids) == 1 and vocabulary[ids[0]] == text:
        return Token(ids[0], text)
    # a tokenizer that opens every text with a space never says the token without one
    for written in (text, f" {text}"):
        if text and written in vocabulary[: model.d_vocab]:
            return Token(vocabulary.index(written), written)
    if not ids:
        raise errors.InvalidInputError("The token is empty.", hint="Give the text of one token.")
    cut = ", ".join(f"“{vocabulary[i]}”" for i in ids)
    raise errors.InvalidInputError(
        f"“{text}” is not one token of this model: it is cut into {cut}.", hint="Give the text of one token."
    )
