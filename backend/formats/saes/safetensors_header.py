"""Headers of safetensors files, one or several that an index joins.

Offsets must tile the data: no gap, no overlap, nothing after the last. Source: the format's specification in
github.com/huggingface/safetensors, README.md.
"""

import itertools
import struct
from pathlib import Path
from typing import Any

from backend import errors
from backend.formats.saes import json_file, tensor

MAX_HEADER_BYTES = json_file.MAX_BYTES
MAX_SHARDS = 256


def find(folder: Path, stem: str) -> Path | None:
    """The file `stem`.safetensors or the index of its shards."""
    candidates = (folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json")
    return next((path for path in candidates if path.is_file()), None)


def read(path: Path) -> tuple[dict[str, tensor.Tensor], dict[str, str]]:
    """Tensors by name and the texts of `__metadata__`, of a file or of all files of an index.

    Raises:
        InvalidInputError: It is no such file, or broken.
    """
    return _read_index(path) if path.name.endswith(".index.json") else _read_file(path)


def _read_file(path: Path) -> tuple[dict[str, tensor.Tensor], dict[str, str]]:
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        n_bytes = struct.unpack("<Q", first)[0] if len(first) == 8 else -1
        if not 0 < n_bytes <= min(size - 8, MAX_HEADER_BYTES):
            raise errors.InvalidInputError(f"{path.name} is not a safetensors file.", hint="Save or copy it again.")
        header = json_file.parse(file.read(n_bytes), f"the header of {path.name}")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise errors.InvalidInputError(f"{path.name} has __metadata__ that is no object of texts.")
    found, spans = {}, []
    for name, entry in header.items():
        found[name], span = _entry(path.name, name, entry)
        spans.append(span)
    spans.sort()
    ends = [0, *(end for _, end in spans)]
    if any(start != end for (start, _), end in zip(spans, itertools.islice(ends, len(spans)), strict=True)):
        raise errors.InvalidInputError(f"{path.name} has tensors that overlap or leave gaps.", hint="Save it again.")
    if 8 + n_bytes + ends[-1] != size:
        raise errors.InvalidInputError(
            f"{path.name} has {size} bytes; its header says {8 + n_bytes + ends[-1]}.", hint="Copy it again."
        )
    return found, metadata


def _entry(file: str, name: str, entry: Any) -> tuple[tensor.Tensor, tuple[int, int]]:
    values = entry if isinstance(entry, dict) else {}
    found = tensor.checked(file, name, values.get("dtype"), values.get("shape"))
    match values.get("data_offsets"):
        case [int(start), int(end)] if 0 <= start <= end:
            pass
        case _:
            raise errors.InvalidInputError(f"{file} has a broken header at '{name[:80]}'.", hint="Save it again.")
    needed = tensor.n_bytes(found)
    if needed is not None and end - start != needed:
        raise errors.InvalidInputError(
            f"{file}: '{name[:80]}' takes {end - start} bytes; its shape and dtype need {needed}.",
            hint="Save it again.",
        )
    return found, (start, end)


def _read_index(path: Path) -> tuple[dict[str, tensor.Tensor], dict[str, str]]:
    weight_map = json_file.read(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise errors.InvalidInputError(f"{path.name} has no weight_map.", hint="Save the SAE again.")
    files = {str(file) for file in weight_map.values()}
    bad = sorted(file for file in files if Path(file).name != file or not file.endswith(".safetensors"))
    if bad or len(files) > MAX_SHARDS:
        raise errors.InvalidInputError(f"{path.name} names files that are no shards beside it: {bad[:3]}.")
    missing = sorted(file for file in files if not (path.parent / file).is_file())
    if missing:
        raise errors.InvalidInputError(
            f"{path.name} names {', '.join(missing[:5])}, not there.", hint="Add all shards."
        )
    headers = {file: _read_file(path.parent / file) for file in sorted(files)}
    absent = sorted(name for name, file in weight_map.items() if name not in headers[str(file)][0])
    if absent:
        raise errors.InvalidInputError(f"{path.name} names tensors its shards lack: {', '.join(absent[:5])}.")
    metadata = {key: text for _, found in headers.values() for key, text in found.items()}
    return {name: headers[str(file)][0][name] for name, file in weight_map.items()}, metadata
