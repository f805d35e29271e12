"""Rows of other tools' files, as they come: what is kept of each, and what is put right on the way in.

Reads lines of Neuronpedia's exports and features of SAEDashboard's batches into one shape: a `Neuron` row, and examples
of token span, values and the rest. The tokens of a line are not parsed: the bytes between their brackets name the text,
and the same text stands under many features. `Counts` says what was put right.

Keys and traps: hijohnnylin/neuronpedia at ebb8426f, `utils/neuronpedia-utils/neuronpedia_utils/export-data.py` and
`convert-saedashboard-to-neuronpedia-export.py`; jbloomAus/SAEDashboard, `sae_dashboard/neuronpedia`.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import compress
from typing import Any, NamedTuple

import orjson

from backend import errors

Row = dict[str, Any]

NEURON_LISTS = (
    "vector", "topkCosSimIndices", "topkCosSimValues", "neuron_alignment_indices", "neuron_alignment_values",
    "neuron_alignment_l1", "correlated_neurons_indices", "correlated_neurons_pearson", "correlated_neurons_l1",
    "correlated_features_indices", "correlated_features_pearson", "correlated_features_l1", "neg_str", "neg_values",
    "pos_str", "pos_values", "freq_hist_data_bar_heights", "freq_hist_data_bar_values", "logits_hist_data_bar_heights",
    "logits_hist_data_bar_values", "decoder_weights_dist",
)  # fmt: skip
NEURON_NUMBERS = (
    "maxActApprox", "frac_nonzero", "vectorDefaultSteerStrength", "umap_cluster", "umap_log_feature_sparsity",
    "umap_x", "umap_y",
)  # fmt: skip
NEURON_OTHERS = ("hasVector", "vectorLabel", "hookName", "creatorId", "createdAt")
ACTIVATION_LISTS = ("dfaValues", "zQIndices", "zKIndices", "zValues", "lossValues", "documents")
ACTIVATION_NUMBERS = (
    "maxValue", "maxValueTokenIndex", "minValue", "dfaTargetIndex", "dfaMaxValue", "binMin", "binMax", "binContains",
    "qualifyingTokenIndex",
)  # fmt: skip
ACTIVATION_OTHERS = ("id", "dataIndex", "dataSource", "creatorId", "createdAt", "logitContributions")
_PLACE = frozenset(("modelId", "layer", "index", "sourceSetName", "source"))
KNOWN_NEURON = frozenset((*NEURON_LISTS, *NEURON_NUMBERS, *NEURON_OTHERS, *_PLACE))
KNOWN_ACTIVATION = frozenset((*ACTIVATION_LISTS, *ACTIVATION_NUMBERS, *ACTIVATION_OTHERS, *_PLACE, "tokens", "values"))
_OF_DASHBOARD = {
    "bin_min": "binMin", "bin_max": "binMax", "bin_contains": "binContains", "dfa_values": "dfaValues",
    "qualifying_token_index": "qualifyingTokenIndex", "dfa_targetIndex": "dfaTargetIndex", "dfa_maxValue": "dfaMaxValue",
    "loss_values": "lossValues", "logit_contributions": "logitContributions",
}  # fmt: skip
"""SAEDashboard's names of an example's keys."""
_OF_CORPUS = ("n_prompts_total", "n_tokens_in_prompt", "dataset")
_INFINITE = 9999.0
"""What SAELens's older dumps write for an infinite number."""
_TOKENS = b'"tokens":'
_END = re.compile(rb'"\s*\]\s*,\s*"[A-Za-z_]')
"""Where a list of texts ends and another key begins: inside the list no quote is followed so, whatever the texts are."""
MAX_INDEX = 2**31 - 1


@dataclass(slots=True)
class Counts:
    """What was put right, and what nobody knows."""

    put_right: Counter[str] = field(default_factory=Counter)
    """By what it was, in words."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Keys that are kept and written out again, and shown nowhere."""


class Text(NamedTuple):
    """An example as it was read."""

    feature: int
    """Its index."""
    span: bytes
    """JSON of its tokens, as it came."""
    positions: list[int]
    values: list[float]
    n_values: int
    """Zeros included: as many as it has tokens."""
    row: Row


