"""Questions that one pass over texts answers: many requests of one model together, in few forward passes.

Texts of all requests are tokenised, run in batches of like length, and each reply is put together once its last text is
done. What is wrong with one request (a text too long, a feature there is not) is told to its caller alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from backend import errors
from backend.formats import messages
from backend.formats.messages import (
    ActivationsRequest,
    CosineRequest,
    DirectionRequest,
    FiringsRequest,
    Reply,
    Request,
    SearchRequest,
    TokensRequest,
    TopByTokenRequest,
    numbers,
)
from workers import runtime
from workers.compute import cosines, text_activations, text_search
from workers.compute.text_activations import TextFirings
from workers.live.resident import LoadedModel, LoadedSource, Ready, Residents

TextsRequest = ActivationsRequest | FiringsRequest | SearchRequest | TopByTokenRequest
_TextReply = messages.TextActivations | messages.TextFirings | messages.TextSearch | messages.TextTopByToken


@dataclass(frozen=True, slots=True)
class Text:
    """One text of one request."""

    request: TextsRequest
    ready: Ready
    number: int
    ids: list[int]
    sources: tuple[str, ...]
    """Those asked about that open this text in the same way (with BOS, or without)."""


def on_texts(
    asked: Sequence[tuple[TextsRequest, Ready]],
    residents: Residents,
    answer: Callable[[Request, Reply], None],
    refuse: Callable[[Request, Exception], None],
    is_wanted: Callable[[Request], bool],
) -> None:
    """Answer requests about texts, all of the same model."""
    results: dict[str, list[_TextReply | None]] = {}
    texts: list[Text] = []
    for request, ready in asked:
        try:
            mine = [_tokenised(request, ready, number) for number in range(len(request.texts))]
        except errors.SiteError as error:
            refuse(request, error)
        else:
            texts += mine
            results[request.id] = [None] * len(mine)
    for batch in text_activations.batches(texts):
        wanted = [text for text in batch if is_wanted(text.request)]
        if not wanted:
            continue
        # by key, not by name: two requests may have seen one name in two states
        sources = {
            repr(text.ready.sources[name].key): text.ready.sources[name] for text in wanted for name in text.sources
        }
        keys = [[repr(text.ready.sources[name].key) for name in text.sources] for text in wanted]
        model = wanted[0].ready.model
        found = text_activations.firings(model.model, sources, [text.ids for text in wanted], keys)
        for text, mine_keys, by_key in zip(wanted, keys, found, strict=True):
            try:
                reply = _reduced(text, [by_key[key] for key in mine_keys], residents)
            except errors.SiteError as error:
                refuse(text.request, error)
                continue
            done = results[text.request.id]
            done[text.number] = reply
            if None not in done:
                answer(text.request, _reply(text.request, tuple(each for each in done if each is not None)))


def tokens(request: TokensRequest, model: LoadedModel) -> messages.TokensReply:
    """How a model cuts a text."""
    ids = text_activations.tokenise(request.text, model.model.tokenizer, prepend_bos=request.is_bos_prepended)
    return messages.TokensReply(id=request.id, ids=tuple(ids), texts=tuple(model.vocabulary[i] for i in ids))


def direction(request: DirectionRequest, ready: Ready) -> messages.DirectionReply:
    """A feature's decoder row; raises `NotFoundError`."""
    source = ready.sources[request.source]
    check_index(source, request.index)
    written = runtime.written_at_hook(ready.model.model, source.loaded)
    row = source.loaded.sae.directions()[request.index]
    return messages.DirectionReply(
        id=request.id, hook_point=str(written.hook_point), vector=numbers(row.float().cpu().numpy())
    )


def cosine(request: CosineRequest, ready: Ready) -> messages.CosineReply:
    """Decoder rows nearest to a feature's; raises `NotFoundError` or `InvalidInputError`."""
    target = ready.sources[request.target]
    if request.source:
        source = ready.sources[request.source]
        check_index(source, request.index)
        vector = source.loaded.sae.directions()[request.index]
    else:
        vector = torch.tensor(request.vector)
    leaving_out = request.index if request.source == request.target else None
    features, found = cosines.nearest(
        target.loaded.sae.directions(), vector, request.n_results, leaving_out=leaving_out
    )
    return messages.CosineReply(id=request.id, features=numbers(features), cosines=numbers(found))


def check_index(source: LoadedSource, index: int) -> None:
    """Raises `NotFoundError` for a feature the source does not have."""
    if index >= source.place.d_sae:
        raise errors.NotFoundError(f"There is no feature {index}.", hint=f"It has {source.place.d_sae}.")


