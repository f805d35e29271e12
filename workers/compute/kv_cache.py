"""Keys and values of a batch whose rows come and go: transformers' cache with room for the columns to come.

All rows end at the same column; shorter ones begin later, and what stands before them is never looked at. Its own growth
(`DynamicLayer`) copies all keys and values at every token; here they are copied when the room is used up, when rows
join, and when rows leave.
"""

from typing import Any, cast

from jaxtyping import Float, Int64
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

ROOM = 64
"""Columns to come."""


class Layer(DynamicLayer):
    """One layer's keys and values, each [rows, heads, columns, width]."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._roomy: tuple[Tensor, Tensor] | None = None
        """With the room; `keys` and `values` are views of it."""

    def update(
        self,
        key_states: Float[Tensor, "n heads new d_key"],
        value_states: Float[Tensor, "n heads new d_value"],
        *_: Any,
        **__: Any,
    ) -> tuple[Float[Tensor, "n heads columns d_key"], Float[Tensor, "n heads columns d_value"]]:
        """Append columns; all keys and values."""
        if self._roomy is None:
            self.lazy_initialization(key_states, value_states)
            self.hold(key_states, value_states, key_states.shape[-2])
            return key_states, value_states
        n_before = self.held[0].shape[-2]
        n_columns = n_before + key_states.shape[-2]
        keys, values = self._roomy
        if keys.shape[-2] < n_columns:
            keys, values = (_widened(each, n_columns) for each in self.held)
        keys[..., n_before:n_columns, :] = key_states
        values[..., n_before:n_columns, :] = value_states
        self.hold(keys, values, n_columns)
        return self.held

    @property
    def held(self) -> tuple[Tensor, Tensor]:
        """Keys and values, without the room."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    @property
    def n_bytes(self) -> int:
        """With the room."""
        return 0 if self._roomy is None else sum(each.nbytes for each in self._roomy)

    def hold(
        self, keys: Float[Tensor, "n heads wider d_key"], values: Float[Tensor, "n heads wider d_value"], n_columns: int
    ) -> None:
        """Have these, whose first columns are taken and whose others are room."""
        self._roomy = (keys, values)
        self.keys, self.values = keys[..., :n_columns, :], values[..., :n_columns, :]

    def reset(self) -> None:
        """Have nothing."""
        super().reset()
        self._roomy = None


class KeyValueCache(DynamicCache):
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
        return sum(layer.n_bytes for layer in self._layers)

    @property
    def column_bytes(self) -> int:
        """Of one column of one row, in all layers."""
        return sum(each.nbytes // (each.shape[0] * each.shape[-2]) for layer in self._layers for each in layer.held)

    def join(self, other: "KeyValueCache") -> None:
        """Take another's rows in after one's own. The other loses them."""
        n_columns = max(self.n_columns, other.n_columns)
        for mine, theirs in zip(self._layers, other._layers, strict=True):
            keys, values = (_stacked(a, b, n_columns) for a, b in zip(mine.held, theirs.held, strict=True))
            mine.hold(keys, values, n_columns)
            theirs.reset()  # so that no more than one layer is held twice

    def keep(self, rows: Int64[Tensor, " n"], n_columns: int) -> None:
        """Let go of the other rows, and of columns before the last `n_columns`."""
        for layer in self._layers:
            keys, values = (_taken(each, rows, n_columns) for each in layer.held)
            layer.hold(keys, values, n_columns)

    @property
    def _layers(self) -> list[Layer]:
        return cast(list[Layer], self.layers)


def _widened(x: Float[Tensor, "n heads columns d"], n_columns: int) -> Float[Tensor, "n heads wider d"]:
    """With room for as many columns, and more."""
    wider = x.new_zeros(*x.shape[:-2], n_columns + ROOM, x.shape[-1])
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
    """Of these rows the last columns, and room."""
    taken = x.new_zeros(len(rows), x.shape[1], n_columns + ROOM, x.shape[-1])
    taken[:, :, :n_columns] = x[..., x.shape[-2] - n_columns :, :].index_select(0, rows)
    return taken
