"""Texts that a model goes on with side by side: rows of tokens that join and leave a batch between two tokens.

Where the architecture allows it, rows keep their keys and values (`CachedRows`): rows that join are run in one forward
pass, padded on the left, and put beside those that are there, so that all end at the same column; then each token is one
forward pass of one column. Where it does not, the whole rows are run again for each token, padded on the right
(`WholeRows`), which is right for any causal model. `fitting` tries it out and says which.

Does not own which token comes next (`sampling`), nor when a row ends (`generation`).
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from backend import errors
from backend.formats.messages import Sampling
from workers.compute import intervention, prompts
from workers.compute.batch_edits import BatchEdits
from workers.compute.edits import Change
from workers.compute.kv_cache import ROOM, KeyValueCache
from workers.compute.language_model import LanguageModel, n_embeddings

PASS_TOKENS = 4096
"""Padded tokens of one forward pass over whole rows; a longer row goes alone."""
TOLERANCE, TOLERANCE_HALF = 1e-3, 5e-2
"""Of logits with a cache against those without, in norm, relative to how far logits are from their mean; the second in
bf16 and fp16, whose rounding is of that order."""
_FAILURES = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What architectures raise that do not take the cache, the mask or the positions they are given."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """One text to go on with."""

    owner: Hashable
    """The caller's, to remove rows by; several rows may have one."""
    prompt: tuple[int, ...]
    """At least one token."""
    sampling: Sampling
    changes: tuple[Change, ...] = ()
    """Made at every token, prompt and generated, in this order."""
    are_special_tokens_pushed: bool = True
    """Else the changes leave BOS, EOS and a chat's control tokens alone."""
    stop_ids: frozenset[int] = frozenset()
    """The text ends with the first of these that is generated."""


class RunningRows(ABC):
    """A batch of rows; an instance belongs to one thread."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.rows: list[Row] = []
        self._is_special = torch.zeros(n_embeddings(model), dtype=torch.bool, device=model.device)
        for token in prompts.special_ids(model):
            self._is_special[token : token + 1] = True

    @abstractmethod
    def join(self, rows: Sequence[Row]) -> Float[Tensor, "n d_vocab"]:
        """Take rows in, after those that are there. Logits after each one's last token."""

    @abstractmethod
    def advance(self, tokens: Int64[np.ndarray, " n"]) -> Float[Tensor, "n d_vocab"]:
        """Append a token to each row. Logits after it."""

    @abstractmethod
    def keep(self, kept: Int64[np.ndarray, " n"]) -> None:
        """Let go of all rows but these, by their place, ascending."""

    @property
    @abstractmethod
    def n_bytes(self) -> int:
        """What is kept from one token to the next."""

    @abstractmethod
    def n_bytes_of(self, n_rows: int, n_tokens: int) -> int:
        """What `n_rows` rows, the longest of `n_tokens`, keep."""

    def _pass(
        self,
        rows: Sequence[Row],
        edits: BatchEdits,
        ids: Int64[Tensor, "n context"],
        is_text: Bool[Tensor, "n context"],
        last: Int64[Tensor, " n"],
        **given: Any,
    ) -> Float[Tensor, "n d_vocab"]:
        """One forward pass; logits at the column `last` of each row, the unembedding applied to that one only."""
        counts = is_text
        if edits and not all(row.are_special_tokens_pushed for row in rows):
            are_pushed = torch.tensor([row.are_special_tokens_pushed for row in rows], device=ids.device)
            counts = is_text & (are_pushed[:, None] | ~self._is_special[ids])
        each = torch.arange(len(ids), device=ids.device)

        def at_last(x: Tensor) -> Tensor:
            return x[each, last][:, None]

        unembedding = self.model.model.get_output_embeddings()
        with edits.applied(self.model, counts), intervention.passing(unembedding, at_last, is_input=True):
            logits: Tensor = self.model.model(input_ids=ids, **given).logits
        return logits[:, -1]


