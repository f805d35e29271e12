"""The changes of many rows of one batch at once: hooks at the places that any of them changes, for one forward pass.

A row's changes at one place are made in the order given. The first of every row are made together, then the second, and
so on: all shifts are one addition, all projections one product, and the features of one SAE are encoded together. Shifts
that follow one another are summed beforehand, so a batch that only adds is one addition for each place.
"""

import contextlib
import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from workers.compute import encoders, intervention, reconstruction
from workers.compute.edits import Activation, Change, Projection, Shift, Splice
from workers.compute.encoders import AnyEncoder
from workers.compute.language_model import Capture, LanguageModel


@runtime_checkable
class _Round(Protocol):
    """At most one change for each row."""

    def apply(
        self, x: Float[Tensor, "n context d_in"], counts: Bool[Tensor, "n context"]
    ) -> Float[Tensor, "n context d_in"]:
        """The activations with the tokens that count changed."""


class BatchEdits:
    """The changes of a batch's rows, made ready once for many forward passes."""

    def __init__(self, changes: Sequence[Sequence[Change]]) -> None:
        """One sequence for each row, in the order of the batch; most may be empty."""
        places: dict[tuple[str, bool], list[list[Change]]] = defaultdict(lambda: [[] for _ in changes])
        captures: dict[tuple[str, bool], Capture] = {}
        for row, of_row in enumerate(changes):
            for change in of_row:
                place = (change.capture.module, change.capture.is_input)
                captures[place] = dataclasses.replace(change.capture, is_centred=False)
                _append(places[place][row], change)
        self._rounds = [(captures[place], _rounds(of_rows)) for place, of_rows in places.items()]

    def __bool__(self) -> bool:
        """Whether any row is changed."""
        return bool(self._rounds)

    @contextlib.contextmanager
    def applied(self, model: LanguageModel, counts: Bool[Tensor, "n context"]) -> Iterator[None]:
        """The one forward pass that this thread makes inside is over the batch's rows, and changes the tokens that count."""
        with contextlib.ExitStack() as hooks:
            for capture, rounds in self._rounds:
                edit = _edit(rounds, counts)
                hooks.enter_context(intervention.replaced(model, capture, counts.shape, edit))
            yield


def _append(changes: list[Change], change: Change) -> None:
    last = changes[-1] if changes else None
    if isinstance(change, Shift) and isinstance(last, Shift):
        changes[-1] = Shift(last.capture, last.vector + change.vector)
    else:
        changes.append(change)


def _edit(rounds: Sequence[_Round], counts: Bool[Tensor, "n context"]) -> intervention.Edit:
    def edit(x: Float[Tensor, "n context d_in"]) -> Float[Tensor, "n context d_in"]:
        for each in rounds:
            x = each.apply(x, counts)
        return x

    return edit


def _rounds(of_rows: Sequence[Sequence[Change]]) -> list[_Round]:
    """What is made together, in order. Changes of different kinds at the same turn are of different rows."""
    found: list[_Round] = []
    for turn in range(max(map(len, of_rows))):
        now = {row: changes[turn] for row, changes in enumerate(of_rows) if len(changes) > turn}
        shifts = {row: change for row, change in now.items() if isinstance(change, Shift)}
        projections = {row: change for row, change in now.items() if isinstance(change, Projection)}
        if shifts:
            found.append(_Shifts.of(shifts, len(of_rows)))
        if projections:
            found.append(_Projections.of(projections))
        activations: dict[object, dict[int, Activation]] = defaultdict(dict)
        splices: dict[object, dict[int, Splice]] = defaultdict(dict)
        for row, change in now.items():
            match change:
                case Activation():
                    activations[change.capture, id(change.encoder)][row] = change
                case Splice():
                    splices[change.capture, id(change.encoder)][row] = change
        found += [_Activations.of(group) for group in activations.values()]
        found += [_Splices.of(group) for group in splices.values()]
    return found


@dataclass(frozen=True, slots=True)
class _Shifts:
    vectors: Float[Tensor, "n 1 d_in"]
    """Zero for rows that are not changed."""

    @classmethod
    def of(cls, shifts: dict[int, Shift], n_rows: int) -> "_Shifts":
        first = next(iter(shifts.values())).vector
        vectors = first.new_zeros(n_rows, 1, len(first))
        vectors[list(shifts), 0] = torch.stack([shift.vector for shift in shifts.values()])
        return cls(vectors)

    def apply(
        self, x: Float[Tensor, "n context d_in"], counts: Bool[Tensor, "n context"]
    ) -> Float[Tensor, "n context d_in"]:
        return x + self.vectors * counts[..., None]


