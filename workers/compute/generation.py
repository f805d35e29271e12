"""Texts generated side by side by one model: rows join and leave the running batch at any token.

A step is one token for every running row, and the first token of some of those that wait:
1. One forward pass of one column goes on with the rows that run (`running_rows`).
2. Those that wait join, first come first served, as many as one bounded forward pass takes.
3. The next token of each is drawn (`sampling`). What a row gets depends on that row alone, but for rounding.
4. Rows that generated a stop token, have their number of tokens or fill the model's context leave.
"""

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from backend import errors
from backend.formats.messages import Sampling
from workers.compute import running_rows, sampling
from workers.compute.language_model import LanguageModel
from workers.compute.running_rows import PASS_TOKENS, Row
from workers.compute.sampling import Choices, Drawn

Ended = Literal["stop", "length"]
"""At a stop token, or at the number of tokens asked for or the end of the model's context."""


@dataclass(frozen=True, slots=True)
class Token:
    """The next token of a row."""

    row: Row
    id: int
    logprob: float
    """By the model's own distribution: temperature 1, no penalty; natural logarithm."""
    alternatives: tuple[tuple[int, float], ...]
    """The likeliest tokens and their log-probabilities, likeliest first, as many as asked for."""
    ended: Ended | None
    """No token follows. At "stop" this one is the stop token."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A row that cannot go on, and has left."""

    row: Row
    error: errors.SiteError


Event = Token | Failure


def check_length(model: LanguageModel, n_prompt: int, n_tokens: int) -> None:
    """Raise `InvalidInputError` where prompt and generated tokens are more than the model's context."""
    if n_prompt + n_tokens > model.n_context:
        raise errors.InvalidInputError(
            f"The prompt has {n_prompt} tokens and {n_tokens} are to follow; the model's context is {model.n_context}.",
            hint=f"Ask for at most {model.n_context - n_prompt}."
            if n_prompt < model.n_context
            else "Give a shorter prompt.",
        )