class CachedRows(RunningRows):
    """Rows whose keys and values are kept."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__(model)
        self._takes_positions = "position_ids" in inspect.signature(model.model.forward).parameters
        self._lengths = np.zeros(0, np.int64)
        self._edits = BatchEdits([])
        self._cache: KeyValueCache | None = None
        self.column_bytes = 0
        """Of one token of one row; known once there was one."""

    @torch.inference_mode()
    def join(self, rows: Sequence[Row]) -> Float[Tensor, "n d_vocab"]:
        """As `RunningRows.join`; the new rows alone are one forward pass."""
        lengths = np.array([len(row.prompt) for row in rows])
        n_columns = int(lengths.max())
        ids = np.zeros((len(rows), n_columns), np.int64)
        ids[_is_text(lengths, n_columns)] = np.concatenate([row.prompt for row in rows])
        cache = KeyValueCache()
        logits = self._with_cache(rows, BatchEdits([row.changes for row in rows]), ids, lengths, cache)
        if cache.n_columns != n_columns:
            raise ValueError("the model does not fill the cache it is given")
        if self._cache is None:
            self._cache, self.column_bytes = cache, cache.column_bytes
        else:
            self._cache.join(cache)
        self._set(self.rows + list(rows), np.concatenate([self._lengths, lengths]))
        return logits

    @torch.inference_mode()
    def advance(self, tokens: Int64[np.ndarray, " n"]) -> Float[Tensor, "n d_vocab"]:
        """As `RunningRows.advance`; one forward pass of one column."""
        assert self._cache is not None
        self._lengths = self._lengths + 1
        return self._with_cache(self.rows, self._edits, tokens[:, None], self._lengths, self._cache)

    @torch.inference_mode()
    def keep(self, kept: Int64[np.ndarray, " n"]) -> None:
        """As `RunningRows.keep`."""
        if len(kept) == len(self.rows):
            return
        self._set([self.rows[i] for i in kept.tolist()], self._lengths[kept])
        if self._cache is not None and len(kept):
            self._cache.keep(torch.from_numpy(kept).to(self.model.device), int(self._lengths.max()))
        else:
            self._cache = None

    @property
    def n_bytes(self) -> int:
        """Of keys and values."""
        return 0 if self._cache is None else self._cache.n_bytes

    def n_bytes_of(self, n_rows: int, n_tokens: int) -> int:
        """As `RunningRows.n_bytes_of`, with the room; 0 as long as there was no row."""
        return n_rows * (n_tokens + ROOM) * self.column_bytes

    def _set(self, rows: list[Row], lengths: NDArray[np.int64]) -> None:
        self.rows, self._lengths = rows, lengths
        self._edits = BatchEdits([row.changes for row in rows])

    def _with_cache(
        self,
        rows: Sequence[Row],
        edits: BatchEdits,
        ids: Int64[np.ndarray, "n context"],
        lengths: Int64[np.ndarray, " n"],
        cache: KeyValueCache,
    ) -> Float[Tensor, "n d_vocab"]:
        """The next columns; `lengths` are with them. Positions count from each row's first token."""
        n_new = ids.shape[1]
        n_columns = cache.n_columns + n_new
        device = self.model.device
        is_text = torch.from_numpy(_is_text(lengths, n_columns)).to(device)
        given: dict[str, Any] = {}
        if self._takes_positions:
            positions = np.arange(n_columns - n_new, n_columns) - (n_columns - lengths[:, None])
            given["position_ids"] = torch.from_numpy(positions.clip(min=0)).to(device)
        return self._pass(
            rows, edits, torch.from_numpy(ids).to(device), is_text[:, -n_new:],
            torch.full((len(rows),), n_new - 1, device=device),
            attention_mask=is_text.long(), past_key_values=cache, use_cache=True, **given,
        )  # fmt: skip