@dataclass(frozen=True, slots=True)
class _Projections:
    rows: Int64[Tensor, " m"]
    read: Float[Tensor, "m d_in 1"]
    write: Float[Tensor, "m 1 d_in"]
    low: Float[Tensor, "m 1 1"]
    high: Float[Tensor, "m 1 1"]

    @classmethod
    def of(cls, projections: dict[int, Projection]) -> "_Projections":
        each = list(projections.values())
        device = each[0].read.device
        limits = torch.tensor([(one.low, one.high) for one in each], device=device)[:, :, None, None]
        return cls(
            torch.tensor(list(projections), device=device),
            torch.stack([one.read for one in each])[:, :, None],
            torch.stack([one.write for one in each])[:, None],
            limits[:, 0],
            limits[:, 1],
        )

    def apply(
        self, x: Float[Tensor, "n context d_in"], counts: Bool[Tensor, "n context"]
    ) -> Float[Tensor, "n context d_in"]:
        part = x[self.rows] @ self.read
        change = (part.clamp(self.low, self.high) - part) * counts[self.rows][..., None]
        return x.index_add(0, self.rows, change * self.write)


@dataclass(frozen=True, slots=True)
class _Tokens:
    """The tokens that count, of some rows of a batch, and what is at them."""

    row: Int64[Tensor, " n_tokens"]
    """Into the rows of the round."""
    place: tuple[Int64[Tensor, " n_tokens"], Int64[Tensor, " n_tokens"]]
    """Row and position in the batch."""
    x: Float[Tensor, "n_tokens d_in"]
    """Less its mean where writing weights are centred."""
    mean: Float[Tensor, "n_tokens 1"]
    """What was taken off."""

    @classmethod
    def of(
        cls,
        rows: Int64[Tensor, " m"],
        x: Float[Tensor, "n context d_in"],
        counts: Bool[Tensor, "n context"],
        *,
        is_centred: bool,
    ) -> "_Tokens":
        """Those whose activations are finite: an overflow is left as it is, in its own row."""
        row, position = counts[rows].nonzero(as_tuple=True)
        found = x[rows[row], position]
        is_finite = found.isfinite().all(dim=-1)
        if not bool(is_finite.all()):
            row, position, found = row[is_finite], position[is_finite], found[is_finite]
        mean = found.mean(dim=-1, keepdim=True) if is_centred else torch.zeros_like(found[:, :1])
        return cls(row, (rows[row], position), found - mean, mean)


@dataclass(frozen=True, slots=True)
class _Activations:
    """Features of one SAE, one for each row."""

    rows: Int64[Tensor, " m"]
    encoder: AnyEncoder
    """Of these features, where it can be."""
    numbers: NDArray[np.int64]
    """Each row's feature in the encoder."""
    direction: Float[Tensor, "m d_in"]
    target: Float[Tensor, " m"]
    is_centred: bool

    @classmethod
    def of(cls, changes: dict[int, Activation]) -> "_Activations":
        each = list(changes.values())
        whole, features = each[0].encoder, [one.index for one in each]
        distinct, which = np.unique(features, return_inverse=True)
        encoder, numbers = encoders.of_few(whole, distinct.tolist())
        device = whole.sae.W_dec.device
        return cls(
            torch.tensor(list(changes), device=device),
            encoder,
            numbers[which],
            whole.sae.directions(torch.tensor(features, device=device)),
            torch.tensor([one.target for one in each], device=device),
            each[0].capture.is_centred,
        )

    def apply(
        self, x: Float[Tensor, "n context d_in"], counts: Bool[Tensor, "n context"]
    ) -> Float[Tensor, "n context d_in"]:
        tokens = _Tokens.of(self.rows, x, counts, is_centred=self.is_centred)
        if len(tokens.row) == 0:
            return x
        firings = self.encoder.encode(tokens.x)
        is_asked = firings.feature == self.numbers[tokens.row.cpu().numpy()][firings.row]
        activation = np.zeros(len(tokens.row), np.float32)
        activation[firings.row[is_asked]] = firings.value[is_asked]
        change = self.target[tokens.row] - torch.from_numpy(activation).to(x.device)
        scale = reconstruction.output_scale(self.encoder.sae, tokens.x)
        written = change[:, None] * self.direction[tokens.row]
        return x.index_put(tokens.place, written if scale is None else written * scale, accumulate=True)


@dataclass(frozen=True, slots=True)
class _Splices:
    """Rows that one SAE reconstructs."""

    rows: Int64[Tensor, " m"]
    encoder: AnyEncoder
    is_centred: bool

    @classmethod
    def of(cls, splices: dict[int, Splice]) -> "_Splices":
        first = next(iter(splices.values()))
        rows = torch.tensor(list(splices), device=first.encoder.sae.W_dec.device)
        return cls(rows, first.encoder, first.capture.is_centred)

    def apply(
        self, x: Float[Tensor, "n context d_in"], counts: Bool[Tensor, "n context"]
    ) -> Float[Tensor, "n context d_in"]:
        tokens = _Tokens.of(self.rows, x, counts, is_centred=self.is_centred)
        if len(tokens.row) == 0:
            return x
        output = reconstruction.reconstruct(self.encoder, tokens.x).output
        return x.index_put(tokens.place, output + tokens.mean)
