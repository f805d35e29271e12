"""Keys and values of a batch whose rows come and go: transformers' cache with room for the columns to come.

All rows end at the same column; shorter ones begin later, and what stands before them is never looked at. Its own growth
(`DynamicLayer`) copies all keys and values at every token; here they are copied when the room is used up, when rows
join, and when rows leave.
"""

from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

ROOM = 64
"""Columns to come."""


class Layer(DynamicLayer):  # type: ignore[misc]  # transformers is not annotated
    """One layer's keys and values, each [rows, heads, columns, width]."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._roomy: tuple[Tensor, Tensor] | None = None
        """With the room; `keys` and `values` are views of it."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append columns; all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        n = self.get_seq_length()
        if self._roomy is None:
            self._roomy = (key_states, value_states)
        elif self._roomy[0].shape[-2] < n + key_states.shape[-2]:
            self._roomy = (_widened(self.keys, key_states.shape[-2]), _widened(self.values, value_states.shape[-2]))
        for all_of, new in zip(self._roomy, (key_states, value_states), strict=True):
            if all_of is not new:
                all_of[..., n : n + new.shape[-2], :] = new
        self.keys, self.values = (all_of[..., : n + key_states.shape[-2], :] for all_of in self._roomy)
        return self.keys, self.values

    def reset(self) -> None:
        """Hold nothing."""
        super().reset()
        self._roomy = None

    @property
    def n_bytes(self) -> int:
        """With the room."""
        return 0 if self._roomy is None else sum(each.nbytes for each in self._roomy)

    def set(self, keys: Tensor, values: Tensor, n_columns: int) -> None:
        """Hold these, whose first columns are taken and whose others are room."""
        self._roomy = (keys, values)
        self.keys, self.values = keys[..., :n_columns, :], values[..., :n_columns, :]


class KeyValueCache(DynamicCache):  # type: ignore[misc]
    """Of all layers, as a model's forward pass takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_class_to_replicate = Layer

    @property
    def n_columns(self) -> int:
        """Tokens of the longest row."""
        return int(self.get_seq_length())

    @property
    def n_bytes(self) -> int:
        """Of the keys and values, with their room."""
        return sum(layer.n_bytes for layer in self.layers)

    @property
    def column_bytes(self) -> int:
        """Of one column of one row, in all layers."""
        return sum(
            sum(each.nbytes // (each.shape[0] * each.shape[-2]) for each in (layer.keys, layer.values))
            for layer in self.layers
        )

    def join(self, other: "KeyValueCache") -> None:
        """Take another's rows in after one's own. The other loses them."""
        n_columns = max(self.n_columns, other.n_columns)
        for layer, others in zip(self.layers, other.layers, strict=True):
            keys = _stacked(layer.keys, others.keys, n_columns)
            values = _stacked(layer.values, others.values, n_columns)
            layer.set(keys, values, n_columns)
            others.reset()  # so that no more than one layer is held twice

    def keep(self, rows: Int64[Tensor, " n"], n_columns: int) -> None:
        """Let go of the other rows, and of columns before the last `n_columns`."""
        for layer in self.layers:
            keys, values = (_taken(each, rows, n_columns) for each in (layer.keys, layer.values))
            layer.set(keys, values, n_columns)


def _widened(x: Float[Tensor, "n heads columns d"], n_more: int) -> Float[Tensor, "n heads wider d"]:
    wider = x.new_zeros(*x.shape[:-2], x.shape[-2] + n_more + ROOM, x.shape[-1])
    wider[..., : x.shape[-2], :] = x
    return wider


def _stacked(
    a: Float[Tensor, "n heads columns d"], b: Float[Tensor, "m heads others d"], n_columns: int
) -> Float[Tensor, "both heads wider d"]:
    """Both, ending at column `n_columns`; zero before them."""
    both = a.new_zeros(len(a) + len(b), a.shape[1], n_columns + ROOM, a.shape[-1])
    both[: len(a), :, n_columns - a.shape[-2] : n_columns] = a
    both[len(a) :, :, n_columns - b.shape[-2] : n_columns] = b
    return both


def _taken(
    x: Float[Tensor, "n heads columns d"], rows: Int64[Tensor, " m"], n_columns: int
) -> Float[Tensor, "m heads wider d"]:
    taken = x.new_zeros(len(rows), x.shape[1], n_columns + ROOM, x.shape[-1])
    taken[:, :, :n_columns] = x[..., x.shape[-2] - n_columns :, :].index_select(0, rows)
    return taken