def activation(line: bytes, counts: Counts) -> Text:
    """An `Activation` row; raises `ValueError` where it is none."""
    start = line.find(_TOKENS)
    if start < 0:
        return _example(_loads(line, counts), None, counts)
    at = start + len(_TOKENS)
    stop = line.find(b'"],"', at)
    is_plain = stop > 0 and (chr(line[stop + 4]).isalpha() if stop + 4 < len(line) else False)
    if not is_plain:
        found = _END.search(line, at)
        if found is None:
            return _example(_loads(line, counts), None, counts)
        stop = found.start()
    end = line.index(b"]", stop) + 1
    try:
        row = orjson.loads(line[:at] + b"0" + line[end:])
    except orjson.JSONDecodeError:
        return _example(_loads(line, counts), None, counts)
    return _example(row, line[at:end].strip(), counts)


def _example(row: Row, span: bytes | None, counts: Counts) -> Text:
    if not isinstance(row, dict):
        raise ValueError("a line is an object with the keys of an activation")
    values = row.pop("values", None)
    tokens = row.pop("tokens", None)
    if span is None:
        span = orjson.dumps(_texts(tokens))
    if not isinstance(values, list):
        raise ValueError("'values' is a list of numbers")
    positions = list(compress(range(len(values)), values))
    firing = list(filter(None, values))
    try:
        low, high = (min(firing), max(firing)) if firing else (0.0, 0.0)
    except TypeError as error:
        raise ValueError("'values' is a list of numbers") from error
    if not isinstance(low, float | int):
        raise ValueError("'values' is a list of numbers")
    index = index_of(row)
    if len(firing) < len(values):
        low, high = min(low, 0.0), max(high, 0.0)
    if row.get("minValue") == low:
        del row["minValue"]
    if row.get("maxValue") == high:
        del row["maxValue"]
    if values and row.get("maxValueTokenIndex") == (
        positions[firing.index(high)] if high in firing else _zero(positions)
    ):
        del row["maxValueTokenIndex"]
    return Text(index, span, positions, firing, len(values), _kept(row, KNOWN_ACTIVATION, counts))


def _zero(positions: list[int]) -> int:
    """The first position whose value is zero: what is largest where nothing is above."""
    taken = set(positions)
    return next(at for at in range(len(positions) + 1) if at not in taken)


def neuron(line: bytes, counts: Counts) -> tuple[int, Row]:
    """Index and rest of a `Neuron` row; raises `ValueError` where it is none."""
    row = _loads(line, counts)
    if not isinstance(row, dict):
        raise ValueError("a line is an object with the keys of a feature")
    return _neuron(row, counts)


def _neuron(row: Row, counts: Counts) -> tuple[int, Row]:
    index = index_of(row)
    for name in NEURON_LISTS:
        given = row.get(name)
        if given is not None and not isinstance(given, list):
            raise ValueError(f"'{name}' is a list, not {given!r:.60}")
    for name in NEURON_NUMBERS:
        given = row.get(name)
        if isinstance(given, str):
            row[name] = float(given)
    for texts, numbers in (("pos_str", "pos_values"), ("neg_str", "neg_values")):
        if len(row.get(texts) or ()) != len(row.get(numbers) or ()):
            raise ValueError(f"'{texts}' and '{numbers}' are of one length")
    for heights, values in (
        ("freq_hist_data_bar_heights", "freq_hist_data_bar_values"),
        ("logits_hist_data_bar_heights", "logits_hist_data_bar_values"),
    ):
        if len(row.get(heights) or ()) != len(row.get(values) or ()):
            raise ValueError(f"'{heights}' and '{values}' are of one length")
    return index, _kept(row, KNOWN_NEURON, counts)


@dataclass(frozen=True, slots=True)
class DashboardFeature:
    """One feature of a batch of SAEDashboard's."""

    index: int
    row: Row
    """As a `Neuron` row."""
    texts: list[Text]
    corpus: Row
    """What it says of its corpus: n_prompts_total, n_tokens_in_prompt, dataset."""