class Generation:
    """What one resident model generates. Belongs to one thread, which makes no other use of the model during a step."""

    def __init__(self, model: LanguageModel) -> None:
        """Tries the model out first, in a few short forward passes; raises `UnsupportedError` where it cannot generate."""
        self.model = model
        self._running, self.uncached_because = running_rows.fitting(model)
        """Why keys and values are not kept, which takes longer: what the architecture does not allow; empty where they are."""
        self._waiting: deque[Row] = deque()
        self._drawing = _Drawing()

    @property
    def rows(self) -> list[Row]:
        """All that have not ended: those that run, and those that wait to join."""
        return [*self._running.rows, *self._waiting]

    @property
    def n_rows(self) -> int:
        """How many have not ended."""
        return len(self._running.rows) + len(self._waiting)

    @property
    def n_bytes(self) -> int:
        """What the keys and values of the running rows take now."""
        return self._running.n_bytes

    def n_bytes_with(self, rows: Sequence[Row] = ()) -> int:
        """The most that the keys and values of all rows, these as well, come to take: every row as long as the longest."""
        every = [*self.rows, *rows]
        return self._running.n_bytes_of(len(every), max((self._longest(row) for row in every), default=0))

    def add(self, rows: Sequence[Row]) -> None:
        """Let rows join at the next steps; raises `InvalidInputError`, and then adds none, where one is not valid."""
        for row in rows:
            sampling.check(row.sampling, d_vocab=self.model.d_vocab)
            check_length(self.model, len(row.prompt), 1)
            if not row.prompt:
                raise errors.InvalidInputError("The prompt has no tokens.", hint="Give some text.")
        self._waiting += rows

    def remove(self, owner: Hashable) -> None:
        """Let go of all rows of an owner, such as one whose caller has left; there need not be any."""
        self._waiting = deque(row for row in self._waiting if row.owner != owner)
        self._keep([row.owner != owner for row in self._running.rows])

    def step(self) -> list[Event]:
        """One token, or failure, of each running row and of those that join; in the order they joined.

        What the model itself raises, such as for want of memory, leaves no row in a state to go on from: make another.
        """
        logits = []
        if self._running.rows:
            logits.append(self._running.advance(self._drawing.last))
        joining = self._next_to_join()
        if joining:
            logits.append(self._running.join(joining))
            self._drawing.join(joining)
        if not logits:
            return []
        drawn = self._drawing.draw(torch.cat(logits))
        events = [self._event(i, drawn) for i in range(len(self._running.rows))]
        self._keep([isinstance(event, Token) and event.ended is None for event in events])
        return events

    def _next_to_join(self) -> list[Row]:
        """The row that has waited longest, and those after it that fit beside it."""
        chosen: list[Row] = []
        passed_over: deque[Row] = deque()
        longest = 0
        for row in self._waiting:
            longest_with = max(longest, len(row.prompt))
            if chosen and (len(chosen) + 1) * longest_with > PASS_TOKENS:
                passed_over.append(row)
            else:
                chosen.append(row)
                longest = longest_with
        self._waiting = passed_over
        return chosen

    def _event(self, i: int, drawn: Drawn) -> Event:
        row = self._running.rows[i]
        if not drawn.is_finite[i]:
            error = errors.UnsupportedError(
                "The model's logits are not finite.", hint="Push less, or load the model in float32."
            )
            return Failure(row, error)
        token, n_generated = int(drawn.token[i]), int(self._drawing.n_generated[i])
        n = row.sampling.n_alternatives
        alternatives = zip(drawn.alternatives[i, :n].tolist(), drawn.alternative_logprobs[i, :n].tolist(), strict=True)
        ended: Ended | None = None
        if token in row.stop_ids:
            ended = "stop"
        elif n_generated == row.sampling.n_tokens or len(row.prompt) + n_generated == self.model.n_context:
            ended = "length"
        return Token(row, token, float(drawn.logprob[i]), tuple(alternatives), ended)

    def _keep(self, is_kept: Sequence[bool]) -> None:
        if not all(is_kept):
            kept = np.flatnonzero(is_kept)
            self._running.keep(kept)
            self._drawing.keep(kept)

    def _longest(self, row: Row) -> int:
        return min(len(row.prompt) + row.sampling.n_tokens, self.model.n_context)


class _Drawing:
    """What drawing needs to know of the running rows, by row."""

    def __init__(self) -> None:
        self._samplings: list[Sampling] = []
        self._choices = Choices.of([])
        self._generated = np.zeros((0, 0), np.int64)
        self.n_generated = np.zeros(0, np.int64)

    @property
    def last(self) -> NDArray[np.int64]:
        """Each row's last token."""
        found: NDArray[np.int64] = self._generated[np.arange(len(self.n_generated)), self.n_generated - 1]
        return found

    def join(self, rows: Sequence[Row]) -> None:
        """After the others."""
        self._samplings += [row.sampling for row in rows]
        self._choices = Choices.of(self._samplings)
        self._generated = np.pad(self._generated, ((0, len(rows)), (0, 0)), constant_values=-1)
        self.n_generated = np.pad(self.n_generated, (0, len(rows)))

    def keep(self, kept: Int64[np.ndarray, " n"]) -> None:
        """These only."""
        self._samplings = [self._samplings[i] for i in kept.tolist()]
        self._choices = Choices.of(self._samplings)
        self.n_generated = self.n_generated[kept]
        self._generated = self._generated[kept, : self.n_generated.max(initial=0)]

    def draw(self, logits: Float[Tensor, "n d_vocab"]) -> Drawn:
        """The next token of each row, which is then its last."""
        longest = int(self.n_generated.max(initial=0))
        drawn = sampling.draw(logits, self._choices, self.n_generated, self._generated[:, :longest])
        if longest == self._generated.shape[1]:
            self._generated = np.pad(self._generated, ((0, 0), (0, longest + 16)), constant_values=-1)
        self._generated[np.arange(len(self.n_generated)), self.n_generated] = drawn.token
        self.n_generated = self.n_generated + 1
        return drawn
