"""Sources with a value at every token: a model's own neurons, and sets of labelled vectors.

Neurons have no weights of their own: a source is the hook point, written `neurons:blocks.3.mlp.hook_post` where an SAE
has its folder, and how many there are follows from the model's config.json. A vector set (steering vectors, probes) is
one `.safetensors` or `.npz` file: `vectors` (n, d_in), `bias` (n,) if there is one, and the vectors' labels and the hook
point in the metadata of the file, as arrays `labels` and `hook_point` of an .npz, or in a JSON file of the same name.
Reads headers and labels only; the vectors themselves are `workers.compute.dense`'s to load.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from backend import errors, names
from backend.formats.saes import safetensors_header
from backend.formats.saes.description import Kind, SaeDescription

NEURONS = "neurons:"
VECTOR_SUFFIXES = (".safetensors", ".npz")
MAX_VECTORS = 65_536
_HIDDEN = ("intermediate_size", "ffn_dim", "n_inner", "d_ff")
_MODEL = ("hidden_size", "n_embd", "d_model")
_HEADS = ("num_attention_heads", "n_head")
_PLACES = ("mlp.hook_post", "attn.hook_z", "hook_mlp_out", "hook_attn_out")


def kind_of(architecture: str) -> Kind:
    """What a source of this architecture is, transcoders taken for SAEs."""
    return "neurons" if architecture == "neurons" else "vectors" if architecture == "vectors" else "sae"


def is_signed(architecture: str) -> bool:
    """Whether activations may be negative."""
    return architecture == "abstopk" or kind_of(architecture) != "sae"


def is_neurons(weights: str) -> bool:
    """Whether a source's weights are a hook point's neurons."""
    return weights.startswith(NEURONS)


def is_vectors(weights: str) -> bool:
    """Whether a source's weights are a vector set."""
    path = Path(weights)
    return path.suffix in VECTOR_SUFFIXES and not path.is_dir()


def describe(weights: str, model: str, hook_point: str = "") -> SaeDescription:
    """What neurons or a vector set (`is_neurons`, `is_vectors`) of a model are; `hook_point` wins over a set's own.

    Raises:
        InvalidInputError: The hook point, the model's configuration or the file is not what it should be.
    """
    if is_neurons(weights):
        place = names.parse_hook_point(weights.removeprefix(NEURONS))
        return neurons(place, n_neurons(place, Path(model)))
    return vectors(Path(weights), hook_point)


def default_source_id(weights: str, hook_point: names.HookPoint) -> str:
    """`3-mlp-neurons`, `3-attn-z-neurons`; a file or folder gives its name (`names.default_source_id`)."""
    if is_neurons(weights):
        place = hook_point.place.replace("mlp.hook_post", "mlp").replace("hook_", "").replace(".", "-")
        return f"{hook_point.layer}-{place.replace('_', '-')}-neurons"
    path = Path(weights)
    return names.default_source_id(hook_point.layer, path.stem if is_vectors(weights) else path.name)


def neurons(hook_point: names.HookPoint, n: int) -> SaeDescription:
    """The source of the `n` neurons at a hook point; raises `UnsupportedError` at a place that has none."""
    if hook_point.place not in _PLACES:
        raise errors.UnsupportedError(
            f"{hook_point} is not a place whose neurons can be a source.", hint=f"Use one of {', '.join(_PLACES)}."
        )
    config = {"kind": "neurons", "hook_point": str(hook_point)}
    return _described(Path(f"{NEURONS}{hook_point}"), hook_point, (n, n), config, is_neurons=True)


def n_neurons(hook_point: names.HookPoint, model: Path) -> int:
    """How many neurons a model folder's configuration says there are; raises `InvalidInputError`."""
    path = model / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise errors.InvalidInputError(
            f"the configuration of the model '{model}' cannot be read.",
            hint="Neurons need a model in a local folder: its config.json says how many there are.",
        ) from error
    config = config.get("text_config") or config
    width = _first(config, _MODEL)
    match hook_point.place:
        case "mlp.hook_post":
            found = _first(config, _HIDDEN) or (4 * width if "n_embd" in config else 0)
        case "attn.hook_z":
            n_heads = _first(config, _HEADS)
            found = n_heads * config["head_dim"] if n_heads and config.get("head_dim") else width
        case _:
            found = width
    if not found:
        raise errors.InvalidInputError(f"{path} does not say how many neurons {hook_point} has.")
    return found