def of_dashboard(feature: Row, place: str, counts: Counts) -> DashboardFeature:
    """A feature of SAEDashboard's raw output; raises `ValueError` where it is none.

    `place` is the hook point of vectors, `blocks.{layer}.{hook}`, where the file tells one.
    """
    feature = _put_right(feature, counts)
    examples = feature.pop("activations", None)
    if not isinstance(examples, list):
        raise ValueError("'activations' is a list")
    index = index_of(feature, "feature_index")
    feature.pop("feature_index")
    corpus = {name: feature.pop(name) for name in _OF_CORPUS if feature.get(name) is not None}
    texts = [_dashboard_text(index, example, counts) for example in examples]
    largest = max((max(text.values, default=0.0) for text in texts), default=0.0)
    row = feature | {"index": index, "maxActApprox": largest}
    if feature.get("vector"):
        row |= {"hasVector": True, "vectorDefaultSteerStrength": largest}
        if place:
            row["hookName"] = place
    return DashboardFeature(index, _neuron(row, counts)[1], texts, corpus)


def _dashboard_text(index: int, example: Row, counts: Counts) -> Text:
    if not isinstance(example, dict):
        raise ValueError("an activation is an object")
    row = {_OF_DASHBOARD.get(name, name): value for name, value in example.items()}
    contributions = row.get("logitContributions")
    if contributions is not None and not isinstance(contributions, str):
        row["logitContributions"] = json.dumps(contributions)
    return _example(row | {"index": index}, None, counts)


def index_of(row: Row, name: str = "index") -> int:
    """A feature's index, a number or its digits; raises `ValueError`."""
    given = row.get(name)
    if isinstance(given, str) and given.isascii() and given.isdigit():
        given = int(given)
    if isinstance(given, float) and given.is_integer():
        given = int(given)
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given <= MAX_INDEX:
        raise ValueError(f"'{name}' is the number of a feature, not {given!r:.60}")
    return given


def tokens(span: bytes, counts: Counts) -> list[str]:
    """The texts of a span; raises `ValueError`."""
    return _texts(_loads(span, counts))


def _texts(given: Any) -> list[str]:
    if not isinstance(given, list) or not set(map(type, given)) <= {str}:
        raise ValueError("'tokens' is a list of texts")
    return given


def parsed(line: bytes) -> Row:
    """A row of any kind; raises `ValueError` where it is no object."""
    row = _loads(line, Counts())
    if not isinstance(row, dict):
        raise ValueError("a line is a JSON object")
    return row


def lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Lines that are not empty, of bytes that come in pieces."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            if line and not line.isspace():
                yield line
    if rest and not rest.isspace():
        yield rest


def unreadable(name: str, n: int, error: ValueError, *, unit: str = "line") -> errors.InvalidInputError:
    """What to tell of the `n`-th line of a file, or another unit of it, that cannot be read."""
    return errors.InvalidInputError(
        f"{name}, {unit} {n:,}: {error}.", hint="Nothing of it is imported. Export or download the file again."
    )


def _kept(row: Row, known: frozenset[str], counts: Counts) -> Row:
    """What says something."""
    kept = {name: value for name, value in row.items() if value is not None and value != [] and name not in _PLACE}
    if not kept.keys() <= known:
        counts.unknown.update(kept.keys() - known)
    return kept


def _loads(data: bytes, counts: Counts) -> Any:
    """JSON, also with NaN and with halves of surrogate pairs, which stand for bytes of no character."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return _put_right(json.loads(data.decode("utf-8", "replace")), counts)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON ({error})") from error


def _put_right(value: Any, counts: Counts) -> Any:
    """NaN and infinities as numbers that JSON has, halves of surrogate pairs as the sign for no character."""
    if isinstance(value, str) and not value.isascii():
        good = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if good != value:
            counts.put_right["text that is no Unicode"] += 1
        return good
    if isinstance(value, float) and not math.isfinite(value):
        counts.put_right["number that is not finite"] += 1
        return 0.0 if math.isnan(value) else math.copysign(_INFINITE, value)
    if isinstance(value, list):
        return [_put_right(each, counts) for each in value]
    if isinstance(value, dict):
        return {_put_right(name, counts): _put_right(each, counts) for name, each in value.items()}
    return value
