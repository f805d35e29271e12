"""SAELens folders (`cfg.json` + `sae_weights.safetensors`): what the configuration and the header of the weights say.

Reads headers only, with the standard library, so a web process can check an SAE before any work starts. Every problem
is collected before anything is raised. What is refused comes from one table: what, why, what to do instead.
Formats: SAELens 6 (`metadata` nested) and earlier (flat keys), as read from sae_lens/saes/sae.py and
sae_lens/loading/pretrained_sae_loaders.py of SAELens 6.54.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend import errors, names

CONFIG_NAME = "cfg.json"
WEIGHTS_NAME = "sae_weights.safetensors"

_SHARED_KEYS = {"W_enc": ("d_in", "d_sae"), "W_dec": ("d_sae", "d_in"), "b_dec": ("d_in",)}
WEIGHT_KEYS: dict[str, dict[str, tuple[str, ...]]] = {
    "standard": _SHARED_KEYS | {"b_enc": ("d_sae",)},
    "topk": _SHARED_KEYS | {"b_enc": ("d_sae",)},
    "jumprelu": _SHARED_KEYS | {"b_enc": ("d_sae",), "threshold": ("d_sae",)},
    "gated": _SHARED_KEYS | {"b_gate": ("d_sae",), "b_mag": ("d_sae",), "r_mag": ("d_sae",)},
}
NORMALIZATIONS = frozenset({"none", "constant_norm_rescale", "layer_norm"})

_LATER = "Not supported yet; supported are standard, topk, jumprelu (which batch-top-k is saved as) and gated."
REFUSED_ARCHITECTURES = {
    "abstopk": f"its activations are signed, and dashboards of signed features differ. {_LATER}",
    "batchtopk": "this is SAELens's training form. Save it with SAELens, which writes it as jumprelu.",
    "matryoshka_batchtopk": "this is SAELens's training form. Save it with SAELens, which writes it as jumprelu.",
    "transcoder": f"it reads one hook point and writes another. {_LATER}",
    "skip_transcoder": f"it reads one hook point and writes another. {_LATER}",
    "jumprelu_transcoder": f"it reads one hook point and writes another. {_LATER}",
    "jumprelu_skip_transcoder": f"it reads one hook point and writes another. {_LATER}",
    "temporal": f"its activations depend on earlier positions. {_LATER}",
    "matching_pursuit": f"it encodes by a greedy search without encoder weights. {_LATER}",
}
REFUSED_NORMALIZATIONS = {
    "expected_average_only_in": (
        "the factor is not in the file, and running without it gives wrong activations. "
        "Fold it with SAELens (fold_activation_norm_scaling_factor) and save the SAE again."
    ),
    "covariance_whitening": (
        "the whitening matrices are not in the file. Fold them with SAELens (fold_activation_whitening) and save again."
    ),
}
HARMLESS_MODEL_KWARGS = {"fold_ln", "center_unembed", "fold_value_biases", "device", "dtype", "n_devices"}
"""They change no residual stream (or only where it is computed); anything else not named below is refused."""
KNOWN_MODEL_CLASSES = {None, "HookedTransformer", "TransformerBridge", "AutoModelForCausalLM", "HookedSAETransformer"}


@dataclass(frozen=True, slots=True)
class SaeDescription:
    """What a folder says of itself, checked against its own weights' header."""

    folder: Path
    architecture: str
    hook_point: names.HookPoint
    d_in: int
    d_sae: int
    k: int | None
    """Active features per token, for topk only."""
    is_scaled_by_decoder_norm: bool
    """topk only: pre-activations are multiplied by ‖W_dec‖ before the choice, and so come out scaled."""
    is_b_dec_subtracted: bool
    normalize_activations: str
    is_hook_z: bool
    """The hook's heads are flattened into d_in."""
    prepend_bos: bool
    context_size: int | None
    is_centred: bool
    """The model it was trained on had its writing weights centred (TransformerLens's center_writing_weights)."""
    config: dict[str, Any]
    """cfg.json as found."""


def describe(folder: Path) -> SaeDescription:
    """Read and check the folder's configuration and weight header, or raise with every problem found."""
    config = _read_config(folder)
    metadata = config.get("metadata") or config
    problems: list[str] = []
    architecture = _architecture(config, problems)
    hook = metadata.get("hook_name") or config.get("hook_point") or ""
    hook_point = names.HookPoint(0, "hook_resid_pre")
    try:
        hook_point = names.parse_hook_point(str(hook))
    except errors.InvalidInputError as error:
        problems.append(str(error))
    d_in, d_sae = int(config.get("d_in") or 0), int(config.get("d_sae") or 0)
    problems += _weight_problems(folder / WEIGHTS_NAME, architecture, {"d_in": d_in, "d_sae": d_sae})
    normalization = str(config.get("normalize_activations") or "none")
    if normalization not in NORMALIZATIONS:
        why = REFUSED_NORMALIZATIONS.get(normalization, f"unknown; known are {', '.join(sorted(NORMALIZATIONS))}.")
        problems.append(f"normalize_activations '{normalization}': {why}")
    k = config.get("k") if architecture == "topk" else None
    if architecture == "topk" and not (isinstance(k, int) and 0 < k <= d_sae):
        problems.append(f"k is {k!r}; a topk SAE needs a whole number from 1 to d_sae ({d_sae}).")
    is_centred = _is_centred(metadata, problems)
    if metadata.get("seqpos_slice") not in (None, [None], (None,)):
        problems.append(
            f"seqpos_slice {metadata['seqpos_slice']}: an SAE for some positions only is not supported yet."
        )
    if problems:
        raise errors.UnsupportedError(f"{folder.name} cannot be used: " + " ".join(problems))
    context_size = metadata.get("context_size")
    return SaeDescription(
        folder=folder,
        architecture=architecture,
        hook_point=hook_point,
        d_in=d_in,
        d_sae=d_sae,
        k=k,
        is_scaled_by_decoder_norm=bool(config.get("rescale_acts_by_decoder_norm", False)) and architecture == "topk",
        is_b_dec_subtracted=bool(config.get("apply_b_dec_to_input", True)),
        normalize_activations=normalization,
        is_hook_z=config.get("reshape_activations") == "hook_z" or hook_point.place.endswith("hook_z"),
        prepend_bos=bool(metadata.get("prepend_bos", True)),
        context_size=int(context_size) if context_size else None,
        is_centred=is_centred,
        config=config,
    )


