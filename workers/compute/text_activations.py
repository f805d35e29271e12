"""Which features fire on texts somebody typed, as their dashboards would show them.

1. A text's tokens are one context, opened by BOS where the SAE was trained so and never doubled (`corpus.pack`).
2. Texts are padded on the right to the longest of a batch and run once, to the deepest hook point that any of them asks
   about. The models are causal, so padding after a text changes nothing in it but the order of sums inside the matrix
   products (equal within 1e-4, tested).
3. Each source encodes, in one go, the tokens of all texts that ask about it: all features, since top-k needs them all.
Positions that dashboards do not count (special tokens, position 0) get 0: position 0 is an attention sink of huge norm.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int64
from numpy.typing import NDArray
from torch import Tensor

from workers.compute import language_model
from workers.compute.dense import DenseEncoder
from workers.compute.encoders import AnySource

BATCH_TOKENS = 8192
"""Padded tokens of one forward pass; a text longer than that goes alone."""


@runtime_checkable
class HasIds(Protocol):
    """A text that has been tokenised."""

    @property
    def ids(self) -> Sequence[int]: ...  # noqa: D102


@runtime_checkable
class ReadsAt(Protocol):
    """A source at its place in the model (`runtime.LoadedSource`)."""

    @property
    def encoder(self) -> AnySource: ...  # noqa: D102
    @property
    def capture(self) -> language_model.Capture: ...  # noqa: D102


_Text = TypeVar("_Text", bound=HasIds)


@dataclass(frozen=True, slots=True)
class TextFirings:
    """What fires on one text, in no particular order."""

    position: Int64[np.ndarray, " n"]
    feature: Int64[np.ndarray, " n"]
    value: Float32[np.ndarray, " n"]

    def at(self, counts: Bool[np.ndarray, " n_tokens"]) -> "TextFirings":
        """Those at the tokens that count."""
        kept = counts[self.position]
        return TextFirings(self.position[kept], self.feature[kept], self.value[kept])

    def of(self, feature: int, n_tokens: int) -> Float32[np.ndarray, " n_tokens"]:
        """One feature's activation on every token."""
        column = np.zeros(n_tokens, np.float32)
        found = self.feature == feature
        column[self.position[found]] = self.value[found]
        return column


def tokenise(text: str, tokenizer: Any, *, prepend_bos: bool) -> list[int]:
    """Ids of the text, opened by BOS where asked and where the tokenizer has one."""
    ids: list[int] = tokenizer([text], add_special_tokens=False, verbose=False)["input_ids"][0]
    bos = tokenizer.bos_token_id
    return [bos, *ids] if prepend_bos and bos is not None and ids[:1] != [bos] else ids


def counts(ids: Sequence[int], special_tokens: Sequence[int]) -> Bool[np.ndarray, " n"]:
    """Which tokens dashboards count: not the first, and no special one."""
    return np.array([i > 0 and token not in special_tokens for i, token in enumerate(ids)], np.bool_)


def batches(texts: Sequence[_Text]) -> Iterator[list[_Text]]:
    """The texts by length, cut where padding to the longest would make a batch too large."""
    batch: list[_Text] = []
    for text in sorted(texts, key=lambda text: len(text.ids)):
        if batch and (len(batch) + 1) * len(text.ids) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch


def firings(
    model: language_model.LanguageModel,
    sources: Mapping[str, ReadsAt],
    texts: Sequence[Sequence[int]],
    asked: Sequence[Sequence[str]],
) -> list[dict[str, TextFirings]]:
    """For each text, by the name of each source asked for with it, all that fires; one forward pass."""
    tokens, is_text = _padded(texts)
    names = list(dict.fromkeys(name for each in asked for name in each))
    captures = list(dict.fromkeys(sources[name].capture for name in names))
    found = language_model.residuals_at(model, captures, tokens)
    residuals = {capture: x[is_text.to(x.device)] for capture, x in zip(captures, found, strict=True)}
    lengths = np.array([len(ids) for ids in texts])
    results: list[dict[str, TextFirings]] = [{} for _ in texts]
    for name in names:
        wants = np.array([name in each for each in asked])
        x = residuals[sources[name].capture]
        if not wants.all():
            x = x[torch.from_numpy(np.repeat(wants, lengths)).to(x.device)]
        split = _by_text(_encode(sources[name].encoder, x), lengths[wants])
        for number, each in zip(np.flatnonzero(wants).tolist(), split, strict=True):
            results[number][name] = each
    return results


