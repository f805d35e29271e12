"""A process that reads files of imports and packs features, beside others like it: `python -m workers.import_reader`.

Tasks come as lines of JSON and are answered by lines of JSON: {"at": bytes or features done} while one is at work, then its
result, or {"error": …, "is_input": …}. It ends when nobody is left to send any. Knows neither database nor torch, so it
starts at once and stays small.
"""

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from backend import errors
from backend.formats import array_file, copy_rows, given, import_files, import_parts, neuronpedia_rows
from backend.formats.import_files import Opened
from backend.formats.import_parts import Builder, Numbering, Part
from backend.import_places import Folder, Web

MAX_PART_BYTES = 12_000_000
"""Of what is gathered before it is written: a file that is larger becomes several parts."""
_SAY_EVERY_S = 0.2
_ANY_ID = {"id": None}
"""An export anew has others."""
Say = Callable[[dict[str, Any]], None]


def main() -> None:
    """Do tasks until there is no more line."""
    for line in sys.stdin:
        task = json.loads(line)
        try:
            _say({"result": _TASKS[task.pop("do")](**task, say=_say)})
        except errors.SiteError as error:
            _say({"error": str(error), "is_input": True})
        except Exception as error:  # noqa: BLE001 - whoever sent the task raises it again
            _say({"error": f"{type(error).__name__}: {error}", "is_input": False})


def read(*, place: dict[str, str], name: str, what: import_files.What, out: str, say: Say) -> dict[str, Any]:
    """Read a data file into parts `out`-0, `out`-1, …; what was found in it."""
    where = Folder(Path(place["folder"])) if "folder" in place else Web(place["url"])
    hasher = sha256()
    progress = _Progress(say)
    parts: list[str] = []
    builder = Builder()
    found: dict[str, Any] = {"corpus": {}, "put_right": {}, "unknown": {}, "n_rows": 0}

    def write() -> None:
        nonlocal builder
        path = f"{out}-{len(parts)}"
        builder.write(Path(path))
        parts.append(path)
        for key, counts in (("put_right", builder.counts.put_right), ("unknown", builder.counts.unknown)):
            for each, n in counts.items():
                found[key][each] = found[key].get(each, 0) + n
        builder = Builder()

    with import_files.opened(where, name, on_bytes=progress.add, hasher=hasher) as opened:
        items, take = _batch(opened, name) if what == "batch" else _lines(opened, what)
        try:
            for item in items:
                found["n_rows"] += 1
                found["corpus"] |= take(builder, item)
                if builder.n_bytes > MAX_PART_BYTES:
                    write()
        except ValueError as error:
            unit = "feature" if what == "batch" else "line"
            raise neuronpedia_rows.unreadable(name, found["n_rows"], error, unit=unit) from error
        write()
        return found | {"parts": parts, "n_bytes": opened.n_bytes, "sha256": hasher.hexdigest()}


Items = tuple[Iterator[Any], Callable[[Builder, Any], dict[str, Any]]]
"""What a file holds, one by one, and what adds one of them to a builder and answers what it says of the corpus."""


def _lines(opened: Opened, what: import_files.What) -> Items:
    def add_neuron(builder: Builder, line: bytes) -> dict[str, Any]:
        builder.add_neuron(*neuronpedia_rows.neuron(line, builder.counts))
        return {}

    def add_text(builder: Builder, line: bytes) -> dict[str, Any]:
        builder.add_text(neuronpedia_rows.activation(line, builder.counts))
        return {}

    return neuronpedia_rows.lines(opened.pieces()), add_neuron if what == "features" else add_text


def _batch(opened: Opened, name: str) -> Items:
    data = b"".join(opened.pieces())
    head = import_files.batch_head(data, name)
    hook = head.get("hook_point")
    place = f"blocks.{head.get('layer')}.{hook}" if hook else ""

    def add(builder: Builder, row: dict[str, Any]) -> dict[str, Any]:
        feature = neuronpedia_rows.of_dashboard(row, place, builder.counts)
        builder.add_neuron(feature.index, feature.row)
        for each in feature.texts:
            builder.add_text(each)
        return feature.corpus

    return import_files.batch_features(data.decode("utf-8", "replace"), name), add


