"""A feature as another tool said it: what was imported, kept to the last digit, and how it is packed into a row.

Numbers stay the decimals they were in the file, so JSON behind zlib holds them exactly, and in less room than binary
numbers would take. Texts are (context, positions, values) as in a computed dashboard; a context that several examples
show is stored once, one that no other shows lies with its feature.
Keys are Neuronpedia's (`neuronpedia.py`). What a row says that is nothing ([] or null) is left out, as is what its other
keys tell: its place, and the maximum and minimum of its values.
"""

import itertools
import math
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from backend.formats.copy_rows import FeatureFacts
from backend.formats.neuronpedia import TOP_BIN

PACK_VERSION = 3
"""First byte of the packed form; those of computed dashboards are in `dashboards.py`."""
_ZLIB_LEVEL = 3
_LENGTH = struct.Struct("<I")
OWN = -1
"""In place of a context's index: the example has its tokens itself."""
N_TOKENS_SHOWN = 10
Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class GivenExample:
    """One text with its activations."""

    context: int
    """Index in the source's corpus; `OWN`: its tokens are below."""
    positions: tuple[int, ...]
    """Of the values that are not zero, ascending."""
    values: tuple[float, ...]
    row: Facts
    """The rest of its `Activation` row."""
    tokens: tuple[int, ...] = ()
    """Ids in the corpus's vocabulary, where no other example shows the text."""

    @property
    def max_value(self) -> float:
        """The largest value; 0 where there is none above."""
        return max(self.values, default=0.0)

    @property
    def max_position(self) -> int | None:
        """Where the largest value stands, the first of several; None where none is above zero."""
        return self.positions[self.values.index(self.max_value)] if self.max_value > 0 else None

    @property
    def is_top(self) -> bool:
        """It is one of the top contexts, or of no interval."""
        return self.row.get("binMin") in (None, TOP_BIN)


@dataclass(frozen=True, slots=True)
class GivenFeature:
    """One feature."""

    index: int
    row: Facts
    """Its `Neuron` row, less its place."""
    examples: tuple[GivenExample, ...]
    """In the order given."""

    @property
    def max_value(self) -> float:
        """`maxActApprox`, or the largest value of its examples where that is not said; 0 for a dead feature."""
        said = self.row.get("maxActApprox")
        return float(said) if said else max((example.max_value for example in self.examples), default=0.0)

    @property
    def density(self) -> float:
        """`frac_nonzero`: firings per token, 0–1; 0 where it is not said."""
        return float(self.row.get("frac_nonzero") or 0.0)

    @property
    def neighbours(self) -> list[int]:
        """Indices of features near in decoder direction, nearest first."""
        return list(self.row.get("topkCosSimIndices") or ())

    def shown(self, n_examples: int | None) -> "GivenFeature":
        """With its first `n_examples` top contexts only, the largest maximum first; None: as it is."""
        if n_examples is None:
            return self
        top = sorted((example for example in self.examples if example.is_top), key=lambda each: -each.max_value)
        return GivenFeature(self.index, self.row, tuple(top[:n_examples]))


def is_given(packed: bytes) -> bool:
    """Whether a packed row is of this form."""
    return packed[:1] == bytes([PACK_VERSION])


def pack(feature: GivenFeature) -> bytes:
    """Return the packed form; `unpack` gives back every number and text."""
    examples = feature.examples
    names = sorted({name for example in examples for name in example.row})
    columns: dict[str, Any] = {}
    common: dict[str, Any] = {}
    for name in names:
        column = [example.row.get(name) for example in examples]
        if all(value == column[0] and type(value) is type(column[0]) for value in column):
            common[name] = column[0]
        else:
            columns[name] = column
    body = [
        feature.index, feature.row, common, columns, [example.context for example in examples],
        [len(example.positions) for example in examples],
        [at for example in examples for at in example.positions],
        [value for example in examples for value in example.values],
        [len(example.tokens) for example in examples if example.context == OWN],
    ]  # fmt: skip
    text = orjson.dumps(body)
    tokens = pack_tokens([token for example in examples for token in example.tokens])
    return bytes([PACK_VERSION]) + zlib.compress(_LENGTH.pack(len(text)) + text + tokens, _ZLIB_LEVEL)


def unpack(packed: bytes) -> GivenFeature:
    """The feature `pack` was given; raises `ValueError` for another version."""
    if not is_given(packed):
        raise ValueError(f"packed feature of version {packed[:1].hex() or 'none'}; this code reads {PACK_VERSION}")
    raw = zlib.decompress(packed[1:])
    stop = _LENGTH.size + _LENGTH.unpack_from(raw)[0]
    index, row, common, columns, contexts, counts, positions, values, lengths = orjson.loads(raw[_LENGTH.size : stop])
    tokens, n_tokens = iter(unpack_tokens(raw[stop:])), iter(lengths)
    examples = []
    start = 0
    for at, (context, count) in enumerate(zip(contexts, counts, strict=True)):
        stop = start + count
        own = {name: column[at] for name, column in columns.items() if column[at] is not None}
        text = tuple(itertools.islice(tokens, next(n_tokens))) if context == OWN else ()
        examples.append(
            GivenExample(context, tuple(positions[start:stop]), tuple(values[start:stop]), common | own, text)
        )
        start = stop
    return GivenFeature(index, row, tuple(examples))


def fires_on(maxima: Iterable[tuple[str, float]]) -> list[str]:
    """The tokens a feature fires on most strongly: by the sum of their maxima, (token, value), over the top contexts."""
    strength: dict[str, float] = {}
    for text, value in maxima:
        if value > 0:
            strength[text] = strength.get(text, 0.0) + value
    return sorted(strength, key=lambda text: (-strength[text], text))[:N_TOKENS_SHOWN]


def facts(feature: GivenFeature, fires_on: Sequence[str], n_tokens: int) -> FeatureFacts:
    """What the table of features says. Firings are the fraction of the corpus's tokens; of one that is not dead, at least 1."""
    is_alive = feature.max_value > 0 or feature.density > 0 or any(example.values for example in feature.examples)
    n_firings = max(round(feature.density * n_tokens), int(is_alive))
    promotes = list(feature.row.get("pos_str") or ())[:N_TOKENS_SHOWN]
    return FeatureFacts(
        feature.index, n_firings, feature.density, feature.max_value, math.nan, math.nan, fires_on, promotes
    )


def pack_tokens(ids: Sequence[int]) -> bytes:
    """Token ids of a text of an imported corpus: UTF-8 of the characters of those numbers.

    The commonest tokens of a corpus have the smallest ids and so take one byte or two, whatever its vocabulary grows to.
    """
    return "".join(map(chr, ids)).encode("utf-8", "surrogatepass")


def unpack_tokens(tokens: bytes) -> list[int]:
    """The ids `pack_tokens` was given."""
    return list(map(ord, tokens.decode("utf-8", "surrogatepass")))


MAX_TOKENS = 0x110000
"""Different token texts a corpus can have: as many as there are characters."""
