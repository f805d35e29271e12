"""Llama Scope: `hyperparams.json` and `checkpoints/final.safetensors`, and its later `config.json` beside `sae_weights`.

Activations were multiplied by s = √d_in ÷ their average norm in training. The encoder's pre-activation of the scaled
input is compared with T·s, where T is `jump_relu_threshold`: the authors' inference divides b_enc by s instead and keeps T.
With `sparsity_include_decoder_norm` it is multiplied by ‖W_dec‖ before. Later SAEs hold a logarithm for each feature.
Sources: standardize_parameters_of_dataset_norm and encode in src/lm_saes/sae.py of OpenMOSS/Language-Model-SAEs
(84de36e4); the names of files and keys are those of the loaders of SAELens 6.54.
"""

from pathlib import Path

from backend.formats.saes import json_file, reading, refusals, safetensors_header
from backend.formats.saes.description import Declared
from backend.formats.saes.json_file import Fields
from backend.formats.saes.problems import Problems

_KEYS = {"W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_enc": "encoder.bias", "b_dec": "decoder.bias"}
_ACTIVATIONS = {"jumprelu": "jumprelu", "relu": "standard", "topk": "topk", "batchtopk": "batchtopk"}


def is_here(folder: Path) -> bool:
    """The folder has this format's files, of either generation."""
    return _files(folder) is not None


def _files(folder: Path) -> tuple[Path, Path] | None:
    for config, subfolder, stem in (("hyperparams.json", "checkpoints", "final"), ("config.json", ".", "sae_weights")):
        weights = safetensors_header.find(folder / subfolder, stem)
        if (folder / config).is_file() and weights is not None:
            return folder / config, weights
    return None


def read(folder: Path, declared: Declared, problems: Problems) -> reading.Draft:
    """What the files say."""
    draft = reading.Draft("llama_scope", keys=dict(_KEYS), transposed=frozenset({"W_enc", "W_dec"}), context_size=1024)
    config_path, weights_path = _files(folder) or (folder / "hyperparams.json", folder)
    with problems.collect():
        draft.config = json_file.read(config_path)
    with problems.collect():
        header, _ = safetensors_header.read(weights_path)
        below = weights_path.parent.relative_to(folder)
        draft.header = {key: found._replace(file=str(below / found.file)) for key, found in header.items()}
    config = Fields(draft.config, problems, config_path.name)
    _activation(draft, config, problems)
    draft.sizes = {"d_in": config.size("d_model"), "d_sae": config.size("d_sae")}
    if draft.sizes["d_sae"] is None and draft.sizes["d_in"] is not None:
        factor = config.size("expansion_factor")
        draft.sizes["d_sae"] = draft.sizes["d_in"] * factor if factor is not None else None
    draft.hook_point, draft.hook_point_out = config.text("hook_point_in"), config.text("hook_point_out")
    draft.is_b_dec_subtracted = config.flag("apply_decoder_bias_to_pre_encoder") or False
    if config.flag("use_decoder_bias") is False:
        draft.optional = frozenset({"b_dec"})
    if config.flag("use_glu_encoder"):
        problems.append(refusals.architecture("glu"))
    _normalization(draft, config, problems)
    return draft


def _activation(draft: reading.Draft, config: Fields, problems: Problems) -> None:
    given = (config.text("act_fn") or "jumprelu").lower()
    if given not in _ACTIVATIONS:
        problems.append(refusals.activation(given))
    draft.architecture = _ACTIVATIONS.get(given, "standard")
    draft.k = config.size("top_k")
    is_scaled = config.flag("sparsity_include_decoder_norm") or False
    draft.is_scaled_by_decoder_norm = draft.is_threshold_of_scaled = is_scaled
    if "log_jumprelu_threshold" in draft.header:
        draft.keys["threshold"], draft.logarithms = "log_jumprelu_threshold", frozenset({"threshold"})
    elif draft.architecture == "jumprelu":
        draft.threshold = config.number("jump_relu_threshold")


def _normalization(draft: reading.Draft, config: Fields, problems: Problems) -> None:
    kind = config.text("norm_activation") or "dataset-wise"
    match kind:
        case "dataset-wise":
            norms = config.fields("dataset_average_activation_norm")
            norm, d_in = norms.number("in", draft.hook_point or "in"), draft.sizes["d_in"]
            norm_out = norms.number("out", draft.hook_point_out or "out")
            if norm is not None and d_in is not None and norm > 0:
                draft.input_factor = d_in**0.5 / norm
                if draft.threshold is not None:
                    draft.threshold *= draft.input_factor
            if norm is not None and norm_out is not None and norm != norm_out:
                problems.append(
                    "dataset_average_activation_norm: input and output were scaled differently, which is not supported. "
                    "Fold both into the weights and save it again."
                )
            draft.normalize_activations = "expected_average_only_in"
        case "token-wise":
            draft.normalize_activations = "constant_norm_rescale"
        case "inference":
            draft.normalize_activations = "none"
        case _:
            draft.normalize_activations = kind
