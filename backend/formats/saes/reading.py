"""From what a format's reader found to a checked description: the rules all formats share, in one place.

A reader fills a `Draft` with what its files say. What a user declares then wins, sizes are compared with the headers
of the weights, and each problem is a sentence.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend import errors, names
from backend.formats.saes import refusals
from backend.formats.saes.description import CHOOSE_K, Declared, Format, SaeDescription, Weight
from backend.formats.saes.problems import Problems
from backend.formats.saes.tensor import WEIGHT_DTYPES, Tensor

AXES: dict[str, tuple[str, ...]] = {
    "W_enc": ("d_in", "d_sae"), "W_dec": ("d_sae", "d_out"), "b_enc": ("d_sae",), "b_dec": ("d_out",),
    "threshold": ("d_sae",), "b_gate": ("d_sae",), "b_mag": ("d_sae",), "r_mag": ("d_sae",), "W_skip": ("d_out", "d_in"),
}  # fmt: skip
ARCHITECTURES = {
    "standard": "standard", "relu": "standard", "topk": "topk", "abstopk": "abstopk", "batchtopk": "jumprelu",
    "matryoshka_batchtopk": "jumprelu", "jumprelu": "jumprelu", "gated": "gated",
}  # fmt: skip
"""By the names users and formats have for them; batch-top-k is jumprelu with one threshold once trained."""
NORMALIZATIONS = ("none", "constant_norm_rescale", "layer_norm")
MAX_SIZE = 1 << 26
_NOWHERE = names.HookPoint(0, "hook_resid_pre")


@dataclass
class Draft:
    """What a format's files say; None where they say nothing."""

    format: Format
    architecture: str | None = None
    header: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    """Canonical name → key in the header."""
    transposed: frozenset[str] = frozenset()
    logarithms: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    """Biases that are zero where they are missing."""
    sizes: dict[str, int | None] = field(default_factory=dict)
    """d_in, d_sae and d_out, as the configuration says."""
    hook_point: str | None = None
    hook_point_out: str | None = None
    is_transcoder: bool = False
    k: int | None = None
    threshold: float | None = None
    is_threshold_of_scaled: bool = False
    input_factor: float | None = None
    is_scaled_by_decoder_norm: bool = False
    is_b_dec_subtracted: bool = True
    normalize_activations: str = "none"
    is_hook_z: bool = False
    prepend_bos: bool = True
    context_size: int | None = None
    is_centred: bool = False
    config: dict[str, Any] = field(default_factory=dict)


def finish(folder: Path, draft: Draft, declared: Declared, problems: Problems) -> SaeDescription:
    """The description; what does not fit is added to `problems`, and the caller raises if there are any."""
    architecture = _architecture(draft, declared, problems)
    hook_point = _hook_point(declared.hook_point or draft.hook_point, "reads", "hook_point", problems)
    out = declared.hook_point_out or draft.hook_point_out
    is_transcoder = draft.is_transcoder or (out is not None and out != str(hook_point))
    hook_point_out = _hook_point(out, "writes", "hook_point_out", problems) if is_transcoder else hook_point
    sizes = _sizes(draft, is_transcoder=is_transcoder)
    threshold = draft.threshold if declared.threshold is None else declared.threshold
    if threshold is not None and not math.isfinite(threshold):
        problems.append(f"The threshold is {threshold}; expected a finite number.")
    weights = _weights(draft, architecture, sizes, problems, has_threshold=threshold is not None)
    subtracts = draft.is_b_dec_subtracted and not is_transcoder
    if declared.apply_b_dec_to_input is not None:
        subtracts = declared.apply_b_dec_to_input
    if is_transcoder and subtracts:
        problems.append("apply_b_dec_to_input: a transcoder's b_dec belongs to its output and cannot be subtracted.")
    normalization, factor = _normalization(draft, declared, problems)
    k = _k(draft, declared, architecture, sizes["d_sae"], problems)
    size = declared.context_size or draft.context_size
    if size is not None and not 0 < size <= MAX_SIZE:
        problems.append(f"context_size is {size}; expected a number of tokens above 0.")
    return SaeDescription(
        folder=folder, format=draft.format, kind="transcoder" if is_transcoder else "sae", architecture=architecture,
        hook_point=hook_point, hook_point_out=hook_point_out, d_in=sizes["d_in"], d_sae=sizes["d_sae"],
        d_out=sizes["d_out"], k=k,
        is_scaled_by_decoder_norm=draft.is_scaled_by_decoder_norm and architecture in CHOOSE_K,
        is_b_dec_subtracted=subtracts, normalize_activations=normalization,
        is_hook_z=draft.is_hook_z or hook_point.place.endswith("hook_z"),
        prepend_bos=draft.prepend_bos if declared.prepend_bos is None else declared.prepend_bos, context_size=size,
        is_centred=draft.is_centred, config=draft.config, has_skip="W_skip" in draft.keys,
        is_signed=architecture == "abstopk", weights=weights, input_factor=factor, threshold=threshold,
        is_threshold_of_scaled=draft.is_threshold_of_scaled and architecture == "jumprelu",
    )  # fmt: skip