def _tokenised(request: TextsRequest, ready: Ready, number: int) -> Text:
    """Raises `InvalidInputError` or `NotFoundError`."""
    model = ready.model.model
    if isinstance(request, ActivationsRequest):
        check_index(ready.sources[request.source], request.index)
    names = messages.sources_of(request)
    # a search shows one text over several sources: BOS is there if any of them was trained so
    prepend_bos = any(ready.sources[name].loaded.sae.description.prepend_bos for name in names)
    ids = text_activations.tokenise(request.texts[number], model.tokenizer, prepend_bos=prepend_bos)
    if not ids:
        raise errors.InvalidInputError("The text has no tokens.", hint="Give ordinary text.")
    if len(ids) > model.n_context:
        raise errors.InvalidInputError(f"Text too long: {len(ids)} tokens, max is {model.n_context}")
    return Text(request, ready, number, ids, names)


def _reduced(text: Text, found: list[TextFirings], residents: Residents) -> _TextReply:
    request, special = text.request, text.ready.model.model.special_tokens
    if not all(bool(np.isfinite(each.value).all()) for each in found):
        raise errors.UnsupportedError("The activations are not finite.", hint="Compute the source in float32.")
    counts = text_activations.counts(text.ids, special)
    tokens = tuple(text.ready.model.vocabulary[i] for i in text.ids)
    match request:
        case ActivationsRequest():
            values = found[0].at(counts).of(request.index, len(text.ids))
            start = _n_hidden(text, special)
            return messages.TextActivations(tokens[start:], numbers(values[start:]))
        case FiringsRequest():
            shown = found[0].at(counts)
            order = np.lexsort((shown.position, shown.feature))
            return messages.TextFirings(
                tokens, numbers(shown.feature[order]), numbers(shown.position[order]), numbers(shown.value[order])
            )
        case SearchRequest():
            if request.is_bos_ignored:
                found = [each.at(counts) for each in found]
            found = [_sparse(each, text, name, residents) for each, name in zip(found, text.sources, strict=True)]
            ranked = text_search.best(
                found, len(tokens), best_of=request.best_of, sort_positions=request.sort_positions,
                n_results=request.n_results,
            )  # fmt: skip
            shown_rows = zip(ranked.source.tolist(), ranked.feature.tolist(), ranked.values, strict=True)
            return messages.TextSearch(
                tokens,
                tuple(messages.Found(text.sources[source], index, numbers(row)) for source, index, row in shown_rows),
                tuple(token in special for token in text.ids),
            )
        case TopByTokenRequest():
            each = found[0].at(counts) if request.is_bos_ignored else found[0]
            top = text_activations.top_by_token(
                _sparse(each, text, request.source, residents), len(tokens), request.n_results
            )
            return messages.TextTopByToken(
                tokens,
                tuple(token in special for token in text.ids),
                tuple(numbers(features) for features, _ in top),
                tuple(numbers(values) for _, values in top),
            )


def _sparse(found: TextFirings, text: Text, name: str, residents: Residents) -> TextFirings:
    """Without features denser than the request wants; those without dashboards stay."""
    densest = text.request.densest if isinstance(text.request, SearchRequest | TopByTokenRequest) else None
    densities = None if densest is None else residents.densities(text.ready.sources[name])
    if densest is None or densities is None:
        return found
    kept = densities[found.feature] <= densest
    return TextFirings(found.position[kept], found.feature[kept], found.value[kept])


def _n_hidden(text: Text, special: tuple[int, ...]) -> int:
    """Leading tokens that one feature's activations are shown without: our BOS, and on request the text's own."""
    assert isinstance(text.request, ActivationsRequest)
    is_opened = text.ready.sources[text.request.source].loaded.sae.description.prepend_bos
    bos = text.ready.model.model.tokenizer.bos_token_id
    start = 1 if is_opened and text.ids[:1] == [bos] else 0
    if text.request.is_leading_special_dropped and start < len(text.ids) and text.ids[start] in special:
        start += 1
    return start


def _reply(request: TextsRequest, texts: tuple[_TextReply, ...]) -> Reply:
    kinds = {
        ActivationsRequest: messages.ActivationsReply, FiringsRequest: messages.FiringsReply,
        SearchRequest: messages.SearchReply, TopByTokenRequest: messages.TopByTokenReply,
    }  # fmt: skip
    reply: Reply = kinds[type(request)](id=request.id, texts=texts)
    return reply
