"""One safetensors file of an SAE's tensors by name; what else must be known is declared, or in its `__metadata__`.

Names are SAELens's (`W_enc W_dec b_enc b_dec threshold b_gate b_mag r_mag W_skip`), in any case, or those of torch.nn.Linear
modules called encoder and decoder, which are transposed. Biases may be missing (zero), and one of the matrices (the
other, transposed). `__metadata__` may hold every field of `Declared` as text.
"""

import dataclasses
import json
from pathlib import Path

from backend.formats.saes import json_file, reading, safetensors_header
from backend.formats.saes.description import Declared
from backend.formats.saes.json_file import Fields
from backend.formats.saes.problems import Problems

_LINEAR = {"encoder.weight": "W_enc", "decoder.weight": "W_dec", "encoder.bias": "b_enc", "decoder.bias": "b_dec"}
_INDEX = ".safetensors.index.json"


def is_here(folder: Path) -> bool:
    """The folder has one safetensors file, or one index of shards."""
    return _file(folder) is not None


def _file(folder: Path) -> Path | None:
    indexes = sorted(path for path in folder.glob(f"*{_INDEX}") if path.is_file())
    found = indexes or sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    return found[0] if len(found) == 1 else None


def read(folder: Path, declared: Declared, problems: Problems) -> reading.Draft:
    """What the file says."""
    draft = reading.Draft("plain", optional=frozenset({"b_enc", "b_dec"}))
    path = _file(folder)
    if path is None:
        problems.append("The folder holds no safetensors file, or several without an index; expected one.")
        return draft
    metadata: dict[str, str] = {}
    with problems.collect():
        draft.header, metadata = safetensors_header.read(path)
    _name_tensors(draft, problems)
    _read_metadata(draft, metadata, path.name, problems)
    return draft


def _name_tensors(draft: reading.Draft, problems: Problems) -> None:
    canonical = {name.lower(): name for name in reading.AXES}
    transposed = set()
    for key in draft.header:
        name = _LINEAR.get(key) or canonical.get(key.lower())
        if name is None:
            problems.append(f"The tensor '{key[:60]}' is none an SAE has; leave it out.")
        elif name in draft.keys:
            problems.append(f"'{key[:60]}' and '{draft.keys[name][:60]}' are both {name}; keep one.")
        else:
            draft.keys[name] = key
            if key in ("encoder.weight", "decoder.weight"):
                transposed.add(name)
    for name, other in (("W_enc", "W_dec"), ("W_dec", "W_enc")):
        if name not in draft.keys and other in draft.keys:
            draft.keys[name] = draft.keys[other]
            transposed ^= {name} if other not in transposed else set()
    draft.transposed = frozenset(transposed)
    if "b_gate" in draft.keys:
        draft.architecture = "gated"
    elif "threshold" in draft.keys:
        draft.architecture = "jumprelu"
    draft.is_transcoder = "W_skip" in draft.keys


def _read_metadata(draft: reading.Draft, metadata: dict[str, str], file: str, problems: Problems) -> None:
    known = {each.name for each in dataclasses.fields(Declared)}
    values: dict[str, object] = {}
    for name, text in metadata.items():
        if name in known:
            with problems.collect():
                values |= json_file.parse(_as_json(name, text).encode(), f"__metadata__ of {file}")
    draft.config = dict(values)
    said = Fields(draft.config, problems, file)
    draft.architecture = said.text("activation") or draft.architecture
    draft.hook_point, draft.hook_point_out = said.text("hook_point"), said.text("hook_point_out")
    draft.k, draft.context_size = said.size("k"), said.size("context_size")
    draft.threshold, draft.input_factor = said.number("threshold"), said.number("norm_scaling_factor")
    draft.normalize_activations = said.text("normalize_activations") or "none"
    bos, subtracts = said.flag("prepend_bos"), said.flag("apply_b_dec_to_input")
    draft.prepend_bos = True if bos is None else bos
    draft.is_b_dec_subtracted = True if subtracts is None else subtracts


def _as_json(name: str, text: str) -> str:
    """Metadata are texts; those of numbers and truth values are read as JSON, others are texts themselves."""
    is_text = name in ("format", "hook_point", "hook_point_out", "activation", "normalize_activations")
    return json.dumps({name: text}) if is_text else f'{{"{name}": {text}}}'