def pack(
    *,
    parts: Sequence[str],
    maps: str,
    old: str,
    first: int,
    n: int,
    revision_id: int,
    n_tokens: int,
    out: str,
    say: Say,
) -> dict[str, Any]:
    """Features `first` to `first + n`, from all parts, as rows that COPY takes: `out`.features and `out`.dashboards.

    Of a feature that is in `old` already, what the parts do not speak of stays: its row's other keys, its texts.
    """
    numbering, all_parts = _opened(maps, tuple(parts))
    opened, numbers, own = [], [], []
    for i, (part, there) in enumerate(all_parts):
        there = there[(there >= first) & (there < first + n)]
        if len(there):
            opened.append(part)
            numbers.append(numbering.of_part(i))
            own.append(there)
    indices = np.unique(np.concatenate(own)) if own else np.zeros(0, np.int64)
    earlier = array_file.read(Path(old)).arrays
    progress = _Progress(say)
    n_texts = 0
    with Path(f"{out}.features").open("wb") as features, Path(f"{out}.dashboards").open("wb") as dashboards:
        for file in (features, dashboards):
            file.write(copy_rows.HEADER)
        for index in indices.tolist():
            feature, fires_on = _feature(index, opened, numbers, numbering)
            packed = import_parts.entry(earlier, "packed", index)
            if packed is not None:
                known = given.unpack(packed)
                if not feature.examples:
                    fires_on = orjson.loads(import_parts.entry(earlier, "fires_on", index) or b"[]")
                feature = given.GivenFeature(index, {**known.row, **feature.row}, feature.examples or known.examples)
            n_texts += len(feature.examples)
            features.write(copy_rows.feature(revision_id, given.facts(feature, fires_on, n_tokens)))
            dashboards.write(copy_rows.dashboard(revision_id, index, given.pack(feature)))
            progress.add(1)
        for file in (features, dashboards):
            file.write(copy_rows.END)
    return {"n_features": len(indices), "n_texts": n_texts}


def _feature(
    index: int, parts: Sequence[Part], numbers: Sequence[Any], numbering: Numbering
) -> tuple[given.GivenFeature, list[str]]:
    """The feature, and the tokens it fires on most strongly. Of a row that is there twice, as after an export anew, one."""
    row: dict[str, Any] = {}
    examples: list[given.GivenExample] = []
    known: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    maxima: list[tuple[str, float]] = []
    for part, of_part in zip(parts, numbers, strict=True):
        row |= part.neuron(index) or {}
        for number, positions, values, rest in part.texts(index):
            context = int(of_part[number])
            ids = numbering.ids(context)
            own = () if context >= 0 or ids is None else tuple(ids.tolist())
            example = given.GivenExample(max(context, given.OWN), tuple(positions), tuple(values), rest, own)
            alike = known.setdefault((context, example.positions, example.values), [])
            if alike and (rest | _ANY_ID) in alike:
                continue
            alike.append(rest | _ANY_ID)
            examples.append(example)
            if example.is_top and (at := example.max_position) is not None:
                known_text = numbering.token(context, at)
                text = part.tokens(number, neuronpedia_rows.Counts())[at] if known_text is None else known_text
                maxima.append((text, example.max_value))
    return given.GivenFeature(index, row, tuple(examples)), given.fires_on(maxima)


@functools.lru_cache(maxsize=1)
def _opened(maps: str, parts: tuple[str, ...]) -> tuple[Numbering, list[tuple[Part, NDArray[np.int64]]]]:
    """The parts and the features of each, opened once for all tasks of a shard; the merge has checked them."""
    opened = [import_parts.read(Path(path), is_checked=False) for path in parts]
    return import_parts.read_merged(Path(maps)), [(part, part.features) for part in opened]


class _Progress:
    """Says how far a task is, not too often."""

    def __init__(self, say: Say) -> None:
        self._say, self._n, self._said_at = say, 0, time.monotonic()

    def add(self, n: int) -> None:
        self._n += n
        now = time.monotonic()
        if now - self._said_at > _SAY_EVERY_S:
            self._said_at = now
            self._say({"at": self._n})


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


_TASKS: dict[str, Callable[..., dict[str, Any]]] = {"read": read, "pack": pack}

if __name__ == "__main__":
    main()
