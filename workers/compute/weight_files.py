"""Tensors out of the files an SAE's description names, in fp32 and under their canonical names.

safetensors are mapped, .npz read without pickles, and .pt by a process of its own (`sandbox`). Does not own which tensors
there are (`backend.formats.saes`) nor what an SAE makes of them (`sae`).
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from backend import errors
from backend.formats.saes.description import SaeDescription, Weight
from workers.compute import sandbox

Reader = Callable[[Path, Iterable[str]], Mapping[str, Tensor]]


def _safetensors(path: Path, keys: Iterable[str]) -> Mapping[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in keys}


def _npz(path: Path, keys: Iterable[str]) -> Mapping[str, Tensor]:
    with np.load(path, allow_pickle=False) as file:
        return {key: torch.from_numpy(file[key]) for key in keys}


READERS: dict[str, Reader] = {".safetensors": _safetensors, ".npz": _npz}
"""By the file's suffix; what is not there is a pickle."""


def read(description: SaeDescription, *, cache: Path | None = None) -> dict[str, Tensor]:
    """Every tensor the description names, by canonical name, in fp32.

    A pickle becomes safetensors below `cache`, once; without one, it is unpickled each time.

    Raises:
        InvalidInputError: A file is not as its header said.
        ProblemsError: Tensors are not finite; all of them are named.
    """
    state: dict[str, Tensor] = {}
    problems: list[str] = []
    by_file: dict[str, list[Weight]] = {}
    for weight in description.weights:
        by_file.setdefault(weight.file, []).append(weight)
    for file, weights in by_file.items():
        path = description.folder / file
        keys = {weight.key for weight in weights}
        found = READERS[path.suffix](path, keys) if path.suffix in READERS else sandbox.read(path, cache=cache)[0]
        for weight in weights:
            problems += _not_finite(found[weight.key], weight.key)
            state[weight.name] = _canonical(found[weight.key], weight)
    if problems:
        raise errors.ProblemsError(description.folder.name, problems, hint="Train or save it again.")
    return state


def _not_finite(tensor: Tensor, key: str) -> list[str]:
    """What to say of a tensor that holds more than numbers."""
    if bool(torch.isfinite(tensor).all()):
        return []
    n_nan, n_infinite = int(torch.isnan(tensor).sum()), int(torch.isinf(tensor).sum())
    return [f"'{key}' holds {n_nan:,} NaN and {n_infinite:,} infinite of {tensor.numel():,} values."]


def _canonical(found: Tensor, weight: Weight) -> Tensor:
    tensor = found.float()
    tensor = tensor.T if weight.is_transposed else tensor
    return tensor.exp() if weight.is_logarithm else tensor
