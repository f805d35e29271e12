"""dictionary_learning: `ae.pt`, a state dict, and `config.json` with what its trainer was told.

Every class the package loads (`load_dictionary`) but its identity; the class tells keys and encoder.
Source: dictionary_learning/dictionary.py, trainers/*.py and utils.py of dictionary-learning 0.1.0.
"""

from pathlib import Path
from typing import NamedTuple

from backend.formats.saes import hook_names, json_file, reading, refusals, torch_header
from backend.formats.saes.description import Declared
from backend.formats.saes.json_file import Fields
from backend.formats.saes.problems import Problems

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "ae.pt"


class _Class(NamedTuple):
    architecture: str
    keys: dict[str, str]
    is_linear: bool = True
    """Its matrices are those of torch.nn.Linear: (out, in)."""
    is_b_dec_subtracted: bool = True


_LINEAR = {"W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_enc": "encoder.bias"}
_PLAIN = {name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")}
_GATED = {"b_dec": "decoder_bias", "b_gate": "gate_bias", "b_mag": "mag_bias", "r_mag": "r_mag"}
CLASSES = {
    "AutoEncoder": _Class("standard", _LINEAR | {"b_dec": "bias"}),
    "AutoEncoderNew": _Class("standard", _LINEAR | {"b_dec": "decoder.bias"}, is_b_dec_subtracted=False),
    "GatedAutoEncoder": _Class("gated", _LINEAR | _GATED),
    "AutoEncoderTopK": _Class("topk", _LINEAR | {"b_dec": "b_dec"}),
    "BatchTopKSAE": _Class("batchtopk", _LINEAR | {"b_dec": "b_dec", "threshold": "threshold"}),
    "MatryoshkaBatchTopKSAE": _Class("matryoshka_batchtopk", _PLAIN, is_linear=False),
    "JumpReluAutoEncoder": _Class("jumprelu", _PLAIN, is_linear=False, is_b_dec_subtracted=False),
}
_SUBMODULES = {"resid_post": "hook_resid_post", "mlp_out": "hook_mlp_out", "attention_out": "hook_attn_out"}


def is_here(folder: Path) -> bool:
    """The folder has this format's file."""
    return (folder / WEIGHTS_NAME).is_file()


def read(folder: Path, declared: Declared, problems: Problems) -> reading.Draft:
    """What the files say."""
    draft = reading.Draft("dictionary_learning")
    with problems.collect():
        draft.config = json_file.read(folder / CONFIG_NAME)
    with problems.collect():
        draft.header = torch_header.read(folder / WEIGHTS_NAME).tensors
    config = Fields(draft.config, problems, CONFIG_NAME)
    trainer = config.fields("trainer")
    name = trainer.text("dict_class")
    if name not in CLASSES:
        problems.append(f"dict_class '{str(name)[:60]}' is unknown; known are {', '.join(CLASSES)}.")
        return draft
    kind = CLASSES[name]
    draft.architecture, draft.keys = kind.architecture, dict(kind.keys)
    draft.is_b_dec_subtracted = kind.is_b_dec_subtracted
    draft.transposed = frozenset({"W_enc", "W_dec"}) if kind.is_linear else frozenset()
    draft.sizes = {"d_in": trainer.size("activation_dim"), "d_sae": trainer.size("dict_size")}
    draft.k = trainer.size("k")
    draft.hook_point = _hook_point(trainer)
    draft.context_size = config.fields("buffer").size("ctx_len")
    if trainer.values.get("norm_factor") is not None:
        problems.append(f"norm_factor: {refusals.NORMALIZATIONS['expected_average_only_in']}")
    return draft


def _hook_point(trainer: Fields) -> str | None:
    layer, submodule = trainer.number("layer"), trainer.text("submodule_name")
    if layer is None or not layer.is_integer() or layer < 0:
        return None if submodule is None else hook_names.of_module(submodule)
    place = next((place for name, place in _SUBMODULES.items() if (submodule or "resid_post").startswith(name)), None)
    return None if place is None else f"blocks.{int(layer)}.{place}"