@dataclass(frozen=True, slots=True)
class Contexts:
    """How SAEs want a corpus cut."""

    context_size: int | None
    prepend_bos: bool


def common_contexts(descriptions: Sequence[SaeDescription], context_size: int = 0) -> Contexts:
    """What SAEs that share a forward pass agree on, `context_size` (if not 0) deciding for all of them.

    Raises:
        InvalidInputError: They do not.
    """
    wanted = {Contexts(context_size or each.context_size, each.prepend_bos) for each in descriptions}
    if len(wanted) == 1:
        return wanted.pop()
    if len({each.prepend_bos for each in wanted}) > 1:
        raise errors.InvalidInputError(
            "some of the SAEs were trained with a BOS token before each context and some without.",
            hint="Add them in two commands: one corpus cannot be cut both ways.",
        )
    sizes = sorted({str(each.context_size or "no size") for each in wanted})
    raise errors.InvalidInputError(
        f"the SAEs were trained on contexts of different sizes: {', '.join(sizes)}.",
        hint="Set --context-size, or add them in several commands.",
    )


def folders_of(folder: Path) -> list[Path]:
    """The SAE folder itself, or those in a folder of SAEs (a source set) by name; raises `InvalidInputError`."""
    if (folder / CONFIG_NAME).is_file() or not folder.is_dir():
        return [folder]
    found = sorted(child for child in folder.iterdir() if (child / CONFIG_NAME).is_file())
    if not found:
        raise errors.InvalidInputError(
            f"'{folder}' is no SAE and holds none.", hint=f"Expected {CONFIG_NAME} in it, or in folders in it."
        )
    return found


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_NAME
    if not path.is_file() or not (folder / WEIGHTS_NAME).is_file():
        raise errors.InvalidInputError(
            f"'{folder}' is not an SAELens folder.", hint=f"Expected {CONFIG_NAME} and {WEIGHTS_NAME} in it."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise errors.InvalidInputError(f"{path} is not JSON: {error}.") from error
    if not isinstance(config, dict):
        raise errors.InvalidInputError(f"{path} holds a {type(config).__name__}; expected an object.")
    return config


def _architecture(config: dict[str, Any], problems: list[str]) -> str:
    architecture = str(config.get("architecture") or "standard")
    activation = config.get("activation_fn_str") or config.get("activation_fn") or "relu"
    if architecture == "standard" and activation == "topk":
        architecture = "topk"
        config["k"] = (config.get("activation_fn_kwargs") or {}).get("k")
    elif architecture in WEIGHT_KEYS and activation not in ("relu", "topk"):
        problems.append(f"activation function '{activation}': only relu and topk are supported.")
    if architecture in REFUSED_ARCHITECTURES:
        problems.append(f"architecture '{architecture}': {REFUSED_ARCHITECTURES[architecture]}")
    elif architecture not in WEIGHT_KEYS:
        problems.append(f"architecture '{architecture}' is unknown. {_LATER}")
    return architecture


def _is_centred(metadata: dict[str, Any], problems: list[str]) -> bool:
    kwargs = metadata.get("model_from_pretrained_kwargs") or {}
    unknown = sorted(set(kwargs) - HARMLESS_MODEL_KWARGS - {"center_writing_weights"})
    problems += [
        f"model_from_pretrained_kwargs '{name}' would change the model; not supported yet." for name in unknown
    ]
    if metadata.get("model_class_name") not in KNOWN_MODEL_CLASSES:
        problems.append(f"model_class_name '{metadata['model_class_name']}' is unknown.")
    return bool(kwargs.get("center_writing_weights", False))


def read_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Tensor name → (dtype, shape) from a safetensors file, reading its header only."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        n_bytes = struct.unpack("<Q", first)[0] if len(first) == 8 else -1
        if not 0 < n_bytes <= min(size - 8, 100_000_000):
            raise errors.InvalidInputError(f"{path.name} is not a safetensors file.")
        try:
            header = json.loads(file.read(n_bytes))
            end = 8 + n_bytes + max((t["data_offsets"][1] for n, t in header.items() if n != "__metadata__"), default=0)
            tensors = {n: (str(t["dtype"]), tuple(t["shape"])) for n, t in header.items() if n != "__metadata__"}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise errors.InvalidInputError(f"{path.name} has a broken safetensors header.") from error
    if end != size:
        raise errors.InvalidInputError(f"{path.name} has {size} bytes; its header says {end}. Copy it again.")
    return tensors


def _weight_problems(path: Path, architecture: str, sizes: dict[str, int]) -> list[str]:
    header = read_header(path)
    problems = []
    for key, axes in WEIGHT_KEYS.get(architecture, {}).items():
        expected = tuple(sizes[axis] for axis in axes)
        if key not in header:
            problems.append(f"{path.name} has no tensor '{key}'.")
        elif header[key][1] != expected:
            problems.append(f"'{key}' has shape {header[key][1]}; cfg.json says {expected} ({' × '.join(axes)}).")
    return problems