class WholeRows(RunningRows):
    """Rows that are run from their first token each time."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__(model)
        self._texts: list[list[int]] = []

    def join(self, rows: Sequence[Row]) -> Float[Tensor, "n d_vocab"]:
        """As `RunningRows.join`."""
        self.rows += rows
        self._texts += [list(row.prompt) for row in rows]
        return self._logits(range(len(self.rows) - len(rows), len(self.rows)))

    def advance(self, tokens: Int64[np.ndarray, " n"]) -> Float[Tensor, "n d_vocab"]:
        """As `RunningRows.advance`; several forward passes where all rows in one would be too large."""
        for text, token in zip(self._texts, tokens.tolist(), strict=True):
            text.append(token)
        return self._logits(range(len(self.rows)))

    def keep(self, kept: Int64[np.ndarray, " n"]) -> None:
        """As `RunningRows.keep`."""
        self.rows = [self.rows[i] for i in kept.tolist()]
        self._texts = [self._texts[i] for i in kept.tolist()]

    @property
    def n_bytes(self) -> int:
        """Nothing to speak of."""
        return 0

    def n_bytes_of(self, n_rows: int, n_tokens: int) -> int:
        """Nothing to speak of."""
        return 0

    @torch.inference_mode()
    def _logits(self, which: Sequence[int]) -> Float[Tensor, "n d_vocab"]:
        found: dict[int, Tensor] = {}
        for some in _together(which, [len(text) for text in self._texts]):
            texts = [self._texts[i] for i in some]
            lengths = np.array([len(text) for text in texts])
            is_text = np.arange(lengths.max()) < lengths[:, None]
            ids = np.zeros(is_text.shape, np.int64)
            ids[is_text] = np.concatenate(texts)
            rows = [self.rows[i] for i in some]
            device = self.model.device
            logits = self._pass(
                rows, BatchEdits([row.changes for row in rows]), torch.from_numpy(ids).to(device),
                torch.from_numpy(is_text).to(device), torch.from_numpy(lengths - 1).to(device), use_cache=False,
            )  # fmt: skip
            found |= dict(zip(some, logits, strict=True))
        return torch.stack([found[i] for i in which])


def fitting(model: LanguageModel) -> tuple[RunningRows, str]:
    """Rows with a cache where a small batch of them gives the logits of each text alone; else without, and why.

    Raises:
        UnsupportedError: Neither does.
    """
    reasons = []
    for kind in (CachedRows, WholeRows):
        running = kind(model)
        try:
            error = _error(model, running)
            running.keep(np.zeros(0, np.int64))
        except _FAILURES as failure:
            reasons.append(f"{type(failure).__name__}: {failure}")
            continue
        if error <= (TOLERANCE if model.model.dtype == torch.float32 else TOLERANCE_HALF):
            return running, "".join(reasons)
        reasons.append(f"logits are off by {error:.2g} of their spread")
    raise errors.UnsupportedError(
        f"{type(model.model).__name__} cannot generate here: texts in a batch do not get the logits they get alone.",
        hint=f"With a cache: {reasons[0]}. Without: {reasons[1]}.",
    )


def _error(model: LanguageModel, running: RunningRows) -> float:
    """Of rows of several lengths that join, advance and leave, against each text alone: the greatest, relative in norm."""
    special = set(prompts.special_ids(model))
    ordinary = np.array([i for i in range(min(model.d_vocab, n_embeddings(model), 512)) if i not in special])
    ids = ordinary[(np.arange(24) * 7 + 3) % len(ordinary)]
    rows = [
        Row(owner=i, prompt=tuple(ids[i : i + n].tolist()), sampling=Sampling(n_tokens=1))
        for i, n in enumerate((6, 2, 4))
    ]
    running.join(rows[:2])
    running.advance(ids[:2])
    running.join(rows[2:])
    running.advance(ids[2:5])
    running.keep(np.array([1, 2]))
    found = running.advance(ids[5:7]).double()
    texts = ([*rows[1].prompt, ids[1], ids[3], ids[5]], [*rows[2].prompt, ids[4], ids[6]])
    worst = 0.0
    for got, text in zip(found, texts, strict=True):
        with torch.inference_mode():
            tokens = torch.tensor([text], device=model.device)
            alone = model.model(input_ids=tokens, use_cache=False).logits[0, -1].double()
        worst = max(worst, float((got - alone).norm() / (alone - alone.mean()).norm()))
    return worst


def _is_text(lengths: Int64[np.ndarray, " n"], n_columns: int) -> Bool[np.ndarray, "n n_columns"]:
    """Where rows that end at the last column have begun."""
    began: NDArray[np.bool_] = np.arange(n_columns) >= n_columns - lengths[:, None]
    return began


def _together(which: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Rows by length, cut where padding to the longest would make a forward pass too large."""
    some: list[int] = []
    for i in sorted(which, key=lambda i: lengths[i]):
        if some and (len(some) + 1) * lengths[i] > PASS_TOKENS:
            yield some
            some = []
        some.append(i)
    if some:
        yield some
