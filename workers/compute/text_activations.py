"""One feature's activations on texts somebody typed, as its dashboard would show them.

1. A text's tokens are one context, opened by BOS where the SAE was trained so and never doubled (`corpus.pack`).
2. Texts are padded on the right to the longest of the batch. The models are causal, so padding after a text changes
   nothing in it but the order of sums inside the matrix products (equal within 1e-4, tested).
3. All features are encoded, since top-k needs them all, and the one asked for is kept.
Positions that dashboards do not count (special tokens, position 0) get 0: position 0 is an attention sink of huge norm.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from backend import errors
from workers.compute import language_model
from workers.compute.dense import DenseEncoder
from workers.compute.encoders import AnySource


def tokenise(text: str, tokenizer: Any, *, prepend_bos: bool) -> list[int]:
    """Ids of the text, opened by BOS where asked and where the tokenizer has one."""
    ids: list[int] = tokenizer([text], add_special_tokens=False, verbose=False)["input_ids"][0]
    bos = tokenizer.bos_token_id
    return [bos, *ids] if prepend_bos and bos is not None and ids[:1] != [bos] else ids


def activations(
    model: language_model.LanguageModel,
    capture: language_model.Capture,
    encoder: AnySource,
    texts: Sequence[Sequence[int]],
    features: Sequence[int],
) -> list[list[float]]:
    """A value for each token of each text, of the feature asked for with it; 0 where it does not fire or count.

    Raises:
        UnsupportedError: The SAE reads another width than the hook point has.
    """
    tokens, is_text = _padded(texts)
    x = language_model.residuals(model, capture, tokens)[is_text.to(model.device)]
    dictionary = encoder.sae
    if x.shape[-1] != dictionary.description.d_in:
        raise errors.UnsupportedError(
            f"{capture.hook_point} of this model has width {x.shape[-1]}; the SAE reads {dictionary.description.d_in}.",
            hint="Check the model, and the hook point.",
        )
    column_of = _column_of(encoder, x)
    values, start = [], 0
    for ids, feature in zip(texts, features, strict=True):
        column = column_of(feature, start, start + len(ids))
        values.append((column * _counts(ids, model.special_tokens)).tolist())
        start += len(ids)
    return values


def _column_of(
    encoder: AnySource, x: Float[Tensor, "n d_in"]
) -> Callable[[int, int, int], Float32[np.ndarray, " n_rows"]]:
    """What gives the activations of a feature on the rows start:stop."""
    if isinstance(encoder, DenseEncoder):
        return lambda feature, start, stop: encoder.values(x[start:stop], feature, feature + 1)[:, 0]
    firings = encoder.encode(x)

    def column_of(feature: int, start: int, stop: int) -> Float32[np.ndarray, " n_rows"]:
        found = (firings.feature == feature) & (firings.row >= start) & (firings.row < stop)
        column = np.zeros(stop - start, np.float32)
        column[firings.row[found] - start] = firings.value[found]
        return column

    return column_of


def _padded(texts: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "n longest"], Bool[Tensor, "n longest"]]:
    """Token rows of equal length, and where they are text. Any id will do as padding: nothing looks at it."""
    longest = max(map(len, texts))
    tokens = torch.zeros((len(texts), longest), dtype=torch.int64)
    is_text = torch.zeros((len(texts), longest), dtype=torch.bool)
    for row, ids in enumerate(texts):
        tokens[row, : len(ids)] = torch.tensor(ids)
        is_text[row, : len(ids)] = True
    return tokens, is_text


def _counts(ids: Sequence[int], special_tokens: tuple[int, ...]) -> Float32[np.ndarray, " n"]:
    return np.array([i > 0 and token not in special_tokens for i, token in enumerate(ids)], np.float32)
