"""The child of `sandbox`: `python -m workers.compute.unpickle FILE OUT MEMORY_BYTES CPU_S WALL_S`.

Reads one pickle by `torch.load(weights_only=True)` and writes its tensors as safetensors, the rest as JSON in the file's
metadata. The limits are set after torch is imported, whose libraries alone map gigabytes, and before the file is
opened. What is wrong with the file goes to stdout in words, with exit status `sandbox.REFUSED`.
"""

import json
import math
import pickle
import re
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import save_file

from workers.compute import sandbox

N_OPEN_FILES = 32
METADATA = "__metadata__"
MAX_DEPTH = 4
"""Of dicts in dicts."""
DTYPES = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32})
_FORBIDDEN = re.compile(r"[Uu]nsupported (?:global: )?(?:GLOBAL|class) (\S+)")


class RefusedError(Exception):
    """The file is not what it should be; the message continues a sentence that begins with its name."""


def main(arguments: list[str]) -> int:
    """Convert, and return the exit status."""
    path, out, memory_bytes, cpu_s, wall_s = Path(arguments[0]), Path(arguments[1]), *map(int, arguments[2:])
    torch.set_num_threads(1)
    _limit(memory_bytes=memory_bytes, cpu_s=cpu_s, wall_s=wall_s)
    try:
        tensors, values = flatten(_load(path))
        save_file(tensors, out, metadata={sandbox.VALUES: json.dumps(values)})
    except RefusedError as error:
        sys.stdout.write(str(error))
        return sandbox.REFUSED
    except MemoryError:
        return sandbox.OUT_OF_MEMORY
    except RuntimeError as error:
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            return sandbox.OUT_OF_MEMORY
        raise
    return 0


def _limit(*, memory_bytes: int, cpu_s: int, wall_s: int) -> None:
    """From now on, for good: the hard limits too."""
    process = psutil.Process()
    used_s = sum(process.cpu_times()[:2])
    memory = process.memory_info()
    most = {
        resource.RLIMIT_AS: memory.vms + memory_bytes,
        resource.RLIMIT_CPU: math.ceil(used_s) + cpu_s,
        resource.RLIMIT_FSIZE: memory_bytes,
        resource.RLIMIT_NOFILE: N_OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for which, value in most.items():
        resource.setrlimit(which, (value, value))
    signal.alarm(wall_s)  # it ends also when nobody waits for it any more


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        forbidden = _FORBIDDEN.search(str(error))
        if forbidden is not None:
            raise RefusedError(f"would run code when opened ({forbidden[1]}), which weights need not.") from error
        raise RefusedError("is not a pickle of tensors that can be read without running code.") from error
    except (EOFError, KeyError, ValueError, IndexError, TypeError, AttributeError, OverflowError) as error:
        raise RefusedError(f"is broken ({type(error).__name__} while it was read).") from error
    except RuntimeError as error:
        if "allocate memory" in str(error) or "not enough memory" in str(error):
            raise
        raise RefusedError("is not a whole file that torch.save wrote.") from error


def flatten(found: object) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors, dense and laid out anew, and other values, by dotted name; raises `RefusedError`."""
    if not isinstance(found, Mapping):
        raise RefusedError(f"holds a {type(found).__name__}; expected a dict of tensors (a state dict).")
    tensors: dict[str, torch.Tensor] = {}
    values: dict[str, Any] = {}
    _collect(found, "", 0, tensors, values)
    if not tensors:
        raise RefusedError("holds no tensor.")
    return tensors, values


def _collect(
    found: Mapping[Any, object], prefix: str, depth: int, tensors: dict[str, torch.Tensor], values: dict[str, Any]
) -> None:
    if depth > MAX_DEPTH:
        raise RefusedError(f"has dicts in dicts more than {MAX_DEPTH} deep.")
    for key, value in found.items():
        name = f"{prefix}{key}"
        match value:
            case torch.Tensor():
                tensors[name] = _checked(name, value)
            case Mapping():
                _collect(value, f"{name}.", depth + 1, tensors, values)
            case None | bool() | int() | float() | str():
                values[name] = value
            case _:
                raise RefusedError(f"holds a {type(value).__name__} at '{name}'; expected tensors, numbers and texts.")


def _checked(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A copy of its own: tensors that share memory, or repeat a little of it, become what they say they are."""
    if name == METADATA:
        raise RefusedError(f"has a tensor called '{METADATA}', which safetensors keeps for itself.")
    if tensor.layout != torch.strided or tensor.dtype not in DTYPES:
        raise RefusedError(f"has '{name}' as {tensor.dtype} ({tensor.layout}); expected dense numbers of a usual type.")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise RefusedError(f"says '{name}' has {tensor.numel():,} elements, more than it holds.")
    return tensor.detach().clone(memory_format=torch.contiguous_format)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