def _architecture(draft: Draft, declared: Declared, problems: Problems) -> str:
    given = declared.activation or draft.architecture
    if given is None:
        problems.append("The files do not say how it encodes. Declare its activation: relu, topk, jumprelu or gated.")
        return "standard"
    if given not in ARCHITECTURES:
        problems.append(refusals.activation(given) if declared.activation else refusals.architecture(given))
    return ARCHITECTURES.get(given, "standard")


def _hook_point(text: str | None, does: str, field_name: str, problems: Problems) -> names.HookPoint:
    if text is None:
        problems.append(
            f"The files do not say where it {does}. Declare {field_name} in TransformerLens's form, such as "
            "'blocks.6.hook_resid_pre'."
        )
        return _NOWHERE
    try:
        return names.parse_hook_point(text[:200])
    except errors.InvalidInputError as error:
        problems.append(str(error))
        return _NOWHERE


def _sizes(draft: Draft, *, is_transcoder: bool) -> dict[str, int]:
    """d_in, d_sae and d_out: of the configuration, else of the weights; 0 where neither tells."""
    found = {axis: size for axis, size in draft.sizes.items() if size is not None}
    for name in ("W_enc", "W_dec"):
        shape = _shape(draft, name)
        if shape is not None and len(shape) == 2:
            found = dict(zip(AXES[name], shape, strict=True)) | found
    if not is_transcoder:
        found["d_out"] = found.get("d_in", 0)
    return {axis: found.get(axis, 0) for axis in ("d_in", "d_sae", "d_out")}


def _shape(draft: Draft, name: str) -> tuple[int, ...] | None:
    """As canonical; None if there is no such tensor."""
    tensor = draft.header.get(draft.keys.get(name, ""))
    if tensor is None:
        return None
    return tensor.shape[::-1] if name in draft.transposed else tensor.shape


def _required(architecture: str, draft: Draft, *, has_threshold: bool) -> list[str]:
    shared = ["W_enc", "W_dec", "b_dec"] + (["W_skip"] if "W_skip" in draft.keys else [])
    match architecture:
        case "gated":
            return [*shared, "b_gate", "b_mag", "r_mag"]
        case "jumprelu":
            return [*shared, "b_enc"] + ([] if has_threshold else ["threshold"])
    return [*shared, "b_enc"]


def _weights(
    draft: Draft, architecture: str, sizes: dict[str, int], problems: Problems, *, has_threshold: bool
) -> tuple[Weight, ...]:
    found = []
    for name in _required(architecture, draft, has_threshold=has_threshold) if draft.header else ():
        key = draft.keys.get(name, name)
        tensor, shape = draft.header.get(key), _shape(draft, name)
        if tensor is None or shape is None:
            if name not in draft.optional:
                problems.append(f"The weights have no tensor '{key}'{_instead(name)}.")
            continue
        axes = AXES[name]
        expected = tuple(sizes[axis] for axis in axes)
        if shape != expected and not (name == "threshold" and shape in ((), (1,))):
            given = expected[::-1] if name in draft.transposed else expected
            of = " × ".join(axes[::-1] if name in draft.transposed else axes)
            problems.append(
                f"'{key}' has shape {tensor.shape}; cfg.json says {given} ({of})."
                if draft.sizes.get("d_sae")
                else f"'{key}' has shape {tensor.shape}; expected {given} ({of})."
            )
        if tensor.dtype not in WEIGHT_DTYPES:
            problems.append(f"'{key}' has dtype {tensor.dtype[:20]}; expected one of {', '.join(WEIGHT_DTYPES)}.")
        found.append(Weight(name, tensor.file, key, name in draft.transposed, name in draft.logarithms))
    if max(sizes.values()) > MAX_SIZE or (draft.header and min(sizes.values()) < 1):
        problems.append(
            f"Its sizes are impossible: d_in {sizes['d_in']}, d_sae {sizes['d_sae']}, d_out {sizes['d_out']}."
        )
    return tuple(found)


def _instead(name: str) -> str:
    return "; declare a threshold if all features share one" if name == "threshold" else ""


def _normalization(draft: Draft, declared: Declared, problems: Problems) -> tuple[str, float]:
    """The run-time normalisation, and the factor to fold."""
    given = declared.normalize_activations or draft.normalize_activations
    factor = draft.input_factor if declared.norm_scaling_factor is None else declared.norm_scaling_factor
    if factor is not None and not 1e-30 < factor < 1e30:
        problems.append(f"The norm scaling factor is {factor:g}; expected a number above 0.")
    if given == "expected_average_only_in" and factor is not None:
        given = "none"
    elif given not in NORMALIZATIONS:
        why = refusals.NORMALIZATIONS.get(given, f"it is unknown; known are {', '.join(NORMALIZATIONS)}.")
        problems.append(f"normalize_activations '{given[:60]}': {why}")
    return given, 1.0 if factor is None else factor


def _k(draft: Draft, declared: Declared, architecture: str, d_sae: int, problems: Problems) -> int | None:
    if architecture not in CHOOSE_K:
        return None
    k = declared.k or draft.k
    if k is None or not 0 < k <= max(d_sae, 1):
        problems.append(f"k is {k!r}; a topk SAE needs a whole number from 1 to d_sae ({d_sae}).")
    return k
