"""SAELens folders: `cfg.json` and `sae_weights.safetensors`, of SAELens 6 (`metadata` nested) and before (flat keys).

Training checkpoints of batch-top-k hold `topk_threshold` instead of `threshold`: one number for all features, in units
of what `rescale_acts_by_decoder_norm` chooses. Llama Scope's later SAEs use the same file names and are told apart.
Sources: sae_lens/saes/*.py and sae_lens/loading/pretrained_sae_loaders.py (handle_pre_6_0_config) of SAELens 6.54.
"""

from pathlib import Path

from backend.formats.saes import json_file, reading, refusals, safetensors_header
from backend.formats.saes.description import Declared
from backend.formats.saes.json_file import Fields
from backend.formats.saes.problems import Problems

CONFIG_NAME = "cfg.json"
STEM = "sae_weights"
_TRANSCODERS = {
    "transcoder": "standard", "skip_transcoder": "standard", "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}  # fmt: skip
HARMLESS_MODEL_KWARGS = {"fold_ln", "center_unembed", "fold_value_biases", "device", "dtype", "n_devices"}
"""They change no residual stream (or only where it is computed); anything else not named below is refused."""
KNOWN_MODEL_CLASSES = {None, "HookedTransformer", "TransformerBridge", "AutoModelForCausalLM", "HookedSAETransformer"}


def is_here(folder: Path) -> bool:
    """The folder has this format's files."""
    return (folder / CONFIG_NAME).is_file() and safetensors_header.find(folder, STEM) is not None


def read(folder: Path, declared: Declared, problems: Problems) -> reading.Draft:
    """What the files say."""
    draft = reading.Draft("saelens")
    with problems.collect():
        draft.config = json_file.read(folder / CONFIG_NAME)
    with problems.collect():
        draft.header, _ = safetensors_header.read(safetensors_header.find(folder, STEM) or folder / STEM)
    config = Fields(draft.config, problems, CONFIG_NAME)
    metadata = config.fields("metadata") if "metadata" in draft.config else config
    _architecture(draft, config, problems)
    for axis in ("d_in", "d_sae"):
        draft.sizes[axis] = config.size(axis)
        if draft.sizes[axis] is None and draft.config:
            problems.append(f"{CONFIG_NAME} does not say '{axis}'.")
    draft.sizes["d_out"] = config.size("d_out")
    draft.hook_point = metadata.text("hook_name") or config.text("hook_point")
    draft.hook_point_out = metadata.text("hook_name_out")
    _normalization(draft, config)
    subtracts = config.flag("apply_b_dec_to_input")
    draft.is_b_dec_subtracted = True if subtracts is None else subtracts
    draft.is_hook_z = config.text("reshape_activations") == "hook_z"
    bos = metadata.flag("prepend_bos")
    draft.prepend_bos = True if bos is None else bos
    draft.context_size = metadata.size("context_size")
    draft.is_centred = _is_centred(metadata, problems)
    if metadata.values.get("seqpos_slice") not in (None, [None]):
        problems.append(f"seqpos_slice {str(metadata.values['seqpos_slice'])[:60]}: {refusals.SEQPOS_SLICE}")
    if config.flag("finetuning_scaling_factor") or "finetuning_scaling_factor" in draft.header:
        problems.append(f"finetuning_scaling_factor: {refusals.FINETUNING_SCALING}")
    return draft


def _architecture(draft: reading.Draft, config: Fields, problems: Problems) -> None:
    """The architecture as canonical, with its k and which tensors it needs."""
    name = config.text("architecture") or "standard"
    activation = config.text("activation_fn_str", "activation_fn") or "relu"
    draft.k = config.size("k") or config.fields("activation_fn_kwargs").size("k")
    if name in _TRANSCODERS:
        draft.is_transcoder = True
        if "skip" in name:
            draft.keys["W_skip"] = "W_skip"
        name = _TRANSCODERS[name]
    elif name == "standard" and activation == "topk":
        name = "topk"
    if activation not in ("relu", "topk"):
        problems.append(refusals.activation(activation))
    draft.architecture = name
    is_scaled = config.flag("rescale_acts_by_decoder_norm") or False
    draft.is_scaled_by_decoder_norm = is_scaled
    draft.keys |= {key: key for key in reading.AXES if key != "W_skip"}
    if "topk_threshold" in draft.header and "threshold" not in draft.header:
        draft.keys["threshold"] = "topk_threshold"
        draft.is_threshold_of_scaled = is_scaled


def _normalization(draft: reading.Draft, config: Fields) -> None:
    given = draft.config.get("normalize_activations")
    if isinstance(given, bool):  # before SAELens 3
        draft.normalize_activations = "expected_average_only_in" if given else "none"
    else:
        draft.normalize_activations = config.text("normalize_activations") or "none"


def _is_centred(metadata: Fields, problems: Problems) -> bool:
    kwargs = metadata.fields("model_from_pretrained_kwargs")
    unknown = sorted(set(kwargs.values) - HARMLESS_MODEL_KWARGS - {"center_writing_weights"})
    problems += [
        f"model_from_pretrained_kwargs '{name[:60]}' would change the model; not supported." for name in unknown
    ]
    class_name = metadata.text("model_class_name")
    if class_name not in KNOWN_MODEL_CLASSES:
        problems.append(f"model_class_name '{str(class_name)[:60]}' is unknown.")
    return kwargs.flag("center_writing_weights") or False