def _encode(encoder: AnySource, x: Float[Tensor, "n d_in"]) -> TextFirings:
    """Rows in the place of positions."""
    if isinstance(encoder, DenseEncoder):
        values = encoder.values(x)
        row, feature = np.nonzero(values)
        return TextFirings(row, feature, values[row, feature])
    found = encoder.encode(x)
    return TextFirings(found.row.astype(np.int64), found.feature.astype(np.int64), found.value)


def _by_text(found: TextFirings, lengths: NDArray[np.integer]) -> list[TextFirings]:
    """Cut what fires on texts one after the other."""
    if len(lengths) == 1:
        return [found]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    text = np.repeat(np.arange(len(lengths), dtype=np.uint16), lengths)[found.position]
    order = np.argsort(text, kind="stable")  # of 16 bits: a radix sort
    ends = np.cumsum(np.bincount(text, minlength=len(lengths)))
    position, feature, value = found.position[order], found.feature[order], found.value[order]
    return [
        TextFirings(position[start:end] - starts[i], feature[start:end], value[start:end])
        for i, (start, end) in enumerate(zip(np.concatenate([[0], ends[:-1]]), ends, strict=True))
    ]


def _padded(texts: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "n longest"], Bool[Tensor, "n longest"]]:
    """Token rows of equal length, and where they are text. Any id will do as padding: nothing looks at it."""
    longest = max(map(len, texts))
    tokens = np.zeros((len(texts), longest), np.int64)
    lengths = np.array([len(ids) for ids in texts])
    is_text = np.arange(longest) < lengths[:, None]
    tokens[is_text] = np.concatenate([np.asarray(ids, np.int64) for ids in texts])
    return torch.from_numpy(tokens), torch.from_numpy(is_text)


# --- what is asked of firings ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ranked:
    """The features of a search, best first."""

    source: Int64[np.ndarray, " n"]
    """Number of the source."""
    feature: Int64[np.ndarray, " n"]
    values: Float32[np.ndarray, "n n_tokens"]


def rank(found: Sequence[TextFirings], n_tokens: int, *, sort_positions: Sequence[int], n_results: int) -> Ranked:
    """The `n_results` features of several sources with the greatest activation, or sum of those at `sort_positions`.

    Features whose sum there is not above zero are left out; ties go to the earlier source and the lower index. Only
    positive activations rank: a neuron's or vector's negative side does not.
    """
    source = np.repeat(np.arange(len(found)), [len(each.value) for each in found])
    feature = np.concatenate([each.feature for each in found]) if found else np.zeros(0, np.int64)
    position = np.concatenate([each.position for each in found]) if found else np.zeros(0, np.int64)
    value = np.concatenate([each.value for each in found]) if found else np.zeros(0, np.float32)
    n_features = int(feature.max(initial=0)) + 1
    key, of = np.unique(source * n_features + feature, return_inverse=True)
    if sort_positions:
        score = np.zeros(len(key), np.float64)
        chosen = np.isin(position, np.asarray(sort_positions))
        np.add.at(score, of[chosen], value[chosen])
    else:
        score = np.zeros(len(key), np.float32)
        np.maximum.at(score, of, value)
    best = np.argsort(-score, kind="stable")[:n_results]
    best = best[score[best] > 0]
    place = np.full(len(key), -1)
    place[best] = np.arange(len(best))
    values = np.zeros((len(best), n_tokens), np.float32)
    shown = place[of] >= 0
    values[place[of][shown], position[shown]] = value[shown]
    return Ranked(key[best] // n_features, key[best] % n_features, values)


def top_by_token(
    found: TextFirings, n_tokens: int, n_results: int
) -> list[tuple[Int64[np.ndarray, " n"], Float32[np.ndarray, " n"]]]:
    """For each token its features of greatest activation and their values, greatest first; ties go to the lower index."""
    order = np.lexsort((found.feature, -found.value, found.position))
    order = order[found.value[order] > 0]
    starts = np.searchsorted(found.position[order], np.arange(n_tokens + 1))
    shown = [order[start : min(end, start + n_results)] for start, end in itertools.pairwise(starts)]
    return [(found.feature[each], found.value[each]) for each in shown]