def vectors(path: Path, hook_point: str = "") -> SaeDescription:
    """A checked vector set; raises `InvalidInputError`. `hook_point` wins over the file's own."""
    shapes, said = _npz(path) if path.suffix == ".npz" else _safetensors(path)
    said = said | _beside(path)
    problems = []
    shape = shapes.get("vectors", ())
    n, d_in = shape if len(shape) == 2 else (0, 0)
    if not (0 < n <= MAX_VECTORS and d_in > 0):
        problems.append(f"'vectors' has shape {shape}; expected (n, d_in) with 1 to {MAX_VECTORS:,} vectors.")
    if "bias" in shapes and shapes["bias"] != (n,):
        problems.append(f"'bias' has shape {shapes['bias']}; expected ({n},).")
    labels = said.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        problems.append("'labels' is not a list of texts.")
    elif labels and len(labels) != n:
        problems.append(f"there are {len(labels)} labels for {n} vectors.")
    hook = hook_point or str(said.get("hook_point", ""))
    if not hook:
        problems.append("the hook point is not said: give it with --hook, or as 'hook_point' in the file's metadata.")
    if problems:
        raise errors.ProblemsError(path.name, problems)
    config = {"kind": "vectors", "hook_point": hook, "labels": labels}
    return _described(path, names.parse_hook_point(hook), (d_in, n), config, is_neurons=False)


def _described(
    path: Path, hook_point: names.HookPoint, shape: tuple[int, int], config: dict[str, Any], *, is_neurons: bool
) -> SaeDescription:
    kind: Kind = "neurons" if is_neurons else "vectors"
    return SaeDescription(
        folder=path, format="neurons" if is_neurons else "vectors", kind=kind, architecture=kind, hook_point=hook_point,
        hook_point_out=hook_point, d_in=shape[0], d_out=shape[0], d_sae=shape[1], k=None,
        is_scaled_by_decoder_norm=False, is_b_dec_subtracted=False,
        normalize_activations="none", is_hook_z=hook_point.place.endswith("hook_z"), prepend_bos=True,
        context_size=None, is_centred=False, config=config, is_signed=True, labels=tuple(config.get("labels", ())),
    )  # fmt: skip


def _first(config: dict[str, Any], keys: tuple[str, ...]) -> int:
    """The first of the keys that holds a number above zero; 0 where none does."""
    return next((int(config[key]) for key in keys if isinstance(config.get(key), int) and config[key] > 0), 0)


def _safetensors(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    tensors, metadata = safetensors_header.read(_there(path))
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    said: dict[str, Any] = dict(metadata)
    if "labels" in said:
        try:
            said["labels"] = json.loads(said["labels"])
        except ValueError as error:
            raise errors.InvalidInputError(f"'labels' in the metadata of {path.name} is not a JSON list.") from error
    return shapes, said


def _npz(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    try:
        with np.load(_there(path), allow_pickle=False) as arrays:
            shapes = {name: arrays[name].shape for name in ("vectors", "bias") if name in arrays}
            said = {name: arrays[name].tolist() for name in ("labels", "hook_point") if name in arrays}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise errors.InvalidInputError(
            f"{path.name} cannot be read: {error}.",
            hint="Save plain arrays with numpy.savez; labels as an array of str.",
        ) from error
    return shapes, said


def _beside(path: Path) -> dict[str, Any]:
    """What the JSON file of the same name says: an object, or the labels alone."""
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return {}
    try:
        said = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise errors.InvalidInputError(f"{beside} is not JSON: {error}.") from error
    return said if isinstance(said, dict) else {"labels": said}


def _there(path: Path) -> Path:
    if not path.is_file():
        raise errors.InvalidInputError(f"'{path}' is not a file.", hint="Give a .safetensors or .npz with 'vectors'.")
    return path
